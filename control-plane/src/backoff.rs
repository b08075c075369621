//! How long to wait before the next try: doubling from 100 ms to 5 s, or to 1 s where nothing but
//! the way to the store is missing. Each wait is drawn from its upper half, so that a thousand hosts
//! do not come back in step.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::store::StoreError;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// A store that is back is to be found within two seconds, and one that is away bears it.
const LONGEST_AWAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait, longer than the one before.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        jitter(wait)
    }

    /// The next wait after this failure.
    pub(crate) fn wait_after(&mut self, error: &StoreError) -> Duration {
        if error.is_away() {
            self.next = self.next.min(LONGEST_AWAY);
        }
        self.wait()
    }

    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// Between half of `wait` and all of it.
pub(crate) fn jitter(wait: Duration) -> Duration {
    let half = wait / 2;
    // The standard library's: what is drawn need not be unguessable, and simulations can seed it.
    let random = (RandomState::new().hash_one(()) >> 32) as u32;
    let share = f64::from(random) / f64::from(u32::MAX);
    half + half.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_seconds_and_begin_anew_after_success() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[11] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }

    #[test]
    fn a_store_that_is_away_is_tried_every_second() {
        let mut backoff = Backoff::new();
        let away = StoreError::NoLeader { endpoints: String::new() };
        assert!((0..12).all(|_| backoff.wait_after(&away) <= LONGEST_AWAY));
        let full = StoreError::Full { endpoints: String::new() };
        assert!((0..12).any(|_| backoff.wait_after(&full) > LONGEST_AWAY));
    }
}
