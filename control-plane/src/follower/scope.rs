//! The task of one scope: lists it, watches it, and begins again whenever that is needed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::FIRST;
use super::bearings::{Bearings, Gate};
use crate::backoff::{Backoff, jitter};
use crate::store::{Change, Entry, Revision, Store, StoreError, Watch, WatchEvent, chain};

/// After a watch was resumed: in another history whose revision has passed ours, only this tells.
const AUDIT_AFTER_RESUMING: Duration = Duration::from_secs(2);

/// What is under way while a scope is counted has arrived by then.
const AUDIT_AGAIN: Duration = Duration::from_secs(1);

/// A scope that is never quiet is listed after so many differing counts.
const DOUBTS: u32 = 20;

/// After so long a watch was a good one.
const GOOD: Duration = Duration::from_secs(1);

/// A watch that ends so often before it tells anything is not resumed: a listing gets past what it
/// stumbles over.
const FRUITLESS: u32 = 2;

/// How long the first scope is waited for before it is looked at again.
const FIRST_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Report {
    pub(super) task: u64,
    pub(super) scope: String,
    pub(super) told: Told,
}

pub(super) enum Told {
    Listed {
        revision: Revision,
        entries: Vec<Entry>,
    },
    Changed {
        revision: Revision,
        changes: Vec<Change>,
    },
    Watching,
    Failing(String),
    /// The first scope was not told as the store shows it, though there was time.
    FirstIsStale,
    /// The store is in another history. This task has ended.
    Fell {
        revision: Revision,
        highest: Revision,
    },
}

pub(super) struct ScopeTask<S> {
    number: u64,
    scope: String,
    store: S,
    audit: Duration,
    bearings: Arc<Bearings>,
    gate: Arc<Gate>,
    reports: mpsc::Sender<Report>,
    /// Up to where the scope is known; `None`: to be listed.
    known: Option<Revision>,
    /// The keys of the scope, hashed as there may be 100 000, and when they last changed.
    keys: BTreeMap<u64, Revision>,
    /// Up to here `keys` is what the store holds, and not only what it told.
    verified: Revision,
    fruitless: u32,
}

/// Why a task, or a round of it, ended.
enum End {
    Store(StoreError),
    /// Nobody listens any more, or this task is to be replaced.
    Task,
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<S: Store> ScopeTask<S> {
    pub(super) fn new(
        number: u64,
        scope: String,
        store: S,
        audit: Duration,
        bearings: Arc<Bearings>,
        gate: Arc<Gate>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            number,
            scope,
            store,
            audit,
            bearings,
            gate,
            reports,
            known: None,
            keys: BTreeMap::new(),
            verified: 0,
            fruitless: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match self.round(&mut backoff).await {
                Ok(()) => {}
                Err(End::Store(error)) => {
                    if self.tell(Told::Failing(chain(&error))).await.is_err() {
                        return;
                    }
                    if error.is_away() {
                        let failing = |error: &StoreError| self.report(Told::Failing(chain(error)));
                        match self.gate.wait(&self.store, &self.reports, failing).await {
                            Ok(true) => {
                                backoff.reset();
                                continue;
                            }
                            Ok(false) => {}
                            Err(_) => return,
                        }
                    }
                }
                Err(End::Task) => return,
            }
            sleep(backoff.wait()).await;
        }
    }

    /// Lists or resumes, and watches until that ends.
    async fn round(&mut self, backoff: &mut Backoff) -> Result<(), End> {
        if self.bearings.waits_for_first(&self.scope) {
            self.wait_for_first().await?;
        }
        let (known, first_audit) = match self.known {
            // Listed, it costs as much as resumed, and shows another history at once.
            Some(known) if self.scope != FIRST => {
                self.check_history().await?;
                (known, AUDIT_AFTER_RESUMING)
            }
            Some(_) | None => (self.list().await?, self.audit),
        };
        let watch = self.store.watch(&self.scope, known + 1).await?;
        self.tell(Told::Watching).await?;
        let begun = Instant::now();
        let ended = self.follow(watch, Instant::now() + jitter(first_audit)).await;
        let is_fruitless = self.known == Some(known);
        if !is_fruitless || begun.elapsed() > GOOD {
            backoff.reset();
            self.fruitless = 0;
        } else {
            self.fruitless += 1;
            if self.fruitless >= FRUITLESS {
                self.known = None;
            }
        }
        ended
    }

    async fn list(&mut self) -> Result<Revision, End> {
        let highest = self.bearings.highest();
        let listing = self.store.list(&self.scope).await?;
        self.reached(listing.revision, highest).await?;
        let hashed = |entry: &Entry| (hash(&entry.key), entry.mod_revision);
        self.keys = listing.entries.iter().map(hashed).collect();
        self.known = Some(listing.revision);
        self.verified = listing.revision;
        let (revision, entries) = (listing.revision, listing.entries);
        let first = entries.iter().find(|entry| entry.key == FIRST).cloned();
        self.tell(Told::Listed { revision, entries }).await?;
        if self.scope == FIRST {
            self.bearings.told_first(revision, first.as_ref());
        }
        Ok(revision)
    }

