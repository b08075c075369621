//! The journal's disk is full, or its file damaged.

// tests/run: long oldest

use wgnet_tests::drill::{self, journal::journal};
use wgnet_tests::lab::Result;

#[test]
fn no_packet_is_lost_and_the_journal_is_good_again_by_itself() -> Result<()> {
    drill::hold(journal)
}
