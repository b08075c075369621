//! What a host has, or others believe it has, beyond the containers that run there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wgnet_proto::{EndpointId, IfName};

use crate::lab::{Host, LabError, Result};
use crate::swarm::{Swarm, status};

#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Addresses that its own driver still counts as its own.
    local: BTreeSet<IpAddr>,
    /// The same in other hosts' eyes.
    elsewhere: BTreeSet<IpAddr>,
    /// Interfaces in the network's namespace that no container has the other end of.
    interfaces: BTreeSet<String>,
}

impl Leftovers {
    pub(super) fn none(&self) -> bool {
        self.local.is_empty() && self.elsewhere.is_empty() && self.interfaces.is_empty()
    }

    pub(super) fn of(swarm: &Swarm, host: &Host, network: &str) -> Result<Self> {
        let running = addresses(host, network)?;
        let surplus = |of: BTreeSet<IpAddr>| of.difference(&running).copied().collect();
        let mut elsewhere = BTreeSet::new();
        for other in swarm.lab.hosts().iter().filter(|other| other.name() != host.name()) {
            elsewhere.extend(known(other, host)?);
        }
        Ok(Self {
            local: surplus(known(host, host)?),
            elsewhere: surplus(elsewhere),
            interfaces: interfaces(host, network)?,
        })
    }
}

/// How many endpoints a host has, if each of them is a running container's: Join was before that.
pub(super) fn joined(swarm: &Swarm, host: &Host, network: &str) -> Result<usize> {
    let left = Leftovers::of(swarm, host, network)?;
    if !left.none() {
        return Err(LabError::Machine(format!("{} has {left:?}", host.name())));
    }
    Ok(known(host, host)?.len())
}

fn addresses(host: &Host, network: &str) -> Result<BTreeSet<IpAddr>> {
    let addresses = of_running(host, network, "IPAddress")?;
    Ok(addresses.iter().flat_map(|address| address.parse()).collect())
}

/// A field of the attachments to a network, of the containers that run.
fn of_running(host: &Host, network: &str, field: &str) -> Result<BTreeSet<String>> {
    let filter = format!("network={network}");
    let ids = host.docker(&["ps", "-q", "--filter", &filter])?;
    let each = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
    ids.lines().map(|id| host.docker(&["inspect", "-f", &each, id])).collect()
}

/// Whatever one host's driver knows of another's endpoints.
pub(super) fn known(by: &Host, of: &Host) -> Result<BTreeSet<IpAddr>> {
    let endpoints = status(by)?.networks.into_iter().flat_map(|network| network.endpoints);
    let theirs = endpoints.filter(|endpoint| endpoint.host_name == of.name());
    Ok(theirs.flat_map(|endpoint| endpoint.addresses).collect())
}

/// Those of no container that runs.
fn interfaces(host: &Host, network: &str) -> Result<BTreeSet<String>> {
    let endpoints = of_running(host, network, "EndpointID")?;
    let used: BTreeSet<String> = endpoints
        .iter()
        .flat_map(|id| id.parse())
        .map(|id: EndpointId| IfName::veth_host(&id).as_str().to_owned())
        .collect();
    let list = "for n in $(ls /run/netns | grep ^wgnet- || true); do ip -n $n -o link; done";
    let links = host.sh(list)?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    // With its other end's number or name.
    let names = names.map(|name| name.split('@').next().unwrap_or(name).to_owned());
    Ok(names.filter(|name| name.starts_with("wgv") && !used.contains(name)).collect())
}
