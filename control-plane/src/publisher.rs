//! Keeps a host's own records in the store: publishes what is wanted, withdraws what is not, puts
//! back what others changed or deleted. Level-triggered: compares two pictures, remembers no events.

mod diff;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_proto::{Path, Record};

use crate::backoff::Backoff;
use crate::session::Session;
use crate::store::{
    Committed, LeaseId, MAX_OPS, Op, Revision, Source, Store, StoreError, Txn, chain, covers,
};
use diff::{Change, Deed, diff};

/// What this host wants in the store. `networks/<key>` and `cluster` records are created, never
/// overwritten or deleted, except that a network record which is `freed` replaces one that is not.
pub type WantedRecords = BTreeMap<Path, Wanted>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub record: Record,
    /// Vanishes with this host's lease.
    pub leased: bool,
}

/// What the store holds, as the driver's judge sees it. It needs to contain only what this host
/// wrote and what stands at wanted paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Counts histories: with another number everything known before is forgotten.
    pub history: u64,
    /// Of each followed scope that was listed in this history: the revision of its last event.
    /// A path outside of them is unknown, which is not absent: it is neither put nor deleted.
    pub seen: BTreeMap<String, Revision>,
    pub present: BTreeMap<Path, Present>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Written by this host.
    pub mine: bool,
    /// What it says; `None` if it is not valid, void or sealed with an old secret, so that it is
    /// to be written again.
    pub record: Option<Record>,
    pub mod_revision: Revision,
}

/// How publishing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publishing {
    /// Records that the store does not hold as wanted yet, and ones of this host that it still holds.
    pub unpublished: usize,
    /// Why, as far as it is known; `None` when all is well.
    pub error: Option<String>,
}

/// Makes the sealed bytes of a record for its path.
pub type Seal = Arc<dyn Fn(&Path, &Record) -> Result<Vec<u8>, Source> + Send + Sync>;

/// A running publisher; dropping it ends it, and leaves what is published.
pub struct Publisher {
    publishing: watch::Receiver<Publishing>,
    _stop: DropGuard,
}

impl Publisher {
    pub fn start<S: Store>(
        store: S,
        session: Session,
        seal: Seal,
        wanted: watch::Receiver<Arc<WantedRecords>>,
        picture: watch::Receiver<Arc<Picture>>,
        cancel: &CancellationToken,
    ) -> Self {
        let cancel = cancel.child_token();
        let (told, publishing) = watch::channel(Publishing::default());
        let lease = session.lease();
        let loops = Loop {
            store,
            session,
            seal,
            wanted,
            picture,
            lease,
            told,
            done: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: 0,
        };
        tokio::spawn(cancel.clone().run_until_cancelled_owned(loops.run()));
        Self {
            publishing,
            _stop: cancel.drop_guard(),
        }
    }

    pub fn publishing(&self) -> watch::Receiver<Publishing> {
        self.publishing.clone()
    }
}

struct Loop<S> {
    store: S,
    session: Session,
    seal: Seal,
    wanted: watch::Receiver<Arc<WantedRecords>>,
    picture: watch::Receiver<Arc<Picture>>,
    lease: watch::Receiver<Option<LeaseId>>,
    told: watch::Sender<Publishing>,
    /// What was committed and is not in the picture yet.
    done: BTreeMap<Path, Done>,
    /// The lease each leased record was put with by this process.
    leases: BTreeMap<Path, LeaseId>,
    history: u64,
}

/// A commit that stands until the picture has caught up with it.
#[derive(Debug, Clone)]
struct Done {
    /// `None` for a deletion.
    record: Option<Record>,
    revision: Revision,
}

/// How a round ended.
enum Round {
    /// Nothing is to be done until something changes.
    Idle,
    /// More may be to do at once.
    Progress,
    /// Somebody else changed what was to be changed; the picture will tell.
    Overtaken,
    Failed(String),
}

