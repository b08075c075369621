//! Keeps a host's own records in the store: publishes what is wanted, withdraws what is not, puts
//! back what others changed or deleted. Level-triggered: compares two pictures, remembers no events.

mod again;
mod diff;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_proto::{NetworkKey, Path, Record};

use crate::backoff::Backoff;
use crate::session::Session;
use crate::store::{
    Committed, LeaseId, MAX_OPS, Op, Revision, Source, Store, StoreError, Txn, chain, covers,
};
use again::Again;
use diff::{Change, Deed, diff};

/// What this host wants in the store. A valid `cluster` or `networks/<key>` record is left as it is,
/// whoever wrote it, except that a network record which is `freed` replaces one that is not; neither
/// is ever deleted.
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
    /// The endpoints among them that are still to be published.
    pub endpoints: BTreeMap<NetworkKey, Unpublished>,
    /// Why, as far as it is known; `None` when all is well.
    pub error: Option<String>,
    /// The picture lacks an event: a record was found changed by others again and again, or what was
    /// committed is still not shown. List again.
    pub misses_events: bool,
}

/// Endpoints of a network that the store does not hold as wanted yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpublished {
    pub count: usize,
    /// Primary addresses of the first of them.
    pub first: Vec<IpAddr>,
}

/// How many are named.
const NAMED: usize = 16;

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
        let (hindered, hindrance) = watch::channel(Hindrance::default());
        let teller = tell(wanted.clone(), picture.clone(), hindrance, told);
        let lease = session.lease();
        let loops = Loop {
            store,
            session,
            seal,
            wanted,
            picture,
            lease,
            hindered,
            done: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: 0,
            overtaken: 0,
            again: Again::default(),
            due: None,
        };
        let both = async { tokio::join!(loops.run(), teller) };
        tokio::spawn(cancel.clone().run_until_cancelled_owned(both));
        Self { publishing, _stop: cancel.drop_guard() }
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
    hindered: watch::Sender<Hindrance>,
    /// What was committed and is not in the picture yet.
    done: BTreeMap<Path, Done>,
    /// The lease each leased record was put with by this process.
    leases: BTreeMap<Path, LeaseId>,
    history: u64,
    /// How many rounds in a row found a record changed by others.
    overtaken: u32,
    again: Again,
    /// When a record that is held back may be put again, or a commit is late to be shown.
    due: Option<Instant>,
}

/// What was in the way in the last round.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hindrance {
    error: Option<String>,
    misses_events: bool,
}

/// A commit that stands until the picture has caught up with it.
#[derive(Debug, Clone)]
struct Done {
    /// `None` for a deletion.
    record: Option<Record>,
    revision: Revision,
    at: Instant,
}

/// How a round ended.
enum Round {
    /// Nothing is to be done until something changes.
    Idle,
    /// More may be to do at once.
    Progress,
    /// Somebody else changed what was to be changed; the picture will tell.
    Overtaken(Path),
    /// Some record cannot be sealed, or the store would not have it; all others are done.
    Unfit(String),
    Failed(StoreError),
}

/// How a transaction ended.
enum Outcome {
    Done,
    /// One of its records was changed by others.
    Overtaken,
    /// The store would not have it, whatever the way there.
    Unfit(String),
    Failed(StoreError),
}

/// The picture may tell of nothing but the trouble itself: not a try for each.
const PAUSE_IN_TROUBLE: Duration = Duration::from_millis(50);

/// A commit that no picture shows after so long is not on its way: the store did not tell of it, and
/// may have been restored since to what it held before.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

/// So often it is no coincidence, and worth a word in the status.
const OFTEN: u32 = 3;

