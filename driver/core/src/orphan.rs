//! Endpoints that Docker will never delete: a dockerd that was killed says neither Leave nor
//! DeleteEndpoint for what it had before.
//!
//! A container lives as long as its network namespace does, and with the namespace dies its end of
//! the veth pair, which takes ours along. A dockerd that ends the container puts that end back into
//! the host first, and tells nobody when the plugin is off or was removed. So an endpoint is given up
//! when both are gone: the pair's end is in no container, and there is no namespace where Join said.
//!
//! What dockerd does meanwhile, or whether it does anything at all, is no evidence; that the dockerd
//! with which an endpoint began is no more is some: no other one goes on with a start that it began.
//!
//! One namespace outlives its container. A dockerd that is killed before it noted that a container
//! runs leaves the container's process (moby's `daemon/start.go`); the next one does not stop what is
//! not noted as running (`daemon/stop.go`), takes the name of its namespace away
//! (`libnetwork/sandbox_store.go`), and knows it no more. So an endpoint is given up, too, when its end
//! is in a namespace that has lost the name that Join said.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::EndpointId;

use crate::Seen;

/// Seconds until an endpoint whose container is gone is given up.
pub const GONE_FOR: u64 = 20;

/// The same for an endpoint that nobody has joined yet, or that was left: dockerd joins what it creates
/// and deletes what it leaves in one go.
pub const UNJOINED_FOR: u64 = 40;

/// The same for an endpoint that was joined and seen in no container: its dockerd may be about to start one.
pub const IDLE_FOR: u64 = 600;

/// How often it is looked while any endpoint has no container, and soon after dockerds changed.
pub const LOOK_EVERY: u64 = 10;

/// A dockerd that starts has done away with what another one left after so long.
pub const SETTLED_AFTER: u64 = 60;

/// What happened in a longer pause between two looks is unknown (this process was frozen, and
/// dockerd with it): all begins anew.
pub const LONGEST_PAUSE: u64 = 30;

/// The dockerds of this host, by names of which each start of one has another.
pub type Engines = BTreeSet<String>;

/// What one look showed of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub end: End,
    /// What there is where Join said; `None` if no container has joined.
    pub sandbox: Option<Sandbox>,
}

/// Where the container's end of the veth pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Of the container that joined: `Absent` if it is in another namespace than Docker named.
    InContainer(Seen<()>),
    /// Waiting for Docker to take it.
    InHost,
    /// There is no pair.
    Nowhere,
}

/// What there is under the name that Join gave the namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// A namespace.
    There,
    /// A file, or nothing where there are no such files: a namespace may be mounted where only dockerd
    /// sees it.
    Hidden,
    /// Not even a file where there are such files: dockerd has none there, or took it away (until
    /// moby 28, up to a minute after it was of no use any more).
    Missing,
    Unknown,
}

/// Why an endpoint may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// It had a container, which is gone.
    Gone,
    /// The same, and its end of the pair was put back before.
    PutBack,
    /// Its end was put back, its namespace is still there: nothing to be given up, but to be looked at
    /// again, for nobody tells of a namespace's end.
    Ending,
    /// It was joined just now, and in which container it is was not looked at yet: the same.
    Young,
    /// No container has it, and the dockerd that might give it to one is no more.
    Forsaken,
    /// What has it is no container of Docker's any more: its namespace has lost its name.
    Stray,
    /// Nobody joined it, or it was left.
    Unjoined,
    /// No container has it.
    Idle,
}

/// What earlier looks showed of an endpoint.
struct Past {
    was_in_container: bool,
    is_forsaken: bool,
    /// Whether its namespace was seen under its name.
    had_name: bool,
}

impl Lack {
    fn of(sighting: &Sighting, past: &Past) -> Option<Self> {
        let Some(sandbox) = sighting.sandbox else {
            return match sighting.end {
                End::InContainer(_) => None,
                _ if past.is_forsaken => Some(Self::Forsaken),
                _ => Some(Self::Unjoined),
            };
        };
        let is_lost = match sandbox {
            Sandbox::There | Sandbox::Unknown => false,
            Sandbox::Hidden => past.is_forsaken && past.had_name,
            Sandbox::Missing => true,
        };
        match (&sighting.end, sandbox) {
            (End::InContainer(Seen::Absent), _) if is_lost => Some(Self::Stray),
            (End::InContainer(Seen::Unknown), _) => Some(Self::Young),
            (End::InHost, Sandbox::There) if past.was_in_container => Some(Self::Ending),
            (End::InContainer(_), _) | (_, Sandbox::There | Sandbox::Unknown) => None,
            (End::Nowhere, _) => Some(Self::Gone),
            (End::InHost, _) if past.was_in_container => Some(Self::PutBack),
            (End::InHost, _) if past.is_forsaken => Some(Self::Forsaken),
            // Docker may be about to make the container's namespace.
            (End::InHost, _) => Some(Self::Idle),
        }
    }

