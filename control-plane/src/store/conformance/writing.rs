//! Claims about listings, transactions and leases.

use std::time::Duration;

use super::*;

pub(super) async fn a_listing_is_sorted_and_knows_its_revision<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/listing");
    let empty = store.list("").await.expect("an empty listing works");
    assert_eq!(empty.entries, vec![]);
    write(&store, vec![put("b", "2")]).await;
    write(&store, vec![put("c", "3"), put("a", "1")]).await;
    let revision = write(&store, vec![put("b", "two")]).await;
    let listing = store.list("").await.expect("a listing works");
    assert_eq!(listing.revision, revision);
    assert!(listing.revision > empty.revision);
    let found: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.value.as_slice(), revision - entry.mod_revision))
        .collect();
    let expected: Vec<(&str, &[u8], Revision)> =
        vec![("a", b"1", 1), ("b", b"two", 0), ("c", b"3", 1)];
    assert_eq!(found, expected);
}

pub(super) async fn a_scope_is_a_key_and_what_is_below_it<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/scope");
    let all = ["networks/n", "networks/n-2", "networks/n-2/x", "networks/n/a", "networks/n/b/c"];
    write(&store, all.map(|key| put(key, "")).to_vec()).await;
    write(&store, vec![put("networks/n0", "")]).await;
    assert_eq!(keys(&store, "networks/n").await, ["networks/n", "networks/n/a", "networks/n/b/c"]);
    assert_eq!(keys(&store, "networks/n/").await, ["networks/n/a", "networks/n/b/c"]);
    assert_eq!(keys(&store, "networks/").await.len(), 6);
    assert_eq!(keys(&store, "network").await, [""; 0]);
    assert_eq!(keys(&store, "").await.len(), 6);
    let audit = store.audit("networks/n", 0).await.expect("an audit works");
    assert_eq!(audit.keys, 3);
    let changed: Vec<_> = audit.changed.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(changed, ["networks/n", "networks/n/a", "networks/n/b/c"]);
}

pub(super) async fn two_clusters_never_see_each_other<F: Fixture>(fixture: &mut F) {
    let (one, two) = (fixture.client("/cluster"), fixture.client("/cluster-2"));
    let from = one.revision().await.expect("a revision is read") + 1;
    let mut watch = one.watch("", from).await.expect("a watch begins");
    write(&two, vec![put("a", "two")]).await;
    assert!(is_done(&one, Condition::NonePrefixed("".into()), put("b", "one")).await);
    assert!(is_done(&one, Condition::Absent("a".into()), put("c", "one")).await);
    assert_eq!(keys(&one, "").await, ["b", "c"]);
    assert_eq!(keys(&two, "").await, ["a"]);
    assert_eq!(next_names("two clusters", &mut watch, 2).await, ["+b", "+c"]);
}

pub(super) async fn absent_holds_once<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/absent");
    let absent = || Condition::Absent("a".into());
    assert!(is_done(&store, absent(), put("a", "first")).await);
    let refused = try_commit(&store, vec![absent()], vec![put("a", "second")]).await;
    let listing = store.list("a").await.expect("a listing works");
    assert_eq!(refused.expect("a commit works"), Committed::Refused { revision: listing.revision });
    assert_eq!(listing.entries[0].value, b"first");
    write(&store, vec![delete("a")]).await;
    assert!(is_done(&store, absent(), put("a", "third")).await);
}

pub(super) async fn unchanged_holds_until_the_next_change<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/unchanged");
    let unchanged = |mod_revision| Condition::Unchanged { key: "a".into(), mod_revision };
    let first = write(&store, vec![put("a", "mine")]).await;
    assert!(is_done(&store, unchanged(first), put("a", "mine, too")).await);
    let mine = store.list("a").await.expect("a listing works").entries[0].mod_revision;
    let foreign = write(&store, vec![put("a", "foreign")]).await;
    // Delete if mine.
    assert!(!is_done(&store, unchanged(first), delete("a")).await);
    assert!(!is_done(&store, unchanged(mine), delete("a")).await);
    assert_eq!(keys(&store, "").await, ["a"]);
    assert!(is_done(&store, unchanged(foreign), delete("a")).await);
    assert!(!is_done(&store, unchanged(foreign), put("a", "again")).await);
    assert_eq!(keys(&store, "").await, [""; 0]);
}

pub(super) async fn none_prefixed_holds_while_nothing_is_below<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/none");
    let none = || Condition::NonePrefixed("n/members/".into());
    write(&store, vec![put("n", ""), put("n/members/1", ""), put("n/members-2", "")]).await;
    assert!(!is_done(&store, none(), delete("n")).await);
    write(&store, vec![delete("n/members/1")]).await;
    assert!(is_done(&store, none(), delete("n")).await);
}

pub(super) async fn a_transaction_happens_wholly_or_not_at_all<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/wholly");
    let before = write(&store, vec![put("a", "")]).await;
    let conditions = vec![Condition::Absent("b".into()), Condition::Absent("a".into())];
    let ops = vec![put("b", ""), delete("a")];
    let refused = try_commit(&store, conditions, ops.clone()).await.expect("a commit works");
    assert!(matches!(refused, Committed::Refused { .. }));
    assert_eq!(keys(&store, "").await, ["a"]);
    let after = write(&store, ops).await;
    assert_eq!(after, before + 1, "a transaction is one revision");
    assert_eq!(keys(&store, "").await, ["b"]);
    let same = write(&store, vec![delete("missing")]).await;
    assert_eq!(same, after, "what changes nothing makes no revision");
}

