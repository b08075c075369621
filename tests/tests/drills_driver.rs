//! The drills of `tests/src/drill/driver.rs`, short.

// tests/run: alone oldest

use wgnet_tests::drill::{self, driver::driver};
use wgnet_tests::lab::Result;

#[test]
fn no_end_of_a_process_of_ours_costs_a_packet_or_a_docker_command() -> Result<()> {
    drill::hold(driver)
}
