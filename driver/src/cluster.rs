//! This host in the cluster: follows the store, judges what it says, and says which records this
//! host wants there. Out comes the [`ClusterView`] that everything else works from.
//!
//! Knows nothing of the kernel. One task owns all of it; nothing waits for it.

mod history;
mod sealing;
mod wanted;

pub use wanted::HostFacts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wgnet_control_plane::follower::{Followed, Follower, FollowerOptions, Scopes};
use wgnet_control_plane::publisher::{Picture, Present, Publisher, WantedRecords};
use wgnet_control_plane::session::{LEASE_TTL, Session};
use wgnet_control_plane::store::{Change, Condition, Entry, Op, Revision, Store, Txn};
use wgnet_core::{ClusterView, Judge, Refusal, Verdict};
use wgnet_proto::status::{Problem, StoreStatus};
use wgnet_proto::{ClusterSecrets, HostKey, NetworkKey, Path, Record, Refused, Sealer};

use crate::journal::{Journal, Random};
use crate::problems::Problems;
use crate::underlay::Underlay;
use history::History;
use sealing::Sealing;

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
    pub refusals: Vec<Refusal>,
}

/// What is looked at even if nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Followed first, and alone until the cluster is known: no other record can be judged before.
const CLUSTER: &str = "cluster";

/// Followed on every host, whatever networks it has.
const COMMON: [&str; 3] = ["hosts/", "alive/", "tombstones/"];

/// Runs until cancelled.
pub async fn run<S: Store>(inputs: Inputs<S>, outputs: Outputs, cancel: CancellationToken) {
    let mut task = Task::new(inputs, outputs);
    task.remember().await;
    task.tell_view().await;
    if let Some(remembered) = task.remembered.take() {
        // Nobody listens any more only when everything ends.
        let _ = remembered.send(());
    }
    let mut follower = Follower::start(
        task.inputs.store.clone(),
        FollowerOptions::default(),
        &cancel,
    );
    task.scopes = Some(follower.scopes());
    follower.scopes().follow(CLUSTER);
    let session = Session::start(task.inputs.store.clone(), LEASE_TTL, &cancel);
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
    loop {
        task.settle().await;
        task.tell(&publishing.borrow().clone());
        // All arms are cancel-safe; what an event leads to is awaited after the select.
        let event = tokio::select! {
            () = cancel.cancelled() => break,
            event = follower.next() => event,
            _ = journal.changed() => None,
            _ = underlay.changed() => None,
            _ = publishing.changed() => None,
            () = tokio::time::sleep(LOOK_EVERY) => None,
        };
        if let Some(event) = event {
            task.followed(event).await;
        }
        task.look_again_if_overtaken(publishing.borrow().is_overtaken);
    }
}

struct Task<S> {
    inputs: Inputs<S>,
    view: watch::Sender<Arc<ClusterView>>,
    status: watch::Sender<ClusterStatus>,
    remembered: Option<oneshot::Sender<()>>,
    scopes: Option<Scopes>,
    judge: Judge,
    sealing: Sealing,
    history: History,
    /// Networks followed now.
    followed: BTreeSet<NetworkKey>,
    /// Networks this host has left, until its records are gone from the store.
    leaving: BTreeSet<NetworkKey>,
    /// Whether the store was searched for records of networks this host has no more.
    searched: bool,
    /// The revision of each scope's last event in this history.
    seen: BTreeMap<String, Revision>,
    connection: Option<Result<(), String>>,
    was_overtaken: bool,
    wanted: watch::Sender<Arc<WantedRecords>>,
    picture: watch::Sender<Arc<Picture>>,
}

impl<S: Store> Task<S> {
    fn new(inputs: Inputs<S>, outputs: Outputs) -> Self {
        let state = inputs.journal.state();
        let judge = Judge::new(inputs.secrets.clone(), state.cluster, inputs.facts.me);
        Self {
            history: History::new(state.incarnation),
            inputs,
            view: outputs.view,
            status: outputs.status,
            remembered: Some(outputs.remembered),
            scopes: None,
            judge,
            sealing: Sealing::default(),
            followed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            searched: false,
            seen: BTreeMap::new(),
            connection: None,
            was_overtaken: false,
            wanted: watch::Sender::default(),
            picture: watch::Sender::default(),
        }
    }

