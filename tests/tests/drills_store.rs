//! etcd is away, wiped, restored, without a leader, compacted, full, slow, or another cluster's.

// tests/run: long oldest

use wgnet_tests::drill::{Scale, store::store};
use wgnet_tests::lab::Result;

#[test]
fn nothing_is_lost_whatever_happens_to_etcd() -> Result<()> {
    let rows = store(Scale::Short)?;
    rows.iter().for_each(|row| println!("{row}"));
    rows.iter().for_each(|row| row.assert_held());
    Ok(())
}
