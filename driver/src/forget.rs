//! Does for a network that Docker no longer has what DeleteNetwork would, by an operator's order.
//!
//! Docker forgets a network even if it could not tell its driver, and never tells it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use wgnet_control_plane::admin::ForgottenNetwork;
use wgnet_core::orphan::Sandbox;
use wgnet_core::{ContainerEnd, LocalEndpoint, LocalNetwork, Observed, Seen};
use wgnet_proto::{DockerNetworkId, EndpointId, IfName};

use crate::applied::{Applied, Calls};
use crate::dataplane::{Dataplane, Joined};
use crate::journal::{Journal, JournalError, State};
use crate::problems::Problems;

/// How long the order waits for the kernel.
const REMOVED_WITHIN: Duration = Duration::from_secs(5);

/// Carries such orders out.
#[derive(Clone)]
pub struct Forgetter<D> {
    pub journal: Journal,
    pub dataplane: D,
    pub applied: Applied,
    pub problems: Problems,
}

/// Why a network was not forgotten, as a sentence.
struct Refused(String);

impl From<JournalError> for Refused {
    fn from(error: JournalError) -> Self {
        Self(error.sentence())
    }
}

impl<D: Dataplane> Forgetter<D> {
    /// Forgets the network of this Docker id, beginning of one, or key. Twice is once.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub async fn forget(&self, wanted: &str) -> Result<ForgottenNetwork, String> {
        let state = self.journal.state();
        let network = Arc::clone(chosen(&state.networks, wanted)?);
        let id = network.definition.docker_id.clone();
        if let Some(endpoint) = self.living(&network).await {
            return Err(used(&network, &endpoint));
        }

        let (calls, now) = (self.applied.calls().clone(), self.journal.uptime());
        let seen = Arc::clone(&network);
        let change = move |state: &mut State| delete(state, &seen, &calls, now);
        let (was_live, revision) =
            self.journal.try_update(change).await.map_err(|Refused(sentence)| sentence)?;
        self.problems.clear_object(&format!("network {}", id.short()));
        if was_live {
            info!(network = id.short(), "An operator made this host forget a network");
            if let Err(error) = self.applied.wait(&id, revision, REMOVED_WITHIN).await {
                warn!(network = id.short(), %error, "Forgotten, not yet gone from the kernel");
            }
        }
        let left = self.dataplane.observe(&network.namespace(), &Joined::new()).await;
        Ok(ForgottenNetwork {
            network: network.definition.key.clone(),
            docker_id: id,
            endpoints: network.endpoints.len(),
            removed: matches!(left, Seen::Absent),
        })
    }

    /// An endpoint whose container lives, or may.
    async fn living(&self, network: &LocalNetwork) -> Option<EndpointId> {
        if network.endpoints.is_empty() {
            return None;
        }
        let observed = self.dataplane.observe(&network.namespace(), &Joined::new()).await;
        for endpoint in network.endpoints.values() {
            let may_live = match &endpoint.sandbox {
                Some(path) => {
                    let sandbox = self.dataplane.sandbox(path).await;
                    matches!(sandbox, Sandbox::There | Sandbox::Unknown)
                }
                None => false,
            };
            if may_live || is_in_container(endpoint, &observed) {
                return Some(endpoint.id.clone());
            }
        }
        None
    }
}

/// What cannot be seen may be.
fn is_in_container(endpoint: &LocalEndpoint, observed: &Seen<Observed>) -> bool {
    match observed {
        Seen::Present(observed) => {
            let veth = observed.veths.get(&IfName::veth_host(&endpoint.id));
            veth.is_some_and(|veth| matches!(veth.container, ContainerEnd::InContainer(_)))
        }
        Seen::Absent => false,
        Seen::Unknown => true,
    }
}

/// The change itself, where no call can come between; whether Docker had the network.
fn delete(
    state: &mut State,
    seen: &LocalNetwork,
    calls: &Calls,
    now: Duration,
) -> Result<bool, Refused> {
    let id = &seen.definition.docker_id;
    let is_same = |there: &Arc<LocalNetwork>| there.endpoints == seen.endpoints;
    let is_called = calls.is_running(id.as_str())
        || seen.endpoints.keys().any(|endpoint| calls.is_running(endpoint.as_str()));
    if is_called || !state.networks.get(id).is_none_or(is_same) {
        return Err(Refused(format!(
            "Docker is at work on network {id} right now; if it does not have it any more (docker network ls), order it again"
        )));
    }
    Ok(state.delete_network(id, now))
}

fn used(network: &LocalNetwork, endpoint: &EndpointId) -> String {
    let id = &network.definition.docker_id;
    format!(
        "network {id} is in use: the container of its endpoint {} lives. Only a network that Docker does not have any more is to be \
         forgotten; Docker's own goes with: docker network rm {}. Otherwise end the container first (docker ps)",
        endpoint.short(),
        id.short()
    )
}

/// The network that is meant, never guessed.
fn chosen<'a>(
    networks: &'a BTreeMap<DockerNetworkId, Arc<LocalNetwork>>,
    wanted: &str,
) -> Result<&'a Arc<LocalNetwork>, String> {
    let is_named = |network: &&Arc<LocalNetwork>| {
        let definition = &network.definition;
        definition.docker_id.as_str() == wanted || definition.key.to_string() == wanted
    };
    if let Some(network) = networks.values().find(is_named) {
        return Ok(network);
    }
    let begins = |(id, _): &(&DockerNetworkId, _)| id.as_str().starts_with(wanted);
    let found: Vec<_> = networks.iter().filter(begins).filter(|_| !wanted.is_empty()).collect();
    match found.as_slice() {
        [(_, network)] => Ok(network),
        [] => Err(format!(
            "this host's driver has no network {wanted} (any more); wgnetctl status shows those it has, by key and, as its namespace's name, Docker's id"
        )),
        several => {
            let ids: Vec<String> = several.iter().map(|(id, _)| id.to_string()).collect();
            Err(format!(
                "several networks here begin with {wanted}; name one by more of its id: {}",
                ids.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use wgnet_core::{NetworkDefinition, NetworkOptions};
    use wgnet_proto::NetworkKey;

    use super::*;

    fn network(id: &str, key: NetworkKey) -> (DockerNetworkId, Arc<LocalNetwork>) {
        let id: DockerNetworkId = id.parse().unwrap();
        let definition = NetworkDefinition {
            docker_id: id.clone(),
            key,
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
        (id, Arc::new(network))
    }

    #[test]
    fn a_network_is_found_by_id_its_beginning_or_key_and_never_guessed() {
        let networks = BTreeMap::from([
            network("ab12", NetworkKey::named("blue").unwrap()),
            network("ab34", NetworkKey::named("red").unwrap()),
            network("ab", NetworkKey::named("green").unwrap()),
        ]);
        let find = |wanted| {
            chosen(&networks, wanted).map(|network| network.definition.docker_id.to_string())
        };
        for wanted in ["ab12", "ab1", "n-blue"] {
            assert_eq!(find(wanted), Ok("ab12".to_owned()), "{wanted}");
        }
        assert_eq!(find("ab"), Ok("ab".to_owned()), "a whole id is no beginning");
        assert!(find("a").unwrap_err().contains("ab, ab12, ab34"));
        for wanted in ["", "b1", "blue", "n-", "n-blu"] {
            assert!(find(wanted).unwrap_err().contains("no network"), "{wanted}");
        }
    }
}