    /// Takes the records in that the journal kept: the networks come back without a store.
    async fn remember(&mut self) {
        match self.inputs.journal.records().await {
            Ok(records) => {
                let verdicts = self.judge.import(
                    records
                        .iter()
                        .map(|(key, value)| (key.as_str(), value.as_slice())),
                );
                for (key, verdict) in verdicts {
                    self.judged(&key, &verdict);
                }
                debug!(records = records.len(), "Took the last known records in");
            }
            Err(error) => warn!(
                error = crate::chain(&error),
                "Cannot read the last known records"
            ),
        }
    }

    async fn followed(&mut self, event: Followed) {
        match event {
            Followed::Connected => {
                info!("Connected to etcd");
                self.connection = Some(Ok(()));
            }
            Followed::Disconnected { error } => {
                if self.connection != Some(Err(error.clone())) {
                    warn!(error, "Not connected to etcd; what is known stays in force");
                }
                self.connection = Some(Err(error));
            }
            Followed::History { revision, highest } => {
                warn!(
                    revision,
                    highest, "The store's revision fell: it was wiped or restored"
                );
                self.problem_of_history(revision, highest);
                self.history.fell();
                self.seen.clear();
            }
            Followed::Listed {
                scope,
                revision,
                entries,
            } => self.listed(&scope, revision, entries).await,
            Followed::Changed {
                scope,
                revision,
                changes,
            } => self.changed(&scope, revision, changes).await,
        }
    }

    async fn listed(&mut self, scope: &str, revision: Revision, entries: Vec<Entry>) {
        for entry in &entries {
            let verdict = self.judge.put(&entry.key, &entry.value, entry.mod_revision);
            self.judged(&entry.key, &verdict);
        }
        let keys = entries.iter().map(|entry| entry.key.as_str()).collect();
        let missing = self.judge.missing(scope, &keys);
        let (mut gone, kept) =
            self.history
                .split_missing(missing, &self.judge, self.inputs.facts.me);
        if let Some(held) = self.history.brake(scope, &gone, self.judge.view()) {
            self.problem_of_brake(scope, held.vanishing, held.of);
            gone.clear();
        } else {
            self.inputs.problems.clear("mass-delete-held", scope);
        }
        for path in &gone {
            self.judge.delete(&path.to_string());
        }
        for path in &kept {
            self.judge.keep_without_store(path);
        }
        if !kept.is_empty() {
            info!(
                scope,
                records = kept.len(),
                "Keeping records that are missing from another history"
            );
        }
        self.seen.insert(scope.to_owned(), revision);
        let kept_keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        self.keep(
            kept_keys
                .into_iter()
                .chain(gone.iter().map(ToString::to_string)),
        )
        .await;
    }

    async fn changed(&mut self, scope: &str, revision: Revision, changes: Vec<Change>) {
        let mut keys = Vec::new();
        for change in changes {
            let key = match change {
                Change::Put(entry) => {
                    let verdict = self.judge.put(&entry.key, &entry.value, entry.mod_revision);
                    self.judged(&entry.key, &verdict);
                    entry.key
                }
                Change::Delete { key, .. } => {
                    self.judge.delete(&key);
                    key
                }
            };
            keys.push(key);
        }
        self.seen.insert(scope.to_owned(), revision);
        self.keep(keys.into_iter()).await;
    }

    /// Keeps what is in force at these keys for the next boot.
    async fn keep(&mut self, keys: impl Iterator<Item = String>) {
        let lasting = keys
            .filter_map(|key| Path::parse(&key))
            .filter(|path| !matches!(path, Path::Alive(_) | Path::Status(_)));
        let records = lasting.map(|path| {
            (
                path.to_string(),
                self.judge.sealed(&path).map(<[u8]>::to_vec),
            )
        });
        let records: Vec<_> = records.collect();
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.inputs.journal.keep_records(records).await {
            warn!(
                error = crate::chain(&error),
                "Cannot keep the last known records"
            );
        }
    }