    fn lasts(self) -> u64 {
        match self {
            Self::Gone
            | Self::PutBack
            | Self::Ending
            | Self::Young
            | Self::Forsaken
            | Self::Stray => GONE_FOR,
            Self::Unjoined => UNJOINED_FOR,
            Self::Idle => IDLE_FOR,
        }
    }
}

/// Since when each endpoint has had no container.
#[derive(Debug, Clone, Default)]
pub struct Orphans {
    since: BTreeMap<EndpointId, (Lack, u64)>,
    /// Endpoints that were seen in a container since Join.
    taken: BTreeSet<EndpointId>,
    /// Endpoints the namespace of whose container was seen under its name since Join.
    named: BTreeSet<EndpointId>,
    begun: Begun,
    fed: u64,
}

/// Which dockerds there were when each endpoint was first seen.
#[derive(Debug, Clone, Default)]
struct Begun {
    with: BTreeMap<EndpointId, Engines>,
    /// Those of which all are gone.
    forsaken: BTreeSet<EndpointId>,
    /// Whether any dockerd was ever seen: there may be some that cannot be.
    are_seen: bool,
    /// Those of the last look, and since when it is the same ones.
    engines: Engines,
    since: u64,
}

impl Begun {
    /// `engines` is `None` where it is not known which there are.
    fn feed(&mut self, now: u64, engines: Option<&Engines>, seen: &BTreeMap<EndpointId, Sighting>) {
        self.with.retain(|endpoint, _| seen.contains_key(endpoint));
        self.forsaken.retain(|endpoint| seen.contains_key(endpoint));
        let Some(engines) = engines else {
            return;
        };
        self.are_seen |= !engines.is_empty();
        if !self.are_seen {
            return;
        }
        if self.engines != *engines {
            (self.engines, self.since) = (engines.clone(), now);
        }
        for endpoint in seen.keys() {
            // First seen while there is none, it began with one that is gone: none begins before it is seen.
            let with = self.with.entry(endpoint.clone()).or_insert_with(|| engines.clone());
            if with.is_disjoint(engines) {
                self.forsaken.insert(endpoint.clone());
            } else {
                self.forsaken.remove(endpoint);
            }
        }
    }

    /// Whether a dockerd was away just now, or is. Nobody tells of what the next one forgets.
    fn is_unsettled(&self, now: u64) -> bool {
        self.are_seen
            && !self.with.is_empty()
            && (self.engines.is_empty() || now.saturating_sub(self.since) < SETTLED_AFTER)
    }
}

impl Orphans {
    /// Takes in a look at all of a network's endpoints, `now` in seconds of a clock that only goes
    /// forward, and the dockerds of this host, where they are known. Returns those to be given up;
    /// they are returned again after as long if they stay.
    pub fn feed(
        &mut self,
        now: u64,
        engines: Option<&Engines>,
        seen: &BTreeMap<EndpointId, Sighting>,
    ) -> BTreeSet<EndpointId> {
        if now.saturating_sub(self.fed) > LONGEST_PAUSE {
            self.since.clear();
        }
        self.fed = now;
        let before = std::mem::take(&mut self.since);
        self.taken.retain(|endpoint| seen.contains_key(endpoint));
        self.begun.feed(now, engines, seen);
        self.named.retain(|endpoint| seen.contains_key(endpoint));
        let mut over = BTreeSet::new();
        for (endpoint, sighting) in seen {
            if matches!(sighting.end, End::InContainer(_)) {
                self.taken.insert(endpoint.clone());
            } else if sighting.sandbox.is_none() {
                // After Leave; another Join would be of another container.
                self.taken.remove(endpoint);
                self.named.remove(endpoint);
            }
            if sighting.end == End::InContainer(Seen::Present(()))
                || sighting.sandbox == Some(Sandbox::There)
            {
                self.named.insert(endpoint.clone());
            }
            let past = Past {
                was_in_container: self.taken.contains(endpoint),
                is_forsaken: self.begun.forsaken.contains(endpoint),
                had_name: self.named.contains(endpoint),
            };
            let Some(lack) = Lack::of(sighting, &past) else {
                continue;
            };
            let known = before.get(endpoint).filter(|(known, _)| *known == lack);
            let mut since = known.map_or(now, |(_, since)| *since);
            if now.saturating_sub(since) >= lack.lasts() {
                if !matches!(lack, Lack::Ending | Lack::Young) {
                    over.insert(endpoint.clone());
                }
                since = now;
            }
            self.since.insert(endpoint.clone(), (lack, since));
        }
        over
    }

