//! A host as the publisher knows it: something that judges what a follower tells.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tokio::time::timeout;
use wgnet_proto::record::{AliveRecord, EndpointRecord, HostRecord, NetworkRecord};
use wgnet_proto::{EndpointId, HostId, Incarnation, MacAddr, NetworkKey};

use crate::follower::{Followed, Follower, FollowerOptions, Scopes};
use crate::publisher::*;
use crate::session::LEASE_TTL;
use crate::store::{Change as StoreChange, Entry, MemoryStore};

pub(super) const ME: HostId = HostId([1; 16]);
pub(super) const OTHER: HostId = HostId([2; 16]);

pub(super) struct Host {
    /// Its own line to the store.
    pub(super) client: MemoryStore,
    wanted: watch::Sender<Arc<WantedRecords>>,
    pub(super) publishing: watch::Receiver<Publishing>,
    pub(super) scopes: Scopes,
    /// A path whose record cannot be sealed.
    pub(super) unsealable: Arc<Mutex<Option<Path>>>,
    _publisher: Publisher,
    _cancel: DropGuard,
}

impl Host {
    pub(super) fn on(store: &MemoryStore) -> Self {
        let client = store.client();
        let cancel = CancellationToken::new();
        let (picture, pictures) = watch::channel(Arc::new(Picture::default()));
        let follower = Follower::start(client.clone(), FollowerOptions::default(), &cancel);
        let scopes = follower.scopes();
        ["hosts/", "alive/", "networks/n-a"].iter().for_each(|it| scopes.follow(*it));
        tokio::spawn(judge(follower, picture));
        let (wanted, wants) = watch::channel(Arc::new(WantedRecords::new()));
        let unsealable = Arc::new(Mutex::new(None));
        let refused = Arc::clone(&unsealable);
        let seal: Seal = Arc::new(move |path, record| {
            let is_refused = refused.lock().unwrap().as_ref() == Some(path);
            if is_refused { Err("no number is left".into()) } else { Ok(sealed(ME, record)) }
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

    pub(super) fn wants(&self, records: &[(Path, Record)]) {
        let wanted = records.iter().map(|(path, record)| {
            let leased = matches!(path, Path::Alive(_));
            (path.clone(), Wanted { record: record.clone(), leased })
        });
        self.wanted.send_replace(Arc::new(wanted.collect()));
    }

    pub(super) async fn is_settled(&mut self) {
        let settled = self.publishing.wait_for(|it| it.unpublished == 0 && it.error.is_none());
        timeout(Duration::from_secs(1200), settled).await.expect("it settles").unwrap();
    }

    pub(super) async fn counts(&mut self, unpublished: usize) {
        let counted = self.publishing.wait_for(|it| it.unpublished == unpublished);
        timeout(Duration::from_secs(600), counted).await.expect("it is counted").unwrap();
    }

    pub(super) async fn says(&mut self, word: &str) {
        let said = |it: &Publishing| it.error.as_ref().is_some_and(|error| error.contains(word));
        timeout(Duration::from_secs(600), self.publishing.wait_for(said)).await.unwrap().unwrap();
    }
}

pub(super) fn sealed(writer: HostId, record: &Record) -> Vec<u8> {
    [writer.0.to_vec(), record.encode()].concat()
}

pub(super) fn judged(path: &Path, entry: &Entry) -> Present {
    let (writer, payload) = entry.value.split_at(16.min(entry.value.len()));
    let mine = writer == ME.0;
    Present { mine, record: Record::decode(path, payload).ok(), mod_revision: entry.mod_revision }
}

pub(super) async fn judge(mut follower: Follower, told: watch::Sender<Arc<Picture>>) {
    let mut picture = Picture::default();
    while let Some(event) = follower.next().await {
        match event {
            Followed::Connected | Followed::Disconnected { .. } => continue,
            Followed::History { .. } => {
                picture = Picture { history: picture.history + 1, ..Picture::default() };
            }
            Followed::Listed { scope, revision, entries } => {
                for entry in &entries {
                    let path = Path::parse(&entry.key).unwrap();
                    picture.present.insert(path.clone(), judged(&path, entry));
                }
                let listed = |path: &Path| entries.iter().any(|it| it.key == path.to_string());
                picture.present.retain(|it, _| !covers(&scope, &it.to_string()) || listed(it));
                picture.seen.insert(scope, revision);
            }
            Followed::Changed { scope, revision, changes } => {
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

pub(super) fn network() -> NetworkKey {
    "n-a".parse().unwrap()
}

pub(super) fn host_record() -> (Path, Record) {
    let record = HostRecord {
        name: "one".to_owned(),
        underlay: vec![],
        version: "1".to_owned(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([0; 16]),
    };
    (Path::Host(ME), Record::Host(record))
}

pub(super) fn network_record(freed: bool) -> (Path, Record) {
    let (subnets, options) = (vec!["10.1.0.0/16".parse().unwrap()], BTreeMap::new());
    (Path::Network(network()), Record::Network(NetworkRecord { subnets, options, freed }))
}

pub(super) fn alive() -> (Path, Record) {
    (Path::Alive(ME), Record::Alive(AliveRecord { boot: "b".to_owned() }))
}

pub(super) fn endpoint(number: u16, claim: u64) -> (Path, Record) {
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
pub(super) async fn held(store: &MemoryStore, path: &Path) -> Option<(bool, Record)> {
    let key = path.to_string();
    let entries = store.client().list(&key).await.unwrap().entries;
    let entry = entries.iter().find(|entry| entry.key == key)?;
    let present = judged(path, entry);
    Some((present.mine, present.record?))
}

pub(super) async fn write(store: &MemoryStore, op: Op) {
    store.client().commit(Txn { conditions: vec![], ops: vec![op] }).await.unwrap();
}

pub(super) async fn write_foreign(store: &MemoryStore, (path, record): &(Path, Record)) {
    write(store, Op::Put { key: path.to_string(), value: sealed(OTHER, record) }).await;
}

/// Waits until the store holds this host's record.
pub(super) async fn holds(store: &MemoryStore, (path, record): &(Path, Record)) {
    let held = async {
        while held(store, path).await != Some((true, record.clone())) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), held).await.expect("the record gets there");
}

pub(super) async fn lacks(store: &MemoryStore, path: &Path) {
    let lacks = async {
        while held(store, path).await.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), lacks).await.expect("the record goes");
}