    /// Says once what was refused and why.
    fn judged(&self, key: &str, verdict: &Verdict) {
        let Verdict::Refused(refusal) = verdict else {
            return;
        };
        if !refusal.first_time {
            return;
        }
        let writer = refusal
            .writer
            .map_or_else(|| "unknown".to_owned(), |writer| writer.to_string());
        warn!(
            key,
            writer,
            reason = refusal.reason.code(),
            detail = refusal.detail,
            "Ignored a record of etcd"
        );
        if refusal.path == CLUSTER && refusal.reason == Refused::ForeignCluster {
            self.inputs.problems.set(Problem {
                code: "foreign-cluster".to_owned(),
                object: "etcd".to_owned(),
                cause: "this etcd belongs to another cluster than this host".to_owned(),
                next_step: "correct `etcd` or `etcd_prefix` in the driver's settings; nothing is read or written until then".to_owned(),
            });
        }
    }

    /// The store holds something else than this host was told, and the audit would be slow to see it.
    fn look_again_if_overtaken(&mut self, is_overtaken: bool) {
        if is_overtaken
            && !self.was_overtaken
            && let Some(scopes) = &self.scopes
        {
            scopes.list_again();
        }
        self.was_overtaken = is_overtaken;
    }

    /// Brings everything that follows from judge and journal up to date.
    async fn settle(&mut self) {
        self.pin_cluster().await;
        if self.history.brake_is_due()
            && let Some(scopes) = &self.scopes
        {
            scopes.list_again();
        }
        self.follow_networks();
        self.search_store().await;
        self.tell_view().await;
        self.want().await;
        self.remove_left_networks().await;
    }

    /// Keeps to the first cluster this host meets.
    async fn pin_cluster(&mut self) {
        let Some(record) = self.judge.cluster() else {
            return;
        };
        let state = self.inputs.journal.state();
        if self
            .judge
            .in_store(&Path::Cluster)
            .is_some_and(|held| held.accepted.is_some())
        {
            self.inputs.problems.clear("foreign-cluster", "etcd");
            self.turn_history(&record).await;
        }
        if state.cluster != Some(record.cluster) || state.incarnation != Some(record.incarnation) {
            let pinned = self.inputs.journal.update(move |state| {
                state.cluster = Some(record.cluster);
                state.incarnation = Some(record.incarnation);
            });
            if let Err(error) = pinned.await {
                warn!(error = crate::chain(&error), "Cannot note the cluster");
            }
        }
    }

    /// Another incarnation is another history; after a fall that nobody told of, this host says so.
    async fn turn_history(&mut self, record: &wgnet_proto::record::ClusterRecord) {
        match self.history.meet(record.incarnation) {
            history::Turn::Same => {}
            history::Turn::Another => {
                info!(incarnation = %record.incarnation, "Another history of the store: listing and publishing everything again");
                self.seen.retain(|scope, _| scope == CLUSTER);
                if let Some(scopes) = &self.scopes {
                    scopes.list_again();
                }
            }
            history::Turn::Announce => {
                let Some(held) = self.judge.in_store(&Path::Cluster) else {
                    return;
                };
                let next = wgnet_proto::record::ClusterRecord {
                    incarnation: self.random_id(),
                    ..record.clone()
                };
                let Ok(seq) = self.inputs.journal.next_seq().await else {
                    return;
                };
                let sealed = self.sealer(record.cluster).seal_record(
                    &Path::Cluster,
                    seq,
                    &Record::Cluster(next),
                );
                let key = Path::Cluster.to_string();
                let txn = Txn {
                    conditions: vec![Condition::Unchanged {
                        key: key.clone(),
                        mod_revision: held.mod_revision,
                    }],
                    ops: vec![Op::Put { key, value: sealed }],
                };
                if let Err(error) = self.inputs.store.commit(txn).await {
                    warn!(
                        error = crate::chain(&error),
                        "Cannot announce another history"
                    );
                }
            }
        }
    }

