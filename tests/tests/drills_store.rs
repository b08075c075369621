//! etcd is away, wiped, restored, without a leader, compacted, full, slow, or another cluster's.

// tests/run: long oldest

use wgnet_tests::drill::{self, store::store};
use wgnet_tests::lab::Result;

#[test]
fn nothing_is_lost_whatever_happens_to_etcd() -> Result<()> {
    drill::hold(store)
}
