//! The store on real etcd servers: the conformance suite, TLS, and what only etcd can do.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "store_etcd/follower.rs"]
mod follower;
#[path = "store_etcd/server.rs"]
mod server;
#[path = "store_etcd/slow.rs"]
mod slow;
#[path = "store_etcd/wgnetctl.rs"]
mod wgnetctl;

use std::time::{Duration, Instant};

use server::{Etcd, Pki};
use slow::Slow;
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::follower::{Followed, Follower, FollowerOptions};
use wgnet_control_plane::store::conformance;
use wgnet_control_plane::store::etcd::{EtcdOptions, EtcdStore};
use wgnet_control_plane::store::{Op, Store, StoreError, Txn, Watch, WatchEvent, chain};

#[tokio::test]
async fn etcd_passes_the_conformance_suite() {
    conformance::suite(&mut Etcd::start(3).await).await;
}

#[tokio::test]
async fn a_client_certificate_opens_etcd_and_nothing_else_does() {
    let etcd = Etcd::start_with_tls().await;
    let store = etcd.store("/tls");
    let ops = vec![Op::Put { key: "a".into(), value: vec![1] }];
    store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    assert_eq!(store.list("").await.unwrap().entries.len(), 1);

    let mut options = etcd.options("/tls");
    options.tls.as_mut().unwrap().client = None;
    assert_refused(options, "connection").await;

    let other = tempfile::tempdir().unwrap();
    let mut options = etcd.options("/tls");
    options.tls.as_mut().unwrap().ca = Some(Pki::make(other.path()).read("ca.pem"));
    assert_refused(options, "invalid peer certificate").await;
}

async fn assert_refused(options: EtcdOptions, told: &str) {
    let endpoint = options.endpoints[0].clone();
    let error = EtcdStore::new(options).unwrap().list("").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let said = chain(&error);
    assert!(said.contains(&endpoint) && said.contains(told), "{said}");
}

#[tokio::test]
async fn a_full_etcd_says_so_is_still_read_and_takes_changes_again_once_there_is_room() {
    let etcd = Etcd::start_small(4 << 20).await;
    let store = etcd.store("/full");
    let put = |key: &str, size: usize| {
        let ops = vec![Op::Put { key: key.into(), value: vec![7; size] }];
        store.commit(Txn { conditions: vec![], ops })
    };
    put("a", 1).await.unwrap();
    let mut watch = store.watch("", store.revision().await.unwrap() + 1).await.unwrap();
    let error = loop {
        if let Err(error) = put("fill", 500_000).await {
            break error;
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(chain(&error).contains("etcdctl alarm disarm"), "{}", chain(&error));
    let error = store.grant(Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.list("").await.unwrap().entries.len(), 2);
    assert!(matches!(watch.next().await, Ok(WatchEvent::Changes { .. })));

    etcd.delete("/full/fill").await;
    etcd.compact_now().await;
    etcd.defragment_and_disarm().await;
    put("b", 1).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_takes_two_seconds_for_each_answer_is_used_as_any_other() {
    let etcd = Etcd::start(3).await;
    let mut options = etcd.options("/slow");
    for endpoint in &mut options.endpoints {
        let server = endpoint.trim_start_matches("http://").parse().unwrap();
        *endpoint = format!("http://{}", Slow::start(server, Duration::from_secs(2)).await);
    }
    let store = EtcdStore::new(options).unwrap();
    let cancel = CancellationToken::new();
    let mut follower = Follower::start(store.clone(), FollowerOptions::default(), &cancel);
    ["cluster", "hosts/"].iter().for_each(|scope| follower.scopes().follow(*scope));
    let mut told = Vec::new();
    while told.last() != Some(&Followed::Connected) {
        told.push(within(30, follower.next()).await.unwrap());
    }
    let ops = vec![Op::Put { key: "hosts/1".into(), value: vec![1] }];
    store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    let change = within(10, follower.next()).await.unwrap();
    assert!(matches!(change, Followed::Changed { .. }), "{change:?}");
    // Longer than a line is tried for.
    let quiet = tokio::time::timeout(Duration::from_secs(17), follower.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what).await.expect("it happens in time")
}

#[tokio::test]
async fn a_store_that_hung_up_loses_its_watches_and_goes_on_with_the_next_call() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store("/moved");
    let mut watch = store.watch("", store.revision().await.unwrap() + 1).await.unwrap();
    store.hang_up().await;
    let ended = within(5, watch.next()).await;
    assert!(matches!(ended, Err(StoreError::WatchEnded { .. })), "{ended:?}");
    let next = store.revision().await.unwrap() + 1;
    let mut watch = store.watch("", next).await.unwrap();
    let ops = vec![Op::Put { key: "a".into(), value: vec![1] }];
    store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    assert!(matches!(within(5, watch.next()).await, Ok(WatchEvent::Changes { .. })));
}

#[tokio::test]
async fn a_client_made_before_etcd_works_once_it_is_there() {
    let mut etcd = Etcd::start(1).await;
    etcd.kill_all();
    let store = etcd.store("/late");
    let before = Instant::now();
    let error = store.list("").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(4), "a refused connection is told at once");
    etcd.start_all();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.list("").await {
        assert!(Instant::now() < deadline, "{}", chain(&error));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_member_of_three_is_enough_to_be_heard_while_two_agree() {
    let mut etcd = Etcd::start(3).await;
    let stores: Vec<_> = (0..6).map(|i| etcd.store(&format!("/c{i}"))).collect();
    for store in &stores {
        store.revision().await.unwrap();
    }
    etcd.kill_one();
    // Whichever member a client had: the next call that is answered comes soon.
    let deadline = Instant::now() + Duration::from_secs(10);
    for store in &stores {
        while let Err(error) = store.revision().await {
            assert!(Instant::now() < deadline, "{}", chain(&error));
        }
    }
}

#[tokio::test]
async fn a_change_that_is_lost_with_the_leader_is_told_soon() {
    for round in 0..3 {
        let mut etcd = Etcd::start(3).await;
        let leader = etcd.leader().await;
        let mut options = etcd.options("/leader");
        options.endpoints.remove(leader);
        let store = EtcdStore::new(options).unwrap();
        store.revision().await.unwrap();
        etcd.kill(leader);
        let killed = Instant::now();
        let put = Op::Put { key: "a".into(), value: vec![round] };
        let told = async {
            while store.commit(Txn { conditions: vec![], ops: vec![put.clone()] }).await.is_err() {
                assert!(killed.elapsed() < Duration::from_secs(20), "etcd finds another leader");
            }
            killed.elapsed()
        };
        let made = async {
            etcd.makes_changes().await;
            killed.elapsed()
        };
        let (told, made) = within(30, async { tokio::join!(told, made) }).await;
        // An election takes up to two seconds, or twice that when votes are split. Seven were seen where the
        // disk had much else to write, and members make nobody's change before.
        let at_most = made.max(Duration::from_secs(4)) + Duration::from_millis(800);
        assert!(told < at_most, "{told:?}, others after {made:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_told_at_once() {
    let options = |endpoints: &[&str]| EtcdOptions {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        prefix: "/wgnet/v1".to_owned(),
        tls: None,
    };
    for (endpoints, told) in [
        (&[][..], "endpoint"),
        (&["http://not a host:2379"][..], "http://not a host:2379"),
        (&["https://127.0.0.1:2379"][..], "certificate"),
    ] {
        let Err(error) = EtcdStore::new(options(endpoints)) else { panic!("{endpoints:?}") };
        assert!(matches!(error, StoreError::Config { .. }), "{error:?}");
        assert!(chain(&error).contains(told), "{}", chain(&error));
    }
}
