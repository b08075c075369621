//! `wgnetctl release`, `wgnetctl forget-host` and `wgnetctl forget-network`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use wgnet_control_plane::admin::{
    ForgetHost, ForgetNetwork, Forgotten, ForgottenNetwork, HeldListing, Release, called,
};
use wgnet_proto::status::{DriverStatus, NetworkStatus};

use crate::dockerd;
use crate::driver::Driver;

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseOptions {
    /// Whose listing is to be believed, as shown: a network's, or `hosts`; without it nothing is changed.
    #[arg(value_name = "NETWORK|hosts")]
    network: Option<String>,
    /// Believe every held listing.
    #[arg(long, conflicts_with = "network")]
    all: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    driver: Driver,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetOptions {
    /// The host's name, its id, or the beginning of its id (8 digits at least), as `wgnetctl hosts`
    /// shows them.
    #[arg(value_name = "NAME|ID")]
    host: String,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    driver: Driver,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetNetworkOptions {
    /// Docker's id of the network, the beginning of it, or the network's key as `wgnetctl status` and
    /// `wgnetctl networks` show it.
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Do not ask Docker first whether it still has the network: it is gone from this host for good.
    #[arg(long)]
    without_docker: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Docker's API socket.
    #[arg(long, value_name = "FILE", default_value = "/run/docker.sock")]
    docker: PathBuf,
    #[command(flatten)]
    driver: Driver,
}

pub(crate) const EXAMPLES_FORGET_NETWORK: &str = "\
Examples:
  wgnetctl doctor                            finds networks that Docker does not have any more
  docker network ls --no-trunc               those that it has
  wgnetctl forget-network 4f1c0b2a97d3       by the beginning of Docker's id
  wgnetctl forget-network n-blue             by its key
  wgnetctl forget-network n-blue --json | jq .removed

Fields of --json: network, docker_id, endpoints (without a container; they went with it), removed
(whether its namespace is gone already).";

pub(crate) async fn release(options: &ReleaseOptions) -> anyhow::Result<()> {
    if options.network.is_none() && !options.all {
        let held: Vec<HeldListing> = options.driver.get("/held").await?;
        return show(&held, options.json);
    }
    let order = Release { network: options.network.clone() };
    let released: Vec<HeldListing> = options.driver.order("/release", &order).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&released)?);
        return Ok(());
    }
    if released.is_empty() {
        println!("Nothing was held.");
    }
    for held in &released {
        println!("Believed {}: {}.", called(&held.scope).0, loss(held));
    }
    if !released.is_empty() {
        println!(
            "This host only; where others hold it too (wgnetctl problems shows them), the same order is needed there."
        );
    }
    Ok(())
}

fn show(held: &[HeldListing], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(held)?);
        return Ok(());
    }
    if held.is_empty() {
        println!("Nothing is held.");
    }
    for held in held {
        println!("{}  {}", called(&held.scope).0, loss(held));
    }
    if let Some(first) = held.first() {
        println!("\n{}", to_release(first));
    }
    Ok(())
}

fn to_release(held: &HeldListing) -> String {
    let (name, those) = called(&held.scope);
    format!(
        "To cut these {those} off now: wgnetctl release {name}, or for all: wgnetctl release --all"
    )
}

fn loss(held: &HeldListing) -> String {
    let HeldListing { vanishing, of, hosts, .. } = held;
    format!("{vanishing} of {of} {} go ({})", called(&held.scope).1, hosts.join(", "))
}

pub(crate) async fn forget(options: &ForgetOptions) -> anyhow::Result<()> {
    if options.host.is_empty() {
        bail!("name the host to be forgotten");
    }
    let order = ForgetHost { host: options.host.clone() };
    let forgotten: Forgotten = options.driver.order("/forget-host", &order).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&forgotten)?);
        return Ok(());
    }
    let Forgotten { host_id, name, records } = forgotten;
    println!("Forgot {name} ({host_id}): {records} records removed from etcd.");
    println!("If it comes back with its journal and secret, it joins again by itself.");
    Ok(())
}

