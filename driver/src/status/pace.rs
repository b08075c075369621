//! When a host writes its status. Pure: time and the host's place among the others are given.
//!
//! Every host has a place from 0 to 1 (its rank by id). Time is cut into turns, and a turn into as
//! many moments as there are hosts; something new is told in the host's own moment of a turn, and
//! without news once in a much longer round, again in its own moment. So no store of a fleet of any
//! size sees 20 writes in a second, even if all hosts have news at once, or 5 without news, as long
//! as their clocks agree; if they do not, it holds on average.

use std::time::Duration;

/// Writes a second of a fleet in which everybody has news all the time.
const MOST_WITH_NEWS: u32 = 12;

/// Between two writes of a fleet without news: a little below four a second.
const APART_WITHOUT: Duration = Duration::from_millis(260);

/// Without news, up to [`FEW`] hosts.
const ROUND: Duration = Duration::from_secs(15);
const FEW: u32 = 10;

const TURN: Duration = Duration::from_secs(1);

/// A host among its fleet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    hosts: u32,
    rank: u32,
}

impl Pace {
    /// The host of this rank (from 0) among so many.
    pub(super) fn new(hosts: usize, rank: usize) -> Self {
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).clamp(1, 1_000_000);
        Self { hosts, rank: u32::try_from(rank).unwrap_or(0) % hosts }
    }

    /// Between two chances to tell something new.
    pub(super) fn turn(&self) -> Duration {
        TURN.max(Duration::from_secs(self.hosts.into()) / MOST_WITH_NEWS)
    }

    /// Between two writes without news: 15 s up to 10 hosts, then with their root, then with their
    /// number.
    pub(super) fn round(&self) -> Duration {
        let growth = f64::from(self.hosts.max(FEW)) / f64::from(FEW);
        let by_number = APART_WITHOUT * self.hosts;
        ROUND.mul_f64(growth.sqrt()).max(by_number)
    }

    /// When to write after a write at `last`, by a clock that all hosts share more or less.
    pub(super) fn after(&self, last: Duration, has_news: bool) -> Duration {
        let without = self.moment_after(last, self.round());
        if has_news { without.min(self.moment_after(last, self.turn())) } else { without }
    }

    /// This host's first moment after `last`, of one in each period.
    fn moment_after(&self, last: Duration, period: Duration) -> Duration {
        let place = period * self.rank / self.hosts;
        let since =
            last.checked_sub(place).map_or(0, |since| since.as_nanos() / period.as_nanos() + 1);
        place + period * u32::try_from(since).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Some day; the bounds must not hang on where the rounds begin.
    const DAY: Duration = Duration::from_secs(1_790_000_000);

    /// When a fleet writes from `start` on for a while, in order.
    fn writes(hosts: usize, start: Duration, lasts: Duration, has_news: bool) -> Vec<Duration> {
        let mut all = Vec::new();
        for rank in 0..hosts {
            let pace = Pace::new(hosts, rank);
            let mut at = pace.after(start, has_news);
            while at < start + lasts {
                all.push(at);
                at = pace.after(at, has_news);
            }
        }
        all.sort();
        all
    }

    fn most_in_a_second(writes: &[Duration]) -> usize {
        let count = |first: &Duration| {
            let begin = writes.partition_point(|at| at < first);
            writes.partition_point(|at| *at < *first + SECOND) - begin
        };
        writes.iter().map(count).max().unwrap_or(0)
    }

    #[test]
    fn ten_idle_hosts_write_every_15_seconds() {
        for rank in 0..10 {
            let pace = Pace::new(10, rank);
            let first = pace.after(DAY, false);
            assert!(first > DAY && first <= DAY + ROUND);
            assert_eq!(pace.after(first, false), first + ROUND);
        }
    }

    #[test]
    fn news_is_told_within_a_second_in_a_small_fleet_and_within_nine_of_a_hundred_hosts() {
        assert_eq!(Pace::new(3, 1).turn(), SECOND);
        assert!(Pace::new(100, 1).turn() < 9 * SECOND);
        let pace = Pace::new(3, 1);
        assert!(pace.after(DAY, true) <= DAY + SECOND);
    }

    #[test]
    fn the_more_hosts_the_rarer_each_writes_and_the_fleet_stays_below_5_a_second() {
        let mut before = Duration::ZERO;
        for hosts in 10..5000 {
            let round = Pace::new(hosts, 0).round();
            assert!(round > before, "{hosts} hosts");
            assert!(hosts as f64 / round.as_secs_f64() < 5.0, "{hosts} hosts");
            before = round;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_idle_fleet_never_writes_5_times_in_a_second(hosts in 1..2000usize, ms in 0..10_000_000u64) {
            let start = DAY + Duration::from_millis(ms);
            let round = Pace::new(hosts, 0).round();
            let writes = writes(hosts, start, 3 * round, false);
            prop_assert!(writes.len() >= 2 * hosts);
            prop_assert!(most_in_a_second(&writes) < 5);
        }

        #[test]
        fn a_fleet_full_of_news_never_writes_more_than_20_times_in_a_second(
            hosts in 1..2000usize,
            ms in 0..10_000_000u64,
        ) {
            let start = DAY + Duration::from_millis(ms);
            let writes = writes(hosts, start, 4 * Pace::new(hosts, 0).turn(), true);
            prop_assert!(writes.len() >= hosts);
            prop_assert!(most_in_a_second(&writes) <= 20);
        }

        #[test]
        fn a_write_always_follows_and_never_at_the_same_moment(
            (hosts, rank) in (1..5000usize, 0..10_000usize),
            last in any::<u32>(),
            has_news: bool,
        ) {
            let pace = Pace::new(hosts, rank);
            let last = Duration::from_millis(last.into());
            let next = pace.after(last, has_news);
            prop_assert!(next > last && next <= last + pace.round());
        }
    }
}
