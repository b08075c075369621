//! This host in the cluster: follows the store, judges what it says, and says which records this
//! host wants there. Out comes the [`ClusterView`] that everything else works from.
//!
//! Knows nothing of the kernel. One task owns all of it; nothing waits for it.

mod history;
mod leave;
mod noting;
mod orders;
mod outclaimed;
mod publish;
mod remember;
mod report;
mod rubbish;
mod sealing;
mod settle;
mod sweep;
mod taking;
#[cfg(test)]
mod tests;
mod tombstones;
mod trial;
mod wanted;

pub use orders::{Order, Orderer, Orders, orders};
pub use wanted::HostFacts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use wgnet_control_plane::admin::HeldListing;
use wgnet_control_plane::follower::{Followed, Follower, FollowerOptions, Scopes};
use wgnet_control_plane::publisher::{Picture, Publisher, Unpublished, WantedRecords};
use wgnet_control_plane::session::{LEASE_TTL, Session};
use wgnet_control_plane::store::{Change, Condition, Entry, LeaseId, Revision, Store, covers};
use wgnet_core::refused::RefusedRecords;
use wgnet_core::{ClusterView, Judge, Refusal};
use wgnet_proto::status::StoreStatus;
use wgnet_proto::{ClusterSecrets, HostKey, NetworkKey, Path, Refused};

use crate::journal::{Journal, Random};
use crate::problems::Problems;
use crate::progress::Progress;
use crate::underlay::Underlay;
use history::{History, Owner};
use noting::Noting;
use outclaimed::Outclaimed;
use rubbish::PutBack;
use sealing::Sealing;
use sweep::Sweeper;
use taking::Taking;
use trial::Trial;

/// What the cluster task works with.
pub struct Inputs<S> {
    pub store: S,
    pub journal: Journal,
    pub host_key: HostKey,
    pub secrets: ClusterSecrets,
    pub facts: HostFacts,
    pub underlay: watch::Receiver<Underlay>,
    pub random: Random,
    pub problems: Problems,
    /// How long another host must be seen absent before its records are removed.
    pub dead_host_grace: Duration,
    pub orders: Orders,
    pub progress: Progress,
}

/// What it tells.
pub struct Outputs {
    pub view: watch::Sender<Arc<ClusterView>>,
    pub status: watch::Sender<ClusterStatus>,
    /// Told once, when the last known records are in.
    pub remembered: oneshot::Sender<()>,
}

/// For the status.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterStatus {
    pub store: StoreStatus,
    pub refused: BTreeMap<String, u64>,
    /// Of what stands in the store, or stood there lately.
    pub refusals: Vec<Refusal>,
    /// How many more of those there are, by reason.
    pub untold: BTreeMap<Refused, usize>,
    pub held: Vec<HeldListing>,
    /// Endpoints that are still to be published.
    pub unpublished: BTreeMap<NetworkKey, Unpublished>,
    /// Of this host, while there is one.
    pub lease: Option<LeaseId>,
    /// See [`Task::own_store_proof`]; `None` until a record of this host is seen there.
    pub proof: Option<Condition>,
    /// Counts histories of the store.
    pub history: u64,
    /// Nothing that others wrote opens with this host's secret.
    pub has_wrong_secret: bool,
}

/// What is looked at even if nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Followed first, and alone until the cluster is known: no other record can be judged before.
const CLUSTER: &str = "cluster";

const HOSTS: &str = "hosts/";

/// Followed on every host, whatever networks it has.
const COMMON: [&str; 3] = [HOSTS, "alive/", "tombstones/"];

