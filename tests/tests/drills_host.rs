//! A host, and then the whole cluster, loses its power and boots.

// tests/run: long oldest

use wgnet_tests::drill::{self, host::host};
use wgnet_tests::lab::Result;

#[test]
fn a_booted_host_is_reachable_as_soon_as_its_containers_run() -> Result<()> {
    drill::hold(host)
}
