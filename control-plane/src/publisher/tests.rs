use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tokio::time::{Instant, timeout};
use wgnet_proto::record::{AliveRecord, EndpointRecord, HostRecord, NetworkRecord};
use wgnet_proto::{EndpointId, HostId, Incarnation, MacAddr, NetworkKey};

use super::*;
use crate::follower::{Followed, Follower, FollowerOptions, Scopes};
use crate::session::LEASE_TTL;
use crate::store::{Change as StoreChange, Condition, Entry, MemoryStore};

const ME: HostId = HostId([1; 16]);
const OTHER: HostId = HostId([2; 16]);

/// A host as the publisher knows it: something that judges what a follower tells.
struct Host {
    /// Its own line to the store.
    client: MemoryStore,
    wanted: watch::Sender<Arc<WantedRecords>>,
    publishing: watch::Receiver<Publishing>,
    scopes: Scopes,
    /// A path whose record cannot be sealed.
    unsealable: Arc<Mutex<Option<Path>>>,
    _publisher: Publisher,
    _cancel: DropGuard,
}

impl Host {
    fn on(store: &MemoryStore) -> Self {
        let client = store.client();
        let cancel = CancellationToken::new();
        let (picture, pictures) = watch::channel(Arc::new(Picture::default()));
        let follower = Follower::start(client.clone(), FollowerOptions::default(), &cancel);
        let scopes = follower.scopes();
        ["hosts/", "alive/", "networks/n-a"]
            .iter()
            .for_each(|it| scopes.follow(*it));
        tokio::spawn(judge(follower, picture));
        let (wanted, wants) = watch::channel(Arc::new(WantedRecords::new()));
        let unsealable = Arc::new(Mutex::new(None));
        let refused = Arc::clone(&unsealable);
        let seal: Seal = Arc::new(move |path, record| {
            let is_refused = refused.lock().unwrap().as_ref() == Some(path);
            if is_refused {
                Err("no number is left".into())
            } else {
                Ok(sealed(ME, record))
            }
        });
        let session = Session::start(client.clone(), LEASE_TTL, &cancel);
        let publisher = Publisher::start(client.clone(), session, seal, wants, pictures, &cancel);
        Self {
            client,
            wanted,
            publishing: publisher.publishing(),
            scopes,
            unsealable,
            _publisher: publisher,
            _cancel: cancel.drop_guard(),
        }
    }

    fn wants(&self, records: &[(Path, Record)]) {
        let wanted = records.iter().map(|(path, record)| {
            let leased = matches!(path, Path::Alive(_));
            (
                path.clone(),
                Wanted {
                    record: record.clone(),
                    leased,
                },
            )
        });
        self.wanted.send_replace(Arc::new(wanted.collect()));
    }

    async fn is_settled(&mut self) {
        let settled = self
            .publishing
            .wait_for(|it| it.unpublished == 0 && it.error.is_none());
        timeout(Duration::from_secs(1200), settled)
            .await
            .expect("it settles")
            .unwrap();
    }

    async fn says(&mut self, word: &str) {
        let said = |it: &Publishing| it.error.as_ref().is_some_and(|error| error.contains(word));
        timeout(Duration::from_secs(600), self.publishing.wait_for(said))
            .await
            .unwrap()
            .unwrap();
    }
}

fn sealed(writer: HostId, record: &Record) -> Vec<u8> {
    [writer.0.to_vec(), record.encode()].concat()
}

fn judged(path: &Path, entry: &Entry) -> Present {
    let (writer, payload) = entry.value.split_at(16.min(entry.value.len()));
    let mine = writer == ME.0;
    Present {
        mine,
        record: Record::decode(path, payload).ok(),
        mod_revision: entry.mod_revision,
    }
}

