//! A store in memory that behaves as etcd does, for tests and simulations: revisions, history,
//! compaction, leases on tokio's time, and everything that can go wrong, on cue.
//!
//! [`MemoryStore::clone`] is the same client, [`MemoryStore::client`] another one of the same
//! store, with faults of its own.

mod state;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

pub use state::Backup;
use state::State;

use super::{
    Audit, CALL_DEADLINE, Change, Committed, Condition, LeaseId, Listing, MAX_OPS, Op, Revision,
    Store, StoreError, Txn, Watch, WatchEvent,
};

/// How long a watch bears silence where an answer should come, as with etcd.
const SILENCE: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct MemoryStore {
    server: Arc<Server>,
    line: Arc<Mutex<Line>>,
    prefix: Arc<str>,
}

struct Server {
    inner: Mutex<Inner>,
    /// Something happened: look again.
    tick: watch::Sender<()>,
}

struct Inner {
    state: State,
    up: bool,
    leader: bool,
    /// Counts starts: a watch lives in one only.
    run: u64,
    /// Counts the orders to tell every watch how far it is.
    progress: u64,
}

/// What is wrong between one client and the store.
#[derive(Default)]
struct Line {
    cut: bool,
    held_since: Option<Instant>,
    fail_next: usize,
    lose_answers: usize,
    calls: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// What the owner of the store can do to it.
impl MemoryStore {
    /// A new, empty store and its first client.
    pub fn new() -> Self {
        let (tick, _) = watch::channel(());
        let inner = Inner { state: State::new(), up: true, leader: true, run: 0, progress: 0 };
        let server = Arc::new(Server { inner: Mutex::new(inner), tick });
        Self { server, line: Arc::default(), prefix: "".into() }
    }

    /// Another client.
    pub fn client(&self) -> Self {
        Self { line: Arc::default(), ..self.clone() }
    }

    /// Another client, of another cluster, whose keys live below `prefix`.
    pub fn with_prefix(&self, prefix: &str) -> Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/')).into();
        Self { prefix, ..self.client() }
    }

    /// Forgets every change before the current revision.
    pub fn compact(&self) {
        self.change(|inner| inner.state.compact());
    }

    /// Ends every watch and goes on with the same contents.
    pub fn restart(&self) {
        self.change(|inner| inner.run += 1);
    }

    pub fn stop(&self) {
        self.change(|inner| inner.up = false);
    }

    pub fn start(&self) {
        self.change(|inner| {
            inner.up = true;
            inner.run += 1;
        });
    }

    pub fn lose_leader(&self) {
        self.change(|inner| inner.leader = false);
    }

    pub fn regain_leader(&self) {
        self.change(|inner| {
            inner.leader = true;
            inner.state.renew_leases(Instant::now());
        });
    }

    /// It takes no changes but deletions, as an etcd whose quota is used up, until
    /// [`MemoryStore::make_room`].
    pub fn fill(&self) {
        self.change(|inner| inner.state.is_full = true);
    }

    pub fn make_room(&self) {
        self.change(|inner| inner.state.is_full = false);
    }

    /// How many leases there are.
    pub fn leases(&self) -> usize {
        self.server.now().state.leases()
    }

    /// How many leases there ever were.
    pub fn granted(&self) -> LeaseId {
        self.server.lock().state.granted()
    }

    /// Empty again: another history.
    pub fn wipe(&self) {
        self.change(|inner| inner.begin_anew(State::new()));
    }

    pub fn backup(&self) -> Backup {
        self.server.lock().state.backup()
    }

    /// Back to an earlier state: another history.
    pub fn restore(&self, backup: &Backup) {
        self.change(|inner| inner.begin_anew(State::restored(backup, Instant::now())));
    }

    /// Who is told at once of every change that is made, whatever becomes of its answer.
    pub fn set_witness(&self, witness: impl Fn(&[Change]) + Send + Sync + 'static) {
        self.change(|inner| inner.state.witness = Some(Arc::new(witness)));
    }

    /// The next change is made and never told, as some etcds did (etcd#17529).
    pub fn lose_next_change(&self) {
        self.change(|inner| inner.state.lose_next_change(true));
    }

    /// If the next change was still to be lost, it is told after all.
    pub fn lose_no_change(&self) {
        self.change(|inner| inner.state.lose_next_change(false));
    }

    /// Tells every watch how far it is.
    pub fn progress(&self) {
        self.change(|inner| inner.progress += 1);
    }

    fn change(&self, how: impl FnOnce(&mut Inner)) {
        how(&mut self.server.lock());
        self.server.tick.send_replace(());
    }
}

/// What can go wrong for this client alone.
impl MemoryStore {
    /// Calls fail at once and watches end, until [`MemoryStore::mend`].
    pub fn cut(&self) {
        self.fault(|line| line.cut = true);
    }

    /// Calls and watches are silent, until [`MemoryStore::mend`].
    pub fn hold(&self) {
        self.fault(|line| line.held_since = Some(Instant::now()));
    }

