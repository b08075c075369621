//! What the cluster says, after every record was opened and judged: the other input of the planner.
//!
//! A view is handed on with every change, to several tasks that keep it for as long as they like. So
//! all that grows with the cluster is shared between a view and its copies: copying one costs the
//! same however large it is.

mod endpoints;
mod shared;

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::record::{HostRecord, MemberRecord, NetworkRecord};
use wgnet_proto::{Generation, HostId, NetworkKey};

pub use endpoints::Endpoints;
pub use shared::Shared;

/// The accepted records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    pub hosts: Shared<BTreeMap<HostId, HostRecord>>,
    pub alive: Shared<BTreeSet<HostId>>,
    pub revoked: Shared<BTreeSet<HostId>>,
    pub networks: BTreeMap<NetworkKey, NetworkView>,
}

/// One network's accepted records. Endpoints whose host is no member are kept here and left out by
/// the derivation, so that the order of arrival does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkView {
    pub record: Option<NetworkRecord>,
    pub generation: Generation,
    pub members: Shared<BTreeMap<HostId, MemberRecord>>,
    pub endpoints: Endpoints,
}
