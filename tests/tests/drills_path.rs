//! The way between two hosts fails and comes back.

// tests/run: long oldest

use wgnet_tests::drill::{self, path::path};
use wgnet_tests::lab::Result;

#[test]
fn containers_find_each_other_at_once_when_the_way_between_their_hosts_is_back() -> Result<()> {
    drill::hold(path)
}