    /// Follows the networks this host has, has freed, or is leaving.
    fn follow_networks(&mut self) {
        let state = self.inputs.journal.state();
        let local = state
            .networks
            .values()
            .map(|network| network.definition.key.clone());
        let mut wanted: BTreeSet<NetworkKey> = local.filter(NetworkKey::is_shared).collect();
        wanted.extend(state.freed.iter().cloned());
        for left in self.followed.difference(&wanted) {
            self.leaving.insert(left.clone());
        }
        self.leaving.retain(|key| !wanted.contains(key));
        wanted.extend(self.leaving.iter().cloned());
        let Some(scopes) = self
            .scopes
            .as_ref()
            .filter(|_| self.judge.cluster_id().is_some())
        else {
            return;
        };
        for scope in COMMON {
            scopes.follow(scope);
        }
        for key in wanted.difference(&self.followed) {
            scopes.follow(scope_of(key));
        }
        for key in self.followed.difference(&wanted) {
            scopes.unfollow(&scope_of(key));
            self.seen.remove(&scope_of(key));
            self.judge.forget(key);
        }
        self.followed = wanted;
    }

    /// Once: finds records of networks this host has no more (its journal was lost, or it ended
    /// between forgetting a network and withdrawing from it).
    async fn search_store(&mut self) {
        if self.searched || self.connection != Some(Ok(())) {
            return;
        }
        match self.inputs.store.list("networks/").await {
            Ok(listing) => {
                self.searched = true;
                let mine =
                    listing
                        .entries
                        .iter()
                        .filter_map(|entry| match Path::parse(&entry.key)? {
                            Path::Member(key, host) if host == self.inputs.facts.me => Some(key),
                            _ => None,
                        });
                self.leaving
                    .extend(mine.filter(|key| !self.followed.contains(key)));
                self.follow_networks();
            }
            Err(error) => debug!(error = crate::chain(&error), "Cannot search the store yet"),
        }
    }

    /// Hands the view on, and notes in the journal what it decides.
    async fn tell_view(&mut self) {
        let changed = self.judge.take_changed();
        if !changed.cluster && !changed.hosts && changed.networks.is_empty() {
            return;
        }
        for path in self.history.no_longer_kept(&self.judge) {
            self.judge.delete(&path.to_string());
        }
        let view = Arc::new(self.judge.view().clone());
        self.view.send_replace(Arc::clone(&view));
        let state = self.inputs.journal.state();
        for (id, local) in &state.networks {
            let key = &local.definition.key;
            let Some(network) = view
                .networks
                .get(key)
                .filter(|_| changed.networks.contains(key) || changed.hosts)
            else {
                continue;
            };
            let lost = wgnet_core::superseded(local, network, &view, self.inputs.facts.me);
            let lost: Vec<_> = lost
                .into_iter()
                .filter(|endpoint| !local.endpoints[endpoint].superseded)
                .collect();
            if lost.is_empty() {
                continue;
            }
            for endpoint in &lost {
                self.problem_of_claim(local.endpoints[endpoint].primary(), endpoint.short(), key);
            }
            let id = id.clone();
            let noted = self.inputs.journal.update(move |state| {
                lost.iter()
                    .for_each(|endpoint| state.supersede(&id, endpoint))
            });
            if let Err(error) = noted.await {
                warn!(error = crate::chain(&error), "Cannot note a lost address");
            }
        }
    }

    /// Tells the publisher what is wanted and what is there.
    async fn want(&mut self) {
        if let Err(error) = self
            .inputs
            .journal
            .raise_seq_above(self.judge.own_highest_seq())
            .await
        {
            warn!(
                error = crate::chain(&error),
                "Cannot continue above this host's own records"
            );
            return;
        }
        if let Err(error) = self.inputs.journal.top_up_seqs().await {
            warn!(
                error = crate::chain(&error),
                "Cannot reserve sequence numbers"
            );
        }
        let wanted = self.wanted_now();
        let picture = self.picture_of(&wanted);
        // In this order: what was not known to be in the store is not wanted yet either, and would be
        // taken back by a publisher that sees only the picture of it.
        self.wanted.send_if_modified(|old| {
            **old != wanted && {
                *old = Arc::new(wanted);
                true
            }
        });
        self.picture.send_if_modified(|old| {
            **old != picture && {
                *old = Arc::new(picture);
                true
            }
        });
    }