    pub fn mend(&self) {
        self.fault(|line| *line = Line { calls: line.calls, ..Line::default() });
    }

    /// The next calls fail, with nothing done.
    pub fn fail_next(&self, calls: usize) {
        self.fault(|line| line.fail_next = calls);
    }

    /// The next calls are done, and yet seem to fail.
    pub fn lose_answers(&self, calls: usize) {
        self.fault(|line| line.lose_answers = calls);
    }

    /// How many calls this client has made.
    pub fn calls(&self) -> u64 {
        self.line().calls
    }

    fn fault(&self, how: impl FnOnce(&mut Line)) {
        how(&mut self.line());
        self.server.tick.send_replace(());
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("nothing panics while it is held")
    }
}

impl Inner {
    fn begin_anew(&mut self, mut state: State) {
        state.succeed(&mut self.state);
        self.state = state;
        self.run += 1;
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it is held")
    }

    /// The contents, with nothing in them whose time is over.
    fn now(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        // Without a leader nothing expires.
        if inner.leader && inner.up && inner.state.expire(Instant::now()) {
            self.tick.send_replace(());
        }
        inner
    }
}

impl MemoryStore {
    async fn call<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.line().calls += 1;
        // Others get their turn, as they would while a real call is under way.
        tokio::task::yield_now().await;
        let mut tick = self.server.tick.subscribe();
        let passable = async {
            while self.line().held_since.is_some() {
                let _ = tick.changed().await;
            }
        };
        timeout(CALL_DEADLINE, passable).await.map_err(|_| StoreError::Deadline { operation })?;
        self.passes(operation)?;
        let mut inner = self.server.now();
        if !inner.up {
            return Err(unreachable(operation, "the store is stopped"));
        }
        if !inner.leader {
            return Err(no_leader());
        }
        let before = inner.state.revision();
        let result = work(&mut inner.state);
        if inner.state.revision() != before {
            self.server.tick.send_replace(());
        }
        drop(inner);
        self.answers(operation)?;
        result
    }

    fn passes(&self, operation: &'static str) -> Result<(), StoreError> {
        let mut line = self.line();
        if line.cut {
            return Err(unreachable(operation, "the line is cut"));
        }
        if line.fail_next > 0 {
            line.fail_next -= 1;
            return Err(unreachable(operation, "this call was to fail"));
        }
        Ok(())
    }

    fn answers(&self, operation: &'static str) -> Result<(), StoreError> {
        let mut line = self.line();
        if line.lose_answers > 0 {
            line.lose_answers -= 1;
            return Err(unreachable(operation, "this answer was to be lost"));
        }
        Ok(())
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn relative(&self, key: &str) -> String {
        key[self.prefix.len()..].to_owned()
    }
}

impl Store for MemoryStore {
    type Watch = MemoryWatch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        let mut listing = self.call("list", |state| Ok(state.list(&self.full(scope)))).await?;
        for entry in &mut listing.entries {
            entry.key = self.relative(&entry.key);
        }
        Ok(listing)
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<MemoryWatch, StoreError> {
        self.call("watch", |_| Ok(())).await?;
        let (run, progress) = {
            let inner = self.server.lock();
            (inner.run, inner.progress)
        };
        Ok(MemoryWatch {
            tick: self.server.tick.subscribe(),
            scope: self.full(scope),
            client: self.clone(),
            from,
            run,
            progress,
        })
    }

    async fn commit(&self, mut txn: Txn) -> Result<Committed, StoreError> {
        let size = txn.ops.len().max(txn.conditions.len());
        if size > MAX_OPS {
            return Err(StoreError::TooManyOps(size));
        }
        for op in &mut txn.ops {
            let (Op::Put { key, .. } | Op::PutLeased { key, .. } | Op::Delete { key }) = op;
            *key = self.full(key);
        }
        for condition in &mut txn.conditions {
            let (Condition::Absent(key)
            | Condition::Unchanged { key, .. }
            | Condition::NonePrefixed(key)) = condition;
            *key = self.full(key);
        }
        self.call("commit", |state| state.commit(txn)).await
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        let mut audit =
            self.call("audit", |state| Ok(state.audit(&self.full(scope), since))).await?;
        for (key, _) in &mut audit.changed {
            *key = self.relative(key);
        }
        Ok(audit)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.call("revision", |state| Ok(state.revision())).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.call("grant", |state| state.grant(ttl, Instant::now())).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("keep alive", |state| state.keep_alive(lease, Instant::now())).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("revoke", |state| state.revoke(lease)).await
    }
}

/// A watch of a [`MemoryStore`]: it reads the history on demand.
pub struct MemoryWatch {
    client: MemoryStore,
    scope: String,
    from: Revision,
    run: u64,
    progress: u64,
    tick: watch::Receiver<()>,
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            self.tick.mark_unchanged();
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            let wake = self.next_wake();
            // Both arms are cancel-safe.
            tokio::select! {
                _ = self.tick.changed() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }
}

