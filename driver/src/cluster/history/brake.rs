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
use crate::cluster::wanted::is_freed;

/// How long a host that lives may take to put its records back.
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
    since: Instant,
    vanishing: BTreeSet<HostId>,
    of: usize,
    /// Those of them that live, and since when that was seen.
    living: BTreeMap<HostId, Instant>,
    /// Another listing was asked for since the time was over.
    asked: bool,
}

impl Braked {
    fn had_time(&self, host: &HostId) -> bool {
        self.living.get(host).is_some_and(|since| since.elapsed() >= BRAKE)
    }
}

impl History {
    /// What is to be held of a listing that loses these paths.
    pub(in crate::cluster) fn brake(
        &mut self,
        scope: &str,
        gone: &[Path],
        view: &ClusterView,
    ) -> Option<Held> {
        let lost: BTreeSet<HostId> = gone.iter().filter_map(host_of).collect();
        let known = self.braked.get(scope);
        let is_withdrawn =
            |host: &HostId| lost.contains(host) && known.is_some_and(|held| held.had_time(host));
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
            since: Instant::now(),
            vanishing: BTreeSet::new(),
            of,
            living: BTreeMap::new(),
            asked: false,
        });
        (braked.vanishing, braked.of) = (vanishing.clone(), of);
        Some(Held { vanishing, of, whole: braked.since.elapsed() < BRAKE })
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
    /// `sees`: whether this cluster's store answers now. As long as it does not, nobody can put
    /// anything back, and whoever seems to live may not.
    pub(in crate::cluster) fn brake_is_due(
        &mut self,
        sees: bool,
        view: &ClusterView,
        lives: impl Fn(&HostId) -> bool,
    ) -> bool {
        let Self { braked, kept, given_up, asked, .. } = self;
        let mut is_due = false;
        for (scope, held) in braked.iter_mut() {
            if !sees {
                (held.since, held.asked) = (Instant::now(), false);
                held.living.clear();
                continue;
            }
            let kept = kept.keys().filter(|path| covers(scope, &path.to_string()));
            let missing: BTreeSet<HostId> = kept.filter_map(host_of).collect();
            let here = |host: &HostId| lives(host) && missing.contains(host);
            held.living.retain(|host, _| here(host));
            for host in held.vanishing.iter().filter(|host| here(host)) {
                held.living.entry(*host).or_insert_with(Instant::now);
            }
            let is_decided = |host: &HostId| {
                let is_to_go = view.revoked.contains(host) || given_up.contains(host);
                held.had_time(host) || !missing.contains(host) || is_to_go
            };
            let network = Path::parse(scope).and_then(|path| path.network().cloned());
            // Once in any case: what else the listing lacks is believed by then.
            is_due |= !held.asked && held.since.elapsed() >= BRAKE;
            is_due |= held.vanishing.iter().any(is_decided);
            is_due |= network.is_some_and(|key| is_freed(view, &key));
        }
        if !is_due || asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        *asked = Some(Instant::now());
        let over = braked.values_mut().filter(|held| held.since.elapsed() >= BRAKE);
        over.for_each(|held| held.asked = true);
        true
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

    fn nobody(_: &HostId) -> bool {
        false
    }

    fn held(numbers: &[u8], of: usize, whole: bool) -> Option<Held> {
        Some(Held { vanishing: numbers.iter().map(|number| host(*number)).collect(), of, whole })
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_without_most_hosts_is_held_until_it_is_released() {
        let (mut history, view) = (History::new(None, 0, 0), five_hosts());
        let most = without(&[2, 3, 4]);
        assert_eq!(history.brake(SCOPE, &most[1..], &view), None);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, true));
        let told = history.held().map(|(scope, them, of)| (scope, them.len(), of));
        assert_eq!(told.collect::<Vec<_>>(), [(SCOPE, 3, 5)]);
        history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due(true, &view, nobody), "what else is missing is believed now");
        for _ in 0..10 {
            assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, false));
            tokio::time::advance(BRAKE * 100).await;
            assert!(!history.brake_is_due(true, &view, nobody));
        }
        assert!(!history.is_certain());
        history.release(SCOPE);
        assert_eq!(history.brake(SCOPE, &most, &view), None);
        assert_eq!(history.held().count(), 0);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, true), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_live_and_put_nothing_back_are_believed_to_be_gone() {
        let (mut history, view) = (History::new(None, 0, 0), five_hosts());
        let most = without(&[1, 2, 3, 4]);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[1, 2, 3, 4], 5, true));
        history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
        let two_lives = |it: &HostId| *it == host(2);
        assert!(
            !history.brake_is_due(true, &view, two_lives),
            "it has time to put its record back"
        );
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due(true, &view, two_lives));
        assert!(!history.brake_is_due(true, &view, two_lives), "not at every look");
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[1, 3, 4], 4, false));

        // Another one comes up, and puts its record back.
        let these_live = |it: &HostId| [host(2), host(3)].contains(it);
        tokio::time::advance(ASK_AGAIN).await;
        assert!(!history.brake_is_due(true, &view, these_live));
        history.is_back(&Path::Host(host(3)).to_string());
        assert!(history.brake_is_due(true, &view, these_live));
        let mut view = view;
        view.hosts.remove(&host(2));
        assert_eq!(history.brake(SCOPE, &without(&[1, 4]), &view), None, "half may go");
    }

    /// A listing without most hosts that was just held.
    fn braked(view: &ClusterView) -> History {
        let mut history = History::new(None, 0, 0);
        let most = without(&[2, 3, 4]);
        assert!(history.brake(SCOPE, &most, view).is_some());
        history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
        history
    }

    #[tokio::test(start_paused = true)]
    async fn time_without_the_store_is_no_time_to_put_a_record_back() {
        let view = five_hosts();
        let (mut history, all) = (braked(&view), |_: &HostId| true);
        assert!(!history.brake_is_due(true, &view, all));
        for _ in 0..10 {
            tokio::time::advance(BRAKE).await;
            assert!(!history.brake_is_due(false, &view, all));
        }
        assert!(!history.brake_is_due(true, &view, all));
        let most = without(&[2, 3, 4]);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, true));
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due(true, &view, all));
        assert_eq!(history.brake(SCOPE, &most, &view), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_back_has_a_minute_again_when_it_is_missing_once_more() {
        let view = five_hosts();
        let (mut history, two_lives) = (braked(&view), |it: &HostId| *it == host(2));
        assert!(!history.brake_is_due(true, &view, two_lives));
        history.is_back(&Path::Host(host(2)).to_string());
        assert!(history.brake_is_due(true, &view, two_lives));
        tokio::time::advance(BRAKE * 2).await;
        let most = without(&[2, 3, 4]);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_else_was_missing_is_asked_for_again_after_the_store_was_away() {
        let view = five_hosts();
        let mut history = braked(&view);
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due(true, &view, nobody));
        assert!(!history.brake_is_due(false, &view, nobody));
        let most = without(&[2, 3, 4]);
        assert_eq!(history.brake(SCOPE, &most, &view), held(&[2, 3, 4], 5, true));
        tokio::time::advance(BRAKE).await;
        assert!(history.brake_is_due(true, &view, nobody));
    }

    #[tokio::test]
    async fn a_hold_outlives_a_listing_from_before_this_host_put_its_own_record_back() {
        let mut view = five_hosts();
        view.hosts.retain(|it, _| [host(1), host(2), host(3)].contains(it));
        let mut history = History::new(None, 0, 0);
        assert_eq!(history.brake(SCOPE, &without(&[1, 2, 3]), &view), held(&[1, 2, 3], 3, true));
        // Its own is deleted in its view, so that it knows that it is missing.
        view.hosts.remove(&host(1));
        assert_eq!(history.brake(SCOPE, &without(&[2, 3]), &view), held(&[2, 3], 3, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_when_those_it_is_about_are_revoked_or_their_network_is_freed() {
        let mut view = five_hosts();
        let mut history = braked(&view);
        assert!(!history.brake_is_due(true, &view, nobody));
        view.revoked.extend([host(2), host(3)]);
        assert!(history.brake_is_due(true, &view, nobody));
        assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view), None);
    }

    #[tokio::test]
    async fn during_the_minute_everything_is_kept_and_then_what_the_vanishing_own() {
        let of = |whole| Held { vanishing: BTreeSet::from([host(2)]), of: 3, whole };
        assert!(of(true).keeps(host(1)) && of(true).keeps(host(2)));
        assert!(!of(false).keeps(host(1)) && of(false).keeps(host(2)));
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
        let four = || held(&[2, 3, 4, 5], 5, true);
        assert_eq!(history.brake(&scope, &gone, &view), four());
        let mut is_freed = |freed| {
            let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed };
            view.networks.get_mut(&key).unwrap().record = Some(record);
            history.brake(&scope, &gone, &view)
        };
        assert_eq!(is_freed(false), four());
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
        let most = history.brake(SCOPE, &without(&[2, 3, 4, 5]), &view);
        assert_eq!(most, held(&[4, 5], 3, true));
    }
}
