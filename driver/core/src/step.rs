//! The smallest changes a data plane can be asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use wgnet_proto::{IfName, PresharedKey, PrivateKey, PublicKey};

use crate::{DesiredPeer, DesiredVeth, RouteTarget};

/// One change in one network's namespace (or to its guard in the host's). Every step may be applied
/// twice: what exists already, or is gone already, is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes and pins the namespace; with a namespace that lost its pin, pins it again.
    CreateNamespace,
    /// Forwarding, unreachable defaults, MSS clamp: what is set once in a namespace.
    Prepare,
    /// Deletes every link of ours in it, then the pin.
    DeleteNamespace,

    AddGateway(IpAddr),
    RemoveGateway(IpAddr),

    /// Born in the host's namespace, configured with key and port, moved in, set up.
    CreateWireguard {
        name: IfName,
        private_key: PrivateKey,
        port: u16,
        mtu: u16,
    },
    /// Sets a WireGuard interface up that exists and is down.
    RaiseWireguard {
        name: IfName,
    },
    RemoveWireguard {
        name: IfName,
    },

    /// Makes a peer with everything it has and starts a handshake (keepalive as given).
    AddPeer {
        wireguard: IfName,
        peer: PublicKey,
        config: DesiredPeer,
    },
    /// Changes only what is `Some`; the session lives on.
    UpdatePeer {
        wireguard: IfName,
        peer: PublicKey,
        preshared_key: Option<Option<PresharedKey>>,
        underlay: Option<SocketAddr>,
        /// 0 turns it off.
        keepalive: Option<u16>,
    },
    RemovePeer {
        wireguard: IfName,
        peer: PublicKey,
    },
    /// Adds addresses to a peer and takes them from whichever peer of the interface has them.
    AddAllowed {
        wireguard: IfName,
        peer: PublicKey,
        addresses: BTreeSet<IpAddr>,
    },
    RemoveAllowed {
        wireguard: IfName,
        peer: PublicKey,
        addresses: BTreeSet<IpAddr>,
    },

    /// Makes the pair (one end in the namespace, marked, up; the other in the host's namespace, down).
    CreateVeth {
        name: IfName,
        veth: DesiredVeth,
        mtu: u16,
    },
    /// Sets right what exists: mark, MAC, up.
    FixVeth {
        name: IfName,
        veth: DesiredVeth,
    },
    /// Makes a pair whose other end is placed into the container, with name, MAC, addresses, routes.
    RestoreVeth {
        name: IfName,
        veth: DesiredVeth,
        mtu: u16,
    },
    /// Sets the interface inside the container right: addresses, routes, up.
    FixContainer {
        name: IfName,
        veth: DesiredVeth,
    },
    RemoveVeth {
        name: IfName,
    },

    SetRoute {
        destination: IpNet,
        target: RouteTarget,
    },
    RemoveRoute {
        destination: IpNet,
    },

    /// Makes the host's forward hook drop docker_gwbridge to these subnets, and no others of this network.
    SetGuard {
        subnets: BTreeSet<IpNet>,
    },
    RemoveGuard,
}
