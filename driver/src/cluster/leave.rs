//! The end of a network: the last member to leave deletes it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;
use wgnet_control_plane::store::{Condition, Op, Store, Txn};
use wgnet_proto::NetworkKey;

use super::settle::AGAIN;
use super::{Task, scope_of, wanted};
use crate::journal::State;

/// A write of this host that was under way when it left has arrived, or never will, by then. Until
/// then the network is followed, so that it is seen and taken back.
pub(super) const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

impl<S: Store> Task<S> {
    /// The last member to leave deletes the network, in a transaction that requires no members.
    pub(super) async fn remove_left_networks(&mut self) {
        if !self.history.is_ours() || !self.may_call() {
            return;
        }
        let state = self.inputs.journal.state();
        let candidates: Vec<NetworkKey> =
            self.leaving.keys().chain(&state.freed).cloned().collect();
        self.occupied.retain(|key, at| at.elapsed() < AGAIN && candidates.contains(key));
        for key in candidates {
            let scope = scope_of(&key);
            if !self.seen.contains_key(&scope) {
                continue;
            }
            let local = state.by_key(&key).is_some();
            let view = self.judge.view().networks.get(&key);
            let mine = self
                .judge
                .own_in_store()
                .iter()
                .any(|path| path.owner().is_some() && path.network() == Some(&key));
            let members = view.is_some_and(|network| !network.members.is_empty());
            if local || mine {
                if let Some(left) = self.leaving.get_mut(&key) {
                    *left = None;
                }
                continue;
            }
            let left = self.leaving.get(&key).copied().flatten();
            if left.is_some_and(|left| left.elapsed() < ARRIVES_WITHIN) {
                continue;
            }
            let told = wanted::is_freed(self.judge.view(), &key);
            if !members && !self.delete_network(&key).await {
                if self.may_call() {
                    continue;
                }
                break;
            }
            if !members || (!state.freed.contains(&key)) || told {
                if state.freed.contains(&key) {
                    let freed = key.clone();
                    let forget = move |state: &mut State| state.forget_freed(&freed);
                    self.noting.update("forget a freed network", forget).await;
                }
                if left.is_some() {
                    self.leaving.remove(&key);
                    self.stop_following(&key);
                } else {
                    self.leaving.insert(key, Some(Instant::now()));
                }
            }
        }
        self.follow_networks();
    }

    /// Whether nothing of the network is left in the store.
    async fn delete_network(&mut self, key: &NetworkKey) -> bool {
        if self.occupied.contains_key(key) {
            return false;
        }
        let listing = match self.inputs.store.list(&scope_of(key)).await {
            Ok(listing) => listing,
            Err(error) => {
                debug!(error = crate::chain(&error), "Cannot look at a network that is left");
                self.call_failed();
                return false;
            }
        };
        let members = format!("networks/{key}/members/");
        if listing.entries.iter().any(|entry| entry.key.starts_with(&members)) {
            self.occupied.insert(key.clone(), Instant::now());
            return false;
        }
        for entries in listing.entries.chunks(wgnet_control_plane::store::MAX_OPS) {
            let txn = Txn {
                conditions: vec![Condition::NonePrefixed(members.clone())],
                ops: entries.iter().map(|entry| Op::Delete { key: entry.key.clone() }).collect(),
            };
            if let Err(error) = self.inputs.store.commit(txn).await {
                debug!(error = crate::chain(&error), "Cannot delete a network that nobody has");
                self.call_failed();
                return false;
            }
        }
        true
    }
}
