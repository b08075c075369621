//! What people are told of records that were refused.

use wgnet_core::Verdict;
use wgnet_core::refused::TOLD_FOR;

use super::*;

const AN_HOUR: Duration = Duration::from_secs(3600);

/// The task looks every few seconds.
const A_LITTLE: Duration = Duration::from_secs(10);

impl Rig {
    async fn commit(&self, op: Op) {
        let txn = Txn { conditions: vec![], ops: vec![op] };
        assert!(matches!(self.store.commit(txn).await, Ok(Committed::Done { .. })));
    }

    pub(super) async fn put_rubbish(&self, path: &Path) {
        self.commit(Op::Put { key: path.to_string(), value: b"rubbish".to_vec() }).await;
    }

    pub(super) async fn delete(&self, path: &Path) {
        self.commit(Op::Delete { key: path.to_string() }).await;
    }

    fn names(&self, path: &Path) -> bool {
        let path = path.to_string();
        self.status.borrow().refusals.iter().any(|refusal| refusal.path == path)
    }

    pub(super) async fn until_named(&self, path: &Path) {
        let of = path.clone();
        self.until("a refusal", |rig| {
            let path = of.clone();
            Box::pin(async move { rig.names(&path) })
        })
        .await;
    }

    /// It is gone now: named for its while, and then no more.
    async fn is_named_for_its_while(&self, path: &Path) {
        sleep(Duration::from_secs(TOLD_FOR) - A_LITTLE).await;
        assert!(self.names(path));
        sleep(2 * A_LITTLE).await;
        assert!(!self.names(path));
        assert_eq!(self.status.borrow().refused.values().sum::<u64>(), 1, "it counts for good");
    }
}

fn stray() -> Path {
    Path::Host(HostId([0xab; 16]))
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_is_named_while_it_stands_and_ten_minutes_longer() {
    let rig = Rig::start().await;
    rig.put_rubbish(&stray()).await;
    rig.until_named(&stray()).await;
    sleep(AN_HOUR).await;
    assert!(rig.names(&stray()));
    rig.delete(&stray()).await;
    rig.is_named_for_its_while(&stray()).await;
}

#[tokio::test(start_paused = true)]
async fn an_attack_that_was_undone_at_once_is_named_and_then_forgotten() {
    let rig = Rig::start().await;
    let own = Path::Host(rig.me);
    rig.put_rubbish(&own).await;
    rig.until_named(&own).await;
    let judge = || Judge::new(rig.secrets.clone(), None, HostId([0; 16]));
    let key = own.to_string();
    rig.until("its own record", |rig| {
        let (mut judge, key) = (judge(), key.clone());
        Box::pin(async move {
            let mut entries = rig.store.list(CLUSTER).await.unwrap().entries;
            entries.extend(rig.store.list(&key).await.unwrap().entries);
            entries.iter().all(|entry| {
                judge.put(&entry.key, &entry.value, entry.mod_revision) == Verdict::Accepted
            })
        })
    })
    .await;
    rig.is_named_for_its_while(&own).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_lacks_is_not_refused_any_more() {
    let rig = Rig::start().await;
    rig.put_rubbish(&stray()).await;
    rig.until_named(&stray()).await;
    rig.line.cut();
    rig.delete(&stray()).await;
    sleep(AN_HOUR).await;
    assert!(rig.names(&stray()), "nobody knows that it is gone");
    rig.store.compact();
    rig.line.mend();
    rig.within(AN_HOUR, "the end of its being named", |rig| {
        Box::pin(async { !rig.names(&stray()) })
    })
    .await;
}