/// Runs until cancelled.
pub async fn run<S: Store>(inputs: Inputs<S>, outputs: Outputs, cancel: CancellationToken) {
    let mut task = Task::new(inputs, outputs);
    if cancel.run_until_cancelled(task.remember()).await.is_none() {
        return;
    }
    task.tell_view().await;
    if let Some(remembered) = task.remembered.take() {
        // Nobody listens any more only when everything ends.
        let _ = remembered.send(());
    }
    let options = FollowerOptions { known: task.history.come_to(), ..FollowerOptions::default() };
    let mut follower = Follower::start(task.inputs.store.clone(), options, &cancel);
    task.scopes = Some(follower.scopes());
    follower.scopes().follow(CLUSTER);
    let session = Session::start(task.inputs.store.clone(), LEASE_TTL, &cancel);
    let lease = session.lease();
    let seal = task.sealing.seal(task.inputs.journal.clone());
    let publisher = Publisher::start(
        task.inputs.store.clone(),
        session,
        seal,
        task.wanted.subscribe(),
        task.picture.subscribe(),
        &cancel,
    );
    let mut publishing = publisher.publishing();
    let mut journal = task.inputs.journal.watch();
    let mut underlay = task.inputs.underlay.clone();
    let mut orders = std::mem::take(&mut task.inputs.orders);
    loop {
        task.settle().await;
        task.tell(&publishing.borrow().clone(), *lease.borrow());
        let look_in = task.look_in();
        // All arms are cancel-safe; what an event leads to is awaited after the select.
        let event = tokio::select! {
            () = cancel.cancelled() => break,
            event = follower.next() => match event {
                Some(event) => Woken::Event(event),
                None => return ended("What follows etcd", &cancel),
            },
            order = orders.next() => Woken::Order(order),
            _ = journal.changed() => Woken::Look,
            _ = underlay.changed() => Woken::Look,
            told = publishing.changed() => match told {
                Ok(()) => Woken::Look,
                Err(_) => return ended("What writes to etcd", &cancel),
            },
            taken = task.trial.answer() => Woken::Tried(taken),
            () = tokio::time::sleep(look_in) => Woken::Look,
        };
        match event {
            Woken::Event(event) => {
                task.told_at = Instant::now();
                task.followed(event).await;
            }
            Woken::Order(order) => task.obey(order).await,
            Woken::Tried(taken) => task.tried(taken),
            Woken::Look => {}
        }
        task.look_again_if(publishing.borrow().misses_events);
    }
}

/// Without it the task would only seem to work. It ends, and with it the driver, which is started anew.
fn ended(part: &str, cancel: &CancellationToken) {
    if !cancel.is_cancelled() {
        error!("{part} ended by itself");
    }
}

/// Why the task goes round.
enum Woken {
    Event(Followed),
    Order(Order),
    /// When etcd was seen to take a change, if it was.
    Tried(Option<Instant>),
    Look,
}

struct Task<S> {
    inputs: Inputs<S>,
    view: watch::Sender<Arc<ClusterView>>,
    status: watch::Sender<ClusterStatus>,
    remembered: Option<oneshot::Sender<()>>,
    scopes: Option<Scopes>,
    judge: Judge,
    sealing: Sealing,
    noting: Noting,
    history: History,
    taking: Taking,
    trial: Trial,
    put_back: PutBack,
    sweeper: Sweeper,
    outclaimed: Outclaimed,
    /// Networks followed now.
    followed: BTreeSet<NetworkKey>,
    /// Networks this host has left, and since when its records are gone from the store.
    leaving: BTreeMap<NetworkKey, Option<Instant>>,
    /// Those in which etcd has members that do not count here, and when that was seen.
    occupied: BTreeMap<NetworkKey, Instant>,
    searched: settle::Searched,
    /// When the journal was told how far the store has come.
    come_to_noted: Option<Instant>,
    /// The revision of each scope's last event in this history.
    seen: BTreeMap<String, Revision>,
    connection: Option<Result<(), String>>,
    /// When a call to etcd that was waited for here failed, on this connection.
    failed: Option<Instant>,
    missed_events: bool,
    /// Endpoints that are told to be cut off, by the journal at this revision.
    lost: BTreeSet<String>,
    lost_at: Option<u64>,
    /// Networks with an address that was lost and could not be noted in the journal yet.
    unnoted: BTreeSet<NetworkKey>,
    /// Paths where the journal may keep something else than what is in force.
    unkept: BTreeSet<Path>,
    /// When the last event came.
    told_at: Instant,
    started: Instant,
    refused: RefusedRecords,
    /// Why the record of the cluster that the store holds is not believed.
    cluster_refused: Option<Refused>,
    wanted: watch::Sender<Arc<WantedRecords>>,
    picture: watch::Sender<Arc<Picture>>,
}
impl<S: Store> Task<S> {
    fn new(inputs: Inputs<S>, outputs: Outputs) -> Self {
        let state = inputs.journal.state();
        let judge = Judge::new(inputs.secrets.clone(), state.cluster, inputs.facts.me);
        Self {
            history: History::new(
                state.incarnation,
                state.history,
                state.written_from,
                state.store_revision,
            ),
            taking: Taking::default(),
            trial: Trial::default(),
            put_back: PutBack::default(),
            sweeper: Sweeper::new(inputs.dead_host_grace),
            outclaimed: Outclaimed::default(),
            noting: Noting::new(inputs.journal.clone()),
            inputs,
            view: outputs.view,
            status: outputs.status,
            remembered: Some(outputs.remembered),
            scopes: None,
            judge,
            sealing: Sealing::default(),
            followed: BTreeSet::new(),
            leaving: BTreeMap::new(),
            occupied: BTreeMap::new(),
            searched: settle::Searched::default(),
            come_to_noted: None,
            seen: BTreeMap::new(),
            connection: None,
            failed: None,
            missed_events: false,
            lost: BTreeSet::new(),
            lost_at: None,
            unnoted: BTreeSet::new(),
            unkept: BTreeSet::new(),
            told_at: Instant::now(),
            started: Instant::now(),
            refused: RefusedRecords::default(),
            cluster_refused: None,
            wanted: watch::Sender::default(),
            picture: watch::Sender::default(),
        }
    }

