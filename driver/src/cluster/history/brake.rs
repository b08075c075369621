//! The brake on listings that lose most hosts, or most members of a network: they are not believed,
//! so that those who are there can put their records back, and people can look. Who lives and does
//! not put them back claims them no more; of the others an operator decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use wgnet_control_plane::store::covers;
use wgnet_core::ClusterView;
use wgnet_core::brake::holds;
use wgnet_proto::{HostId, Path};

use super::History;
use crate::cluster::taking::{Mark, Taking};
use crate::cluster::wanted::is_freed;

/// How long a host that lives may take to put its records back, while etcd takes changes.
const BRAKE: Duration = Duration::from_secs(60);

/// Between two times that all is listed again because something held may be decided.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What is not believed of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Held {
    /// Hosts, or members, that the listing has no more.
    pub(in crate::cluster) vanishing: BTreeSet<HostId>,
    /// How many there were.
    pub(in crate::cluster) of: usize,
    /// Nor is anything else that the listing lacks.
    whole: bool,
}

impl Held {
    /// Whether a missing record of this owner is still believed to be there.
    pub(in crate::cluster) fn keeps(&self, owner: HostId) -> bool {
        self.whole || self.vanishing.contains(&owner)
    }
}

/// A listing that is not believed yet.
pub(super) struct Braked {
    since: Mark,
    vanishing: BTreeSet<HostId>,
    of: usize,
    /// Those of them that live, and since when that was seen.
    living: BTreeMap<HostId, Mark>,
    /// Another listing was asked for since the time was over.
    asked: bool,
}

impl Braked {
    /// Whether the time is over in which everybody could put back whatever the listing lacks.
    fn is_over(&self, taking: &Taking) -> bool {
        taking.since(self.since) >= BRAKE
    }

    fn had_time(&self, host: &HostId, taking: &Taking) -> bool {
        self.living.get(host).is_some_and(|since| taking.since(*since) >= BRAKE)
    }
}

impl History {
    /// What is to be held of a listing that loses these paths.
    pub(in crate::cluster) fn brake(
        &mut self,
        scope: &str,
        gone: &[Path],
        view: &ClusterView,
        taking: &Taking,
    ) -> Option<Held> {
        let lost: BTreeSet<HostId> = gone.iter().filter_map(host_of).collect();
        let known = self.braked.get(scope);
        let is_withdrawn = |host: &HostId| {
            lost.contains(host) && known.is_some_and(|held| held.had_time(host, taking))
        };
        // This host's own record is not kept: as long as the listing is held, it counts all the same.
        let held = known.into_iter().flat_map(|held| held.vanishing.iter().copied());
        let mut before = self.those_to_stay(gone, view, held);
        before.retain(|host| !is_withdrawn(host));
        let released = self.released.remove(scope);
        if released || !holds(&before, &(&before - &lost)) {
            self.braked.remove(scope);
            return None;
        }
        let (vanishing, of) = (&before & &lost, before.len());
        let braked = self.braked.entry(scope.to_owned()).or_insert_with(|| Braked {
            since: taking.mark(Instant::now()),
            vanishing: BTreeSet::new(),
            of,
            living: BTreeMap::new(),
            asked: false,
        });
        (braked.vanishing, braked.of) = (vanishing.clone(), of);
        Some(Held { vanishing, of, whole: !braked.is_over(taking) })
    }

    /// The hosts, or the members of the network, that were known before what is gone now. Of those that
    /// were revoked or given up it is no surprise; nor of a network that its own record says is freed,
    /// which stands as long as any member does.
    fn those_to_stay(
        &self,
        gone: &[Path],
        view: &ClusterView,
        held: impl Iterator<Item = HostId>,
    ) -> BTreeSet<HostId> {
        let are_hosts = gone.iter().any(|path| matches!(path, Path::Host(_)));
        let hosts = view.hosts.keys().filter(|_| are_hosts);
        let key = gone.iter().find_map(|path| path.network());
        let key = key.filter(|key| !is_freed(view, key));
        let held = held.filter(|_| are_hosts || key.is_some());
        let network = key.and_then(|key| view.networks.get(key));
        let members = network.into_iter().flat_map(|network| network.members.keys());
        let is_to_go = |host: &HostId| view.revoked.contains(host) || self.given_up.contains(host);
        hosts.chain(members).copied().chain(held).filter(|host| !is_to_go(host)).collect()
    }

    /// The listings that are not believed: scope, those that vanish, and how many there were.
    pub(in crate::cluster) fn held(
        &self,
    ) -> impl Iterator<Item = (&str, &BTreeSet<HostId>, usize)> {
        self.braked.iter().map(|(scope, it)| (scope.as_str(), &it.vanishing, it.of))
    }

    /// The next listing of this scope is believed.
    pub(in crate::cluster) fn release(&mut self, scope: &str) {
        self.released.insert(scope.to_owned());
    }

    /// Whether another listing may decide about a held one: hosts had time to put their records back,
    /// and did or did not, or were revoked or given up; or the network is freed.
    ///
    /// To be asked while this cluster's store answers: otherwise whoever seems to live may not.
    pub(in crate::cluster) fn brake_is_due(
        &mut self,
        taking: &Taking,
        view: &ClusterView,
        lives: impl Fn(&HostId) -> bool,
    ) -> bool {
        let Self { braked, kept, given_up, asked, .. } = self;
        let mut is_due = false;
        for (scope, held) in braked.iter_mut() {
            // Since it was, the time may have begun anew.
            held.asked &= held.is_over(taking);
            let kept = kept.keys().filter(|path| covers(scope, &path.to_string()));
            let missing: BTreeSet<HostId> = kept.filter_map(host_of).collect();
            let here = |host: &HostId| lives(host) && missing.contains(host);
            held.living.retain(|host, _| here(host));
            for host in held.vanishing.iter().filter(|host| here(host)) {
                held.living.entry(*host).or_insert_with(|| taking.mark(Instant::now()));
            }
            let is_decided = |host: &HostId| {
                let is_to_go = view.revoked.contains(host) || given_up.contains(host);
                held.had_time(host, taking) || !missing.contains(host) || is_to_go
            };
            let network = Path::parse(scope).and_then(|path| path.network().cloned());
            // Once in any case: what else the listing lacks is believed by then.
            is_due |= !held.asked && held.is_over(taking);
            is_due |= held.vanishing.iter().any(is_decided);
            is_due |= network.is_some_and(|key| is_freed(view, &key));
        }
        if !is_due || asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        *asked = Some(Instant::now());
        let over = braked.values_mut().filter(|held| held.is_over(taking));
        over.for_each(|held| held.asked = true);
        true
    }

    /// Whether the time of anything held is not over yet, which goes on only while etcd takes changes.
    pub(in crate::cluster) fn needs_changes(&self, taking: &Taking) -> bool {
        self.braked.values().any(|held| {
            let has_time = |host: &HostId| !held.had_time(host, taking);
            !held.is_over(taking) || held.living.keys().any(has_time)
        })
    }
}

/// Whom a record keeps in the cluster, or in a network.
fn host_of(path: &Path) -> Option<HostId> {
    match path {
        Path::Host(host) | Path::Member(_, host) => Some(*host),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
