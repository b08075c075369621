//! What the tasks of all scopes share: how far the history is known, and whether the store is there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::scope::Report;
use super::{Deaf, FIRST};
use crate::backoff::Backoff;
use crate::store::{CALL_DEADLINE, Entry, Revision, Store, StoreError};

/// Of one history of the store.
#[derive(Default)]
pub(super) struct Bearings {
    /// The highest revision that any answer has shown.
    highest: AtomicI64,
    has_first: AtomicBool,
    first: watch::Sender<Option<First>>,
}

/// What was told last of the scope that names the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    revision: Revision,
    mark: u64,
}

impl Bearings {
    pub(super) fn at(revision: Revision) -> Self {
        Self { highest: revision.into(), ..Self::default() }
    }

    pub(super) fn highest(&self) -> Revision {
        self.highest.load(Ordering::SeqCst)
    }

    pub(super) fn reached(&self, revision: Revision) {
        self.highest.fetch_max(revision, Ordering::SeqCst);
    }

    pub(super) fn followed(&self, scope: &str) {
        if scope == FIRST {
            self.has_first.store(true, Ordering::SeqCst);
        }
    }

    /// Whether another scope has to wait for the one that names the history.
    pub(super) fn waits_for_first(&self, scope: &str) -> bool {
        scope != FIRST && self.has_first.load(Ordering::SeqCst)
    }

    /// The first scope was told up to this revision, where this stands in it.
    pub(super) fn told_first(&self, revision: Revision, entry: Option<&Entry>) {
        self.first.send_replace(Some(First { revision, mark: mark(entry) }));
    }

    /// Whether this is what was told last of the first scope.
    pub(super) fn has_told(&self, entry: Option<&Entry>) -> bool {
        self.first.borrow().is_some_and(|told| told.mark == mark(entry))
    }

    /// Until the first scope was told as the store has shown it at this revision.
    pub(super) async fn first_is_told(&self, revision: Revision, entry: Option<&Entry>) {
        let mark = mark(entry);
        let is_told = |told: &Option<First>| {
            told.is_some_and(|told| told.mark == mark || told.revision > revision)
        };
        // The sender is our own.
        let _ = self.first.subscribe().wait_for(is_told).await;
    }
}

/// Not the revision alone: every history begins with the same ones.
fn mark(entry: Option<&Entry>) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry.map(|entry| (entry.mod_revision, &entry.value)).hash(&mut hasher);
    hasher.finish()
}

/// etcd never answers what it was asked while its leader was lost, but soon what is asked after that;
/// a slow one is given more time with each try.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where all scopes wait while the store is away: one of them tries it for all.
#[derive(Default)]
pub(super) struct Gate {
    answered: Mutex<Option<Instant>>,
}

impl Gate {
    /// Returns once the store answers; whether it had to be waited for. Meanwhile it tells why it does
    /// not, which may be another reason than at first.
    pub(super) async fn wait<S: Store>(
        &self,
        store: &S,
        reports: &mpsc::Sender<Report>,
        failing: impl Fn(&StoreError) -> Report,
    ) -> Result<bool, Deaf> {
        let begun = Instant::now();
        let mut answered = self.answered.lock().await;
        if answered.is_some_and(|at| at > begun) {
            return Ok(true);
        }
        let mut backoff = Backoff::new();
        let mut patience = PATIENCE;
        let mut waited = false;
        loop {
            let late = || Err(StoreError::Deadline { operation: "a look at the store" });
            let answer = timeout(patience, store.revision()).await.unwrap_or_else(|_| late());
            let Err(error) = answer else { break };
            reports.send(failing(&error)).await.map_err(|_| Deaf)?;
            waited = true;
            patience = (patience * 2).min(CALL_DEADLINE);
            sleep(backoff.wait_after(&error)).await;
        }
        *answered = Some(Instant::now());
        Ok(waited)
    }
}
