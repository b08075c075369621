//! Endpoints that Docker will never delete: a dockerd that was killed says neither Leave nor
//! DeleteEndpoint for what it had before.
//!
//! A container lives as long as its network namespace does, and with the namespace dies its end of
//! the veth pair, which takes ours along. A dockerd that ends the container puts that end back into
//! the host first, and tells nobody when the plugin is off or was removed. So an endpoint is given up
//! only when both are gone: the pair's end is in no container, and there is no namespace where Join
//! said. What dockerd does meanwhile, or whether it does anything at all, is no evidence.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::EndpointId;

use crate::Seen;

/// Seconds until an endpoint whose container is gone is given up.
pub const GONE_FOR: u64 = 20;

/// The same for an endpoint that nobody has joined yet, or that was left: dockerd joins what it creates
/// and deletes what it leaves in one go.
pub const UNJOINED_FOR: u64 = 40;

/// The same for an endpoint that was joined and seen in no container: Docker may be about to start one.
pub const IDLE_FOR: u64 = 600;

/// How often it is looked while any endpoint has no container.
pub const LOOK_EVERY: u64 = 10;

/// What happened in a longer pause between two looks is unknown (this process was frozen, and
/// dockerd with it): all begins anew.
pub const LONGEST_PAUSE: u64 = 30;

/// What one look showed of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub end: End,
    /// Whether there is a namespace where Join said; `None` if no container has joined.
    pub sandbox: Option<Seen<()>>,
}

/// Where the container's end of the veth pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    InContainer,
    /// Waiting for Docker to take it.
    InHost,
    /// There is no pair.
    Nowhere,
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
    /// Nobody joined it, or it was left.
    Unjoined,
    /// No container has it.
    Idle,
}

impl Lack {
    fn of(sighting: &Sighting, was_in_container: bool) -> Option<Self> {
        match (sighting.end, &sighting.sandbox) {
            (End::InHost, Some(Seen::Present(()))) if was_in_container => Some(Self::Ending),
            (End::InContainer, _) | (_, Some(Seen::Present(()) | Seen::Unknown)) => None,
            (End::Nowhere, Some(Seen::Absent)) => Some(Self::Gone),
            (End::InHost, Some(Seen::Absent)) if was_in_container => Some(Self::PutBack),
            // Docker makes the container's namespace after Join.
            (End::InHost, Some(Seen::Absent)) => Some(Self::Idle),
            (_, None) => Some(Self::Unjoined),
        }
    }

    fn lasts(self) -> u64 {
        match self {
            Self::Gone | Self::PutBack | Self::Ending => GONE_FOR,
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
    fed: u64,
}

impl Orphans {
    /// Takes in a look at all of a network's endpoints, `now` in seconds of a clock that only goes
    /// forward. Returns those to be given up; they are returned again after as long if they stay.
    pub fn feed(
        &mut self,
        now: u64,
        seen: &BTreeMap<EndpointId, Sighting>,
    ) -> BTreeSet<EndpointId> {
        if now.saturating_sub(self.fed) > LONGEST_PAUSE {
            self.since.clear();
        }
        self.fed = now;
        let before = std::mem::take(&mut self.since);
        self.taken.retain(|endpoint| seen.contains_key(endpoint));
        let mut over = BTreeSet::new();
        for (endpoint, sighting) in seen {
            if sighting.end == End::InContainer {
                self.taken.insert(endpoint.clone());
            } else if sighting.sandbox.is_none() {
                // After Leave; another Join would be of another container.
                self.taken.remove(endpoint);
            }
            let Some(lack) = Lack::of(sighting, self.taken.contains(endpoint)) else {
                continue;
            };
            let known = before.get(endpoint).filter(|(known, _)| *known == lack);
            let mut since = known.map_or(now, |(_, since)| *since);
            if now.saturating_sub(since) >= lack.lasts() {
                if lack != Lack::Ending {
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
        let over = self.since.values().map(|(lack, since)| since + lack.lasts()).min();
        over.map(|over| over.min(self.fed + LOOK_EVERY))
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

    const THERE: Option<Seen<()>> = Some(Seen::Present(()));
    const GONE: Option<Seen<()>> = Some(Seen::Absent);

    const LOOK: usize = LOOK_EVERY as usize;

    fn id() -> EndpointId {
        "ab".repeat(32).parse().unwrap()
    }

    fn look(end: End, sandbox: Option<Seen<()>>) -> BTreeMap<EndpointId, Sighting> {
        [(id(), Sighting { end, sandbox })].into()
    }

    fn given_up(orphans: &mut Orphans, now: u64, end: End, sandbox: Option<Seen<()>>) -> bool {
        !orphans.feed(now, &look(end, sandbox)).is_empty()
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
        given_up(&mut orphans, 0, End::InContainer, None);
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
        given_up(&mut orphans, 0, End::InContainer, None);
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
        let end = prop_oneof![Just(End::InContainer), Just(End::InHost), Just(End::Nowhere)];
        let sandbox = prop_oneof![
            Just(None),
            Just(Some(Seen::Present(()))),
            Just(Some(Seen::Absent)),
            Just(Some(Seen::Unknown))
        ];
        (end, sandbox).prop_map(|(end, sandbox)| Sighting { end, sandbox })
    }

    proptest! {
        #[test]
        fn nothing_is_given_up_that_was_seen_alive_within_the_time(
            looks in proptest::collection::vec((0u64..40, sighting()), 1..60),
        ) {
            let mut orphans = Orphans::default();
            let (mut now, mut alive_at) = (0, 0);
            for (pause, sighting) in looks {
                now += pause;
                let lives = sighting.end == End::InContainer
                    || matches!(sighting.sandbox, Some(Seen::Present(()) | Seen::Unknown));
                if lives {
                    alive_at = now;
                }
                let over = orphans.feed(now, &[(id(), sighting)].into());
                prop_assert!(over.is_empty() || now - alive_at >= GONE_FOR);
                prop_assert!(orphans.due().is_none_or(|due| due > now));
            }
        }
    }
}
