//! The brake on listings that lose most hosts, or most members of a network: for a minute they are not
//! believed, so that those who are there can put their records back, and people can look.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use wgnet_core::ClusterView;
use wgnet_core::brake::{Held, holds};
use wgnet_proto::{HostId, Path};

use super::History;
use crate::cluster::wanted::is_freed;

/// How long a listing without most of the hosts or members is not believed.
pub(in crate::cluster) const BRAKE: Duration = Duration::from_secs(60);

/// A listing that is not believed yet.
pub(super) struct Braked {
    since: Instant,
    vanishing: BTreeSet<HostId>,
    of: usize,
    /// Another listing was asked for since it is due.
    asked: bool,
}

impl History {
    /// Whether a listing that loses these paths is to be held; after [`BRAKE`] it is believed.
    pub(in crate::cluster) fn brake(
        &mut self,
        scope: &str,
        gone: &[Path],
        view: &ClusterView,
    ) -> Option<Held> {
        let before = self.those_to_stay(gone, view);
        let lost: BTreeSet<HostId> = gone.iter().filter_map(host_of).collect();
        let released = self.released.remove(scope);
        let Some(held) = holds(&before, &(&before - &lost)).filter(|_| !released) else {
            self.braked.remove(scope);
            return None;
        };
        let braked = self.braked.entry(scope.to_owned()).or_insert_with(|| Braked {
            since: Instant::now(),
            vanishing: BTreeSet::new(),
            of: held.of,
            asked: false,
        });
        (braked.vanishing, braked.of) = (&before & &lost, held.of);
        if braked.since.elapsed() >= BRAKE {
            self.braked.remove(scope);
            return None;
        }
        Some(held)
    }

    /// The hosts, or the members of the network, that were known before what is gone now. Of those that
    /// were revoked or given up it is no surprise; nor of a network that its own record says is freed,
    /// which stands as long as any member does.
    fn those_to_stay(&self, gone: &[Path], view: &ClusterView) -> BTreeSet<HostId> {
        let are_hosts = gone.iter().any(|path| matches!(path, Path::Host(_)));
        let hosts = view.hosts.keys().filter(|_| are_hosts);
        let key = gone.iter().find_map(|path| path.network());
        let key = key.filter(|key| !is_freed(view, key));
        let network = key.and_then(|key| view.networks.get(key));
        let members = network.into_iter().flat_map(|network| network.members.keys());
        let is_to_go = |host: &HostId| view.revoked.contains(host) || self.given_up.contains(host);
        hosts.chain(members).filter(|host| !is_to_go(host)).copied().collect()
    }

    /// The listings that are not believed yet: scope, those that vanish, how many there were, and how
    /// long until it is believed.
    pub(in crate::cluster) fn held(
        &self,
    ) -> impl Iterator<Item = (&str, &BTreeSet<HostId>, usize, Duration)> {
        let left = |braked: &Braked| BRAKE.saturating_sub(braked.since.elapsed());
        let held = self.braked.iter().filter(move |(_, braked)| !left(braked).is_zero());
        held.map(move |(scope, it)| (scope.as_str(), &it.vanishing, it.of, left(it)))
    }

    /// The next listing of this scope is believed.
    pub(in crate::cluster) fn release(&mut self, scope: &str) {
        self.released.insert(scope.to_owned());
    }

    /// Whether some held listing is due to be asked for again. Once for each: of a scope that is
    /// followed no longer no listing will come.
    pub(in crate::cluster) fn brake_is_due(&mut self) -> bool {
        self.braked.retain(|_, braked| braked.since.elapsed() < BRAKE + BRAKE);
        let is_due = |braked: &&mut Braked| !braked.asked && braked.since.elapsed() >= BRAKE;
        let due = self.braked.values_mut().filter(is_due).map(|braked| braked.asked = true);
        due.count() > 0
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
mod tests {
    use std::collections::BTreeMap;

    use wgnet_proto::record::{MemberRecord, NetworkRecord};
    use wgnet_proto::{Incarnation, NetworkKey, Record};

    use super::*;
    use crate::cluster::{HostFacts, wanted};

    const SCOPE: &str = "hosts/";

    fn host(number: u8) -> HostId {
        HostId([number; 16])
    }

    fn without(numbers: &[u8]) -> Vec<Path> {
        numbers.iter().map(|number| Path::Host(host(*number))).collect()
    }

    fn five_hosts() -> ClusterView {
        let mut view = ClusterView::default();
        for me in (1..=5).map(host) {
            let facts = HostFacts {
                me,
                name: "host".to_owned(),
                version: "0".to_owned(),
                backend: "model".to_owned(),
                boot: "boot".to_owned(),
                underlay: Vec::new(),
            };
            let record = wanted::host_record(&facts, Incarnation([1; 16]));
            let Record::Host(record) = record else { panic!("{record:?}") };
            view.hosts.insert(me, record);
        }
        view
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_without_most_hosts_is_held_until_it_is_due_or_released() {
        let (mut history, view) = (History::new(None, 0, 0), five_hosts());
        let most = without(&[2, 3, 4]);
        let held = Some(Held { vanishing: 3, of: 5 });
        assert_eq!(history.brake(SCOPE, &most[1..], &view), None);
        assert_eq!(history.brake(SCOPE, &most, &view), held);
        let told = history.held().map(|(scope, them, of, left)| (scope, them.len(), of, left));
        assert_eq!(told.collect::<Vec<_>>(), [(SCOPE, 3, 5, BRAKE)]);
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due());
        assert_eq!(history.brake(SCOPE, &most, &view), None);

        assert_eq!(history.brake(SCOPE, &most, &view), held);
        history.release(SCOPE);
        assert_eq!(history.brake(SCOPE, &most, &view), None);
    }

    #[tokio::test]
    async fn the_members_of_a_network_that_is_freed_may_go_at_once_and_of_no_other() {
        let key: NetworkKey = "s-0123456789abcdefghijklmno".parse().unwrap();
        let scope = format!("networks/{key}");
        let mut history = History::new(None, 0, 0);
        let gone: Vec<Path> =
            (2..=5).map(|number| Path::Member(key.clone(), host(number))).collect();
        let mut view = ClusterView::default();
        let network = view.networks.entry(key.clone()).or_default();
        network.members.extend((1..=5).map(|number| (host(number), MemberRecord::default())));
        let held = Some(Held { vanishing: 4, of: 5 });
        assert_eq!(history.brake(&scope, &gone, &view), held);
        let mut is_freed = |freed| {
            let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed };
            view.networks.get_mut(&key).unwrap().record = Some(record);
            history.brake(&scope, &gone, &view)
        };
        assert_eq!(is_freed(false), held);
        assert_eq!(is_freed(true), None);
    }

    #[tokio::test]
    async fn hosts_that_were_revoked_or_given_up_are_not_held() {
        let (mut history, mut view) = (History::new(None, 0, 0), five_hosts());
        view.revoked.insert(host(2));
        assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view), None);
        history.hold([(Path::Host(host(3)), host(3))].into_iter());
        assert!(history.give_up(host(3)));
        assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view), None);
        let held = Some(Held { vanishing: 2, of: 3 });
        assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4, 5]), &view), held);
    }
}
