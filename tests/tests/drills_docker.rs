//! The drills of `tests/src/drill/docker.rs`, short.

// tests/run: alone

use wgnet_tests::drill::{self, docker::docker};
use wgnet_tests::lab::Result;

#[test]
fn whatever_happens_to_dockers_engines_is_healed_without_a_hand() -> Result<()> {
    drill::hold(docker)
}
