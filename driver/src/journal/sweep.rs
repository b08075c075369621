//! What the journal forgets with time: lingering networks, the ids of deleted endpoints, and freed
//! networks that Docker never deleted here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wgnet_core::ClusterView;
use wgnet_proto::DockerNetworkId;

use super::{Journal, State, Uptime};

/// How long a deleted network's key and port stay, of driver uptime.
pub const LINGER: Duration = Duration::from_secs(600);
/// The same for a network that can never come back: long enough to take it down.
pub const FREED_LINGER: Duration = Duration::from_secs(5);
/// How long the id of a deleted endpoint is refused, of driver uptime.
pub const DELETED_KEPT: Duration = Duration::from_secs(600);
/// How long a network that is freed for the whole cluster may have no endpoint here before it is
/// taken for deleted: FreeNetwork may come before the last Leave, DeleteNetwork may never come.
const ABANDONED: Duration = Duration::from_secs(60);
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
    let mut abandoned = Abandoned::default();
    loop {
        let state = states.borrow_and_update().clone();
        let now = journal.uptime();
        let cluster = Arc::clone(&view.borrow_and_update());
        let freed = freed_elsewhere(&state, &cluster, now);
        let over = abandoned.feed(&state, &cluster, now);
        let due = due_at(&state).into_iter().chain(abandoned.due()).min();
        let due = due.map(|at| at.saturating_sub(now));
        if !freed.is_empty() || !over.is_empty() || due.is_some_and(|wait| wait.is_zero()) {
            let swept = journal
                .update(move |state| {
                    over.iter().for_each(|network| state.abandon(network, now));
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
fn freed_elsewhere(state: &State, view: &ClusterView, now: Uptime) -> Vec<DockerNetworkId> {
    let lingering = state.networks.iter().filter(|(_, network)| network.lingering);
    let freed = lingering.filter(|(id, network)| {
        let hurried =
            state.lingers_until.get(*id).is_some_and(|until| *until <= now + FREED_LINGER);
        is_freed(state, view, &network.definition.key) && !hurried
    });
    freed.map(|(id, _)| id.clone()).collect()
}

fn is_freed(state: &State, view: &ClusterView, key: &wgnet_proto::NetworkKey) -> bool {
    let record = view.networks.get(key).and_then(|network| network.record.as_ref());
    state.freed.contains(key) || record.is_some_and(|record| record.freed)
}

/// Networks that are freed and have no endpoint here, and since when.
#[derive(Debug, Default)]
struct Abandoned(BTreeMap<DockerNetworkId, Uptime>);

impl Abandoned {
    /// Looks at the networks again; returns those whose time is over.
    fn feed(&mut self, state: &State, view: &ClusterView, now: Uptime) -> Vec<DockerNetworkId> {
        let idle = state.networks.iter().filter(|(_, network)| {
            let unused = !network.lingering && network.endpoints.is_empty();
            unused && is_freed(state, view, &network.definition.key)
        });
        let since = idle.map(|(id, _)| (id.clone(), self.0.get(id).copied().unwrap_or(now)));
        self.0 = since.collect();
        let over = self.0.iter().filter(|(_, since)| **since + ABANDONED <= now);
        over.map(|(id, _)| id.clone()).collect()
    }

    fn due(&self) -> Option<Uptime> {
        self.0.values().min().map(|since| *since + ABANDONED)
    }
}

fn due_at(state: &State) -> Option<Uptime> {
    state.lingers_until.values().chain(state.deleted.values()).min().copied()
}

impl State {
    /// Does what DeleteNetwork would, unless an endpoint came meanwhile.
    fn abandon(&mut self, network: &DockerNetworkId, now: Uptime) {
        if self.live(network).is_some_and(|network| network.endpoints.is_empty()) {
            info!(network = network.short(), "Docker never deleted this network here; it is freed");
            self.linger(network, now);
        }
    }

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

#[cfg(test)]
mod tests {
    use wgnet_core::{LocalNetwork, NetworkDefinition, NetworkOptions};
    use wgnet_proto::NetworkKey;

    use super::*;

    fn id() -> DockerNetworkId {
        "a".repeat(25).parse().unwrap()
    }

    fn live() -> State {
        let definition = NetworkDefinition {
            docker_id: id(),
            key: NetworkKey::swarm(&id()),
            subnets: vec![],
            internal: false,
            options: NetworkOptions::default(),
            raw_options: BTreeMap::new(),
            mtu: 1420,
        };
        let network = LocalNetwork {
            definition,
            slots: vec![],
            endpoints: BTreeMap::new(),
            lingering: false,
        };
        State { networks: [(id(), Arc::new(network))].into(), ..State::default() }
    }

    fn freed() -> State {
        State { freed: [NetworkKey::swarm(&id())].into(), ..live() }
    }

    static NEVER: std::sync::LazyLock<ClusterView> = std::sync::LazyLock::new(ClusterView::default);

    #[test]
    fn a_freed_network_without_endpoints_is_abandoned_after_its_time() {
        let mut abandoned = Abandoned::default();
        let start = Duration::from_secs(100);
        assert!(abandoned.feed(&freed(), &NEVER, start).is_empty());
        assert_eq!(abandoned.due(), Some(start + ABANDONED));
        assert_eq!(abandoned.feed(&freed(), &NEVER, start + ABANDONED), [id()]);
    }

    #[test]
    fn a_network_that_is_not_freed_or_used_meanwhile_is_not_abandoned() {
        let mut abandoned = Abandoned::default();
        assert!(abandoned.feed(&live(), &NEVER, Duration::ZERO).is_empty());
        assert!(abandoned.feed(&live(), &NEVER, ABANDONED * 2).is_empty());
        assert!(abandoned.feed(&freed(), &NEVER, ABANDONED * 2).is_empty());
        assert!(abandoned.feed(&live(), &NEVER, ABANDONED * 3).is_empty());
        assert!(abandoned.feed(&freed(), &NEVER, ABANDONED * 4).is_empty(), "the time begins anew");
    }

    #[test]
    fn an_abandoned_network_is_forgotten_like_a_deleted_one() {
        let mut state = freed();
        state.abandon(&id(), Duration::ZERO);
        assert!(state.networks[&id()].lingering);
        assert_eq!(state.expire(FREED_LINGER), 1);
        assert!(state.networks.is_empty());
    }
}
