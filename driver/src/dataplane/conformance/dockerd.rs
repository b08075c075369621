//! Claims about the dockerds of the host.

use std::collections::BTreeSet;

use wgnet_core::Seen;

use super::Bench;
use crate::dataplane::Dataplane;

pub(super) async fn each_start_has_a_name_and_only_as_long_as_it_runs(bench: &mut impl Bench) {
    let mut names = BTreeSet::new();
    assert_eq!(engines_of(bench).await, names);
    for id in ["0123456789ab", "ba9876543210"] {
        names.insert(bench.engine(id, true));
        assert_eq!(engines_of(bench).await, names);
    }
    names.remove(&bench.engine("0123456789ab", false));
    bench.restart().await;
    assert_eq!(engines_of(bench).await, names);
    bench.engine("ba9876543210", false);
    assert_eq!(engines_of(bench).await, BTreeSet::new());
}

async fn engines_of(bench: &impl Bench) -> BTreeSet<String> {
    match bench.plane().engines().await {
        Seen::Present(engines) => engines,
        unread => panic!("{unread:?}"),
    }
}
