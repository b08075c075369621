//! Where records live in etcd, relative to the configured prefix (default `/wgnet/v1`).
//!
//! ```text
//! cluster
//! hosts/<HostId>   alive/<HostId>   status/<HostId>   tombstones/<HostId>
//! networks/<NetworkKey>
//! networks/<NetworkKey>/generation
//! networks/<NetworkKey>/members/<HostId>
//! networks/<NetworkKey>/endpoints/<ip>
//! ```

use std::fmt;
use std::net::IpAddr;

use crate::{HostId, NetworkKey};

/// The key of one record. `Display` gives the canonical text without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    Cluster,
    Host(HostId),
    Alive(HostId),
    Status(HostId),
    Tombstone(HostId),
    Network(NetworkKey),
    Generation(NetworkKey),
    Member(NetworkKey, HostId),
    /// By the primary address.
    Endpoint(NetworkKey, IpAddr),
}

impl Path {
    /// The record's key from its text relative to the prefix; `None` for keys this version does not
    /// know, and for text that is not canonical (`010.0.0.1`, upper case).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let path = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("cluster", None, None, None) => Self::Cluster,
            ("hosts", Some(host), None, None) => Self::Host(host.parse().ok()?),
            ("alive", Some(host), None, None) => Self::Alive(host.parse().ok()?),
            ("status", Some(host), None, None) => Self::Status(host.parse().ok()?),
            ("tombstones", Some(host), None, None) => Self::Tombstone(host.parse().ok()?),
            ("networks", Some(key), None, None) => Self::Network(key.parse().ok()?),
            ("networks", Some(key), Some("generation"), None) => {
                Self::Generation(key.parse().ok()?)
            }
            ("networks", Some(key), Some("members"), Some(host)) => {
                Self::Member(key.parse().ok()?, host.parse().ok()?)
            }
            ("networks", Some(key), Some("endpoints"), Some(ip)) => {
                Self::Endpoint(key.parse().ok()?, ip.parse().ok()?)
            }
            _ => return None,
        };
        (path.to_string() == text).then_some(path)
    }

    /// The host that alone may write here, where there is one.
    pub fn owner(&self) -> Option<HostId> {
        match self {
            Self::Host(host) | Self::Alive(host) | Self::Status(host) | Self::Member(_, host) => {
                Some(*host)
            }
            Self::Cluster
            | Self::Tombstone(_)
            | Self::Network(_)
            | Self::Generation(_)
            | Self::Endpoint(_, _) => None,
        }
    }

    /// The network whose record this is.
    pub fn network(&self) -> Option<&NetworkKey> {
        match self {
            Self::Network(key)
            | Self::Generation(key)
            | Self::Member(key, _)
            | Self::Endpoint(key, _) => Some(key),
            Self::Cluster
            | Self::Host(_)
            | Self::Alive(_)
            | Self::Status(_)
            | Self::Tombstone(_) => None,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Host(host) => write!(f, "hosts/{host}"),
            Self::Alive(host) => write!(f, "alive/{host}"),
            Self::Status(host) => write!(f, "status/{host}"),
            Self::Tombstone(host) => write!(f, "tombstones/{host}"),
            Self::Network(key) => write!(f, "networks/{key}"),
            Self::Generation(key) => write!(f, "networks/{key}/generation"),
            Self::Member(key, host) => write!(f, "networks/{key}/members/{host}"),
            Self::Endpoint(key, ip) => write!(f, "networks/{key}/endpoints/{ip}"),
        }
    }
}