async fn judge(mut follower: Follower, told: watch::Sender<Arc<Picture>>) {
    let mut picture = Picture::default();
    while let Some(event) = follower.next().await {
        match event {
            Followed::Connected | Followed::Disconnected { .. } => continue,
            Followed::History { .. } => {
                picture = Picture {
                    history: picture.history + 1,
                    ..Picture::default()
                };
            }
            Followed::Listed {
                scope,
                revision,
                entries,
            } => {
                for entry in &entries {
                    let path = Path::parse(&entry.key).unwrap();
                    picture.present.insert(path.clone(), judged(&path, entry));
                }
                let listed = |path: &Path| entries.iter().any(|it| it.key == path.to_string());
                picture
                    .present
                    .retain(|it, _| !covers(&scope, &it.to_string()) || listed(it));
                picture.seen.insert(scope, revision);
            }
            Followed::Changed {
                scope,
                revision,
                changes,
            } => {
                for change in &changes {
                    match change {
                        StoreChange::Put(entry) => {
                            let path = Path::parse(&entry.key).unwrap();
                            picture.present.insert(path.clone(), judged(&path, entry));
                        }
                        StoreChange::Delete { key, .. } => {
                            picture.present.remove(&Path::parse(key).unwrap());
                        }
                    }
                }
                picture.seen.insert(scope, revision);
            }
        }
        told.send_replace(Arc::new(picture.clone()));
    }
}

fn network() -> NetworkKey {
    "n-a".parse().unwrap()
}

fn host_record() -> (Path, Record) {
    let record = HostRecord {
        name: "one".to_owned(),
        underlay: vec![],
        version: "1".to_owned(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([0; 16]),
    };
    (Path::Host(ME), Record::Host(record))
}

fn network_record(freed: bool) -> (Path, Record) {
    let (subnets, options) = (vec!["10.1.0.0/16".parse().unwrap()], BTreeMap::new());
    (
        Path::Network(network()),
        Record::Network(NetworkRecord {
            subnets,
            options,
            freed,
        }),
    )
}

fn alive() -> (Path, Record) {
    (
        Path::Alive(ME),
        Record::Alive(AliveRecord {
            boot: "b".to_owned(),
        }),
    )
}

fn endpoint(number: u16, claim: u64) -> (Path, Record) {
    let [high, low] = number.to_be_bytes();
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, high, low));
    let record = EndpointRecord {
        addresses: vec![ip],
        endpoint: format!("{number:064x}").parse::<EndpointId>().unwrap(),
        host: ME,
        mac: MacAddr([2, 0, 0, 0, high, low]),
        claim,
    };
    (Path::Endpoint(network(), ip), Record::Endpoint(record))
}

/// What the store holds at a path: writer and record.
async fn held(store: &MemoryStore, path: &Path) -> Option<(bool, Record)> {
    let key = path.to_string();
    let entries = store.client().list(&key).await.unwrap().entries;
    let entry = entries.iter().find(|entry| entry.key == key)?;
    let present = judged(path, entry);
    Some((present.mine, present.record?))
}

async fn write(store: &MemoryStore, op: Op) {
    store
        .client()
        .commit(Txn {
            conditions: vec![],
            ops: vec![op],
        })
        .await
        .unwrap();
}

async fn write_foreign(store: &MemoryStore, (path, record): &(Path, Record)) {
    write(
        store,
        Op::Put {
            key: path.to_string(),
            value: sealed(OTHER, record),
        },
    )
    .await;
}

/// Waits until the store holds this host's record.
async fn holds(store: &MemoryStore, (path, record): &(Path, Record)) {
    let held = async {
        while held(store, path).await != Some((true, record.clone())) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), held)
        .await
        .expect("the record gets there");
}

