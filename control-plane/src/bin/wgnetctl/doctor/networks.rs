//! What is wrong with this host's networks: those that Docker does not have any more.

use std::collections::BTreeSet;
use std::path::Path;

use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::rows::{Filter, NetworkState};
use wgnet_proto::status::{DriverStatus, NetworkStatus};
use wgnet_proto::{DockerNetworkId, NetworkKey};

use super::Finding;
use crate::dockerd;

pub(super) const AREA: &str = "networks";

/// Networks that nobody has given back in the whole cluster.
pub(super) fn standing(fleet: &Fleet) -> BTreeSet<NetworkKey> {
    let rows = fleet.network_rows(&Filter::default()).into_iter();
    let up = rows.filter(|row| row.state == NetworkState::Up);
    up.map(|row| row.network).collect()
}

/// What the driver has and Docker does not list. For moments that is so of any network: Docker tells
/// the driver of it before it lists it, and before it ceases to.
pub(super) async fn unlisted(
    docker: &Path,
    status: &DriverStatus,
    standing: &BTreeSet<NetworkKey>,
) -> Result<BTreeSet<DockerNetworkId>, ()> {
    if status.networks.is_empty() {
        return Ok(BTreeSet::new());
    }
    let listed = dockerd::networks(docker).await.map_err(drop)?.into_keys().collect();
    Ok(unknown(status, &listed, standing))
}

fn unknown(
    status: &DriverStatus,
    listed: &BTreeSet<String>,
    standing: &BTreeSet<NetworkKey>,
) -> BTreeSet<DockerNetworkId> {
    let is_unknown = |network: &&NetworkStatus| {
        !listed.contains(network.docker_id.as_str())
            && (!network.docker_id.is_swarm() || is_left_by_swarm(network, standing))
    };
    let unknown = status.networks.iter().filter(is_unknown);
    unknown.map(|network| network.docker_id.clone()).collect()
}

/// A network that was given back, and endpoints without a container, the driver gives up by itself.
fn is_left_by_swarm(network: &NetworkStatus, standing: &BTreeSet<NetworkKey>) -> bool {
    standing.contains(&network.key) && !network.endpoints.iter().any(|endpoint| endpoint.local)
}

pub(super) fn findings(unknown: &BTreeSet<DockerNetworkId>, status: &DriverStatus) -> Vec<Finding> {
    let found = status.networks.iter().filter(|network| unknown.contains(&network.docker_id));
    let finding = |network: &NetworkStatus| {
        let (key, id) = (&network.key, &network.docker_id);
        Finding::warning(
            "network-unknown-to-docker",
            format!("the driver has network {key} (Docker's id {id}), and Docker does not list it"),
            "Docker forgets a network even if the driver could not be told: its namespace, UDP port and firewall rule stay \
             for ever, and so does this host as a member of it in etcd",
            format!("wgnetctl forget-network {id}"),
        )
    };
    found.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> DriverStatus {
        let network = |key: String, id: &str| {
            json!({
                "key": key, "docker_id": id, "namespace": format!("wgnet-{id}"), "subnets": [],
                "mtu": 1420, "slots": [], "members": [], "endpoints": [], "in_sync": true,
                "error": null, "repairs": 0
            })
        };
        let swarm = "m3v0gvk6pj5e0l1y9h3kz1v2c";
        let json = json!({
            "host_id": "00".repeat(16), "name": "h1", "version": "0.1.0", "backend": "kernel",
            "underlay": [],
            "networks": [
                network("n-blue".to_owned(), &"ab".repeat(32)),
                network(format!("s-{swarm}"), swarm),
            ],
            "store": {"connected": true, "error": null, "revision": 1, "unpublished": 0},
            "hosts": [], "problems": [], "refused": {}
        });
        serde_json::from_value(json).unwrap()
    }

    fn up(status: &DriverStatus) -> BTreeSet<NetworkKey> {
        status.networks.iter().map(|network| network.key.clone()).collect()
    }

    #[test]
    fn a_host_whose_networks_docker_lists_is_not_mentioned() {
        let status = status();
        let listed = status.networks.iter().map(|network| network.docker_id.to_string());
        assert!(unknown(&status, &listed.collect(), &up(&status)).is_empty());
    }

    #[test]
    fn a_network_that_docker_does_not_list_is_found_with_the_order_that_ends_it() {
        let status = status();
        let unknown = unknown(&status, &BTreeSet::new(), &up(&status));
        assert_eq!(unknown.len(), 2);
        let found = findings(&unknown, &status);
        assert_eq!(found[0].code, "network-unknown-to-docker");
        assert!(found[0].what.contains("n-blue"));
        assert_eq!(found[0].next_step, format!("wgnetctl forget-network {}", "ab".repeat(32)));
        assert!(findings(&BTreeSet::new(), &status).is_empty());
    }

    #[test]
    fn of_a_swarm_only_what_nobody_will_give_up_is_found() {
        let (mut status, none) = (status(), BTreeSet::new());
        let plain = BTreeSet::from([status.networks[0].docker_id.clone()]);
        assert_eq!(unknown(&status, &none, &BTreeSet::new()), plain, "it was given back");
        let endpoint = json!({
            "id": "cd".repeat(32), "addresses": [], "mac": "02:42:0a:00:00:02",
            "host_id": "00".repeat(16), "host_name": "h1", "local": true
        });
        let endpoint: wgnet_proto::status::EndpointStatus =
            serde_json::from_value(endpoint).unwrap();
        status.networks.iter_mut().for_each(|network| network.endpoints.push(endpoint.clone()));
        assert_eq!(unknown(&status, &none, &up(&status)), plain, "it has an endpoint");
    }
}
