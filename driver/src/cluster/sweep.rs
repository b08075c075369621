//! Removes from the store what nobody claims any more: records of hosts that are dead or revoked,
//! members without a host, endpoints without a member, networks without members.
//!
//! Any host may do it; they take turns by their ids, so that one does and the others find nothing
//! left. Nothing is removed on the word of one look: what is removed must have been so for the grace,
//! in one history of the store, and every transaction requires that it is so still.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use wgnet_control_plane::store::{Committed, Condition, Op, Store, Txn, chain};
use wgnet_core::absence::{self, Absences, Presence};
use wgnet_core::leftovers::{Found, Known, Leftover, Unclaimed, Why, leftovers};
use wgnet_proto::{HostId, Path, seal};

use super::{CLUSTER, COMMON, Task};

/// What could not be removed is tried again, but not at once: it was changed just now.
const AGAIN: Duration = Duration::from_secs(10);

/// Also a clock of removal: a revoked host's records carry nothing any more.
const REVOKED_GRACE: u64 = 5;

/// Records of one transaction; its conditions are some more.
const AT_ONCE: usize = 100;

pub(super) struct Sweeper {
    started: Instant,
    grace: u64,
    history: u64,
    absences: Absences,
    unclaimed: Unclaimed,
    looked: Option<Instant>,
    searched: Option<Instant>,
    tried: BTreeMap<HostId, Instant>,
    /// Absent for half the grace: whether they are was asked anew, as an event may have been lost.
    asked: BTreeSet<HostId>,
    /// By order: the same order again is no mistake.
    pub(super) forgotten: BTreeSet<HostId>,
}

impl Sweeper {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            started: Instant::now(),
            // Absences count in whole seconds, and up to one of them is not whole.
            grace: grace.as_secs() + 1,
            history: 0,
            absences: Absences::default(),
            unclaimed: Unclaimed::default(),
            looked: None,
            searched: None,
            tried: BTreeMap::new(),
            asked: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// How often it is looked who is there: a look concerns every host of the cluster.
    fn look_every(&self) -> Duration {
        Duration::from_secs((self.grace / 20).clamp(1, 30))
    }

    /// How often the first host reads all networks to find what has no owner.
    fn search_every(&self) -> Duration {
        Duration::from_secs((self.grace / 8).clamp(5, 86_400))
    }

    fn may_try(&self, host: HostId) -> bool {
        self.tried.get(&host).is_none_or(|at| at.elapsed() >= AGAIN)
    }

