//! Claims about stores that stop, lose their majority, fall silent or lose their memory.

use super::*;

pub(super) async fn a_restart_ends_watches_and_the_client_goes_on<F: Fixture>(fixture: &mut F) {
    let claim = "a restart";
    let store = fixture.client("/restart");
    let revision = write(&store, vec![put("a", "")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    fixture.restart().await;
    end(claim, &mut watch).await;
    recovers(claim, &store).await;
    assert_eq!(keys(&store, "").await, ["a"]);
    assert!(store.revision().await.expect("a revision is read") >= revision);
    // Nothing was missed meanwhile.
    write(&store, vec![put("b", "")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    assert_eq!(next_names(claim, &mut watch, 1).await, ["+b"]);
}

pub(super) async fn without_a_leader_calls_fail_and_watches_end<F: Fixture>(fixture: &mut F) {
    let claim = "without a leader";
    let store = fixture.client("/leader");
    let revision = write(&store, vec![put("a", "")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    fixture.lose_leader().await;
    end(claim, &mut watch).await;
    // The store may first have to notice that nobody agrees any more.
    let told = async {
        while !matches!(store.list("").await, Err(StoreError::NoLeader { .. })) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(claim, told).await;
    let refused = try_commit(&store, vec![], vec![put("b", "")]).await;
    assert!(matches!(refused, Err(StoreError::NoLeader { .. })), "{claim}: {refused:?}");
    fixture.regain_leader().await;
    recovers(claim, &store).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    write(&store, vec![put("c", "")]).await;
    assert_eq!(next_names(claim, &mut watch, 1).await, ["+c"]);
}

pub(super) async fn a_full_store_takes_deletions_and_nothing_new<F: Fixture>(fixture: &mut F) {
    let claim = "a full store";
    let store = fixture.client("/full");
    let ttl = Duration::from_secs(45);
    let lease = store.grant(ttl).await.expect("a lease is granted");
    let leased = Op::PutLeased { key: "leased".into(), value: vec![], lease };
    let revision = write(&store, vec![put("a", ""), put("b", ""), leased]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    fixture.fill().await;
    // Not every member has heard it at once.
    let told = async {
        while !matches!(store.grant(ttl).await, Err(StoreError::Full { .. })) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(claim, told).await;
    for conditions in [vec![], vec![Condition::Absent("a".to_owned())]] {
        let refused = try_commit(&store, conditions, vec![put("c", ""), delete("a")]).await;
        assert!(matches!(refused, Err(StoreError::Full { .. })), "{claim}: {refused:?}");
    }
    assert_eq!(keys(&store, "").await, ["a", "b", "leased"]);
    store.keep_alive(lease).await.expect("a lease that there is lives on");
    write(&store, vec![delete("a")]).await;
    store.revoke(lease).await.expect("the lease is revoked");
    assert_eq!(next_names(claim, &mut watch, 2).await, ["-a", "-leased"]);
    fixture.make_room().await;
    let taken = async {
        while store.grant(ttl).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(claim, taken).await;
    write(&store, vec![put("c", "")]).await;
    assert_eq!(next_names(claim, &mut watch, 1).await, ["+c"]);
}

pub(super) async fn a_silent_store_is_noticed<F: Fixture>(fixture: &mut F) {
    let claim = "a silent store";
    let store = fixture.client("/silent");
    let revision = write(&store, vec![put("a", "")]).await;
    let mut watch = store.watch("", revision + 1).await.expect("a watch begins");
    fixture.freeze(&store).await;
    let call = within(claim, store.list("")).await;
    assert!(call.is_err(), "{claim}: {call:?}");
    end(claim, &mut watch).await;
    fixture.thaw(&store).await;
    recovers(claim, &store).await;
    assert_eq!(keys(&store, "").await, ["a"]);
}

pub(super) async fn a_wiped_store_shows_a_lower_revision<F: Fixture>(fixture: &mut F) {
    let claim = "a wiped store";
    let store = fixture.client("/wiped");
    let before = write(&store, vec![put("a", "")]).await;
    let mut watch = store.watch("", before + 1).await.expect("a watch begins");
    fixture.wipe().await;
    end(claim, &mut watch).await;
    recovers(claim, &store).await;
    let listing = store.list("").await.expect("a listing works");
    assert_eq!(listing.entries, vec![], "{claim}");
    assert!(listing.revision < before, "{claim}: {} is not below {before}", listing.revision);
    let mut watch = store.watch("", listing.revision + 1).await.expect("a watch begins");
    write(&store, vec![put("b", "")]).await;
    assert_eq!(next_names(claim, &mut watch, 1).await, ["+b"]);
}

/// Waits until the client works again by itself.
async fn recovers<S: Store>(claim: &str, store: &S) {
    let works = async {
        while store.revision().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(claim, works).await;
}