    /// When the next endpoint is to be given up, or looked at again, if nothing changes.
    pub fn due(&self) -> Option<u64> {
        let soon = self.fed + LOOK_EVERY;
        let over = self.since.values().map(|(lack, since)| since + lack.lasts()).min();
        let over = over.map(|over| over.min(soon));
        over.or_else(|| self.begun.is_unsettled(self.fed).then_some(soon))
    }

    /// Whether the endpoint's container was gone at the last look: there is nothing to repair.
    pub fn is_gone(&self, endpoint: &EndpointId) -> bool {
        matches!(self.since.get(endpoint), Some((Lack::Gone, _)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THERE: Option<Sandbox> = Some(Sandbox::There);
    const UNKNOWN: Option<Sandbox> = Some(Sandbox::Unknown);
    const HIDDEN: Option<Sandbox> = Some(Sandbox::Hidden);
    const GONE: Option<Sandbox> = Some(Sandbox::Missing);

    /// In the container that joined, or not in it.
    const THIS: Seen<()> = Seen::Present(());
    const OTHER: Seen<()> = Seen::Absent;

    const LOOK: usize = LOOK_EVERY as usize;

    fn id() -> EndpointId {
        "ab".repeat(32).parse().unwrap()
    }

    fn look(end: End, sandbox: Option<Sandbox>) -> BTreeMap<EndpointId, Sighting> {
        [(id(), Sighting { end, sandbox })].into()
    }

    fn given_up(orphans: &mut Orphans, now: u64, end: End, sandbox: Option<Sandbox>) -> bool {
        !orphans.feed(now, None, &look(end, sandbox)).is_empty()
    }

    fn engines(names: &[&str]) -> Engines {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether an endpoint that waits for its container is given up.
    fn waits_in_vain(orphans: &mut Orphans, now: u64, there: &[&str]) -> bool {
        !orphans.feed(now, Some(&engines(there)), &look(End::InHost, GONE)).is_empty()
    }

    #[test]
    fn an_endpoint_without_its_container_is_given_up_after_its_time() {
        let mut orphans = Orphans::default();
        assert!(!given_up(&mut orphans, 5, End::Nowhere, GONE));
        assert!(orphans.is_gone(&id()));
        assert_eq!(orphans.due(), Some(5 + LOOK_EVERY));
        assert!(!given_up(&mut orphans, 4 + GONE_FOR, End::Nowhere, GONE));
        assert_eq!(orphans.due(), Some(5 + GONE_FOR));
        assert!(given_up(&mut orphans, 5 + GONE_FOR, End::Nowhere, GONE));
        assert!(!given_up(&mut orphans, 6 + GONE_FOR, End::Nowhere, GONE), "not at every look");
    }

    #[test]
    fn a_container_that_is_back_begins_anew() {
        let mut orphans = Orphans::default();
        given_up(&mut orphans, 0, End::Nowhere, GONE);
        given_up(&mut orphans, 10, End::Nowhere, THERE);
        assert!(!orphans.is_gone(&id()));
        given_up(&mut orphans, 15, End::Nowhere, GONE);
        assert!(!given_up(&mut orphans, GONE_FOR, End::Nowhere, GONE));
    }

    #[test]
    fn an_endpoint_that_docker_still_builds_a_container_for_has_long() {
        let mut orphans = Orphans::default();
        for now in (0..IDLE_FOR).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InHost, GONE), "{now}");
        }
        assert!(given_up(&mut orphans, IDLE_FOR, End::InHost, GONE));
    }

    #[test]
    fn an_end_that_docker_put_back_when_the_container_ended_waits_for_no_other() {
        let mut orphans = Orphans::default();
        given_up(&mut orphans, 0, End::InContainer(THIS), None);
        assert!(!given_up(&mut orphans, 2, End::InHost, THERE));
        assert_eq!(orphans.due(), Some(2 + LOOK_EVERY), "nobody tells when it has ended");
        assert!(!given_up(&mut orphans, 2 + GONE_FOR, End::InHost, THERE), "it still ends");
        assert!(!given_up(&mut orphans, 30, End::InHost, GONE));
        assert!(!orphans.is_gone(&id()), "its pair is not touched for one look");
        assert!(!given_up(&mut orphans, 29 + GONE_FOR, End::InHost, GONE));
        assert!(given_up(&mut orphans, 30 + GONE_FOR, End::InHost, GONE));
    }

    #[test]
    fn an_endpoint_that_was_left_and_joined_anew_is_as_one_that_no_container_had() {
        let mut orphans = Orphans::default();
        given_up(&mut orphans, 0, End::InContainer(THIS), None);
        given_up(&mut orphans, 1, End::InHost, None);
        for now in (1..IDLE_FOR).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InHost, GONE), "{now}");
        }
    }

    #[test]
    fn an_endpoint_nobody_joins_is_given_up_before_long() {
        let mut orphans = Orphans::default();
        for now in (0..UNJOINED_FOR).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InHost, None), "{now}");
        }
        assert!(given_up(&mut orphans, UNJOINED_FOR, End::InHost, None));
    }

    #[test]
    fn an_endpoint_whose_dockerd_is_no_more_waits_for_no_container() {
        for there in [&["new"][..], &[]] {
            let mut orphans = Orphans::default();
            assert!(!waits_in_vain(&mut orphans, 0, &["old"]));
            assert!(!waits_in_vain(&mut orphans, 10, there));
            assert!(!waits_in_vain(&mut orphans, 9 + GONE_FOR, there));
            assert!(waits_in_vain(&mut orphans, 10 + GONE_FOR, there), "{there:?}");
        }
    }

    #[test]
    fn an_endpoint_waits_as_long_as_any_dockerd_is_there_that_it_may_have_begun_with() {
        let mut orphans = Orphans::default();
        waits_in_vain(&mut orphans, 0, &["one", "other"]);
        for now in (LOOK_EVERY..IDLE_FOR).step_by(LOOK) {
            assert!(!waits_in_vain(&mut orphans, now, &["other", "new"]), "{now}");
        }
    }

    #[test]
    fn an_endpoint_that_is_first_seen_without_any_dockerd_began_with_one_that_is_gone() {
        let mut orphans = Orphans::default();
        orphans.feed(0, Some(&engines(&["old"])), &BTreeMap::new());
        assert!(!waits_in_vain(&mut orphans, 5, &[]));
        assert!(!waits_in_vain(&mut orphans, 15, &["new"]));
        assert!(waits_in_vain(&mut orphans, 5 + GONE_FOR, &["new"]));
    }

    #[test]
    fn where_no_dockerd_was_ever_seen_there_may_be_one_all_the_same() {
        let mut orphans = Orphans::default();
        for now in (0..IDLE_FOR).step_by(LOOK) {
            assert!(!waits_in_vain(&mut orphans, now, &[]), "{now}");
        }
    }

    #[test]
    fn what_is_unknown_of_dockerds_changes_nothing() {
        let mut orphans = Orphans::default();
        waits_in_vain(&mut orphans, 0, &["old"]);
        for now in (LOOK_EVERY..100).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InHost, GONE), "{now}");
        }
        waits_in_vain(&mut orphans, 100, &["new"]);
        given_up(&mut orphans, 110, End::InHost, GONE);
        assert!(given_up(&mut orphans, 100 + GONE_FOR, End::InHost, GONE));
    }

    #[test]
    fn a_container_outlives_the_dockerd_that_made_it() {
        let mut orphans = Orphans::default();
        for (now, there) in [(0, "old"), (10, "new"), (20, "new"), (30, "new"), (40, "new")] {
            for sighting in [look(End::InContainer(THIS), None), look(End::InHost, THERE)] {
                let over = orphans.feed(now, Some(&engines(&[there])), &sighting);
                assert!(over.is_empty(), "{now}");
            }
        }
    }

    /// Whether an endpoint is given up that some namespace has, other than Docker named, looked at for as
    /// long as it takes.
    fn strays(orphans: &mut Orphans, there: &str, sandbox: Option<Sandbox>) -> bool {
        let from = orphans.fed;
        let seen = look(End::InContainer(OTHER), sandbox);
        let mut looks = (from..=from + GONE_FOR + LOOK_EVERY).step_by(LOOK);
        looks.any(|now| !orphans.feed(now, Some(&engines(&[there])), &seen).is_empty())
    }

    fn begun(end: End, sandbox: Option<Sandbox>) -> Orphans {
        let mut orphans = Orphans::default();
        orphans.feed(0, Some(&engines(&["old"])), &look(end, sandbox));
        orphans
    }

    #[test]
    fn an_endpoint_in_a_namespace_that_lost_its_name_is_given_up() {
        assert!(strays(&mut Orphans::default(), "new", GONE), "whatever was seen before");
        assert!(strays(&mut begun(End::InContainer(Seen::Unknown), THERE), "old", GONE));
    }

    #[test]
    fn a_name_that_may_only_be_hidden_is_lost_if_it_was_seen_and_its_dockerd_is_gone() {
        for first in [(End::InContainer(Seen::Unknown), THERE), (End::InContainer(THIS), None)] {
            let begun = || begun(first.0.clone(), first.1);
            assert!(strays(&mut begun(), "new", HIDDEN));
            assert!(!strays(&mut begun(), "old", HIDDEN), "its dockerd is there");
            assert!(!strays(&mut begun(), "new", THERE), "the container moved it on");
        }
        let mut orphans = begun(End::InContainer(OTHER), HIDDEN);
        assert!(!strays(&mut orphans, "new", HIDDEN), "its name could never be seen");
    }

    #[test]
    fn a_dockerd_that_was_only_overlooked_is_there() {
        let mut orphans = begun(End::InContainer(THIS), None);
        orphans.feed(5, Some(&engines(&["other"])), &look(End::InContainer(THIS), None));
        assert!(!strays(&mut orphans, "old", HIDDEN));
    }

    #[test]
    fn it_is_looked_more_often_while_a_dockerd_is_away_and_soon_after() {
        let mut orphans = Orphans::default();
        let in_container = look(End::InContainer(THIS), None);
        let mut due = |now, there: &[&str]| {
            orphans.feed(now, Some(&engines(there)), &in_container);
            orphans.due()
        };
        assert_eq!(due(0, &["old"]), Some(LOOK_EVERY));
        assert_eq!(due(SETTLED_AFTER, &["old"]), None);
        assert_eq!(due(SETTLED_AFTER + 60, &[]), Some(SETTLED_AFTER + 60 + LOOK_EVERY));
        assert_eq!(due(600, &[]), Some(600 + LOOK_EVERY));
        assert_eq!(due(610, &["new"]), Some(610 + LOOK_EVERY));
        assert_eq!(due(610 + SETTLED_AFTER, &["new"]), None);
    }

    #[test]
    fn what_was_joined_just_now_is_looked_at_again() {
        let mut orphans = Orphans::default();
        for now in (0..100).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InContainer(Seen::Unknown), THERE));
            assert_eq!(orphans.due(), Some(now + LOOK_EVERY));
        }
        given_up(&mut orphans, 100, End::InContainer(THIS), None);
        assert_eq!(orphans.due(), None);
    }

    #[test]
    fn after_a_pause_that_nobody_saw_everything_begins_anew() {
        let mut orphans = Orphans::default();
        let thawed = LONGEST_PAUSE + 1 + UNJOINED_FOR;
        given_up(&mut orphans, 0, End::InHost, None);
        for now in (thawed..thawed + UNJOINED_FOR).step_by(LOOK) {
            assert!(!given_up(&mut orphans, now, End::InHost, None), "{now}");
        }
        assert!(given_up(&mut orphans, thawed + UNJOINED_FOR, End::InHost, None));
    }

    fn sighting() -> impl Strategy<Value = Sighting> {
        let container =
            prop_oneof![Just(THIS), Just(Seen::Unknown), Just(OTHER)].prop_map(End::InContainer);
        let end = prop_oneof![container, Just(End::InHost), Just(End::Nowhere)];
        let sandbox = prop_oneof![Just(None), Just(THERE), Just(HIDDEN), Just(GONE), Just(UNKNOWN)];
        (end, sandbox).prop_map(|(end, sandbox)| Sighting { end, sandbox })
    }

    fn dockerds() -> impl Strategy<Value = Option<Engines>> {
        let any = proptest::sample::select(vec!["one", "other", "third"]);
        let some = proptest::collection::btree_set(any.prop_map(str::to_owned), 0..3);
        proptest::option::of(some)
    }

    proptest! {
        #[test]
        fn nothing_is_given_up_that_was_seen_alive_within_the_time(
            looks in proptest::collection::vec((0u64..40, sighting(), dockerds()), 1..60),
        ) {
            let mut orphans = Orphans::default();
            let (mut now, mut alive_at) = (0, 0);
            for (pause, sighting, engines) in looks {
                now += pause;
                let is_named = matches!(sighting.sandbox, THERE | UNKNOWN);
                let lives = match sighting.end {
                    End::InContainer(Seen::Absent) => is_named || sighting.sandbox.is_none(),
                    End::InContainer(_) => true,
                    End::InHost | End::Nowhere => is_named,
                };
                if lives {
                    alive_at = now;
                }
                let over = orphans.feed(now, engines.as_ref(), &[(id(), sighting)].into());
                prop_assert!(over.is_empty() || now - alive_at >= GONE_FOR);
                prop_assert!(orphans.due().is_none_or(|due| due > now));
            }
        }
    }
}