pub(super) async fn a_transaction_takes_128_operations<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/size");
    let ops = |count| (0..count).map(|i| put(&format!("{i:03}"), "")).collect::<Vec<_>>();
    let absent = |count| (0..count).map(|i| Condition::Absent(format!("{i:03}"))).collect();
    let done = try_commit(&store, absent(128), ops(128)).await;
    assert!(matches!(done, Ok(Committed::Done { .. })), "{done:?}");
    assert_eq!(keys(&store, "").await.len(), 128);
    let revision = store.revision().await.expect("a revision is read");
    let refused = try_commit(&store, vec![], ops(129)).await;
    assert!(matches!(refused, Err(StoreError::TooManyOps(129))), "{refused:?}");
    let refused = try_commit(&store, absent(129), ops(1)).await;
    assert!(matches!(refused, Err(StoreError::TooManyOps(129))), "{refused:?}");
    assert_eq!(store.revision().await.expect("a revision is read"), revision);
}

pub(super) async fn a_key_is_not_changed_twice_in_a_transaction<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/twice");
    for second in [put("a", "2"), delete("a")] {
        let refused = try_commit(&store, vec![], vec![put("a", "1"), second]).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(keys(&store, "").await, [""; 0]);
}

pub(super) async fn an_audit_knows_all_keys_and_what_changed_since<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/audit");
    let audit = async |scope, since| {
        let Audit { revision, keys, changed } =
            store.audit(scope, since).await.expect("an audit works");
        assert!(revision >= since);
        (keys, changed)
    };
    assert_eq!(audit("hosts/", 0).await, (0, vec![]));
    let first = write(&store, vec![put("hosts/1", ""), put("hosts/2", "")]).await;
    let newest = write(&store, vec![put("hosts/1", "again")]).await;
    write(&store, vec![put("elsewhere", "")]).await;
    let (one, two) = (("hosts/1".to_owned(), newest), ("hosts/2".to_owned(), first));
    for scope in ["hosts/", "hosts"] {
        assert_eq!(audit(scope, first - 1).await, (2, vec![one.clone(), two.clone()]));
        assert_eq!(audit(scope, first).await, (2, vec![one.clone()]));
        assert_eq!(audit(scope, newest).await, (2, vec![]));
    }
    write(&store, vec![delete("hosts/1")]).await;
    assert_eq!(audit("hosts/", 0).await, (1, vec![two]));
}

pub(super) async fn ten_thousand_records_are_listed_whole<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/many");
    let value = "x".repeat(200);
    let all: Vec<_> = (0..10_000).map(|i| format!("n/{i:05}")).collect();
    for batch in all.chunks(100) {
        write(&store, batch.iter().map(|key| put(key, &value)).collect()).await;
    }
    assert_eq!(keys(&store, "n/").await, all);
    assert_eq!(keys(&store, "n").await, all);
    let audit = store.audit("n", 0).await.expect("an audit works");
    assert_eq!((audit.keys, audit.changed.len()), (10_000, 10_000));
    for batch in all.chunks(100) {
        write(&store, batch.iter().map(|key| delete(key)).collect()).await;
    }
}

pub(super) async fn leased_records_go_with_their_lease<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/lease");
    let lease = store.grant(Duration::from_secs(45)).await.expect("a lease is granted");
    let leased = |key: &str| Op::PutLeased { key: key.to_owned(), value: vec![], lease };
    write(&store, vec![leased("alive/1"), leased("status/1"), leased("freed"), put("hosts/1", "")])
        .await;
    // A put without the lease takes the record out of it.
    let revision = write(&store, vec![put("freed", "")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    store.keep_alive(lease).await.expect("the lease lives");
    store.revoke(lease).await.expect("the lease is revoked");
    let told = next_changes("leased records", &mut watch, 2).await;
    assert_eq!(told[0].1, told[1].1, "a lease ends in one revision");
    assert_eq!(keys(&store, "").await, ["freed", "hosts/1"]);
}

pub(super) async fn a_lost_lease_is_told_and_replaced<F: Fixture>(fixture: &mut F) {
    let store = fixture.client("/lost");
    let ttl = Duration::from_secs(45);
    let lost = store.grant(ttl).await.expect("a lease is granted");
    store.revoke(lost).await.expect("the lease is revoked");
    let is_lost = |result: Result<(), StoreError>| {
        assert!(matches!(&result, Err(StoreError::LeaseLost(id)) if *id == lost), "{result:?}");
    };
    is_lost(store.keep_alive(lost).await);
    is_lost(store.revoke(lost).await);
    let leased = |lease| vec![Op::PutLeased { key: "alive/1".into(), value: vec![], lease }];
    is_lost(try_commit(&store, vec![], leased(lost)).await.map(|_| ()));
    let lease = store.grant(ttl).await.expect("another lease is granted");
    write(&store, leased(lease)).await;
    store.keep_alive(lease).await.expect("the lease lives");
    assert_eq!(keys(&store, "").await, ["alive/1"]);
    store.revoke(lease).await.expect("the lease is revoked");
}
