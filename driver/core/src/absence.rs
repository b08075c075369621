//! How long this host itself has seen each other host absent: the clock of everything that is
//! removed because its owner is gone.
//!
//! Only time counts in which this host could have seen the other: between two looks at a store that
//! answered, and never more than [`LONGEST_STEP`] at once. Any sign of life sets it back to nothing.

use std::collections::BTreeMap;

use wgnet_proto::HostId;

/// Seconds between two looks that count at most: this process may have been frozen.
pub const LONGEST_STEP: u64 = 60;

/// What one look showed of another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub alive: bool,
    /// The revision of its own record: a change is a sign of life.
    pub mark: i64,
}

#[derive(Debug, Clone, Default)]
pub struct Absences {
    hosts: BTreeMap<HostId, Absence>,
    fed: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Absence {
    seconds: u64,
    mark: i64,
}

impl Absences {
    /// Takes in a look at all other hosts, `now` in seconds of a clock that only goes forward.
    pub fn feed(&mut self, now: u64, seen: &BTreeMap<HostId, Presence>) {
        let step = self.fed.map_or(0, |fed| now.saturating_sub(fed).min(LONGEST_STEP));
        self.fed = Some(now);
        let before = std::mem::take(&mut self.hosts);
        for (host, presence) in seen.iter().filter(|(_, presence)| !presence.alive) {
            let known = before.get(host).filter(|known| known.mark == presence.mark);
            let seconds = known.map_or(0, |known| known.seconds.saturating_add(step));
            self.hosts.insert(*host, Absence { seconds, mark: presence.mark });
        }
    }

    /// The store cannot be read: time does not count until the next look.
    pub fn blind(&mut self) {
        self.fed = None;
    }

    /// Everything begins anew: another history of the store.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Seconds for which a host was seen absent; `None` while it is there, or unknown.
    pub fn of(&self, host: HostId) -> Option<u64> {
        self.hosts.get(&host).map(|absence| absence.seconds)
    }
}

/// How long after the grace the host of this rank waits before it removes anything, in seconds: the
/// first one does it, the others only if it did not.
pub fn turn(rank: usize, grace: u64) -> u64 {
    let step = (grace / 20).clamp(2, 60);
    step.saturating_mul(rank as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([7; 16]);

    fn look(alive: bool, mark: i64) -> BTreeMap<HostId, Presence> {
        [(HOST, Presence { alive, mark })].into()
    }

    fn fed(looks: &[(u64, bool, i64)]) -> Option<u64> {
        let mut absences = Absences::default();
        looks.iter().for_each(|(now, alive, mark)| absences.feed(*now, &look(*alive, *mark)));
        absences.of(HOST)
    }

    #[test]
    fn only_what_was_seen_counts() {
        assert_eq!(fed(&[(100, false, 1)]), Some(0));
        assert_eq!(fed(&[(100, false, 1), (105, false, 1), (112, false, 1)]), Some(12));
        assert_eq!(fed(&[(100, true, 1), (105, true, 1)]), None);
    }

    #[test]
    fn a_sign_of_life_sets_it_back() {
        assert_eq!(fed(&[(0, false, 1), (9, false, 1), (12, true, 1), (15, false, 1)]), Some(0));
        assert_eq!(fed(&[(0, false, 1), (9, false, 1), (12, false, 2)]), Some(0));
    }

    #[test]
    fn a_long_pause_counts_as_little() {
        assert_eq!(fed(&[(0, false, 1), (1_000_000, false, 1)]), Some(LONGEST_STEP));
    }

    #[test]
    fn time_without_a_store_does_not_count() {
        let mut absences = Absences::default();
        absences.feed(0, &look(false, 1));
        absences.feed(10, &look(false, 1));
        absences.blind();
        absences.feed(50, &look(false, 1));
        absences.feed(55, &look(false, 1));
        assert_eq!(absences.of(HOST), Some(15));
    }

    #[test]
    fn each_host_has_its_own_turn() {
        assert_eq!(turn(0, 604_800), 0);
        assert_eq!((turn(1, 604_800), turn(2, 604_800)), (60, 120));
        assert_eq!(turn(1, 5), 2);
    }
}