    fn wanted_now(&mut self) -> WantedRecords {
        if !self.seen.contains_key(CLUSTER) {
            return WantedRecords::clone(&self.wanted.borrow());
        }
        let in_store = self.judge.in_store(&Path::Cluster);
        let Some(held) = in_store else {
            let state = self.inputs.journal.state();
            let (cluster, incarnation) = (self.random_id(), self.random_id());
            let record = self.history.founding(state.cluster, cluster, incarnation);
            self.sealing.set(self.sealer(record.cluster));
            return wanted::cluster_record(record);
        };
        let (Some(_), Some(record)) = (held.accepted, self.judge.cluster()) else {
            // Another cluster's etcd, or rubbish in its place: nothing of ours belongs there.
            return WantedRecords::new();
        };
        self.sealing.set(self.sealer(record.cluster));
        let mut wanted = self.records();
        let facts = self.facts();
        let me = Path::Host(facts.me);
        let said = self
            .judge
            .in_store(&me)
            .and_then(|held| held.accepted)
            .map(|accepted| accepted.record);
        let said_here =
            matches!(&said, Some(Record::Host(host)) if host.incarnation == record.incarnation);
        let host = if said_here || wanted::is_complete(&wanted, &self.judge) {
            Some(wanted::host_record(&facts, record.incarnation))
        } else {
            said
        };
        if let Some(host) = host {
            wanted.insert(
                me,
                wgnet_control_plane::publisher::Wanted {
                    record: host,
                    leased: false,
                },
            );
        }
        wanted
    }

    fn facts(&self) -> HostFacts {
        let underlay = self.inputs.underlay.borrow().addresses.clone();
        HostFacts {
            underlay,
            ..self.inputs.facts.clone()
        }
    }

    fn records(&self) -> WantedRecords {
        wanted::records(&self.facts(), &self.inputs.journal.state(), self.judge.view())
    }

    fn picture_of(&self, wanted: &WantedRecords) -> Picture {
        let mut present = BTreeMap::new();
        for path in wanted.keys().chain(self.judge.own_in_store()) {
            if let Some(held) = self.judge.in_store(path) {
                let mine = held.writer == Some(self.inputs.facts.me);
                let current = held
                    .accepted
                    .filter(|accepted| accepted.epoch == self.inputs.secrets.current_epoch());
                let record = current.map(|accepted| accepted.record);
                present.insert(
                    path.clone(),
                    Present {
                        mine,
                        record,
                        mod_revision: held.mod_revision,
                    },
                );
            }
        }
        Picture {
            history: self.history.number(),
            seen: self.seen.clone(),
            present,
        }
    }

    /// The last member to leave deletes the network, in a transaction that requires no members.
    async fn remove_left_networks(&mut self) {
        let state = self.inputs.journal.state();
        let candidates: Vec<NetworkKey> =
            self.leaving.iter().chain(&state.freed).cloned().collect();
        for key in candidates {
            let scope = scope_of(&key);
            if !self.seen.contains_key(&scope) {
                continue;
            }
            let local = state.by_key(&key).is_some();
            let view = self.judge.view().networks.get(&key);
            let mine = self
                .judge
                .own_in_store()
                .iter()
                .any(|path| path.owner().is_some() && path.network() == Some(&key));
            let members = view.is_some_and(|network| !network.members.is_empty());
            if local || mine {
                continue;
            }
            let told = wanted::is_freed(self.judge.view(), &key);
            if !members && !self.delete_network(&key).await {
                continue;
            }
            if !members || (!state.freed.contains(&key)) || told {
                self.leaving.remove(&key);
                if state.freed.contains(&key) {
                    let key = key.clone();
                    if let Err(error) = self
                        .inputs
                        .journal
                        .update(move |state| state.freed.remove(&key))
                        .await
                    {
                        warn!(
                            error = crate::chain(&error),
                            "Cannot forget a freed network"
                        );
                    }
                }
            }
        }
        self.follow_networks();
    }