    async fn check_history(&self) -> Result<(), End> {
        let highest = self.bearings.highest();
        let revision = self.store.revision().await?;
        self.reached(revision, highest).await
    }

    /// Returns once whoever follows knows which history this is.
    async fn wait_for_first(&self) -> Result<(), End> {
        let highest = self.bearings.highest();
        let listing = self.store.list(FIRST).await?;
        self.reached(listing.revision, highest).await?;
        let entry = listing.entries.iter().find(|entry| entry.key == FIRST);
        let told = self.bearings.first_is_told(listing.revision, entry);
        if timeout(FIRST_WITHIN, told).await.is_err() {
            self.tell(Told::FirstIsStale).await?;
            return Err(StoreError::Deadline { operation: "the listing of the cluster" }.into());
        }
        Ok(())
    }

    /// Compares an answer's revision with the highest that was known *before it was asked for*:
    /// answers overtake each other.
    async fn reached(&self, revision: Revision, highest: Revision) -> Result<(), End> {
        if revision < highest {
            self.tell(Told::Fell { revision, highest }).await?;
            return Err(End::Task);
        }
        self.bearings.reached(revision);
        Ok(())
    }

    /// Hands changes on until the scope is to be listed again, or the watch fails.
    async fn follow(&mut self, mut watch: S::Watch, mut audit: Instant) -> Result<(), End> {
        let mut doubts = 0;
        let mut is_quiet = true;
        loop {
            // Both arms are cancel-safe; what they lead to is awaited after the select.
            let event = tokio::select! {
                event = watch.next() => Some(event?),
                () = sleep_until(audit) => None,
            };
            match event {
                Some(WatchEvent::Changes { revision, changes }) => {
                    is_quiet = false;
                    self.bearings.reached(revision);
                    self.note(&changes);
                    self.known = Some(revision);
                    let first = self.first_of(&changes);
                    self.tell(Told::Changed { revision, changes }).await?;
                    if let Some(first) = first {
                        self.bearings.told_first(revision, first.as_ref());
                    }
                }
                Some(WatchEvent::Progress { revision }) => {
                    // Either this member is behind, or it is another history.
                    if revision < self.bearings.highest() {
                        self.check_history().await?;
                    }
                    self.known = self.known.map(|known| known.max(revision));
                }
                Some(WatchEvent::Compacted { .. }) => {
                    self.known = None;
                    return Ok(());
                }
                None if self.differs().await? => {
                    doubts += 1;
                    if (is_quiet && doubts > 1) || doubts >= DOUBTS {
                        self.known = None;
                        return Ok(());
                    }
                    is_quiet = true;
                    audit = Instant::now() + AUDIT_AGAIN;
                }
                None => {
                    doubts = 0;
                    audit = Instant::now() + jitter(self.audit);
                }
            }
        }
    }

    /// What of the first scope's own key is new, if it is followed here and something is.
    fn first_of(&self, changes: &[Change]) -> Option<Option<Entry>> {
        let change = changes.iter().rfind(|it| self.scope == FIRST && it.key() == FIRST)?;
        Some(match change {
            Change::Put(entry) => Some(entry.clone()),
            Change::Delete { .. } => None,
        })
    }

    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(entry) => _ = self.keys.insert(hash(&entry.key), entry.mod_revision),
                Change::Delete { key, .. } => _ = self.keys.remove(&hash(key)),
            }
        }
    }

    /// Whether the store holds something else than it told (etcd has lost events: etcd#17529,
    /// etcd#18089), or has not told yet.
    ///
    /// Where every key that changed since the last such look is known as it is, and there are as many
    /// keys as are known, there is no other difference.
    async fn differs(&mut self) -> Result<bool, End> {
        // The one that names the history is the same in hardly any two, and at the same revision in most.
        if self.scope == FIRST {
            let listing = self.store.list(FIRST).await?;
            let entry = listing.entries.iter().find(|entry| entry.key == FIRST);
            if !self.bearings.has_told(entry) {
                return Ok(true);
            }
        }
        // With the newest one that is known: another history has it at another revision.
        let newest = self.keys.values().copied().max().unwrap_or(0);
        let since = self.verified.min(newest - 1).max(0);
        let audit = self.store.audit(&self.scope, since).await?;
        let there: BTreeMap<u64, Revision> =
            audit.changed.iter().map(|(key, revision)| (hash(key), *revision)).collect();
        let known = self.keys.iter().filter(|(_, revision)| **revision > since);
        let differs = audit.keys != self.keys.len() as u64 || !known.eq(&there);
        if !differs {
            self.verified = audit.revision;
        }
        Ok(differs)
    }

    async fn tell(&self, told: Told) -> Result<(), End> {
        self.reports.send(self.report(told)).await.map_err(|_| End::Task)
    }

    fn report(&self, told: Told) -> Report {
        Report { task: self.number, scope: self.scope.clone(), told }
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
