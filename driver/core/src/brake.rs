//! The mass delete brake: a listing that would take most peers away at once is held.

use std::collections::BTreeSet;

/// Below this many peers every listing is believed.
pub const FEWEST: usize = 3;

/// Why a listing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub vanishing: usize,
    pub of: usize,
}

/// Whether a listing must be held for the grace time: more than half of the peers before it would
/// vanish (of three and more, that is also the case when all but one would).
pub fn holds<Peer: Ord>(before: &BTreeSet<Peer>, listing: &BTreeSet<Peer>) -> Option<Held> {
    let held = Held { vanishing: before.difference(listing).count(), of: before.len() };
    (held.of >= FEWEST && 2 * held.vanishing > held.of).then_some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_losing(vanishing: usize, of: usize) -> Option<Held> {
        let before: BTreeSet<usize> = (0..of).collect();
        let listing = before.iter().copied().skip(vanishing).collect();
        holds(&before, &listing)
    }

    #[test]
    fn a_listing_without_most_of_the_peers_is_held() {
        assert_eq!(after_losing(3, 5), Some(Held { vanishing: 3, of: 5 }));
        assert_eq!(after_losing(9, 9), Some(Held { vanishing: 9, of: 9 }));
    }

    #[test]
    fn a_listing_with_one_peer_left_of_three_is_held() {
        assert_eq!(after_losing(2, 3), Some(Held { vanishing: 2, of: 3 }));
    }

    #[test]
    fn half_of_the_peers_may_go() {
        assert_eq!(after_losing(2, 4), None);
        assert_eq!(after_losing(1, 3), None);
    }

    #[test]
    fn two_peers_may_go_at_once() {
        assert_eq!(after_losing(2, 2), None);
    }

    #[test]
    fn new_peers_do_not_make_up_for_vanished_ones() {
        let before = BTreeSet::from([1, 2, 3]);
        let listing = BTreeSet::from([4, 5, 6, 7]);
        assert_eq!(holds(&before, &listing), Some(Held { vanishing: 3, of: 3 }));
    }
}
