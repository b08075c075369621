//! Records that were to be kept while nothing could be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wgnet_driver::journal::{Gate, Journal, MemoryDisk};

use crate::{SWARM_NETWORK, add_network, random};

const A_WHILE: Duration = Duration::from_secs(10);

fn open(disk: &MemoryDisk) -> Journal {
    let gate: Gate = Arc::new(|| Box::pin(async {}));
    Journal::open_in_memory(disk, "boot", &random(), gate).unwrap()
}

async fn keep(journal: &Journal, path: &str, value: Option<u8>) -> bool {
    journal.keep_records(vec![(path.to_owned(), value.map(|n| vec![n]))]).await.is_ok()
}

/// What the next process finds after a crash.
async fn durable(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
    open(disk).records().await.unwrap().into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_full_disk_refused_or_lost_is_kept_once_it_has_room_without_another_word() {
    let disk = MemoryDisk::default();
    let journal = open(&disk);
    assert!(keep(&journal, "hosts/gone", Some(1)).await);
    assert!(keep(&journal, "hosts/newer", Some(1)).await);
    tokio::time::sleep(A_WHILE).await;
    // Not durable yet when the disk is full.
    assert!(keep(&journal, "hosts/lost", Some(2)).await);
    assert!(keep(&journal, "hosts/newer", Some(2)).await);
    disk.fill(true);
    assert!(!keep(&journal, "hosts/refused", Some(3)).await);
    assert!(!keep(&journal, "hosts/gone", None).await);
    assert!(!keep(&journal, "hosts/newer", Some(3)).await);
    assert!(journal.update(|state| add_network(state, SWARM_NETWORK)).await.is_err());
    tokio::time::sleep(A_WHILE).await;
    disk.fill(false);
    tokio::time::sleep(A_WHILE).await;
    let expected = [("hosts/lost", 2), ("hosts/newer", 3), ("hosts/refused", 3)];
    let expected = expected.map(|(path, n)| (path.to_owned(), vec![n]));
    assert_eq!(durable(&disk).await, BTreeMap::from(expected));
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_becomes_durable_with_the_next_update() {
    let disk = MemoryDisk::default();
    let journal = open(&disk);
    assert!(keep(&journal, "hosts/lost", Some(1)).await);
    disk.fail_next(false);
    assert!(journal.update(|state| add_network(state, SWARM_NETWORK)).await.is_err());
    journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
    assert_eq!(durable(&disk).await, BTreeMap::from([("hosts/lost".to_owned(), vec![1])]));
}
