//! Claims about watches.

use super::*;

pub(super) async fn a_watch_gives_every_change_once_and_in_order<F: Fixture>(fixture: &mut F) {
    let claim = "every change once and in order";
    let store = fixture.client("/order");
    let from = store.list("").await.expect("a listing works").revision + 1;
    let mut watch = store.watch("", from).await.expect("a watch begins");
    let mut expected = Vec::new();
    for i in 0..50 {
        let key = format!("k/{:02}", i % 7);
        let revision = write(&store, vec![put(&key, &i.to_string())]).await;
        expected.push((format!("+{key}"), revision));
        if i % 5 == 0 {
            expected.push((format!("-{key}"), write(&store, vec![delete(&key)]).await));
        }
    }
    assert_eq!(next_changes(claim, &mut watch, expected.len()).await, expected);
    write(&store, vec![put("x", ""), delete("k/01"), put("y", "")]).await;
    let mut told = next_names(claim, &mut watch, 3).await;
    told.sort();
    assert_eq!(told, ["+x", "+y", "-k/01"]);
}

pub(super) async fn a_watch_begins_with_what_happened_since_its_revision<F: Fixture>(
    fixture: &mut F,
) {
    let claim = "what happened since its revision";
    let store = fixture.client("/since");
    write(&store, vec![put("before", "")]).await;
    let revision = store.list("").await.expect("a listing works").revision;
    write(&store, vec![put("after", "")]).await;
    write(&store, vec![delete("before")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    assert_eq!(next_names(claim, &mut watch, 2).await, ["+after", "-before"]);
    write(&store, vec![put("later", "value")]).await;
    match within(claim, watch.next()).await.expect("the watch goes on") {
        WatchEvent::Changes { changes, .. } => match &changes[..] {
            [Change::Put(entry)] => assert_eq!(entry.value, b"value"),
            other => panic!("{claim}: {other:?}"),
        },
        other => panic!("{claim}: {other:?}"),
    }
}

pub(super) async fn a_watch_tells_nothing_of_other_scopes<F: Fixture>(fixture: &mut F) {
    let claim = "nothing of other scopes";
    let store = fixture.client("/others");
    let from = store.revision().await.expect("a revision is read") + 1;
    let mut tree = store.watch("networks/n", from).await.expect("a watch begins");
    let mut below = store.watch("networks/n/", from).await.expect("a watch begins");
    for key in ["networks/n-2/x", "networks/n", "networks/n0", "networks/n/a", "networks/nn"] {
        write(&store, vec![put(key, "")]).await;
    }
    write(&store, vec![delete("networks/n/a")]).await;
    let told = next_names(claim, &mut tree, 3).await;
    assert_eq!(told, ["+networks/n", "+networks/n/a", "-networks/n/a"]);
    assert_eq!(next_names(claim, &mut below, 2).await, ["+networks/n/a", "-networks/n/a"]);
}

pub(super) async fn many_watches_live_side_by_side<F: Fixture>(fixture: &mut F) {
    let claim = "many watches side by side";
    let store = fixture.client("/side");
    let from = store.revision().await.expect("a revision is read") + 1;
    let mut watches = Vec::new();
    for i in 0..40 {
        watches.push(store.watch(&format!("{i}/"), from).await.expect("a watch begins"));
    }
    write(&store, (0..40).map(|i| put(&format!("{i}/x"), "")).collect()).await;
    for (i, watch) in watches.iter_mut().enumerate() {
        assert_eq!(next_names(claim, watch, 1).await, [format!("+{i}/x")]);
    }
}

pub(super) async fn a_dropped_watch_leaves_the_others_alone<F: Fixture>(fixture: &mut F) {
    let claim = "a dropped watch";
    let store = fixture.client("/dropped");
    let from = store.revision().await.expect("a revision is read") + 1;
    let dropped = store.watch("", from).await.expect("a watch begins");
    let mut kept = store.watch("", from).await.expect("a watch begins");
    drop(dropped);
    write(&store, vec![put("a", "")]).await;
    assert_eq!(next_names(claim, &mut kept, 1).await, ["+a"]);
    drop(kept);
    let mut late = store.watch("", from).await.expect("a watch begins");
    assert_eq!(next_names(claim, &mut late, 1).await, ["+a"]);
}

pub(super) async fn a_watch_from_a_compacted_revision_says_so<F: Fixture>(fixture: &mut F) {
    let claim = "a compacted revision";
    let store = fixture.client("/compacted");
    let first = write(&store, vec![put("a", ""), put("b", "")]).await;
    for i in 0..5 {
        write(&store, vec![put("a", &i.to_string())]).await;
    }
    let last = write(&store, vec![delete("b")]).await;
    let mut standing = store.watch("", last + 1).await.expect("a watch begins");
    fixture.compact().await;
    let mut watch = store.watch("", first + 1).await.expect("a watch begins");
    match within(claim, watch.next()).await.expect("compaction is told, not failed") {
        WatchEvent::Compacted { compact_revision } => assert!(compact_revision > first + 1),
        other => panic!("{claim}: {other:?}"),
    }
    // List again, delete what is missing, and go on from there.
    let listing = store.list("").await.expect("a listing works");
    let listed: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(listed, ["a"]);
    let mut watch = store.watch("", listing.revision + 1).await.expect("a watch begins");
    write(&store, vec![put("c", "")]).await;
    assert_eq!(next_names(claim, &mut watch, 1).await, ["+c"]);
    assert_eq!(next_names(claim, &mut standing, 1).await, ["+c"]);
}