impl MemoryWatch {
    fn look(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let held_since = {
            let line = self.client.line();
            if line.cut {
                return Err(ended("the line is cut"));
            }
            line.held_since
        };
        if let Some(since) = held_since {
            let silent = since.elapsed() >= SILENCE;
            return if silent { Err(ended("the store is silent")) } else { Ok(None) };
        }
        let server = Arc::clone(&self.client.server);
        let inner = server.now();
        if !inner.up || inner.run != self.run {
            return Err(ended("the store was stopped"));
        }
        if !inner.leader {
            return Err(no_leader());
        }
        let (event, from) = inner.state.changes(&self.scope, self.from);
        self.from = from;
        if event.is_none() && inner.progress != self.progress {
            self.progress = inner.progress;
            let revision = inner.state.revision();
            return Ok((revision + 1 >= from).then_some(WatchEvent::Progress { revision }));
        }
        Ok(event.map(|event| self.relative(event)))
    }

    fn relative(&self, event: WatchEvent) -> WatchEvent {
        let WatchEvent::Changes { revision, mut changes } = event else {
            return event;
        };
        for change in &mut changes {
            let (Change::Put(super::Entry { key, .. }) | Change::Delete { key, .. }) = change;
            *key = self.client.relative(key);
        }
        WatchEvent::Changes { revision, changes }
    }

    fn next_wake(&self) -> Option<Instant> {
        if let Some(since) = self.client.line().held_since {
            // It ends no lease meanwhile: one that is over would wake it without end.
            return Some(since + SILENCE);
        }
        let inner = self.client.server.lock();
        inner.state.next_expiry().filter(|_| inner.leader && inner.up)
    }
}

fn unreachable(operation: &'static str, why: &'static str) -> StoreError {
    StoreError::Unreachable { operation, endpoints: "memory".to_owned(), source: why.into() }
}

fn no_leader() -> StoreError {
    StoreError::NoLeader { endpoints: "memory".to_owned() }
}

fn ended(why: &'static str) -> StoreError {
    StoreError::WatchEnded { source: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, Fixture};

    struct Memory(MemoryStore);

    impl Fixture for Memory {
        type Store = MemoryStore;

        fn client(&self, prefix: &str) -> MemoryStore {
            self.0.with_prefix(prefix)
        }

        async fn compact(&mut self) {
            self.0.compact();
        }

        async fn restart(&mut self) {
            self.0.restart();
        }

        async fn lose_leader(&mut self) {
            self.0.lose_leader();
        }

        async fn regain_leader(&mut self) {
            self.0.regain_leader();
        }

        async fn wipe(&mut self) {
            self.0.wipe();
        }

        async fn fill(&mut self) {
            self.0.fill();
        }

        async fn make_room(&mut self) {
            self.0.make_room();
        }

        async fn freeze(&mut self, client: &MemoryStore) {
            client.hold();
        }

        async fn thaw(&mut self, client: &MemoryStore) {
            client.mend();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_passes_the_conformance_suite() {
        conformance::suite(&mut Memory(MemoryStore::new())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_lease_expires_and_says_so() {
        let store = MemoryStore::new();
        let lease = store.grant(Duration::from_secs(45)).await.unwrap();
        let op = Op::PutLeased { key: "alive/1".into(), value: vec![], lease };
        store.commit(Txn { conditions: vec![], ops: vec![op] }).await.unwrap();
        let mut watch = store.watch("alive/", 1).await.unwrap();
        watch.next().await.unwrap();
        let before = Instant::now();
        let WatchEvent::Changes { changes, .. } = watch.next().await.unwrap() else { panic!() };
        assert!(matches!(changes[..], [Change::Delete { .. }]));
        assert!(before.elapsed() >= Duration::from_secs(44));
        assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseLost(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_watch_sleeps_past_the_end_of_a_lease() {
        let store = MemoryStore::new();
        store.grant(SILENCE / 2).await.unwrap();
        let mut watch = store.watch("", 1).await.unwrap();
        store.hold();
        let held = Instant::now();
        assert_eq!(watch.next_wake(), Some(held + SILENCE));
        assert!(matches!(watch.next().await, Err(StoreError::WatchEnded { .. })));
        assert!(held.elapsed() >= SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restored_backup_is_another_history() {
        let store = MemoryStore::new();
        let put = |key: &str| Txn {
            conditions: vec![],
            ops: vec![Op::Put { key: key.into(), value: vec![] }],
        };
        store.commit(put("a")).await.unwrap();
        let backup = store.backup();
        store.commit(put("b")).await.unwrap();
        let before = store.revision().await.unwrap();
        store.restore(&backup);
        assert!(store.revision().await.unwrap() < before);
        assert_eq!(store.list("").await.unwrap().entries.len(), 1);
    }
}