async fn lacks(store: &MemoryStore, path: &Path) {
    let lacks = async {
        while held(store, path).await.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), lacks)
        .await
        .expect("the record goes");
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_put_and_what_is_not_is_withdrawn() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    let (one, two) = (endpoint(1, 1), endpoint(2, 2));
    host.wants(&[
        host_record(),
        network_record(false),
        one.clone(),
        two.clone(),
    ]);
    holds(&store, &two).await;
    host.is_settled().await;
    host.wants(&[host_record(), two.clone()]);
    lacks(&store, &one.0).await;
    host.is_settled().await;
    holds(&store, &two).await;
    // What all members share is not this host's to delete.
    assert!(held(&store, &Path::Network(network())).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_goes_out_at_once() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[host_record()]);
    holds(&store, &host_record()).await;
    host.is_settled().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = Instant::now();
    host.wants(&[host_record(), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    assert!(
        before.elapsed() <= Duration::from_millis(2),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn what_others_delete_or_overwrite_is_put_back() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    let one = endpoint(1, 1);
    host.wants(&[host_record(), one.clone()]);
    holds(&store, &one).await;
    write(
        &store,
        Op::Delete {
            key: one.0.to_string(),
        },
    )
    .await;
    holds(&store, &one).await;
    write_foreign(&store, &endpoint(1, 9)).await;
    holds(&store, &one).await;
    write(
        &store,
        Op::Put {
            key: one.0.to_string(),
            value: b"rubbish".to_vec(),
        },
    )
    .await;
    holds(&store, &one).await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_is_beaten_where_wanted_and_left_alone_elsewhere() {
    let store = MemoryStore::new();
    write_foreign(&store, &endpoint(1, 1)).await;
    write_foreign(&store, &endpoint(2, 1)).await;
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 2)]);
    holds(&store, &endpoint(1, 2)).await;
    host.wants(&[]);
    lacks(&store, &endpoint(1, 2).0).await;
    host.is_settled().await;
    assert_eq!(
        held(&store, &endpoint(2, 1).0).await,
        Some((false, endpoint(2, 1).1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_network_is_created_once_and_freed_for_good() {
    let store = MemoryStore::new();
    write_foreign(&store, &network_record(false)).await;
    let mut host = Host::on(&store);
    host.wants(&[network_record(false), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    let (path, freed) = network_record(true);
    assert_eq!(
        held(&store, &path).await,
        Some((false, network_record(false).1))
    );
    host.wants(&[(path.clone(), freed.clone())]);
    holds(&store, &(path.clone(), freed.clone())).await;
    host.wants(&[network_record(false), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    assert_eq!(held(&store, &path).await, Some((true, freed)));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_records_take_few_transactions() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[host_record()]);
    holds(&store, &host_record()).await;
    host.is_settled().await;
    let (calls, revision) = (host.client.calls(), store.revision().await.unwrap());
    let all: Vec<_> = (0..1000)
        .map(|i| endpoint(i, 1))
        .chain([host_record()])
        .collect();
    host.wants(&all);
    holds(&store, &endpoint(999, 1)).await;
    host.is_settled().await;
    assert_eq!(store.count("networks/n-a").await.unwrap().0, 1000);
    assert_eq!(store.revision().await.unwrap() - revision, 8);
    assert!(host.client.calls() - calls <= 10);
}

#[tokio::test(start_paused = true)]
async fn one_record_that_was_overtaken_holds_no_other_up() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    // The store never tells that it was changed: the condition stays a wrong one.
    store.lose_next_change();
    write_foreign(&store, &endpoint(1, 3)).await;
    let before = Instant::now();
    let all: Vec<_> = (2..50)
        .map(|i| endpoint(i, 1))
        .chain([endpoint(1, 2)])
        .collect();
    host.wants(&all);
    holds(&store, &endpoint(49, 1)).await;
    assert!(
        before.elapsed() < Duration::from_millis(50),
        "{:?}",
        before.elapsed()
    );
    host.says("somebody else keeps changing networks/n-a/endpoints/10.1.0.1")
        .await;
    assert!(host.publishing.borrow().is_overtaken);
    host.scopes.list_again();
    holds(&store, &endpoint(1, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn one_record_that_cannot_be_sealed_holds_no_other_up() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    *host.unsealable.lock().unwrap() = Some(endpoint(1, 1).0);
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    holds(&store, &endpoint(2, 1)).await;
    host.says("cannot seal networks/n-a/endpoints/10.1.0.1: no number is left")
        .await;
    host.wants(&[endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)]);
    holds(&store, &endpoint(3, 1)).await;
    *host.unsealable.lock().unwrap() = None;
    host.is_settled().await;
}

#[tokio::test(start_paused = true)]
async fn publishing_resumes_by_itself_when_the_store_is_back() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    store.stop();
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    host.says("cannot be reached").await;
    assert_eq!(host.publishing.borrow().unpublished, 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    host.wants(&[endpoint(3, 1)]);
    store.start();
    let before = Instant::now();
    host.is_settled().await;
    assert!(
        before.elapsed() <= Duration::from_secs(6),
        "{:?}",
        before.elapsed()
    );
    holds(&store, &endpoint(3, 1)).await;
    lacks(&store, &endpoint(1, 1).0).await;
    assert_eq!(held(&store, &endpoint(2, 1).0).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_no_harm() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    for i in 0..20 {
        host.client.lose_answers(usize::from(i % 3));
        host.client.fail_next(usize::from(i % 2));
        let moving = endpoint(100, u64::from(i) + 1);
        host.wants(&[endpoint(i, 1), moving.clone()]);
        holds(&store, &moving).await;
    }
    host.is_settled().await;
    assert_eq!(store.count("networks/n-a").await.unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_never_right_is_not_put_at_the_speed_of_the_line() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    // No reader takes a claim of 0, this host neither.
    host.wants(&[endpoint(1, 0), endpoint(2, 1)]);
    holds(&store, &endpoint(2, 1)).await;
    let before = store.revision().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let puts = store.revision().await.unwrap() - before;
    assert!((50..80).contains(&puts), "{puts}");
    host.wants(&[endpoint(1, 0), endpoint(3, 1)]);
    holds(&store, &endpoint(3, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn another_history_gets_everything_again() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    let all = [
        host_record(),
        alive(),
        network_record(false),
        endpoint(1, 1),
    ];
    host.wants(&all);
    host.is_settled().await;
    for i in 0..10 {
        write_foreign(&store, &endpoint(7, i)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.wipe();
    for wanted in &all {
        holds(&store, wanted).await;
    }
    host.is_settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_leased_record_lives_as_long_as_its_host_and_no_longer() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[alive(), host_record()]);
    holds(&store, &alive()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    holds(&store, &alive()).await;
    let before = Instant::now();
    host.client.cut();
    lacks(&store, &alive().0).await;
    assert!(
        before.elapsed() <= Duration::from_secs(46),
        "{:?}",
        before.elapsed()
    );
    host.client.mend();
    holds(&store, &alive()).await;
    drop(host);
    lacks(&store, &alive().0).await;
    assert!(held(&store, &host_record().0).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_process_takes_its_leased_record_over() {
    let store = MemoryStore::new();
    let first = Host::on(&store);
    first.wants(&[alive()]);
    holds(&store, &alive()).await;
    drop(first);
    let second = Host::on(&store);
    second.wants(&[alive()]);
    // The first one's lease ends in this time, and the record with it if it still hung on it.
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        holds(&store, &alive()).await;
        assert_eq!(held(&store, &alive().0).await, Some((true, alive().1)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_is_replaced() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[alive()]);
    holds(&store, &alive()).await;
    store.revoke(1).await.unwrap();
    lacks(&store, &alive().0).await;
    let before = Instant::now();
    holds(&store, &alive()).await;
    assert!(
        before.elapsed() <= Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_never_listed_is_left_alone() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[
        host_record(),
        (Path::Status(ME), Record::Status(b"{}".to_vec())),
    ]);
    holds(&store, &host_record()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.count("status/").await.unwrap().0, 0);
    assert_eq!(host.publishing.borrow().unpublished, 1);
}

#[test]
fn an_absent_record_is_created_and_a_present_one_replaced_only_unchanged() {
    let wants = |(path, record): (Path, Record)| {
        (
            path,
            Wanted {
                record,
                leased: false,
            },
        )
    };
    let wanted = BTreeMap::from([wants(endpoint(1, 2)), wants(endpoint(2, 2))]);
    let there = Present {
        mine: true,
        record: Some(endpoint(1, 1).1),
        mod_revision: 7,
    };
    let left = Present {
        mine: true,
        record: None,
        mod_revision: 8,
    };
    let foreign = Present {
        mine: false,
        record: None,
        mod_revision: 9,
    };
    let present = BTreeMap::from([
        (endpoint(1, 1).0, there),
        (endpoint(3, 1).0, left),
        (endpoint(4, 1).0, foreign),
    ]);
    let conditions: Vec<_> = diff(&wanted, &present, None, &BTreeMap::new())
        .into_iter()
        .map(|change| (change.condition, matches!(change.deed, Deed::Delete)))
        .collect();
    let unchanged = |number, mod_revision| Condition::Unchanged {
        key: endpoint(number, 0).0.to_string(),
        mod_revision,
    };
    let absent = Condition::Absent(endpoint(2, 0).0.to_string());
    assert_eq!(
        conditions,
        [
            (unchanged(1, 7), false),
            (absent, false),
            (unchanged(3, 8), true)
        ]
    );
}
