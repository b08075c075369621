//! A disk that hangs under the journal.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_keeps_no_host_from_following_the_others() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    rig.hang.send_replace(true);
    for claim in 1..=20 {
        let owner = usize::from(claim % 2 == 0);
        rig.write(owner, cluster, rig.endpoint(owner, claim)).await;
        rig.until("a change", move |rig| Box::pin(async move { rig.owner() == Some(owner) })).await;
    }
    rig.hang.send_replace(false);
    rig.until("the newest to be kept", |rig| {
        Box::pin(async {
            let key = Path::Endpoint(network(), ADDRESS).to_string();
            let newest = rig.store.list(&key).await.unwrap().entries.remove(0).value;
            rig.journal.records().await.unwrap().contains(&(key, newest))
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_with_a_number_that_may_be_used_again() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    // An earlier life of this host wrote it, which the journal does not remember.
    let seq = 1_000_000;
    let path = Path::Member(network(), rig.me);
    let (_, record) = rig.member(0);
    let sealer = Sealer::new(rig.journal.host_key().clone(), rig.secrets.clone(), cluster);
    let value = sealer.seal_record(&path, seq, &record);
    rig.hang.send_replace(true);
    let put = Op::Put { key: path.to_string(), value };
    let txn = Txn { conditions: vec![], ops: vec![put] };
    assert!(matches!(rig.store.commit(txn).await, Ok(Committed::Done { .. })));
    let written = rig.revision_of(path.clone()).await;
    sleep(YIELDED).await;
    rig.write(0, cluster, rig.endpoint(0, 1)).await;
    rig.until("a change", |rig| Box::pin(async { rig.owner() == Some(0) })).await;
    assert_eq!(rig.revision_of(path.clone()).await, written);
    assert!(rig.journal.next_unused_seq() <= seq);
    rig.hang.send_replace(false);
    rig.until("its own record", |rig| {
        let path = path.clone();
        Box::pin(async move { rig.revision_of(path).await != written })
    })
    .await;
    assert!(rig.journal.next_unused_seq() > seq);
}
