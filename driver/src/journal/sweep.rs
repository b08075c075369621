//! What the journal forgets with time: lingering networks and the ids of deleted endpoints.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wgnet_core::ClusterView;

use super::{Journal, State, Uptime};

/// How long a deleted network's key and port stay, of driver uptime.
pub const LINGER: Duration = Duration::from_secs(600);
/// The same for a network that can never come back: long enough to take it down.
pub const FREED_LINGER: Duration = Duration::from_secs(5);
/// How long the id of a deleted endpoint is refused, of driver uptime.
pub const DELETED_KEPT: Duration = Duration::from_secs(600);
/// At most so many of them; the oldest go first.
pub(super) const DELETED_MOST: usize = 4096;

const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(10);

/// Forgets what has lingered long enough, until cancelled.
pub async fn sweep(
    journal: Journal,
    mut view: watch::Receiver<Arc<ClusterView>>,
    cancel: CancellationToken,
) {
    let mut states = journal.watch();
    loop {
        let state = states.borrow_and_update().clone();
        let now = journal.uptime();
        let freed = freed_elsewhere(&state, &view.borrow_and_update(), now);
        let due = due_at(&state).map(|at| at.saturating_sub(now));
        if !freed.is_empty() || due.is_some_and(|wait| wait.is_zero()) {
            let swept = journal
                .update(move |state| {
                    freed.iter().for_each(|network| state.forget_soon(network, now));
                    state.expire(now)
                })
                .await;
            match swept {
                Ok((0, _)) => {}
                Ok((networks, _)) => info!(networks, "forgot deleted networks and their keys"),
                Err(error) => {
                    warn!("{}", error.sentence());
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
                        () = cancel.cancelled() => return,
                    }
                }
            }
            continue;
        }
        let sleep = async {
            match due {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            changed = states.changed() => if changed.is_err() { return },
            Ok(()) = view.changed() => {}
            () = cancel.cancelled() => return,
        }
    }
}

/// Lingering networks that the cluster knows to be freed and that are not hurried yet.
fn freed_elsewhere(
    state: &State,
    view: &ClusterView,
    now: Uptime,
) -> Vec<wgnet_proto::DockerNetworkId> {
    let lingering = state.networks.iter().filter(|(_, network)| network.lingering);
    let freed = lingering.filter(|(id, network)| {
        let record =
            view.networks.get(&network.definition.key).and_then(|network| network.record.as_ref());
        let hurried =
            state.lingers_until.get(*id).is_some_and(|until| *until <= now + FREED_LINGER);
        record.is_some_and(|record| record.freed) && !hurried
    });
    freed.map(|(id, _)| id.clone()).collect()
}

fn due_at(state: &State) -> Option<Uptime> {
    state.lingers_until.values().chain(state.deleted.values()).min().copied()
}

impl State {
    /// Drops everything whose time is over; returns how many networks went.
    fn expire(&mut self, now: Uptime) -> usize {
        let over: Vec<_> = self
            .lingers_until
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        over.iter().for_each(|network| self.forget(network));
        if self.deleted.values().any(|until| *until <= now) {
            Arc::make_mut(&mut self.deleted).retain(|_, until| *until > now);
        }
        over.len()
    }
}
