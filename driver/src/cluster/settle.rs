//! What follows from judge and journal: which cluster and history this is, which networks are
//! followed, and the view that everything else works from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use wgnet_control_plane::store::{Condition, Op, Store, Txn, covers};
use wgnet_proto::seal::claimed_writer;
use wgnet_proto::{HostId, NetworkKey, Path, Record, Sealer};

use super::leave::ARRIVES_WITHIN;
use super::report::ADDRESS_LOST;
use super::{CLUSTER, COMMON, Task, history, scope_of, wanted};
use crate::journal::State;

/// A call to etcd may take seconds before it fails, and whoever waits for it here follows nothing
/// meanwhile. So the next one is not made at the next event.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

/// How often it is noted how far the store has come. A backup that is no older may be missed by a
/// driver which is down while it is restored; each note is a write to the disk.
const COME_TO_EVERY: Duration = Duration::from_secs(300);

impl<S: Store> Task<S> {
    /// Brings everything that follows from judge and journal up to date.
    pub(super) async fn settle(&mut self) {
        // Whatever is noted rests on records that are kept before.
        self.keep_rest().await;
        self.pin_cluster().await;
        self.look_at_held();
        self.follow_networks();
        self.search_store().await;
        // What was known of networks that were left is not to be met again at the next start.
        self.keep_rest().await;
        self.yield_claims().await;
        self.tell_view().await;
        self.tell_lost();
        self.note_freed().await;
        self.want().await;
        self.remove_left_networks().await;
        self.put_tombstones_back().await;
        self.sweep().await;
    }

    /// Asks for another listing where a held one may be decided by now.
    fn look_at_held(&mut self) {
        if !self.is_home() {
            return self.lost_sight();
        }
        let judge = &self.judge;
        let lives = |host: &HostId| {
            judge.in_store(&Path::Alive(*host)).is_some_and(|held| held.accepted.is_some())
        };
        if self.history.brake_is_due(&self.taking, judge.view(), lives)
            && let Some(scopes) = &self.scopes
        {
            scopes.list_again();
        }
        self.try_changes();
    }

    /// Keeps to the first cluster this host meets.
    pub(super) async fn pin_cluster(&mut self) {
        let Some(cluster) = self.judge.cluster_id() else {
            return;
        };
        let state = self.inputs.journal.state();
        // What the store held in a history that has ended is no reason to announce another one.
        let is_listed = self.seen.contains_key(CLUSTER);
        let held = self.judge.in_store(&Path::Cluster).filter(|_| is_listed);
        if held.is_some_and(|held| held.accepted.is_some())
            && let Some(record) = self.judge.cluster()
        {
            self.inputs.problems.clear("foreign-cluster", "etcd");
            self.turn_history(&record).await;
        }
        // Also without such a record by now: the disk may have been full when there was one.
        let (met, written_from) = (self.history.met(), self.history.written_from());
        let come_to = self.history.come_to();
        let is_due = come_to > state.store_revision
            && self.come_to_noted.is_none_or(|at| at.elapsed() >= COME_TO_EVERY);
        if state.cluster != Some(cluster)
            || (state.incarnation, state.history) != met
            || (is_due && !self.history.has_fallen())
        {
            self.come_to_noted = Some(Instant::now());
            let pin = move |state: &mut State| {
                state.cluster = Some(cluster);
                (state.incarnation, state.history) = met;
                state.written_from = written_from;
                state.store_revision = come_to;
            };
            self.noting.update("note the cluster", pin).await;
        }
    }