pub(crate) async fn forget_network(options: &ForgetNetworkOptions) -> anyhow::Result<()> {
    let wanted = &options.network;
    if wanted.is_empty() {
        bail!("name the network to be forgotten");
    }
    if !options.without_docker {
        let socket = options.docker.display();
        let listed = dockerd::networks(&options.docker).await.with_context(|| {
            format!(
                "cannot ask Docker at {socket} whether it still has network {wanted}; start it, or, if Docker is gone from this host \
                 for good, add --without-docker"
            )
        })?;
        let status: DriverStatus = options.driver.get("/status").await?;
        if let Some(refused) = still_had(wanted, &status.networks, &listed) {
            bail!("{refused}");
        }
    }
    let order = ForgetNetwork { network: wanted.clone() };
    let forgotten: ForgottenNetwork = options.driver.order("/forget-network", &order).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&forgotten)?);
        return Ok(());
    }
    let ForgottenNetwork { network, docker_id, endpoints, removed } = forgotten;
    println!(
        "Forgot {network} (Docker's id {docker_id}) on this host, with {endpoints} endpoints."
    );
    println!(
        "{}",
        if removed {
            "Its namespace is gone; what this host published of it goes from etcd, now or when etcd is back."
        } else {
            "Its namespace is still being removed; if it stays (wgnetctl doctor), the driver's log says why: journalctl -u wgnet-driver -n 50"
        }
    );
    Ok(())
}

/// Why a network that Docker still has is not forgotten.
fn still_had(
    wanted: &str,
    networks: &[NetworkStatus],
    listed: &BTreeMap<String, String>,
) -> Option<String> {
    let is_meant = |network: &&NetworkStatus| {
        network.docker_id.as_str().starts_with(wanted) || network.key.to_string() == wanted
    };
    let ids = networks.iter().filter(is_meant).map(|network| network.docker_id.as_str());
    let (id, name) = ids.filter_map(|id| Some((id, listed.get(id)?))).next()?;
    Some(format!(
        "Docker still has network {id} ({name}), and would not find it here any more; to remove it: docker network rm {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_listing_is_shown_with_what_would_go() {
        let held = |scope: &str| HeldListing {
            scope: scope.to_owned(),
            vanishing: 2,
            of: 3,
            hosts: vec!["h2".to_owned(), "h3".to_owned()],
        };
        assert_eq!(loss(&held("networks/n-blue")), "2 of 3 members go (h2, h3)");
        assert!(to_release(&held("networks/n-blue")).contains("wgnetctl release n-blue,"));
        assert_eq!(loss(&held("hosts/")), "2 of 3 hosts go (h2, h3)");
        assert!(to_release(&held("hosts/")).contains("wgnetctl release hosts,"));
    }

    #[test]
    fn a_network_that_docker_still_has_is_left_to_docker() {
        let network = |key: &str, id: &str| {
            let json = serde_json::json!({
                "key": key, "docker_id": id, "namespace": "wgnet-x", "subnets": [], "mtu": 1420,
                "slots": [], "members": [], "endpoints": [], "in_sync": true, "error": null,
                "repairs": 0
            });
            serde_json::from_value::<NetworkStatus>(json).unwrap()
        };
        let (blue, red) = ("ab".repeat(32), "cd".repeat(32));
        let networks = [network("n-blue", &blue), network("n-red", &red)];
        let listed = BTreeMap::from([(blue.clone(), "web".to_owned())]);
        for wanted in ["n-blue", "abab", &blue] {
            let refused = still_had(wanted, &networks, &listed).unwrap();
            assert!(refused.contains("docker network rm web"), "{refused}");
        }
        for wanted in ["n-red", "cdcd", &red, "n-green"] {
            assert_eq!(still_had(wanted, &networks, &listed), None, "{wanted}");
        }
    }
}
