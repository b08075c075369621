//! What a host's driver says of itself in etcd: enough to see from one place how every host does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::status::Problem;
use crate::{DockerNetworkId, Generation, HostId, NetworkKey};

/// `status/<HostId>`, leased. Totals count everything; the lists are cut to the worst and the
/// busiest. Times are seconds since the epoch by the writer's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusRecord {
    pub written: u64,
    /// The next one is written within so many seconds, whatever happens: one that is much older
    /// says that its host is in trouble.
    pub next_within: u32,
    /// When this driver process started.
    pub started: u64,
    pub name: String,
    pub version: String,
    /// `kernel` or `userspace`.
    pub backend: String,
    /// The kernel's release.
    pub kernel: String,
    pub underlay: Vec<IpAddr>,
    pub store: StoreState,
    pub totals: StatusTotals,
    pub networks: Vec<NetworkState>,
    pub problems: Vec<Problem>,
    /// Records that were ignored, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// How the host stands with the store; that it is connected shows by this record's being there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreState {
    /// The newest seen.
    pub revision: i64,
    /// Own records that are not in the store yet.
    pub unpublished: u64,
    /// How often a watch had to begin anew.
    pub watch_restarts: u64,
    /// Why something is not published; empty when all is well.
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusTotals {
    pub networks: u32,
    pub networks_out_of_sync: u32,
    /// Of containers on this host.
    pub endpoints: u32,
    pub endpoints_unpublished: u32,
    pub peers: u32,
    pub peers_silent: u32,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub problems: u32,
}

/// One network on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState {
    pub key: NetworkKey,
    pub docker_id: DockerNetworkId,
    /// Whether the kernel is as it should be, and the last failure when it is not.
    pub in_sync: bool,
    pub error: String,
    /// The store's revision of the newest record of this network that the driver has seen ...
    pub revision: i64,
    /// ... and up to which the kernel follows.
    pub applied: i64,
    /// For how long the oldest record has been seen that the kernel does not follow yet.
    pub lag_ms: u64,
    pub mtu: u16,
    /// The newest of this host's slots.
    pub generation: Generation,
    /// When its key was made, where that is known.
    pub key_made: Option<u64>,
    /// Hosts, this one included.
    pub members: u32,
    pub endpoints: u32,
    pub endpoints_here: u32,
    pub endpoints_unpublished: u32,
    /// Primary addresses of the first of them.
    pub unpublished: Vec<IpAddr>,
    /// How often something that somebody else changed was put right.
    pub repairs: u64,
    pub peers_total: u32,
    pub peers_silent: u32,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub peers: Vec<PeerState>,
}

/// One WireGuard peer in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    pub host: HostId,
    pub generation: Generation,
    /// When the last handshake was.
    pub handshake: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub underlay: Option<SocketAddr>,
    /// How often the underlay address changed since the driver started.
    pub underlay_changes: u64,
    /// Something was sent to it, and nothing has come back for 20 s since.
    pub silent: bool,
}