    /// Another incarnation is another history; after a fall that nobody told of, this host says so.
    pub(super) async fn turn_history(&mut self, record: &wgnet_proto::record::ClusterRecord) {
        let has_fallen = self.history.has_fallen();
        let turn = self.history.meet(record, self.inputs.journal.next_unused_seq());
        match turn {
            history::Turn::Same => {}
            history::Turn::Another | history::Turn::Returned => {
                if turn == history::Turn::Another {
                    info!(incarnation = %record.incarnation, "Another history of the store: listing and publishing everything again");
                    if !has_fallen {
                        self.problem_of_announced_history();
                    }
                }
                self.seen.retain(|scope, _| scope == CLUSTER);
                // A backup may bring back what this host has left since.
                self.searched = Searched::default();
                if let Some(scopes) = &self.scopes {
                    scopes.list_again();
                }
            }
            history::Turn::Announce => {
                if !has_fallen && self.history.has_fallen() {
                    let (holds, met) = (record.history, self.history.met().1);
                    warn!(holds, met, "The store holds an earlier history: it was restored");
                    self.problem_of_earlier_history();
                }
                let Some(held) = self.judge.in_store(&Path::Cluster) else {
                    return;
                };
                let come_to = self.seen.get(CLUSTER).copied().unwrap_or(held.mod_revision);
                let next = self.history.announcing(record, self.random_id(), come_to);
                // Without one there is another look: they are reserved whenever few are left.
                let Some(seq) = self.inputs.journal.take_seq() else {
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
                    warn!(error = crate::chain(&error), "Cannot announce another history");
                }
            }
        }
    }

    /// Follows the networks this host has, has freed, or is leaving.
    pub(super) fn follow_networks(&mut self) {
        let state = self.inputs.journal.state();
        let local = state.networks.values().map(|network| network.definition.key.clone());
        let mut wanted: BTreeSet<NetworkKey> = local.filter(NetworkKey::is_shared).collect();
        wanted.extend(state.freed.iter().cloned());
        for left in self.followed.difference(&wanted) {
            self.leaving.entry(left.clone()).or_default();
        }
        self.leaving.retain(|key, _| !wanted.contains(key));
        wanted.extend(self.leaving.keys().cloned());
        let Some(scopes) = self.scopes.as_ref().filter(|_| self.judge.cluster_id().is_some())
        else {
            return;
        };
        for scope in COMMON {
            scopes.follow(scope);
        }
        for key in wanted.difference(&self.followed) {
            scopes.follow(scope_of(key));
        }
        // Followed until now, or known from an earlier process that did.
        let known = self.followed.iter().chain(self.judge.view().networks.keys());
        let left: BTreeSet<NetworkKey> =
            known.filter(|key| !wanted.contains(key)).cloned().collect();
        left.iter().for_each(|key| self.stop_following(key));
        self.followed = wanted;
    }

    /// Forgets a network that this host has left.
    pub(super) fn stop_following(&mut self, key: &NetworkKey) {
        let (now, scope) = (self.now(), scope_of(key));
        if let Some(scopes) = &self.scopes {
            scopes.unfollow(&scope);
        }
        self.followed.remove(key);
        self.seen.remove(&scope);
        self.unkept.extend(self.judge.forget(key));
        self.history.forget(key, &scope);
        self.inputs.problems.clear("mass-delete-held", &scope);
        self.refused.gone(now, |refused| covers(&scope, refused));
        self.inputs.progress.forget(key);
    }

    /// In each history and after each start: finds records of networks this host has no more (its journal was
    /// lost, or it ended between forgetting a network and withdrawing from it), and networks that the
    /// last member left and did not live to delete; and once more when no write of an earlier process
    /// can be under way any more.
    pub(super) async fn search_store(&mut self) {
        if !self.searched.is_due() || !self.may_call() {
            return;
        }
        match self.inputs.store.list("networks/").await {
            Ok(listing) => {
                self.searched.done();
                let me = self.inputs.facts.me;
                let (mut ended, mut lived_in) = (BTreeSet::new(), BTreeSet::new());
                for entry in &listing.entries {
                    match Path::parse(&entry.key) {
                        Some(Path::Member(key, host)) => {
                            lived_in.insert(key.clone());
                            ended.extend((host == me).then_some(key));
                        }
                        Some(Path::Endpoint(key, _))
                            if claimed_writer(&entry.value) == Some(me) =>
                        {
                            ended.insert(key);
                        }
                        _ => {}
                    }
                }
                let paths = listing.entries.iter().filter_map(|entry| Path::parse(&entry.key));
                let networks = paths.filter_map(|path| path.network().cloned());
                ended.extend(networks.filter(|key| !lived_in.contains(key)));
                let ended = ended.into_iter().filter(|key| !self.followed.contains(key));
                self.leaving.extend(ended.map(|key| (key, None)));
                self.follow_networks();
            }
            Err(error) => {
                debug!(error = crate::chain(&error), "Cannot search the store yet");
                self.call_failed();
            }
        }
    }

