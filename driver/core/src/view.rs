//! What the cluster says, after every record was opened and judged: the other input of the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord, NetworkRecord};
use wgnet_proto::{Generation, HostId, NetworkKey};

/// The accepted records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    pub hosts: BTreeMap<HostId, HostRecord>,
    pub alive: BTreeSet<HostId>,
    pub revoked: BTreeSet<HostId>,
    pub networks: BTreeMap<NetworkKey, NetworkView>,
}

/// One network's accepted records. Endpoints whose host is no member are kept here and left out by
/// the derivation, so that the order of arrival does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkView {
    pub record: Option<NetworkRecord>,
    pub generation: Generation,
    pub members: BTreeMap<HostId, MemberRecord>,
    pub endpoints: BTreeMap<IpAddr, EndpointRecord>,
}
