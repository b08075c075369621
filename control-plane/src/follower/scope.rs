//! One scope's own loop: list, watch, and from the beginning whenever that is needed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Followed, History, Told};
use crate::backoff::{Backoff, jitter};
use crate::store::{Change, Revision, Store, StoreError, Watch as _, WatchEvent, chain};

pub(super) struct ScopeTask<S> {
    store: S,
    scope: String,
    history: History,
    listings: watch::Receiver<u64>,
    told: mpsc::Sender<Told>,
    audit: Duration,
    /// Up to where this scope is known; `None`: to be listed.
    known: Option<Revision>,
    /// Every key of the scope and its mod_revision, for the audit.
    keys: HashMap<String, Revision>,
}

/// Why a round ended without an error.
enum Again {
    Round,
    /// Nobody listens any more.
    Never,
}

impl<S: Store> ScopeTask<S> {
    pub(super) fn new(store: S, scope: String, history: History, told: mpsc::Sender<Told>, audit: Duration) -> Self {
        let listings = history.listings.subscribe();
        Self { store, scope, history, listings, told, audit, known: None, keys: HashMap::new() }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match self.round(&mut backoff).await {
                Ok(Again::Round) => {}
                Ok(Again::Never) => return,
                Err(error) => {
                    if self.told.send(Told::Failing(self.scope.clone(), chain(&error))).await.is_err() {
                        return;
                    }
                    sleep(backoff.wait()).await;
                }
            }
        }
    }

    async fn round(&mut self, backoff: &mut Backoff) -> Result<Again, StoreError> {
        if self.listings.has_changed().unwrap_or(false) {
            self.listings.mark_unchanged();
            self.known = None;
        }
        let resumed = self.known;
        let known = match resumed {
            Some(known) if !self.has_fallen().await? => known,
            _ => match self.list().await? {
                Some(revision) => revision,
                None => return Ok(Again::Never),
            },
        };
        let mut watch = self.store.watch(&self.scope, known + 1).await?;
        if self.told.send(Told::Healthy(self.scope.clone())).await.is_err() {
            return Ok(Again::Never);
        }
        backoff.reset();
        let mut audit = Instant::now() + jitter(self.audit);
        loop {
            // All arms are cancel-safe; what they lead to is awaited after the select.
            let event = tokio::select! {
                event = watch.next() => Some(event?),
                _ = self.listings.changed() => { self.known = None; return Ok(Again::Round) }
                () = sleep_until(audit) => None,
            };
            match event {
                Some(WatchEvent::Changes { revision, changes }) => {
                    self.history.heard(revision);
                    self.note(&changes);
                    self.known = Some(revision);
                    let event = Followed::Changed { scope: self.scope.clone(), revision, changes };
                    if self.told.send(Told::Event(event)).await.is_err() {
                        return Ok(Again::Never);
                    }
                }
                // Some etcds tell of progress ahead of events (etcd#15220): it moves nothing here.
                Some(WatchEvent::Progress { revision }) => self.history.heard(revision),
                Some(WatchEvent::Compacted { .. }) => {
                    self.known = None;
                    return Ok(Again::Round);
                }
                None => {
                    audit = Instant::now() + jitter(self.audit);
                    if self.differs().await? {
                        self.known = None;
                        return Ok(Again::Round);
                    }
                }
            }
        }
    }

    /// Lists the scope and hands the listing on; its revision, unless nobody listens.
    async fn list(&mut self) -> Result<Option<Revision>, StoreError> {
        let listing = self.store.list(&self.scope).await?;
        self.tell_fall(listing.revision).await;
        self.listings.mark_unchanged();
        self.keys = listing.entries.iter().map(|entry| (entry.key.clone(), entry.mod_revision)).collect();
        self.known = Some(listing.revision);
        let revision = listing.revision;
        let event = Followed::Listed { scope: self.scope.clone(), revision, entries: listing.entries };
        Ok(self.told.send(Told::Event(event)).await.is_ok().then_some(revision))
    }

    /// Whether the store is in another history than the one this scope was listed in.
    async fn has_fallen(&self) -> Result<bool, StoreError> {
        let revision = self.store.revision().await?;
        Ok(self.tell_fall(revision).await)
    }

    async fn tell_fall(&self, revision: Revision) -> bool {
        let Some(highest) = self.history.reached(revision) else { return false };
        // That nobody listens is noticed with the next event.
        let _ = self.told.send(Told::Event(Followed::History { revision, highest })).await;
        true
    }

    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(entry) => _ = self.keys.insert(entry.key.clone(), entry.mod_revision),
                Change::Delete { key, .. } => _ = self.keys.remove(key),
            }
        }
    }

    /// Whether the scope holds something else than was told (lost events: etcd#17529, #18089).
    async fn differs(&self) -> Result<bool, StoreError> {
        let (count, newest) = self.store.count(&self.scope).await?;
        let known = self.keys.values().copied().max().unwrap_or(0);
        // What is newer than the last event may still be under way.
        let is_told = self.known.is_some_and(|told| newest <= told);
        Ok(is_told && (newest != known || count != self.keys.len() as u64))
    }
}