    /// Whether nothing of the network is left in the store.
    async fn delete_network(&self, key: &NetworkKey) -> bool {
        let listing = match self.inputs.store.list(&scope_of(key)).await {
            Ok(listing) => listing,
            Err(error) => {
                debug!(
                    error = crate::chain(&error),
                    "Cannot look at a network that is left"
                );
                return false;
            }
        };
        let members = format!("networks/{key}/members/");
        if listing
            .entries
            .iter()
            .any(|entry| entry.key.starts_with(&members))
        {
            return false;
        }
        for entries in listing.entries.chunks(wgnet_control_plane::store::MAX_OPS) {
            let txn = Txn {
                conditions: vec![Condition::NonePrefixed(members.clone())],
                ops: entries
                    .iter()
                    .map(|entry| Op::Delete {
                        key: entry.key.clone(),
                    })
                    .collect(),
            };
            if let Err(error) = self.inputs.store.commit(txn).await {
                debug!(
                    error = crate::chain(&error),
                    "Cannot delete a network that nobody has"
                );
                return false;
            }
        }
        true
    }

    fn sealer(&self, cluster: wgnet_proto::ClusterId) -> Sealer {
        Sealer::new(
            self.inputs.host_key.clone(),
            self.inputs.secrets.clone(),
            cluster,
        )
    }

    fn random_id<Id: From16>(&self) -> Id {
        let mut bytes = [0; 16];
        (self.inputs.random)(&mut bytes);
        Id::from16(bytes)
    }

    fn tell(&self, publishing: &wgnet_control_plane::publisher::Publishing) {
        let connected = self.connection == Some(Ok(()));
        let error = match &self.connection {
            Some(Err(error)) => Some(error.clone()),
            Some(Ok(())) => publishing.error.clone(),
            None => None,
        };
        let store = StoreStatus {
            connected,
            error,
            revision: self.seen.values().copied().max().unwrap_or(0),
            unpublished: if self.seen.contains_key(CLUSTER) {
                publishing.unpublished
            } else {
                self.records().len()
            },
        };
        let refused = self
            .judge
            .refused()
            .iter()
            .map(|(reason, count)| (reason.code().to_owned(), *count))
            .collect();
        let refusals = self.judge.last_refusals().cloned().collect();
        let status = ClusterStatus {
            store,
            refused,
            refusals,
        };
        self.status.send_if_modified(|old| {
            *old != status && {
                *old = status;
                true
            }
        });
    }

    fn problem_of_history(&self, revision: Revision, highest: Revision) {
        self.inputs.problems.set(Problem {
            code: "store-history".to_owned(),
            object: "etcd".to_owned(),
            cause: format!("etcd's revision fell from {highest} to {revision}: it was wiped or restored from a backup"),
            next_step: "nothing: every host publishes its records again; look at who restored it and why".to_owned(),
        });
    }

    fn problem_of_brake(&self, scope: &str, vanishing: usize, of: usize) {
        self.inputs.problems.set(Problem {
            code: "mass-delete-held".to_owned(),
            object: scope.to_owned(),
            cause: format!("etcd lists {vanishing} of {of} members no more, all at once"),
            next_step: format!("nothing if they were removed on purpose: it is believed after {} s; else look at etcd", history::BRAKE.as_secs()),
        });
    }

    fn problem_of_claim(
        &self,
        address: Option<std::net::IpAddr>,
        endpoint: &str,
        key: &NetworkKey,
    ) {
        let address =
            address.map_or_else(|| "an address".to_owned(), |address| address.to_string());
        self.inputs.problems.set(Problem {
            code: "address-lost".to_owned(),
            object: format!("endpoint {endpoint} of network {key}"),
            cause: format!(
                "{address} was given to a newer endpoint on another host; this one is cut off"
            ),
            next_step: "remove the older container; on plain engines give each its own --ip-range"
                .to_owned(),
        });
    }
}

/// Identifiers made of 16 random bytes.
trait From16 {
    fn from16(bytes: [u8; 16]) -> Self;
}

impl From16 for wgnet_proto::ClusterId {
    fn from16(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl From16 for wgnet_proto::Incarnation {
    fn from16(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

fn scope_of(key: &NetworkKey) -> String {
    Path::Network(key.clone()).to_string()
}
