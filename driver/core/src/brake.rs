//! The mass delete brake: a listing that would take most peers away at once is held.

use std::collections::BTreeSet;

/// Below this many peers every listing is believed.
pub const FEWEST: usize = 3;

/// Whether a listing must be held: more than half of the peers before it would vanish (of three and
/// more, that is also the case when all but one would).
pub fn holds<Peer: Ord>(before: &BTreeSet<Peer>, listing: &BTreeSet<Peer>) -> bool {
    let vanishing = before.difference(listing).count();
    before.len() >= FEWEST && 2 * vanishing > before.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_losing(vanishing: usize, of: usize) -> bool {
        let before: BTreeSet<usize> = (0..of).collect();
        let listing = before.iter().copied().skip(vanishing).collect();
        holds(&before, &listing)
    }

    #[test]
    fn a_listing_without_most_of_the_peers_is_held() {
        assert!(after_losing(3, 5) && after_losing(9, 9));
    }

    #[test]
    fn a_listing_with_one_peer_left_of_three_is_held() {
        assert!(after_losing(2, 3));
    }

    #[test]
    fn half_of_the_peers_may_go() {
        assert!(!after_losing(2, 4) && !after_losing(1, 3));
    }

    #[test]
    fn two_peers_may_go_at_once() {
        assert!(!after_losing(2, 2));
    }

    #[test]
    fn new_peers_do_not_make_up_for_vanished_ones() {
        assert!(holds(&BTreeSet::from([1, 2, 3]), &BTreeSet::from([4, 5, 6, 7])));
    }
}
