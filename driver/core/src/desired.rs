//! What one network should look like on this host.

mod claims;
mod derivation;
mod derive;
mod underlay;

pub use derivation::{Derivation, Difference, Inputs, Parts};
pub use derive::{derive, superseded};
pub use underlay::Families;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use wgnet_proto::{EndpointId, IfName, MacAddr, PresharedKey, PrivateKey, PublicKey};

/// Everything one network has on this host. An absent network is `None` of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Of the WireGuard interfaces and veths; fixed when the namespace is made.
    pub mtu: u16,
    /// The IPAM gateways, on `lo` of the namespace as /32 and /128.
    pub gateways: BTreeSet<IpAddr>,
    pub wireguards: BTreeMap<IfName, DesiredWireguard>,
    /// By the name of the end in the namespace.
    pub veths: BTreeMap<IfName, DesiredVeth>,
    /// The subnets (unreachable) and one host route for each endpoint, local or remote.
    pub routes: BTreeMap<IpNet, RouteTarget>,
    /// Subnets that the host must never forward to from docker_gwbridge.
    pub guard: BTreeSet<IpNet>,
}

/// One WireGuard interface. A change of key or port is another interface: it is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredWireguard {
    pub private_key: PrivateKey,
    pub port: u16,
    pub peers: BTreeMap<PublicKey, DesiredPeer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    pub preshared_key: Option<PresharedKey>,
    /// Where to reach the peer first. Written when the peer is made or this value changes, never
    /// because the kernel shows another: the kernel knows roaming better than the record.
    pub underlay: Option<SocketAddr>,
    /// Seconds; what the option says, used once a handshake was seen.
    pub keepalive: Option<u16>,
    pub allowed: BTreeSet<IpAddr>,
}

/// One endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredVeth {
    pub endpoint: EndpointId,
    /// The end that goes into the container, as it is called in the host's namespace.
    pub container_end: IfName,
    pub mac: MacAddr,
    /// With the prefix lengths Docker gave, for the repair of a container's interface.
    pub addresses: Vec<IpNet>,
    /// Where Join said the container's namespace is; `None` before Join and after Leave.
    pub sandbox: Option<PathBuf>,
    /// The routes Join answered, for the repair of a container's interface: destination and gateway.
    pub container_routes: Vec<(IpNet, IpAddr)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Through this link of the namespace.
    Link(IfName),
    Unreachable,
}
