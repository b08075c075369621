//! The store on real etcd servers: the conformance suite, TLS, and what only etcd can do.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "store_etcd/follower.rs"]
mod follower;
#[path = "store_etcd/server.rs"]
mod server;

use std::time::{Duration, Instant};

use server::{Etcd, Pki};
use wgnet_control_plane::store::conformance;
use wgnet_control_plane::store::etcd::{EtcdOptions, EtcdStore};
use wgnet_control_plane::store::{Op, Store, StoreError, Txn, chain};

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
    assert_refused(options).await;

    let other = tempfile::tempdir().unwrap();
    let mut options = etcd.options("/tls");
    options.tls.as_mut().unwrap().ca = Some(Pki::make(other.path()).read("ca.pem"));
    assert_refused(options).await;
}

async fn assert_refused(options: EtcdOptions) {
    let endpoint = options.endpoints[0].clone();
    let error = EtcdStore::new(options).unwrap().list("").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(chain(&error).contains(&endpoint), "{}", chain(&error));
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