    /// Hosts whose records are to be removed now by the host of this rank.
    fn due(&self, rank: usize, revoked: &BTreeSet<HostId>, hosts: &BTreeSet<HostId>) -> Due {
        let over = |host: &HostId, grace: u64| {
            let absent = self.absences.of(*host);
            absent.is_some_and(|seconds| seconds >= grace + absence::turn(rank, self.grace))
        };
        let (out, other): (Vec<HostId>, Vec<HostId>) =
            hosts.iter().copied().partition(|host| revoked.contains(host));
        Due {
            revoked: out.into_iter().filter(|host| over(host, REVOKED_GRACE)).collect(),
            dead: other.into_iter().filter(|host| over(host, self.grace)).collect(),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Due {
    revoked: BTreeSet<HostId>,
    dead: BTreeSet<HostId>,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSwept {
    #[error("etcd cannot be read now: {0}")]
    Unreadable(String),
    #[error(
        "what was to be removed has just changed: the host may be back; look at wgnetctl status"
    )]
    Changed,
}

impl<S: Store> Task<S> {
    /// Looks who is there, and removes what is due.
    pub(super) async fn sweep(&mut self) {
        if self.sweeper.looked.is_some_and(|at| at.elapsed() < self.sweeper.look_every()) {
            return;
        }
        self.sweeper.looked = Some(Instant::now());
        if self.sweeper.history != self.history.number() {
            self.sweeper.history = self.history.number();
            self.sweeper.absences.clear();
            self.sweeper.unclaimed.clear();
        }
        if !self.sees_everything() {
            self.sweeper.absences.blind();
            self.sweeper.unclaimed.clear();
            return;
        }
        let seen = self.presences();
        let now = self.sweeper.now();
        self.sweeper.absences.feed(now, &seen);
        self.sweeper.tried.retain(|host, _| seen.contains_key(host));
        self.give_up_kept();
        self.ask_anew();

        let rank = self.rank(&seen);
        let stored = self.stored_hosts();
        let mut due = self.sweeper.due(rank, &self.judge.view().revoked, &stored);
        due.revoked.retain(|host| self.sweeper.may_try(*host));
        due.dead.retain(|host| self.sweeper.may_try(*host));
        let searches = rank == 0
            && self.sweeper.searched.is_none_or(|at| at.elapsed() >= self.sweeper.search_every());
        if !searches && due == Due::default() {
            return;
        }
        for host in due.dead.iter().chain(&due.revoked) {
            self.sweeper.tried.insert(*host, Instant::now());
        }
        if searches {
            self.sweeper.searched = Some(Instant::now());
        }
        if let Err(error) = self.remove_due(&due, searches).await {
            debug!(%error, "Cannot remove now what nobody claims");
            // Somebody may have been back in between, whose event was lost.
            if matches!(error, NotSwept::Changed) && !due.dead.is_empty() {
                self.list_again();
            }
        }
    }

    /// Has everything listed once while a host is absent, in time to set its absence back.
    fn ask_anew(&mut self) {
        let half = self.sweeper.grace / 2;
        let long = |host: &HostId| self.sweeper.absences.of(*host).is_some_and(|for_| for_ >= half);
        let long: BTreeSet<HostId> = self.judge.view().hosts.keys().copied().filter(long).collect();
        let is_news = !long.is_subset(&self.sweeper.asked);
        self.sweeper.asked = long;
        if is_news {
            self.list_again();
        }
    }

    fn list_again(&self) {
        if let Some(scopes) = &self.scopes {
            scopes.list_again();
        }
    }

    /// Whether the pictures of all hosts are complete, and of this history.
    fn sees_everything(&self) -> bool {
        let is_listed = COMMON.iter().chain([&CLUSTER]).all(|scope| self.seen.contains_key(*scope));
        is_listed && self.is_home() && self.history.is_certain()
    }

    /// Whether the store that answers is this cluster's.
    pub(super) fn is_home(&self) -> bool {
        let cluster = self.judge.in_store(&Path::Cluster);
        self.connection == Some(Ok(())) && cluster.is_some_and(|held| held.accepted.is_some())
    }

    /// Every other host that anything is known of.
    fn presences(&self) -> BTreeMap<HostId, Presence> {
        let view = self.judge.view();
        let members = view.networks.values().flat_map(|network| network.members.keys());
        let hosts = view.hosts.keys().chain(members).chain(&view.revoked).copied();
        let hosts: BTreeSet<HostId> = hosts.chain(self.history.keeps()).collect();
        let presence = |host: HostId| Presence {
            // Whatever stands there, valid or not: somebody holds the lease. A revoked host is out
            // whether it lives or not.
            alive: !view.revoked.contains(&host)
                && self.judge.revision_in_store(&Path::Alive(host)).is_some(),
            mark: self.judge.revision_in_store(&Path::Host(host)).unwrap_or(0),
        };
        let others = hosts.into_iter().filter(|host| *host != self.inputs.facts.me);
        others.map(|host| (host, presence(host))).collect()
    }

    /// This host's place among those that live.
    fn rank(&self, seen: &BTreeMap<HostId, Presence>) -> usize {
        let me = self.inputs.facts.me;
        seen.iter().filter(|(host, presence)| presence.alive && **host < me).count()
    }

    /// Other hosts with a record of their own in the store.
    fn stored_hosts(&self) -> BTreeSet<HostId> {
        let view = self.judge.view();
        let known = view.hosts.keys().chain(&view.revoked).copied();
        let stored = |host: &HostId| self.judge.revision_in_store(&Path::Host(*host)).is_some();
        known.filter(|host| *host != self.inputs.facts.me && stored(host)).collect()
    }

    /// What is kept of dead hosts though this history never had it ends here, on every host.
    fn give_up_kept(&mut self) {
        let dead: Vec<HostId> = self.history.keeps().into_iter().collect();
        let over = |host: &HostId| {
            self.sweeper.absences.of(*host).is_some_and(|absent| absent >= self.sweeper.grace)
        };
        let over: Vec<HostId> = dead.into_iter().filter(over).collect();
        for host in over {
            self.give_up(host);
        }
    }

    fn give_up(&mut self, host: HostId) {
        if self.history.give_up(host) {
            info!(%host, "Forgetting what the store's former history had of a host that is gone");
            self.list_again();
        }
    }

    async fn remove_due(&mut self, due: &Due, searches: bool) -> Result<(), NotSwept> {
        let hosts = self.judge.view().hosts.keys().copied().collect();
        let known = Known {
            me: self.inputs.facts.me,
            hosts: &hosts,
            dead: &due.dead,
            revoked: &self.judge.view().revoked,
        };
        let left = leftovers(&self.list_networks().await?, known);
        let left = if searches {
            self.sweeper.unclaimed.feed(self.sweeper.now(), self.sweeper.grace, left)
        } else {
            let of_due = |left: &Leftover| matches!(left.why, Why::Dead(_) | Why::Revoked(_));
            left.into_iter().filter(of_due).collect()
        };
        self.remove(&left).await?;
        for host in &due.dead {
            self.remove_host(*host, Why::Dead(*host)).await?;
            self.give_up(*host);
        }
        for host in &due.revoked {
            self.remove_host(*host, Why::Revoked(*host)).await?;
        }
        Ok(())
    }

    /// Removes every record of one host at once, by order. Returns how many they were.
    pub(super) async fn remove_records_of(&mut self, host: HostId) -> Result<usize, NotSwept> {
        let (hosts, dead) = (BTreeSet::from([host]), BTreeSet::from([host]));
        let known = Known {
            me: self.inputs.facts.me,
            hosts: &hosts,
            dead: &dead,
            revoked: &BTreeSet::new(),
        };
        let mut left = leftovers(&self.list_networks().await?, known);
        left.retain(|left| left.why == Why::Dead(host));
        let records = self.remove(&left).await? + self.remove_host(host, Why::Dead(host)).await?;
        self.give_up(host);
        Ok(records)
    }

    async fn list_networks(&self) -> Result<Vec<Found>, NotSwept> {
        let listing = self.inputs.store.list("networks/").await;
        let listing = listing.map_err(|error| NotSwept::Unreadable(chain(&error)))?;
        let found = listing.entries.iter().filter_map(|entry| {
            Some(Found {
                path: Path::parse(&entry.key)?,
                writer: seal::claimed_writer(&entry.value),
                mod_revision: entry.mod_revision,
            })
        });
        Ok(found.collect())
    }

    /// A host's own record, the last of all: as long as it stands, others go on.
    async fn remove_host(&self, host: HostId, why: Why) -> Result<usize, NotSwept> {
        let path = Path::Host(host);
        let Some(held) = self.judge.in_store(&path) else {
            return Ok(0);
        };
        self.remove(&[Leftover { path, mod_revision: held.mod_revision, why }]).await
    }

    async fn remove(&self, left: &[Leftover]) -> Result<usize, NotSwept> {
        let mut groups: Vec<(Vec<Condition>, Vec<&Leftover>)> = Vec::new();
        for leftover in left {
            let Some(conditions) = self.conditions(leftover) else {
                continue;
            };
            match groups.iter_mut().find(|(known, _)| *known == conditions) {
                Some((_, group)) => group.push(leftover),
                None => groups.push((conditions, vec![leftover])),
            }
        }
        let mut removed = 0;
        for (conditions, group) in &groups {
            for some in group.chunks(AT_ONCE) {
                self.remove_some(conditions, some).await?;
                removed += some.len();
            }
        }
        Ok(removed)
    }

    async fn remove_some(&self, also: &[Condition], some: &[&Leftover]) -> Result<(), NotSwept> {
        let unchanged = |left: &&Leftover| Condition::Unchanged {
            key: left.path.to_string(),
            mod_revision: left.mod_revision,
        };
        let delete = |left: &&Leftover| Op::Delete { key: left.path.to_string() };
        let txn = Txn {
            conditions: also.iter().cloned().chain(some.iter().map(unchanged)).collect(),
            ops: some.iter().map(delete).collect(),
        };
        match self.inputs.store.commit(txn).await {
            Ok(Committed::Done { .. }) => {
                for left in some {
                    info!(key = %left.path, why = ?left.why, "Removed from etcd what nobody claims");
                }
                Ok(())
            }
            Ok(Committed::Refused { .. }) => Err(NotSwept::Changed),
            Err(error) => {
                warn!(error = crate::chain(&error), "Cannot remove what nobody claims");
                Err(NotSwept::Unreadable(chain(&error)))
            }
        }
    }

    /// What must hold beside the record itself when it is removed: it is this history, and nobody
    /// came back. `None` where that cannot be said.
    fn conditions(&self, leftover: &Leftover) -> Option<Vec<Condition>> {
        let unchanged = |path: Path| {
            let mod_revision = self.judge.revision_in_store(&path)?;
            Some(Condition::Unchanged { key: path.to_string(), mod_revision })
        };
        let absent = |path: Path| Condition::Absent(path.to_string());
        let mut conditions = vec![unchanged(Path::Cluster)?];
        match leftover.why {
            Why::Revoked(host) => conditions.push(unchanged(Path::Tombstone(host))?),
            Why::Dead(host) => conditions.push(absent(Path::Alive(host))),
            Why::NoHost(host) => {
                conditions.extend([absent(Path::Alive(host)), absent(Path::Host(host))]);
            }
            Why::NoMember(host) => {
                conditions.push(absent(Path::Member(leftover.path.network()?.clone(), host)));
            }
            Why::NoMembers => {
                let network = leftover.path.network()?;
                conditions.push(Condition::NonePrefixed(format!("networks/{network}/members/")));
            }
        }
        Some(conditions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: HostId = HostId([9; 16]);

    fn absent_for(seconds: u64, grace: u64) -> Sweeper {
        let mut sweeper = Sweeper::new(Duration::from_secs(grace));
        let seen = BTreeMap::from([(OTHER, Presence { alive: false, mark: 1 })]);
        for now in 0..=seconds {
            sweeper.absences.feed(now, &seen);
        }
        sweeper
    }

    #[tokio::test]
    async fn the_first_host_removes_after_the_grace_and_the_next_later() {
        let (none, hosts) = (BTreeSet::new(), BTreeSet::from([OTHER]));
        assert_eq!(absent_for(60, 60).due(0, &none, &hosts), Due::default());
        assert_eq!(absent_for(61, 60).due(0, &none, &hosts).dead, hosts);
        assert_eq!(absent_for(61, 60).due(1, &none, &hosts), Due::default());
        assert_eq!(absent_for(64, 60).due(1, &none, &hosts).dead, hosts);
    }

    #[tokio::test]
    async fn a_revoked_host_is_removed_at_once() {
        let hosts = BTreeSet::from([OTHER]);
        let due = absent_for(REVOKED_GRACE, 604_800).due(0, &hosts, &hosts);
        assert_eq!(due, Due { revoked: hosts, dead: BTreeSet::new() });
    }

    #[tokio::test]
    async fn a_host_without_a_record_has_nothing_to_be_removed() {
        let none = BTreeSet::new();
        assert_eq!(absent_for(1000, 60).due(0, &none, &none), Due::default());
    }
}
