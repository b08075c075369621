//! The follower through what happens to a real etcd.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::follower::{Followed, Follower, FollowerOptions};
use wgnet_control_plane::store::conformance::Fixture;
use wgnet_control_plane::store::etcd::EtcdStore;
use wgnet_control_plane::store::{Change, Op, Store, Txn, covers};

use crate::server::Etcd;

struct Reader {
    follower: Follower,
    keys: BTreeSet<String>,
    listings: usize,
    histories: usize,
}

impl Reader {
    async fn read(&mut self) {
        let next = timeout(Duration::from_secs(30), self.follower.next()).await;
        match next.expect("something happens").expect("it goes on") {
            Followed::Connected | Followed::Disconnected { .. } => {}
            Followed::History { .. } => {
                self.histories += 1;
                self.keys.clear();
            }
            Followed::Listed { scope, entries, .. } => {
                self.listings += 1;
                self.keys.retain(|key| !covers(&scope, key));
                self.keys.extend(entries.into_iter().map(|entry| entry.key));
            }
            Followed::Changed { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(entry) => _ = self.keys.insert(entry.key),
                        Change::Delete { key, .. } => assert!(self.keys.remove(&key), "{key}"),
                    }
                }
            }
        }
    }

    async fn until_holds(&mut self, keys: &[&str]) {
        while !self.keys.iter().eq(keys) {
            self.read().await;
        }
    }
}

async fn write(store: &EtcdStore, op: Op) {
    let txn = Txn { conditions: vec![], ops: vec![op] };
    let written = async {
        while store.commit(txn.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), written).await.expect("etcd comes back");
}

async fn put(store: &EtcdStore, key: &str) {
    write(store, Op::Put { key: key.to_owned(), value: vec![1] }).await;
}

async fn delete(store: &EtcdStore, key: &str) {
    write(store, Op::Delete { key: key.to_owned() }).await;
}

#[tokio::test]
async fn a_follower_survives_restart_compaction_and_wipe_of_etcd() {
    let mut etcd = Etcd::start(1).await;
    let store = etcd.store("/follower");
    let cancel = CancellationToken::new();
    let follower = Follower::start(store.clone(), FollowerOptions::default(), &cancel);
    ["hosts/", "networks/n"].iter().for_each(|scope| follower.scopes().follow(*scope));
    let mut reader = Reader { follower, keys: BTreeSet::new(), listings: 0, histories: 0 };
    put(&store, "hosts/1").await;
    put(&store, "networks/n").await;
    put(&store, "networks/n-2").await;
    put(&store, "networks/n/members/1").await;
    reader.until_holds(&["hosts/1", "networks/n", "networks/n/members/1"]).await;
    let listings = reader.listings;

    etcd.restart().await;
    put(&store, "hosts/2").await;
    delete(&store, "networks/n/members/1").await;
    reader.until_holds(&["hosts/1", "hosts/2", "networks/n"]).await;
    assert_eq!(reader.listings, listings, "a restart takes no listing");

    // The history it would go on from is compacted before it can connect again.
    etcd.kill_all();
    let mut alone = etcd.on_other_port();
    let elsewhere = alone.store("/follower");
    delete(&elsewhere, "hosts/1").await;
    put(&elsewhere, "hosts/3").await;
    put(&elsewhere, "hosts/3").await;
    alone.compact_now().await;
    alone.kill_all();
    etcd.start_all();
    reader.until_holds(&["hosts/2", "hosts/3", "networks/n"]).await;
    assert_eq!(reader.histories, 0);

    etcd.wipe().await;
    put(&store, "hosts/4").await;
    reader.until_holds(&["hosts/4"]).await;
    assert_eq!(reader.histories, 1);
}
