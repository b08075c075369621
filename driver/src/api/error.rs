//! Why a call is answered with an `Err`: sentences for people, object, cause and next step.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use wgnet_core::options::OptionError;
use wgnet_proto::{BadMac, DockerNetworkId, EndpointId, IdError};

use crate::applied::NotApplied;
use crate::journal::JournalError;

/// A call that did not do what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(
        "{call} came without arguments (dockerd repeats a call it lost with an empty body); try again"
    )]
    EmptyBody { call: String },
    #[error("the arguments of {call} are not what dockerd sends: {reason}")]
    Undecodable { call: String, reason: String },
    #[error("wgnet has no call {path:?}")]
    UnknownCall { path: String },
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("network {}: {source}", network.short())]
    Option { network: DockerNetworkId, source: OptionError },
    #[error("network {}: option id is for plain engines, in a swarm every network has one; leave it out", .0.short())]
    IdInSwarm(DockerNetworkId),
    #[error("network {}: --ipv6 does not work in a swarm: its allocator knows IPv4 only, so each host would give out IPv6 addresses by itself, the same ones as the others; remove the network and create it without --ipv6 and its IPv6 --subnet", .0.short())]
    Ipv6InSwarm(DockerNetworkId),
    #[error("network {}: {text:?} is not a subnet or an address of one; create it with --subnet", network.short())]
    Subnet { network: DockerNetworkId, text: String },
    #[error("network {} has no subnet; create it with --subnet or with Docker's default IPAM driver", .0.short())]
    NoSubnet(DockerNetworkId),
    #[error("network {}: subnet {subnet} {why}; create it with another --subnet, as in --subnet {}", network.short(), example(subnet))]
    UnusableSubnet { network: DockerNetworkId, subnet: IpNet, why: String },
    #[error("network {}: its gateway {gateway} is not in its subnet {subnet}; create it with a --gateway of that subnet, or with another --subnet", network.short())]
    GatewayOutside { network: DockerNetworkId, gateway: IpAddr, subnet: IpNet },
    #[error("network {}: subnet {subnet} holds {address}, the address of host {host}, which containers and hosts could not reach any more; create it with another --subnet", network.short())]
    HoldsHost { network: DockerNetworkId, subnet: IpNet, address: IpAddr, host: String },
    #[error("network {}: option id={id:?} names network {} of this host already, which has containers; remove them, or take another id", network.short(), other.short())]
    IdTaken { network: DockerNetworkId, id: String, other: DockerNetworkId },
    #[error("network {} exists with other subnets or options and {endpoints} endpoints; remove its containers first", network.short())]
    Differs { network: DockerNetworkId, endpoints: usize },
    #[error("network {}: no UDP port for WireGuard: {reason}", network.short())]
    NoPort { network: DockerNetworkId, reason: String },
    #[error("network {} is not known to wgnet-driver on this host, as after the loss of its journal; in a swarm stop all containers that are on it here, then start them again; on a plain engine remove the network and create it again", .0.short())]
    NoNetwork(DockerNetworkId),
    #[error("endpoint {} is not known in network {}; remove the container and create it again", endpoint.short(), network.short())]
    NoEndpoint { network: DockerNetworkId, endpoint: EndpointId },
    #[error("endpoint {}: {text:?} is not an address of network {}", endpoint.short(), network.short())]
    Address { network: DockerNetworkId, endpoint: EndpointId, text: String },
    #[error("endpoint {} came without an address; use Docker's default IPAM driver", .0.short())]
    NoAddress(EndpointId),
    #[error("endpoint {}: {address} is the gateway of network {}; take another address", endpoint.short(), network.short())]
    GatewayAddress { network: DockerNetworkId, endpoint: EndpointId, address: IpAddr },
    #[error("endpoint {}: {source}", endpoint.short())]
    Mac { endpoint: EndpointId, source: BadMac },
    #[error("endpoint {} exists in network {} with other addresses; remove the container and create it again", endpoint.short(), network.short())]
    EndpointDiffers { network: DockerNetworkId, endpoint: EndpointId },
    #[error("endpoint {} was deleted already; this request is late, create the container again", .0.short())]
    Deleted(EndpointId),
    #[error("address {address} of network {} is in use on host {holder}; take another with --ip, or give every host its own --ip-range", network.short())]
    AddressTaken { network: DockerNetworkId, address: IpAddr, holder: String },
    #[error("network {} has {address} on host {holder}, outside of its subnets here; remove it and create it with the same --subnet on every engine, or with another id", network.short())]
    OtherSubnets { network: DockerNetworkId, address: IpAddr, holder: String },
    #[error("endpoint {} of network {} lost its address to a newer one on another host; remove the container and create it again", endpoint.short(), network.short())]
    Superseded { network: DockerNetworkId, endpoint: EndpointId },
    #[error("endpoint {}: what this host knew of the others is not read from its journal yet, and without it the address could be another's; wgnetctl status says why, try again when it is read", .0.short())]
    NotRemembered(EndpointId),
    #[error("endpoint {}: Join names no sandbox", .0.short())]
    NoSandbox(EndpointId),
    #[error("{}", .0.sentence())]
    Journal(#[from] JournalError),
    #[error("network {}: {source}; see `wgnetctl status` and wgnet-driver's log", network.short())]
    NotApplied { network: DockerNetworkId, source: NotApplied },
    #[error("{call} is {:.1} s late: nobody waits for its answer any more, and nothing was done (the driver or the host stood still, or earlier calls took long); try again", late.as_secs_f64())]
    Expired { call: String, late: Duration },
    #[error("wgnet-driver is stopping; try again")]
    Stopping,
}

impl CallError {
    /// Whether it is the way the network was asked for that cannot be: told in the status, too.
    pub(super) fn is_of_options(&self) -> bool {
        matches!(
            self,
            Self::Option { .. }
                | Self::IdInSwarm(_)
                | Self::Ipv6InSwarm(_)
                | Self::UnusableSubnet { .. }
                | Self::GatewayOutside { .. }
                | Self::HoldsHost { .. }
        )
    }

    /// dockerd takes 200 with an `Err` for a refusal; 400 and 404 say that the call itself is wrong.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::EmptyBody { .. } | Self::Undecodable { .. } => 400,
            Self::UnknownCall { .. } => 404,
            _ => 200,
        }
    }
}

/// A subnet that works, of the same family.
fn example(subnet: &IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "10.90.0.0/24",
        IpNet::V6(_) => "fd00:90::/64",
    }
}
