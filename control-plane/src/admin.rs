//! What operators order from the driver on its host: the bodies of the admin socket's POSTs and
//! their answers, beside the status ([`wgnet_proto::status`]).

use serde::{Deserialize, Serialize};
use wgnet_proto::{DockerNetworkId, HostId, NetworkKey};

/// The answer to everything, with code 503, while the driver runs and something it needs is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the driver runs and cannot work yet: {reason}; next: {next_step}")]
pub struct Unready {
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}

/// `GET /held`: listings of etcd that are not believed yet, since most hosts, or most members of a
/// network, would go at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldListing {
    /// What was listed: `networks/<NetworkKey>`, or `hosts/`.
    pub scope: String,
    /// Members or hosts that are missing from the listing.
    pub vanishing: usize,
    /// Members or hosts before.
    pub of: usize,
    /// Their hosts' names, as far as they are known.
    pub hosts: Vec<String>,
}

/// What people call a listing, and those who are in it.
pub fn called(scope: &str) -> (&str, &'static str) {
    match scope.strip_prefix("networks/") {
        Some(network) => (network, "members"),
        None => (scope.trim_end_matches('/'), "hosts"),
    }
}

/// `POST /release`: believe held listings now. Answered with those that were released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The network's key, `hosts`, or the scope; `None`: all of them.
    pub network: Option<String>,
}

/// `POST /forget-host`: remove every record of a host that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetHost {
    /// Its name, its id, or the beginning of the id (8 digits at least).
    pub host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub host_id: HostId,
    pub name: String,
    /// Records that were removed from etcd.
    pub records: usize,
}

/// `POST /forget-network`: do for a network that Docker no longer has what Docker's own order would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetNetwork {
    /// Docker's id of it, the beginning of one, or its key.
    pub network: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenNetwork {
    pub network: NetworkKey,
    pub docker_id: DockerNetworkId,
    /// Endpoints without a container that went with it.
    pub endpoints: usize,
    /// Whether its namespace is gone already.
    pub removed: bool,
}
