//! For how long etcd was seen taking changes, and when this host tries whether it does. Pure: what is
//! seen, and when, is given.
//!
//! An etcd that answers readings may take no changes all the same (its quota is used up, its disk is
//! full or slow), and then nobody can put anything back. So time counts from one change that it was
//! seen to take to the next, a little later. A put of anybody's is one; a deletion is none, since a
//! full etcd takes those, too, and neither is a lease that runs out.

use std::time::Duration;

use tokio::time::Instant;
use wgnet_control_plane::follower::Followed;
use wgnet_control_plane::store::{CALL_DEADLINE, Change, Revision};

/// Between two tries of one host ...
const TRY_EVERY: Duration = Duration::from_secs(10);
/// ... as long as all hosts together do not write more than this a second.
const MOST_WRITES: u32 = 20;
/// What a try writes: a lease, and its end.
const WRITES: u32 = 2;

/// As much counts from one change to the next, however much later that was. So a minute is seen at five
/// moments at least.
const LONGEST_PIECE: Duration = Duration::from_secs(15);

/// A host among those that try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    fn every(self) -> Duration {
        TRY_EVERY.max(Duration::from_secs((WRITES * self.hosts).into()) / MOST_WRITES)
    }

    /// Each host has moments of its own, so that not all write at once.
    fn place(self) -> Duration {
        self.every() * self.rank / self.hosts
    }

    /// Changes further apart say nothing of the time between them. Tries that are answered are not.
    fn longest_gap(self) -> Duration {
        self.every() * 3 / 2 + CALL_DEADLINE
    }
}

/// A moment, by what was counted then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(Duration);

#[derive(Debug, Default)]
pub(super) struct Taking {
    /// A clock that stands still while no change is seen.
    counted: Duration,
    /// What it showed when the present time without a break began.
    begun: Duration,
    /// The last change that was seen to be taken.
    seen: Option<Instant>,
    /// What it was told of has been changed up to here.
    revision: Revision,
    /// Since when somebody needs to know, and this host's pace; nothing is counted otherwise.
    needed: Option<(Instant, Pace)>,
    tried: Option<Instant>,
}

impl Taking {
    pub(super) fn mark(&self, now: Instant) -> Mark {
        let piece = self.seen.map_or(Duration::ZERO, |seen| piece(seen, now));
        Mark(self.counted + piece)
    }

    /// How long changes were taken since then, without a break up to the last one.
    pub(super) fn since(&self, mark: Mark) -> Duration {
        self.counted.saturating_sub(mark.0.max(self.begun))
    }

    /// Somebody needs to know how long changes are taken.
    pub(super) fn need(&mut self, now: Instant, pace: Pace) {
        let since = self.needed.map_or(now, |(since, _)| since);
        self.needed = Some((since, pace));
    }

    /// Nobody needs to know any more. That is no break: what was counted stands.
    pub(super) fn rest(&mut self) {
        (self.needed, self.seen) = (None, None);
    }

    /// Changes are not taken, as far as can be told: all begins anew.
    pub(super) fn refused(&mut self) {
        // No mark is later than this.
        self.counted += LONGEST_PIECE;
        (self.begun, self.seen) = (self.counted, None);
    }

    /// A change was taken.
    pub(super) fn taken(&mut self, at: Instant) {
        let Some((_, pace)) = self.needed else {
            return;
        };
        match self.seen {
            Some(seen) if at.saturating_duration_since(seen) <= pace.longest_gap() => {
                self.counted += piece(seen, at);
            }
            Some(_) => self.refused(),
            None => {}
        }
        self.seen = self.seen.max(Some(at));
    }

    /// Takes in what the follower tells. What was changed while nobody watched may be told late: only
    /// what is newer than all that was told before has just been taken.
    pub(super) fn followed(&mut self, event: &Followed, now: Instant) {
        match event {
            Followed::Connected | Followed::Disconnected { .. } => {}
            Followed::History { revision, .. } => {
                self.refused();
                self.revision = *revision;
            }
            Followed::Listed { revision, .. } => self.revision = self.revision.max(*revision),
            Followed::Changed { revision, changes, .. } => {
                let is_new = |change: &Change| {
                    matches!(change, Change::Put(_)) && change.mod_revision() > self.revision
                };
                if changes.iter().any(is_new) {
                    self.taken(now);
                }
                self.revision = self.revision.max(*revision);
            }
        }
    }

    /// When to try next, unless a change is seen before; `None` while nobody needs to know.
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, pace) = self.needed?;
        let (first, every) = (since + pace.place(), pace.every());
        let last = self.seen.max(self.tried);
        let earliest = last.map_or(first, |last| last + every / 2);
        let after_first = earliest.saturating_duration_since(first);
        let turns = after_first.as_nanos().div_ceil(every.as_nanos());
        Some(first + every * u32::try_from(turns).unwrap_or(u32::MAX))
    }

    /// It is tried now.
    pub(super) fn trying(&mut self, now: Instant) {
        self.tried = Some(now);
    }
}

fn piece(from: Instant, to: Instant) -> Duration {
    to.saturating_duration_since(from).min(LONGEST_PIECE)
}

#[cfg(test)]
mod tests;
