//! Containers come and go while one thing after the other fails.

// tests/run: long

use wgnet_tests::drill::{self, soak::soak};
use wgnet_tests::lab::Result;

#[test]
fn nothing_is_lost_or_left_after_drills_at_random_among_containers_at_random() -> Result<()> {
    drill::hold(soak)
}
