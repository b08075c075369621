//! Names of network interfaces, which the kernel limits to 15 bytes (`IFNAMSIZ` in if.h).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::EndpointId;

/// Text the kernel would refuse as the name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an interface name: 1 to 15 printable bytes without '/' and ':', not '.' or '..'"
)]
pub struct BadIfName(pub String);

/// The name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The WireGuard interface of a generation: wg0 and wg1 take turns.
    pub fn wireguard(generation: crate::Generation) -> Self {
        Self(format!("wg{}", generation % 2))
    }

    /// The end of an endpoint's veth pair that stays in the network's namespace.
    pub fn veth_host(endpoint: &EndpointId) -> Self {
        Self(format!("wgv{}", endpoint.short()))
    }

    /// The end of an endpoint's veth pair that Docker moves into the container (`SrcName` of Join).
    pub fn veth_container(endpoint: &EndpointId) -> Self {
        Self(format!("wgc{}", endpoint.short()))
    }
}

impl FromStr for IfName {
    type Err = BadIfName;
    fn from_str(name: &str) -> Result<Self, BadIfName> {
        let fits = (1..=15).contains(&name.len());
        let clean = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        if fits && clean && name != "." && name != ".." {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadIfName(name.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = BadIfName;
    fn try_from(name: String) -> Result<Self, BadIfName> {
        name.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
