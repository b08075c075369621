//! The pure part of the driver: what this host should have ([`desired`]), what it has
//! ([`observed`]) and the steps from one to the other ([`plan`]).
//!
//! No clock, no randomness, no environment, no I/O: everything arrives as an argument. The crate
//! must never depend on tokio, netlink or etcd.

pub mod absence;
pub mod brake;
pub mod desired;
pub mod join;
pub mod judge;
pub mod leftovers;
pub mod local;
pub mod model;
pub mod observed;
pub mod options;
pub mod orphan;
pub mod plan;
pub mod refused;
pub mod step;
#[cfg(feature = "testing")]
pub mod testing;
pub mod view;
pub mod watchdog;

pub use desired::{
    Derivation, Desired, DesiredPeer, DesiredVeth, DesiredWireguard, Difference, Families, Inputs,
    Parts, RouteTarget, derive, superseded,
};
pub use join::{JoinAnswer, join};
pub use judge::{Changed, InForce, InStore, Judge, Refusal, Verdict};
pub use local::{
    LocalEndpoint, LocalNetwork, LocalSlot, NetworkDefinition, NetworkOptions, Subnet,
};
pub use observed::{
    ContainerEnd, ContainerInterface, Observed, ObservedPeer, ObservedVeth, ObservedWireguard, Seen,
};
pub use plan::{Hints, plan, plan_parts};
pub use step::Step;
pub use view::{ClusterView, Endpoints, NetworkView, Shared};

use std::fmt;

use serde::{Deserialize, Serialize};
use wgnet_proto::DockerNetworkId;

/// The name of a network's namespace below `/run/netns`. The prefix is our mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Namespace(String);

impl Namespace {
    pub const PREFIX: &str = "wgnet-";

    pub fn of(network: &DockerNetworkId) -> Self {
        Self(format!("{}{}", Self::PREFIX, network.short()))
    }

    /// The namespace of this name, if it is one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let id = name.strip_prefix(Self::PREFIX)?;
        let ours = (1..=12).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ours.then(|| Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
