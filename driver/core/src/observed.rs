//! What one network looks like in the kernel right now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use wgnet_proto::{EndpointId, IfName, MacAddr, PresharedKey, PublicKey};

use crate::RouteTarget;

/// A reading that may have failed: what could not be read is never planned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    Absent,
    Unknown,
    Present(T),
}

/// A namespace of ours and what is in it. Links that are not ours are not listed, except by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// `false`: the namespace lives (its file descriptor is held) but its name in `/run/netns` is gone.
    pub pinned: bool,
    /// Forwarding, the MSS rule and whatever else is set once when a namespace is made.
    pub prepared: bool,
    pub gateways: BTreeSet<IpAddr>,
    pub wireguards: BTreeMap<IfName, ObservedWireguard>,
    pub veths: BTreeMap<IfName, ObservedVeth>,
    pub routes: BTreeMap<IpNet, RouteTarget>,
    /// The guard's subnets in the host's forward hook; empty when there is no rule.
    pub guard: BTreeSet<IpNet>,
    /// Links in the namespace that nobody of ours made (lo and the kernel's fallback tunnels left out).
    pub foreign: BTreeSet<IfName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedWireguard {
    /// `None`: the interface exists and has no key yet (made, not configured: a crash between).
    pub public_key: Option<PublicKey>,
    pub port: u16,
    pub mtu: u16,
    pub up: bool,
    pub peers: BTreeMap<PublicKey, ObservedPeer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPeer {
    pub preshared_key: Option<PresharedKey>,
    pub underlay: Option<SocketAddr>,
    /// Seconds; `None` when off.
    pub keepalive: Option<u16>,
    pub allowed: BTreeSet<IpAddr>,
    /// Seconds since the epoch of the last handshake, `None` when there was none.
    pub last_handshake: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedVeth {
    /// From our mark on the link; `None` when the mark is missing (made, not marked: a crash between).
    pub endpoint: Option<EndpointId>,
    /// Of the end in the namespace.
    pub mac: MacAddr,
    pub mtu: u16,
    pub up: bool,
    pub container: ContainerEnd,
}

/// Where the other end of a veth pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEnd {
    /// Still, or again, in the host's namespace under its own name.
    InHost,
    /// In some other namespace: a container's. What is configured on it is read only while the
    /// endpoint is joined and its sandbox can be opened.
    InContainer(Seen<ContainerInterface>),
}

/// The interface of a container, as far as the driver repairs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerInterface {
    pub name: String,
    pub mac: Option<MacAddr>,
    pub up: bool,
    pub addresses: BTreeSet<IpNet>,
    pub routes: BTreeSet<(IpNet, IpAddr)>,
}
