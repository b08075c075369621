//! An etcd that is read, and leaves unanswered what is written.

use std::sync::Mutex;

use wgnet_control_plane::store::CALL_DEADLINE;
use wgnet_proto::record::{NetworkRecord, TombstoneRecord};

use super::*;

/// So many writes are due at once.
const MANY: u8 = 20;

/// One call may be waited for.
const SHORTLY: Duration = CALL_DEADLINE.saturating_add(Duration::from_secs(2));

const A_MINUTE: Duration = Duration::from_secs(60);

/// Keeps writes from being answered as long as it is told to.
#[derive(Default)]
pub(super) struct Mute(Mutex<Option<Vec<Op>>>);

impl Mute {
    pub(super) async fn answers(&self, txn: &Txn) -> Result<(), StoreError> {
        if let Some(unanswered) = &mut *self.0.lock().unwrap() {
            unanswered.extend(txn.ops.iter().cloned());
        }
        self.answers_at_all("commit").await
    }

    pub(super) async fn answers_at_all(&self, operation: &'static str) -> Result<(), StoreError> {
        if self.0.lock().unwrap().is_none() {
            return Ok(());
        }
        sleep(CALL_DEADLINE).await;
        Err(StoreError::Deadline { operation })
    }

    pub(super) fn begin(&self) {
        *self.0.lock().unwrap() = Some(Vec::new());
    }

    /// Returns what was not answered.
    fn end(&self) -> Vec<Op> {
        self.0.lock().unwrap().take().unwrap()
    }
}

impl Rig {
    /// For a minute the others' claims are followed as they come.
    async fn follows_for_a_minute(&mut self, cluster: ClusterId) {
        let begun = Instant::now();
        let mut claim = 0;
        while begun.elapsed() < A_MINUTE {
            claim += 1;
            let owner = usize::from(claim % 2 == 0);
            self.write(owner, cluster, self.endpoint(owner, claim)).await;
            self.within(SHORTLY, "a change", move |rig| {
                Box::pin(async move { rig.owner() == Some(owner) })
            })
            .await;
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn has_none(&self, paths: &[Path]) -> bool {
        let mut none = true;
        for path in paths {
            none &= self.revision_of(path.clone()).await.is_none();
        }
        none
    }
}

#[tokio::test(start_paused = true)]
async fn tombstones_that_cannot_be_put_back_keep_no_host_from_following_the_others() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    let lost: Vec<Path> = (1..=MANY).map(|n| Path::Tombstone(HostId([n; 16]))).collect();
    for path in &lost {
        let record = TombstoneRecord { reason: "lost".to_owned() };
        rig.write(0, cluster, (path.clone(), Record::Tombstone(record))).await;
    }
    let all = lost.len();
    let are_revoked = move |rig: &Rig| rig.view.borrow().revoked.len() == all;
    rig.until("them", move |rig| Box::pin(async move { are_revoked(rig) })).await;
    rig.mute.begin();
    for path in &lost {
        rig.delete(path).await;
    }
    rig.follows_for_a_minute(cluster).await;
    let tried = rig.mute.end();
    let is_tombstone =
        |op: &&Op| matches!(op, Op::Put { key, .. } if key.starts_with("tombstones/"));
    let tried = tried.iter().filter(is_tombstone);
    assert!((2..=5).contains(&tried.count()), "it goes on, and not at every event");
    rig.within(A_MINUTE, "all of them again", move |rig| {
        Box::pin(async move { rig.store.list("tombstones/").await.unwrap().entries.len() == all })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn networks_that_cannot_be_removed_keep_no_host_from_following_the_others() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    let freed: Vec<NetworkKey> =
        (0..MANY).map(|number| format!("n-freed{number}").parse().unwrap()).collect();
    let paths: Vec<Path> = freed.iter().cloned().map(Path::Network).collect();
    for path in &paths {
        let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed: true };
        rig.write(0, cluster, (path.clone(), Record::Network(record))).await;
    }
    rig.mute.begin();
    rig.journal.update(move |state| state.freed.extend(freed)).await.unwrap();
    rig.follows_for_a_minute(cluster).await;
    let tried = rig.mute.end();
    let tried = tried.iter().filter(|op| matches!(op, Op::Delete { .. }));
    assert!((2..=5).contains(&tried.count()), "it goes on, and not at every event");
    rig.within(A_MINUTE, "their end", |rig| {
        let paths = paths.clone();
        Box::pin(async move { rig.has_none(&paths).await })
    })
    .await;
}
