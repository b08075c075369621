//! The records of etcd as types. [`Record::decode`] and [`Record::encode`] are the edge to protobuf.

pub mod rules;
pub mod status;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use rules::BadRecord;
pub use status::StatusRecord;

use crate::{Claim, ClusterId, EndpointId, Generation, HostId, Incarnation, MacAddr, PublicKey};

/// `cluster`: made by the first driver with compare-and-create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    pub cluster: ClusterId,
    /// Replaced by whoever sees the store's revision fall: another history.
    pub incarnation: Incarnation,
    pub schema: u32,
    /// Counts the incarnations, so that one of a backup is known for an earlier one.
    pub history: u64,
    /// The store's revision when this history was announced: what stands since then or before, a
    /// backup may have brought back. 0 for a cluster founded in an empty store.
    pub announced_at: i64,
}

/// `hosts/<HostId>`, written last by a host that republishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    pub name: String,
    /// Where the host's UDP can be reached, best first.
    pub underlay: Vec<IpAddr>,
    pub version: String,
    pub backend: String,
    /// The history this host's records are complete for.
    pub incarnation: Incarnation,
}

/// `networks/<NetworkKey>`: create-only, the same from every host; `freed` is terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRecord {
    pub subnets: Vec<IpNet>,
    pub options: BTreeMap<String, String>,
    pub freed: bool,
}

/// `networks/<NetworkKey>/members/<HostId>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberRecord {
    /// One, two during a rotation.
    pub slots: Vec<Slot>,
    pub ready_generation: Generation,
    /// Endpoint records of this host with a lower seq are void.
    pub floor: u64,
}

/// One WireGuard interface of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub generation: Generation,
    pub public_key: PublicKey,
    pub port: u16,
    /// Underlay addresses, where they differ from the host's.
    pub underlay: Vec<IpAddr>,
}

/// `networks/<NetworkKey>/endpoints/<ip>`, by the primary address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// The primary one first; at least one.
    pub addresses: Vec<IpAddr>,
    pub endpoint: EndpointId,
    pub host: HostId,
    pub mac: MacAddr,
    pub claim: Claim,
}

/// `tombstones/<HostId>`: a revoked host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TombstoneRecord {
    pub reason: String,
}

/// `alive/<HostId>`, leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliveRecord {
    pub boot: String,
}

/// Any record, of the kind its path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Cluster(ClusterRecord),
    Host(HostRecord),
    Alive(AliveRecord),
    Status(Box<StatusRecord>),
    Tombstone(TombstoneRecord),
    Network(NetworkRecord),
    Generation(Generation),
    Member(MemberRecord),
    Endpoint(EndpointRecord),
}

#[cfg(test)]
mod tests;