impl<S: Store> Loop<S> {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let round = self.round().await;
            let is_failing = matches!(round, Round::Failed(_));
            let pause = match round {
                Round::Progress => {
                    backoff.reset();
                    continue;
                }
                Round::Idle => {
                    backoff.reset();
                    self.due.map(|due| due.saturating_duration_since(Instant::now()))
                }
                Round::Overtaken(_) | Round::Unfit(_) => Some(backoff.wait()),
                Round::Failed(error) => {
                    sleep(PAUSE_IN_TROUBLE).await;
                    Some(backoff.wait_after(&error))
                }
            };
            // All arms are cancel-safe; nothing is awaited inside an arm.
            let is_over = tokio::select! {
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => false,
                // What else is wanted cannot be had either while the store fails.
                changed = self.wanted.changed(), if !is_failing => changed.is_err(),
                changed = self.picture.changed() => changed.is_err(),
                changed = self.lease.changed() => changed.is_err(),
            };
            if is_over {
                return;
            }
        }
    }

    async fn round(&mut self) -> Round {
        let picture = Arc::clone(&self.picture.borrow_and_update());
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        let lease = *self.lease.borrow_and_update();
        self.catch_up(&picture);
        let known = self.overlaid(&picture);
        let mut changes = diff(&wanted, &known, lease, &self.leases);
        changes.retain(|change| is_seen(&picture, &change.path));
        self.due = self.again.hold_back(&mut changes, Instant::now());
        let round =
            if changes.is_empty() { Round::Idle } else { self.publish(&changes, lease).await };
        self.overtaken = if let Round::Overtaken(_) = round { self.overtaken + 1 } else { 0 };
        let error = match &round {
            Round::Failed(error) => Some(chain(error)),
            Round::Unfit(error) => Some(error.clone()),
            Round::Overtaken(path) if self.overtaken >= OFTEN => {
                Some(format!("somebody else keeps changing {path} in etcd"))
            }
            Round::Idle | Round::Progress | Round::Overtaken(_) => None,
        };
        let late = self.look_for_late(&picture);
        let hindrance = Hindrance { error, misses_events: self.overtaken >= OFTEN || late };
        self.hindered.send_if_modified(|told| {
            let is_news = *told != hindrance;
            *told = hindrance;
            is_news
        });
        round
    }

    /// Forgets what the picture shows by now.
    fn catch_up(&mut self, picture: &Picture) {
        if picture.history != self.history {
            self.history = picture.history;
            self.done.clear();
            self.leases.clear();
            // What was fought over in another history says nothing in this one.
            self.again = Again::default();
        }
        let shows =
            |path: &Path, done: &Done| seen(picture, path).is_some_and(|at| at >= done.revision);
        self.done.retain(|path, done| !shows(path, done));
    }

    /// Whether a commit is late to be shown in a scope that is followed. Looks again when the next
    /// one will be.
    fn look_for_late(&mut self, picture: &Picture) -> bool {
        let now = Instant::now();
        let awaited = self.done.iter().filter(|(path, _)| is_seen(picture, path));
        let first = awaited.map(|(_, done)| done.at + SHOWN_WITHIN).min();
        let later = first.filter(|due| *due > now);
        self.due = [self.due, later].into_iter().flatten().min();
        first.is_some() && later.is_none()
    }

    /// The picture with what was committed since.
    fn overlaid(&self, picture: &Picture) -> BTreeMap<Path, Present> {
        let mut present = picture.present.clone();
        for (path, done) in &self.done {
            match &done.record {
                Some(record) => {
                    let (record, mod_revision) = (Some(record.clone()), done.revision);
                    present.insert(path.clone(), Present { mine: true, record, mod_revision });
                }
                None => _ = present.remove(path),
            }
        }
        present
    }

    /// Commits in as few transactions as it takes. What cannot be had holds nothing else up.
    async fn publish(&mut self, changes: &[Change], lease: Option<LeaseId>) -> Round {
        let mut overtaken = None;
        let mut unfit = None;
        for changes in changes.chunks(MAX_OPS) {
            let mut batch = Vec::new();
            for change in changes {
                match self.op(change, lease) {
                    Ok(op) => batch.push((change, op)),
                    Err(error) => unfit = Some(error),
                }
            }
            let singly = match self.commit(&batch, lease).await {
                Outcome::Done => continue,
                Outcome::Failed(error) => return Round::Failed(error),
                Outcome::Overtaken | Outcome::Unfit(_) if batch.len() > 1 => batch.chunks(1),
                Outcome::Overtaken => {
                    overtaken = batch.first().map(|(change, _)| change.path.clone());
                    continue;
                }
                Outcome::Unfit(error) => {
                    unfit = Some(error);
                    continue;
                }
            };
            for one in singly {
                match self.commit(one, lease).await {
                    Outcome::Done => {}
                    Outcome::Overtaken => overtaken = one.first().map(|(it, _)| it.path.clone()),
                    Outcome::Unfit(error) => unfit = Some(error),
                    Outcome::Failed(error) => return Round::Failed(error),
                }
            }
        }
        match (unfit, overtaken) {
            (Some(error), _) => Round::Unfit(error),
            (None, Some(path)) => Round::Overtaken(path),
            (None, None) => Round::Progress,
        }
    }

    fn op(&self, change: &Change, lease: Option<LeaseId>) -> Result<Op, String> {
        let key = change.path.to_string();
        let (record, leased) = match &change.deed {
            Deed::Delete => return Ok(Op::Delete { key }),
            Deed::Put { record, leased } => (record, *leased),
        };
        let value = (self.seal)(&change.path, record)
            .map_err(|error| format!("cannot seal {key}: {}", chain(error.as_ref())))?;
        Ok(match lease.filter(|_| leased) {
            Some(lease) => Op::PutLeased { key, value, lease },
            None => Op::Put { key, value },
        })
    }

    async fn commit(&mut self, batch: &[(&Change, Op)], lease: Option<LeaseId>) -> Outcome {
        if batch.is_empty() {
            return Outcome::Done;
        }
        let txn = Txn {
            conditions: batch.iter().map(|(change, _)| change.condition.clone()).collect(),
            ops: batch.iter().map(|(_, op)| op.clone()).collect(),
        };
        match self.store.commit(txn).await {
            Ok(Committed::Done { revision }) => {
                batch.iter().for_each(|(change, _)| self.committed(change, revision, lease));
                Outcome::Done
            }
            Ok(Committed::Refused { .. }) => Outcome::Overtaken,
            Err(StoreError::LeaseLost(lost)) => {
                self.session.lost(lost);
                Outcome::Failed(StoreError::LeaseLost(lost))
            }
            Err(error @ (StoreError::Refused { .. } | StoreError::TooManyOps(_))) => {
                let path = &batch[0].0.path;
                Outcome::Unfit(format!("{path}: {}", chain(&error)))
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    fn committed(&mut self, change: &Change, revision: Revision, lease: Option<LeaseId>) {
        let record = match &change.deed {
            Deed::Put { record, leased } => {
                if let (true, Some(lease)) = (*leased, lease) {
                    self.leases.insert(change.path.clone(), lease);
                }
                self.again.was_put(&change.path, record, Instant::now());
                Some(record.clone())
            }
            Deed::Delete => {
                self.leases.remove(&change.path);
                None
            }
        };
        let done = Done { record, revision, at: Instant::now() };
        self.done.insert(change.path.clone(), done);
    }
}

/// Tells how publishing goes until nobody wants anything any more: also while a round waits for a store that
/// does not answer.
async fn tell(
    mut wanted: watch::Receiver<Arc<WantedRecords>>,
    mut picture: watch::Receiver<Arc<Picture>>,
    mut hindrance: watch::Receiver<Hindrance>,
    told: watch::Sender<Publishing>,
) {
    loop {
        let publishing = {
            let wanted = Arc::clone(&wanted.borrow_and_update());
            let picture = Arc::clone(&picture.borrow_and_update());
            let missing = missing(&wanted, &picture);
            let hindrance = hindrance.borrow_and_update();
            Publishing {
                unpublished: missing.len() + left(&wanted, &picture),
                endpoints: endpoints(missing),
                error: hindrance.error.clone(),
                misses_events: hindrance.misses_events,
            }
        };
        told.send_if_modified(|told| {
            let is_news = *told != publishing;
            *told = publishing;
            is_news
        });
        // All arms are cancel-safe.
        let changed = tokio::select! {
            changed = wanted.changed() => changed,
            changed = picture.changed() => changed,
            changed = hindrance.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
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

/// Wanted records the store does not show as wanted.
fn missing<'w>(wanted: &'w WantedRecords, picture: &Picture) -> Vec<&'w Path> {
    let missing = wanted.iter().filter(|(path, wanted)| {
        let present = picture.present.get(path);
        !present.is_some_and(|present| diff::satisfies(path, present, &wanted.record))
    });
    missing.map(|(path, _)| path).collect()
}

/// How many of this host's records the store holds that are not wanted.
fn left(wanted: &WantedRecords, picture: &Picture) -> usize {
    let left = picture.present.iter().filter(|(path, present)| {
        present.mine && !wanted.contains_key(path) && diff::is_withdrawn(path)
    });
    left.count()
}

fn endpoints(missing: Vec<&Path>) -> BTreeMap<NetworkKey, Unpublished> {
    let mut endpoints: BTreeMap<NetworkKey, Unpublished> = BTreeMap::new();
    for path in missing {
        if let Path::Endpoint(network, address) = path {
            let unpublished = endpoints.entry(network.clone()).or_default();
            unpublished.count += 1;
            if unpublished.first.len() < NAMED {
                unpublished.first.push(*address);
            }
        }
    }
    endpoints
}