    /// Takes the records in that the journal kept: the networks come back without a store.
    async fn remember(&mut self) {
        let records = remember::read(&self.inputs.journal, &self.inputs.problems).await;
        let verdicts =
            self.judge.import(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        for (key, verdict) in verdicts {
            self.judged(&key, &verdict);
        }
        // What the store holds is not known yet.
        self.refused_no_more(|_| true);
        debug!(records = records.len(), "Took the last known records in");
    }

    async fn followed(&mut self, event: Followed) {
        self.taking.followed(&event, self.told_at);
        match event {
            Followed::Connected => {
                info!("Connected to etcd");
                self.connection = Some(Ok(()));
                self.failed = None;
                self.inputs.problems.clear("etcd-away", "etcd");
            }
            Followed::Disconnected { error } => {
                if self.connection != Some(Err(error.clone())) {
                    warn!(error, "Not connected to etcd; what is known stays in force");
                    self.problem_of_connection(&error);
                }
                self.connection = Some(Err(error));
            }
            Followed::History { revision, highest } => {
                if self.history.fell(revision) {
                    warn!(revision, highest, "The store's revision fell: it was wiped or restored");
                    self.problem_of_history(revision, highest);
                }
                self.seen.clear();
            }
            Followed::Listed { scope, revision, entries } => {
                self.listed(&scope, revision, entries).await
            }
            Followed::Changed { scope, revision, changes } => {
                self.changed(&scope, revision, changes).await
            }
        }
    }

    async fn listed(&mut self, scope: &str, revision: Revision, entries: Vec<Entry>) {
        self.judge.set_fallen(self.history.fallen_to());
        for entry in &entries {
            let verdict = self.judge.put(&entry.key, &entry.value, entry.mod_revision);
            self.history.is_back(&entry.key);
            self.judged(&entry.key, &verdict);
        }
        if scope == CLUSTER {
            self.look_whose(revision, entries.is_empty());
        }
        let keys: BTreeSet<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        self.refused_no_more(|refused| covers(scope, refused) && !keys.contains(refused));
        let mut missing = self.judge.missing(scope, &keys);
        missing.extend(self.history.still_missing(scope, &keys));
        missing.sort();
        missing.dedup();
        let me = self.inputs.facts.me;
        let (mut gone, kept) = self.history.split_missing(missing, revision, &self.judge, me);
        let mut stay = Vec::new();
        if let Some(held) = self.history.brake(scope, &gone, self.judge.view(), &self.taking) {
            self.problem_of_brake(scope, held.vanishing.len(), held.of);
            // Its own a host puts back, and can only if it knows that they are missing.
            let owner = |path: &Path| self.judge.entry(path).map(|entry| entry.writer);
            let is_held = |path: &Path| owner(path).is_some_and(|it| it != me && held.keeps(it));
            stay.extend(gone.extract_if(.., |path| is_held(path)));
            self.history.hold(stay.iter().filter_map(|path| Some((path.clone(), owner(path)?))));
        } else {
            self.inputs.problems.clear("mass-delete-held", scope);
        }
        for path in &gone {
            self.judge.delete(&path.to_string());
        }
        for path in kept.iter().chain(&stay) {
            self.judge.keep_without_store(path);
        }
        if !kept.is_empty() {
            info!(
                scope,
                records = kept.len(),
                "Keeping records that are missing from another history"
            );
        }
        self.history.reached(revision);
        self.seen.insert(scope.to_owned(), revision);
        let kept_keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        self.keep(kept_keys.into_iter().chain(gone.iter().map(ToString::to_string))).await;
    }

    async fn changed(&mut self, scope: &str, revision: Revision, changes: Vec<Change>) {
        self.judge.set_fallen(self.history.fallen_to());
        let mut keys = Vec::new();
        for change in changes {
            let key = match change {
                Change::Put(entry) => {
                    let verdict = self.judge.put(&entry.key, &entry.value, entry.mod_revision);
                    self.history.is_back(&entry.key);
                    self.judged(&entry.key, &verdict);
                    entry.key
                }
                Change::Delete { key, mod_revision } => {
                    self.refused_no_more(|refused| refused == key);
                    let me = self.inputs.facts.me;
                    match Path::parse(&key) {
                        Some(path)
                            if self.history.outlives(&path, mod_revision, &self.judge, me) =>
                        {
                            self.judge.keep_without_store(&path);
                        }
                        Some(_) | None => self.judge.delete(&key),
                    }
                    key
                }
            };
            keys.push(key);
        }
        if scope == CLUSTER {
            self.look_whose(revision, false);
        }
        self.history.reached(revision);
        // A change alone says nothing of the rest of a scope that was not listed in this history.
        if let Some(seen) = self.seen.get_mut(scope) {
            *seen = revision;
        }
        self.keep(keys.into_iter()).await;
    }

    /// Looks whether the store is this cluster's. Others' is held against nobody: nothing is torn
    /// down for what it lacks, and its revisions are no history of ours.
    fn look_whose(&mut self, revision: Revision, is_empty: bool) {
        let owner = match self.judge.in_store(&Path::Cluster) {
            Some(held) if !is_empty && held.accepted.is_some() => Owner::Us,
            Some(_) if !is_empty => Owner::Others,
            Some(_) | None => Owner::Nobody,
        };
        if self.history.seen_to_be(owner, revision) {
            self.inputs.problems.clear("store-history", "etcd");
        }
    }

    /// Keeps what is in force at these keys for the next boot.
    async fn keep(&mut self, keys: impl Iterator<Item = String>) {
        let lasting = keys
            .filter_map(|key| Path::parse(&key))
            .filter(|path| !matches!(path, Path::Alive(_) | Path::Status(_)));
        self.unkept.extend(lasting);
        self.keep_rest().await;
    }

    /// Keeps what could not be kept before, too.
    async fn keep_rest(&mut self) {
        if self.unkept.is_empty() || !self.noting.is_free() {
            return;
        }
        let paths = std::mem::take(&mut self.unkept).into_iter();
        let records =
            paths.map(|path| (path.to_string(), self.judge.sealed(&path).map(<[u8]>::to_vec)));
        let records = records.collect();
        self.noting.keep(records).await;
    }

    /// The store holds something else than this host was told, and the audit would be slow to see it.
    fn look_again_if(&mut self, misses_events: bool) {
        if misses_events
            && !self.missed_events
            && let Some(scopes) = &self.scopes
        {
            scopes.list_again();
        }
        self.missed_events = misses_events;
    }
}

fn scope_of(key: &NetworkKey) -> String {
    Path::Network(key.clone()).to_string()
}
