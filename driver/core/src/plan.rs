//! The steps from what is to what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wgnet_proto::{IfName, PublicKey};

use crate::{Desired, Observed, Seen, Step};

/// What the kernel cannot tell and the planner must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The underlay address each peer was last given by us. A peer that is missing here (the driver
    /// was restarted) is given one only if it has none.
    pub told: BTreeMap<(IfName, PublicKey), SocketAddr>,
    /// Peers to remove and add again: sent to without a handshake for too long.
    pub remake: BTreeSet<(IfName, PublicKey)>,
}

/// The minimal ordered list of steps that makes `observed` into `desired` (`None`: the network must
/// be absent).
pub fn plan(_desired: Option<&Desired>, _observed: &Seen<Observed>, _hints: &Hints) -> Vec<Step> {
    Vec::new()
}
