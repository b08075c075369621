//! What a driver tells people about itself: the answer of its admin socket (`GET /status`), shown by
//! `wgnetctl status` and, summarised, kept in etcd.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    DockerNetworkId, EndpointId, Generation, HostId, IfName, MacAddr, NetworkKey, PublicKey,
};

/// One host's driver and everything it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverStatus {
    pub host_id: HostId,
    pub name: String,
    pub version: String,
    /// `kernel` or `userspace`.
    pub backend: String,
    pub underlay: Vec<IpAddr>,
    pub store: StoreStatus,
    pub networks: Vec<NetworkStatus>,
    /// Networks that are not in use here, whose keys and ports are kept for a while: a swarm deletes
    /// and creates the same network over and over, and asks for it again after a boot.
    #[serde(default)]
    pub lingering: Vec<DockerNetworkId>,
    pub hosts: Vec<PeerHost>,
    pub problems: Vec<Problem>,
    /// Records of etcd that were ignored, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// How the driver stands with etcd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    pub connected: bool,
    /// Why not, when not.
    pub error: Option<String>,
    pub revision: i64,
    /// Own records that are not in etcd yet.
    pub unpublished: usize,
    /// How often a watch had to begin anew.
    #[serde(default)]
    pub watch_restarts: u64,
}

/// Another host as its record tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHost {
    pub host_id: HostId,
    pub name: String,
    pub underlay: Vec<IpAddr>,
    pub version: String,
    pub alive: bool,
}

/// One network on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub key: NetworkKey,
    pub docker_id: DockerNetworkId,
    /// The name below `/run/netns`.
    pub namespace: String,
    pub subnets: Vec<IpNet>,
    pub mtu: u16,
    pub slots: Vec<SlotStatus>,
    pub members: Vec<MemberStatus>,
    pub endpoints: Vec<EndpointStatus>,
    /// Whether the kernel is as it should be, and the last failure when it is not.
    pub in_sync: bool,
    pub error: Option<String>,
    /// How often something of this network that somebody else changed was put right.
    pub repairs: u64,
}

impl NetworkStatus {
    /// The newest of this host's interfaces.
    pub fn newest_slot(&self) -> Option<&SlotStatus> {
        self.slots.iter().max_by_key(|slot| slot.generation)
    }

    /// When the newest key was made, where that is known.
    pub fn key_made(&self) -> Option<u64> {
        self.newest_slot().and_then(|slot| slot.key_made)
    }
}

/// One WireGuard interface of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    pub interface: IfName,
    pub generation: Generation,
    pub public_key: PublicKey,
    /// When its key was made, in seconds since the epoch, where that is known.
    #[serde(default)]
    pub key_made: Option<u64>,
    pub port: u16,
}

/// Another host's presence in a network, with what WireGuard knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub host_id: HostId,
    pub name: String,
    pub public_key: PublicKey,
    pub underlay: Option<SocketAddr>,
    /// Seconds since the last handshake.
    pub handshake_age: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// One container's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub id: EndpointId,
    pub addresses: Vec<IpAddr>,
    pub mac: MacAddr,
    pub host_id: HostId,
    pub host_name: String,
    pub local: bool,
}

/// Something a person should know or do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Stable and lower case with dashes: `bad-option`, `port-taken`, `refused-records`.
    pub code: String,
    /// What is affected: a network, an endpoint, a host, a file.
    pub object: String,
    /// What is wrong, in a sentence.
    pub cause: String,
    /// What to do about it.
    pub next_step: String,
}