impl<S: Store> Loop<S> {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let round = self.round().await;
            let pause = match &round {
                Round::Progress => {
                    backoff.reset();
                    continue;
                }
                Round::Idle => {
                    backoff.reset();
                    None
                }
                Round::Overtaken | Round::Failed(_) => Some(backoff.wait()),
            };
            let wait = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let failed = matches!(round, Round::Failed(_));
            // All arms are cancel-safe; nothing is awaited inside an arm.
            tokio::select! {
                () = wait => {}
                changed = self.wanted.changed(), if !failed => if changed.is_err() { return },
                changed = self.picture.changed(), if !failed => if changed.is_err() { return },
                _ = self.lease.changed() => {}
            }
        }
    }

    async fn round(&mut self) -> Round {
        let picture = Arc::clone(&self.picture.borrow_and_update());
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        let lease = *self.lease.borrow_and_update();
        self.catch_up(&picture);
        let known = self.overlaid(&picture);
        let changes: Vec<Change> = diff(&wanted, &known, lease, &self.leases)
            .into_iter()
            .filter(|change| is_seen(&picture, &change.path) && !self.is_under_way(change))
            .collect();
        let round = if changes.is_empty() {
            Round::Idle
        } else {
            self.publish(&changes, lease).await
        };
        let error = match &round {
            Round::Failed(error) => Some(error.clone()),
            Round::Idle | Round::Progress | Round::Overtaken => None,
        };
        let unpublished = unpublished(&wanted, &picture);
        let publishing = Publishing { unpublished, error };
        self.told.send_if_modified(|told| {
            *told != publishing && {
                *told = publishing;
                true
            }
        });
        round
    }

    /// Forgets what the picture shows by now.
    fn catch_up(&mut self, picture: &Picture) {
        if picture.history != self.history {
            self.history = picture.history;
            self.done.clear();
            self.leases.clear();
        }
        self.done.retain(|path, done| {
            seen(picture, path).is_none_or(|revision| revision < done.revision)
        });
    }

    /// The picture with what was committed since.
    fn overlaid(&self, picture: &Picture) -> BTreeMap<Path, Present> {
        let mut present = picture.present.clone();
        for (path, done) in &self.done {
            match &done.record {
                Some(record) => {
                    let record = Some(record.clone());
                    present.insert(
                        path.clone(),
                        Present {
                            mine: true,
                            record,
                            mod_revision: done.revision,
                        },
                    );
                }
                None => _ = present.remove(path),
            }
        }
        present
    }

    /// A put that was just committed is not to be repeated because a leased record was asked for again.
    fn is_under_way(&self, change: &Change) -> bool {
        self.done
            .get(&change.path)
            .is_some_and(|done| match &change.deed {
                Deed::Put { record, leased } => done.record.as_ref() == Some(record) && !leased,
                Deed::Delete => done.record.is_none(),
            })
    }

    async fn publish(&mut self, changes: &[Change], lease: Option<LeaseId>) -> Round {
        let mut overtaken = false;
        for batch in changes.chunks(MAX_OPS) {
            match self.commit(batch, lease).await {
                Ok(true) => {}
                // One of them was overtaken: find the others a way.
                Ok(false) if batch.len() > 1 => {
                    for change in batch {
                        match self.commit(std::slice::from_ref(change), lease).await {
                            Ok(true) => {}
                            Ok(false) => overtaken = true,
                            Err(error) => return Round::Failed(error),
                        }
                    }
                }
                Ok(false) => overtaken = true,
                Err(error) => return Round::Failed(error),
            }
        }
        if overtaken {
            Round::Overtaken
        } else {
            Round::Progress
        }
    }

    /// Whether the batch was committed; not when something in it was changed by others.
    async fn commit(&mut self, batch: &[Change], lease: Option<LeaseId>) -> Result<bool, String> {
        let mut txn = Txn::default();
        for change in batch {
            let key = change.path.to_string();
            txn.conditions.push(change.condition.clone());
            txn.ops.push(match &change.deed {
                Deed::Delete => Op::Delete { key },
                Deed::Put { record, leased } => {
                    let value = (self.seal)(&change.path, record)
                        .map_err(|error| format!("cannot seal {key}: {error}"))?;
                    match lease.filter(|_| *leased) {
                        Some(lease) => Op::PutLeased { key, value, lease },
                        None => Op::Put { key, value },
                    }
                }
            });
        }
        match self.store.commit(txn).await {
            Ok(Committed::Done { revision }) => {
                batch
                    .iter()
                    .for_each(|change| self.committed(change, revision, lease));
                Ok(true)
            }
            Ok(Committed::Refused { .. }) => Ok(false),
            Err(StoreError::LeaseLost(lost)) => {
                self.session.lost(lost);
                Err(format!("etcd has lost the lease {lost:x}"))
            }
            Err(error) => Err(chain(&error)),
        }
    }

    fn committed(&mut self, change: &Change, revision: Revision, lease: Option<LeaseId>) {
        let record = match &change.deed {
            Deed::Put { record, leased } => {
                if let (true, Some(lease)) = (*leased, lease) {
                    self.leases.insert(change.path.clone(), lease);
                }
                Some(record.clone())
            }
            Deed::Delete => {
                self.leases.remove(&change.path);
                None
            }
        };
        self.done
            .insert(change.path.clone(), Done { record, revision });
    }
}

/// Up to which revision the picture knows the scope of a path.
fn seen(picture: &Picture, path: &Path) -> Option<Revision> {
    let key = path.to_string();
    let scopes = picture.seen.iter().filter(|(scope, _)| covers(scope, &key));
    scopes.map(|(_, revision)| *revision).max()
}

fn is_seen(picture: &Picture, path: &Path) -> bool {
    seen(picture, path).is_some()
}

/// Wanted records the store does not show as wanted, and own ones that are not wanted.
fn unpublished(wanted: &WantedRecords, picture: &Picture) -> usize {
    let missing = wanted.iter().filter(|(path, wanted)| {
        let present = picture.present.get(path);
        !present.is_some_and(|present| diff::satisfies(path, present, &wanted.record))
    });
    let left = picture.present.iter().filter(|(path, present)| {
        present.mine && !wanted.contains_key(path) && diff::is_withdrawn(path)
    });
    missing.count() + left.count()
}
