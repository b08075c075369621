//! Rubbish where the record of the cluster was.

use wgnet_control_plane::store::{Change, Watch as _, WatchEvent};
use wgnet_core::Verdict;

use super::*;

const AN_HOUR: Duration = Duration::from_secs(3600);

/// The task looks every few seconds.
const A_LITTLE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn rubbish_in_the_place_of_the_cluster_cuts_nothing_and_is_replaced() {
    let rig = Rig::start().await;
    let founded = rig.founded(None).await;
    let own = [Path::Member(network(), rig.me), Path::Host(rig.me)];
    let before = [rig.revision_of(own[0].clone()).await, rig.revision_of(own[1].clone()).await];
    rig.put_rubbish(&Path::Cluster).await;
    rig.until_named(&Path::Cluster).await;
    let judge = || Judge::new(rig.secrets.clone(), None, HostId([0; 16]));
    rig.until("the record of the cluster", |rig| {
        let mut judge = judge();
        Box::pin(async move {
            let entries = rig.store.list(CLUSTER).await.unwrap().entries;
            entries.iter().all(|entry| {
                judge.put(&entry.key, &entry.value, entry.mod_revision) == Verdict::Accepted
            })
        })
    })
    .await;
    assert_eq!(rig.founded(None).await, founded);
    sleep(A_LITTLE).await;
    let after = [rig.revision_of(own[0].clone()).await, rig.revision_of(own[1].clone()).await];
    assert_eq!(after, before, "nothing was taken back meanwhile");
    assert_eq!(rig.members(), 3);
    assert!(!rig.has("cluster-unreadable"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_record_of_the_cluster_cuts_nothing_and_is_founded_again() {
    let rig = Rig::start().await;
    let founded = rig.founded(None).await;
    let now = rig.store.revision().await.unwrap();
    let mut watch = rig.store.watch("networks/", now + 1).await.unwrap();
    rig.delete(&Path::Cluster).await;
    rig.until("the record of the cluster", |rig| {
        Box::pin(async { rig.revision_of(Path::Cluster).await.is_some() })
    })
    .await;
    sleep(A_LITTLE).await;
    assert_eq!(rig.founded(None).await.cluster, founded.cluster);
    assert_eq!(rig.members(), 3);
    rig.put_rubbish(&Path::Member(network(), HostId([0xab; 16]))).await;
    // Up to the rubbish, all that happened.
    let mut is_over = false;
    while !is_over {
        let event = watch.next().await.unwrap();
        let WatchEvent::Changes { changes, .. } = event else { panic!("{event:?}") };
        for change in changes {
            let Change::Put(entry) = change else { panic!("taken back: {}", change.key()) };
            is_over |= entry.value == b"rubbish";
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_over_the_record_of_another_clusters_store() {
    let rig = Rig::start().await;
    rig.line.cut();
    rig.store.wipe();
    rig.put_rubbish(&Path::Cluster).await;
    rig.line.mend();
    rig.until_named(&Path::Cluster).await;
    sleep(AN_HOUR).await;
    let entries = rig.store.list("").await.unwrap().entries;
    let found: Vec<_> =
        entries.iter().map(|entry| (entry.key.as_str(), &entry.value[..])).collect();
    assert_eq!(found, [("cluster", &b"rubbish"[..])]);
    assert!(rig.has("cluster-unreadable"), "{:?}", rig.problems.list());
    assert_eq!(rig.status.borrow().proof, None);
    rig.delete(&Path::Cluster).await;
    rig.until("all of it anew", |rig| Box::pin(rig.has_written())).await;
    rig.until("its end", |rig| Box::pin(async { !rig.has("cluster-unreadable") })).await;
}

#[tokio::test(start_paused = true)]
async fn what_proves_whose_the_store_is_is_this_hosts_record_as_it_stands() {
    async fn until_proven(rig: &Rig) -> Option<Revision> {
        rig.until("the proof", |rig| {
            Box::pin(async {
                let key = Path::Host(rig.me).to_string();
                let there = rig.revision_of(Path::Host(rig.me)).await;
                let stands = there.map(|mod_revision| Condition::Unchanged { key, mod_revision });
                stands.is_some() && rig.status.borrow().proof == stands
            })
        })
        .await;
        rig.revision_of(Path::Host(rig.me)).await
    }
    let rig = Rig::start().await;
    let first = until_proven(&rig).await;
    rig.put_rubbish(&Path::Cluster).await;
    rig.until_named(&Path::Cluster).await;
    assert_eq!(until_proven(&rig).await, first, "the store is ours all the same");
    rig.line.cut();
    rig.store.wipe();
    // Or it all would stand at the revisions of before.
    rig.put_rubbish(&Path::Member(network(), HostId([0xab; 16]))).await;
    rig.line.mend();
    assert_ne!(until_proven(&rig).await, first, "it was written anew");
}

#[tokio::test(start_paused = true)]
async fn who_puts_rubbish_there_again_and_again_cuts_nothing_and_is_not_fought_at_the_speed_of_the_line()
 {
    let rig = Rig::start().await;
    let own = Path::Member(network(), rig.me);
    let before = rig.revision_of(own.clone()).await;
    let mut put_back = 0;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(600) {
        let entries = rig.store.list(CLUSTER).await.unwrap().entries;
        if entries[0].value != b"rubbish" {
            put_back += 1;
            rig.put_rubbish(&Path::Cluster).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!((8..=20).contains(&put_back), "put back {put_back} times in ten minutes");
    assert_eq!(rig.revision_of(own).await, before, "nothing was taken back meanwhile");
    assert_eq!(rig.members(), 3);
}
