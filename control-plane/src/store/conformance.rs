//! What every implementation of the [`Store`] seam must do: one suite that all of them pass.
//! A violated claim panics and names itself.

mod history;
mod trouble;
mod writing;

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::{
    Audit, Change, Committed, Condition, Op, Revision, Store, StoreError, Txn, Watch, WatchEvent,
};

/// A store under test, and what only its owner can do to it.
pub trait Fixture: Send {
    type Store: Store;

    /// A client of the cluster that lives below `prefix`.
    fn client(&self, prefix: &str) -> Self::Store;

    /// Forgets the history before the current revision.
    fn compact(&mut self) -> impl Future<Output = ()> + Send;

    /// Stops the store and starts it again with the same contents.
    fn restart(&mut self) -> impl Future<Output = ()> + Send;

    /// From here on no majority agrees.
    fn lose_leader(&mut self) -> impl Future<Output = ()> + Send;

    fn regain_leader(&mut self) -> impl Future<Output = ()> + Send;

    /// Stops the store, empties it and starts it again.
    fn wipe(&mut self) -> impl Future<Output = ()> + Send;

    /// From here on there is no room for anything new.
    fn fill(&mut self) -> impl Future<Output = ()> + Send;

    fn make_room(&mut self) -> impl Future<Output = ()> + Send;

    /// Makes the store silent for this client, at least: connections stand, nothing answers.
    fn freeze(&mut self, client: &Self::Store) -> impl Future<Output = ()> + Send;

    fn thaw(&mut self, client: &Self::Store) -> impl Future<Output = ()> + Send;
}

/// Runs every claim.
pub async fn suite<F: Fixture>(fixture: &mut F) {
    writing::a_listing_is_sorted_and_knows_its_revision(fixture).await;
    writing::a_scope_is_a_key_and_what_is_below_it(fixture).await;
    writing::two_clusters_never_see_each_other(fixture).await;
    writing::absent_holds_once(fixture).await;
    writing::unchanged_holds_until_the_next_change(fixture).await;
    writing::none_prefixed_holds_while_nothing_is_below(fixture).await;
    writing::a_transaction_happens_wholly_or_not_at_all(fixture).await;
    writing::a_transaction_takes_128_operations(fixture).await;
    writing::a_key_is_not_changed_twice_in_a_transaction(fixture).await;
    writing::an_audit_knows_all_keys_and_what_changed_since(fixture).await;
    writing::ten_thousand_records_are_listed_whole(fixture).await;
    writing::leased_records_go_with_their_lease(fixture).await;
    writing::a_lost_lease_is_told_and_replaced(fixture).await;
    history::a_watch_gives_every_change_once_and_in_order(fixture).await;
    history::a_watch_begins_with_what_happened_since_its_revision(fixture).await;
    history::a_watch_tells_nothing_of_other_scopes(fixture).await;
    history::many_watches_live_side_by_side(fixture).await;
    history::a_dropped_watch_leaves_the_others_alone(fixture).await;
    history::a_watch_from_a_compacted_revision_says_so(fixture).await;
    trouble::a_restart_ends_watches_and_the_client_goes_on(fixture).await;
    trouble::without_a_leader_calls_fail_and_watches_end(fixture).await;
    trouble::a_full_store_takes_deletions_and_nothing_new(fixture).await;
    trouble::a_silent_store_is_noticed(fixture).await;
    trouble::a_wiped_store_shows_a_lower_revision(fixture).await;
}

/// Longer than any healthy store takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(claim: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{claim}: it took too long"))
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

async fn try_commit<S: Store>(
    store: &S,
    conditions: Vec<Condition>,
    ops: Vec<Op>,
) -> Result<Committed, StoreError> {
    store.commit(Txn { conditions, ops }).await
}

/// Commits without conditions.
async fn write<S: Store>(store: &S, ops: Vec<Op>) -> Revision {
    match try_commit(store, vec![], ops).await {
        Ok(Committed::Done { revision }) => revision,
        other => panic!("an unconditional commit gave {other:?}"),
    }
}

async fn is_done<S: Store>(store: &S, condition: Condition, op: Op) -> bool {
    let result = try_commit(store, vec![condition], vec![op]).await;
    matches!(result.expect("a commit works"), Committed::Done { .. })
}

async fn keys<S: Store>(store: &S, scope: &str) -> Vec<String> {
    let listing = store.list(scope).await.expect("a listing works");
    listing.entries.into_iter().map(|entry| entry.key).collect()
}

/// The next changes, as `+key` and `-key`, with their revisions.
async fn next_changes<W: Watch>(
    claim: &str,
    watch: &mut W,
    count: usize,
) -> Vec<(String, Revision)> {
    let mut told = Vec::new();
    while told.len() < count {
        match within(claim, watch.next()).await.expect("the watch goes on") {
            WatchEvent::Changes { revision, changes } => {
                assert!(!changes.is_empty(), "{claim}: an event without changes");
                let last = changes.last().map(Change::mod_revision);
                assert_eq!(last, Some(revision), "{claim}: an event ends at its revision");
                told.extend(changes.iter().map(|change| {
                    let sign = if matches!(change, Change::Put(_)) { '+' } else { '-' };
                    (format!("{sign}{}", change.key()), change.mod_revision())
                }));
            }
            WatchEvent::Progress { .. } => {}
            WatchEvent::Compacted { .. } => panic!("{claim}: nothing was compacted"),
        }
    }
    assert_eq!(told.len(), count, "{claim}: {told:?}");
    told
}

/// Only the names of [`next_changes`].
async fn next_names<W: Watch>(claim: &str, watch: &mut W, count: usize) -> Vec<String> {
    next_changes(claim, watch, count).await.into_iter().map(|(name, _)| name).collect()
}

/// Reads until the watch is over.
async fn end<W: Watch>(claim: &str, watch: &mut W) -> StoreError {
    loop {
        if let Err(error) = within(claim, watch.next()).await {
            return error;
        }
    }
}