    /// Whether a call to etcd may be waited for here now.
    pub(super) fn may_call(&self) -> bool {
        self.connection == Some(Ok(())) && self.failed.is_none_or(|at| at.elapsed() >= AGAIN)
    }

    pub(super) fn call_failed(&mut self) {
        self.failed = Some(Instant::now());
    }

    /// Hands the view on, and notes in the journal what it decides.
    pub(super) async fn tell_view(&mut self) {
        let mut changed = self.judge.take_changed();
        changed.networks.append(&mut self.unnoted);
        if !changed.cluster && !changed.hosts && changed.networks.is_empty() {
            for key in &self.followed {
                if let Some(revision) = self.seen.get(&scope_of(key)) {
                    self.inputs.progress.told_nothing(key, *revision);
                }
            }
            return;
        }
        if self.history.has_news(&self.judge)
            && let Some(scopes) = &self.scopes
        {
            scopes.list_again();
        }
        let view = Arc::new(self.judge.view().clone());
        // At once: whoever has the view can say up to which revision it goes.
        self.view.send_modify(|told| {
            *told = Arc::clone(&view);
            for key in &changed.networks {
                if let Some(revision) = self.seen.get(&scope_of(key)) {
                    self.inputs.progress.told(key, *revision, self.told_at);
                }
            }
        });
        let state = self.inputs.journal.state();
        for (id, local) in &state.networks {
            let key = &local.definition.key;
            let Some(network) =
                view.networks.get(key).filter(|_| changed.networks.contains(key) || changed.hosts)
            else {
                continue;
            };
            let lost = wgnet_core::superseded(local, network, &view, self.inputs.facts.me);
            let lost: Vec<_> =
                lost.into_iter().filter(|endpoint| !local.endpoints[endpoint].superseded).collect();
            if lost.is_empty() {
                continue;
            }
            let id = id.clone();
            let note = move |state: &mut State| {
                lost.iter().for_each(|endpoint| state.supersede(&id, endpoint))
            };
            if !self.noting.update("note a lost address", note).await {
                self.unnoted.insert(key.clone());
            }
        }
    }

    /// Says which containers are cut off, as long as they are there.
    fn tell_lost(&mut self) {
        let state = self.inputs.journal.state();
        if self.lost_at == Some(state.revision) {
            return;
        }
        let mut lost = BTreeSet::new();
        for network in state.networks.values() {
            for (id, endpoint) in network.endpoints.iter().filter(|(_, it)| it.superseded) {
                let key = &network.definition.key;
                lost.insert(self.problem_of_claim(endpoint.primary(), id.short(), key));
            }
        }
        for over in self.lost.difference(&lost) {
            self.inputs.problems.clear(ADDRESS_LOST, over);
        }
        (self.lost, self.lost_at) = (lost, Some(state.revision));
    }

    /// Keeps for good what the cluster says of a network's end.
    async fn note_freed(&mut self) {
        let freed = wanted::freed_unnoted(&self.inputs.journal.state(), self.judge.view());
        if !freed.is_empty() {
            let note = move |state: &mut State| state.freed.extend(freed);
            self.noting.update("note that a network is freed", note).await;
        }
    }

    pub(super) fn sealer(&self, cluster: wgnet_proto::ClusterId) -> Sealer {
        Sealer::new(self.inputs.host_key.clone(), self.inputs.secrets.clone(), cluster)
    }

    pub(super) fn random_id<Id: From16>(&self) -> Id {
        let mut bytes = [0; 16];
        (self.inputs.random)(&mut bytes);
        Id::from16(bytes)
    }
}

/// When the store was searched for records of networks this host has no more.
#[derive(Debug, Default)]
pub(super) struct Searched {
    first: Option<Instant>,
    again: bool,
}

impl Searched {
    fn is_due(&self) -> bool {
        self.first.is_none_or(|at| !self.again && at.elapsed() >= ARRIVES_WITHIN)
    }

    fn done(&mut self) {
        self.again = self.first.is_some();
        self.first.get_or_insert_with(Instant::now);
    }
}

/// Identifiers made of 16 random bytes.
pub(super) trait From16 {
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
