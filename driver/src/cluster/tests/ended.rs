//! What becomes of the cluster task when a task that it needs is gone.

use std::sync::atomic::AtomicBool;

use super::*;

/// Panics where it is used by whom it is to break.
struct Brittle {
    store: MemoryStore,
    breaks: Arc<Breaks>,
}

#[derive(Default)]
struct Breaks {
    /// The follower has a clone for each scope.
    clone: AtomicBool,
    /// Only the publisher writes what nobody ordered.
    commit: AtomicBool,
}

impl Clone for Brittle {
    fn clone(&self) -> Self {
        assert!(!self.breaks.clone.load(Ordering::SeqCst), "as it was told to");
        Self { store: self.store.clone(), breaks: Arc::clone(&self.breaks) }
    }
}

impl Store for Brittle {
    type Watch = <MemoryStore as Store>::Watch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        self.store.list(scope).await
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<Self::Watch, StoreError> {
        self.store.watch(scope, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        assert!(!self.breaks.commit.load(Ordering::SeqCst), "as it was told to");
        self.store.commit(txn).await
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        self.store.audit(scope, since).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}

/// Breaks something in a host that works, and gives it a network. By real time: what goes round
/// without a pause lets no other time pass.
async fn ends_after(break_it: impl FnOnce(&Breaks)) {
    let random: Random = Arc::new(|bytes| bytes.fill(7));
    let gate: crate::journal::Gate = Arc::new(|| Box::pin(async {}));
    let journal = Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
    let breaks = Arc::<Breaks>::default();
    let facts = HostFacts {
        me: journal.host_id(),
        name: "me".to_owned(),
        version: "0".to_owned(),
        backend: "model".to_owned(),
        boot: "boot".to_owned(),
        underlay: Vec::new(),
    };
    let (_underlay, addresses) = watch::channel(Underlay::default());
    let inputs = Inputs {
        store: Brittle { store: MemoryStore::new(), breaks: Arc::clone(&breaks) },
        host_key: journal.host_key().clone(),
        journal: journal.clone(),
        secrets: ClusterSecrets::generate([7; 32]),
        facts,
        underlay: addresses,
        random,
        problems: Problems::default(),
        dead_host_grace: Duration::from_secs(7 * 86_400),
        orders: Orders::default(),
        progress: Progress::default(),
    };
    let (view, _views) = watch::channel(Arc::new(ClusterView::default()));
    let (status, mut told) = watch::channel(ClusterStatus::default());
    let outputs = Outputs { view, status, remembered: oneshot::channel().0 };
    let cancel = CancellationToken::new();
    let _stop = cancel.clone().drop_guard();
    let running = tokio::spawn(run(inputs, outputs, cancel));
    let works = |status: &ClusterStatus| {
        status.store.connected && status.store.revision > 0 && status.store.unpublished == 0
    };
    let working = tokio::time::timeout(SOON, told.wait_for(works)).await;
    drop(working.expect("it works soon").unwrap());
    break_it(&breaks);
    journal.update(with_one_network).await.unwrap();
    tokio::time::timeout(SOON, running).await.expect("it ends soon").expect("it does not panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_ends_when_nothing_follows_the_store_any_more() {
    ends_after(|breaks| breaks.clone.store(true, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_ends_when_nothing_publishes_any_more() {
    ends_after(|breaks| breaks.commit.store(true, Ordering::SeqCst)).await;
}
