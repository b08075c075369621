//! Identifiers, parsed at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Text that is no identifier of the kind it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct IdError {
    pub kind: &'static str,
    pub text: String,
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(IdError { kind: $kind, text, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_lower_alnum(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

text_id!(
    /// Docker's own id of a network, local to the API, the journal and the namespace's name:
    /// 25 base-36 characters in a swarm, 64 hex digits on a plain engine.
    DockerNetworkId, "Docker network id", "1 to 64 characters of [0-9a-z]",
    |text| (1..=64).contains(&text.len()) && is_lower_alnum(text)
);

text_id!(
    /// Docker's id of one container's attachment to one network: 64 hex digits.
    EndpointId, "endpoint id", "64 hex digits",
    |text| text.len() == 64 && is_hex(text)
);

text_id!(
    /// Names a network in etcd and in key derivation: `s-<swarm id>`, or on plain engines
    /// `n-<id>` from `-o id=`, else `l-<docker id>`, which is never shared.
    NetworkKey, "network key", "s-, n- or l- and 1 to 64 characters of [a-z0-9-]",
    |text| {
        let Some((kind, rest)) = text.split_once('-') else { return false };
        let clean = rest.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-');
        matches!(kind, "s" | "n" | "l") && (1..=64).contains(&rest.len()) && clean
    }
);

impl DockerNetworkId {
    /// Whether the id is one that swarm gave (25 base-36 characters).
    pub fn is_swarm(&self) -> bool {
        self.0.len() == 25
    }

    /// The first 12 characters, as Docker shows ids to people.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

impl EndpointId {
    /// The first 12 characters, as Docker shows ids to people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl NetworkKey {
    /// The key of a swarm's network.
    pub fn swarm(id: &DockerNetworkId) -> Self {
        Self(format!("s-{id}"))
    }

    /// The key of a plain engine's network that was given no `-o id=`: shared with nobody.
    pub fn local(id: &DockerNetworkId) -> Self {
        Self(format!("l-{id}"))
    }

    /// The key of a plain engine's network from its `-o id=`.
    pub fn named(id: &str) -> Result<Self, IdError> {
        let clean = id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-');
        if !(1..=40).contains(&id.len()) || !clean {
            let text = id.chars().take(80).collect();
            return Err(IdError {
                kind: "network id",
                text,
                rule: "1 to 40 characters of [a-z0-9-]",
            });
        }
        Ok(Self(format!("n-{id}")))
    }

    /// Whether other hosts may share this network.
    pub fn is_shared(&self) -> bool {
        !self.0.starts_with("l-")
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = || IdError { kind: $kind, text: text.chars().take(80).collect(), rule: $rule };
                if !is_hex(text) {
                    return Err(error());
                }
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| error())?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let error = |_| IdError { kind: $kind, text: hex::encode(&bytes[..bytes.len().min(40)]), rule: $rule };
                Ok(Self(bytes.try_into().map_err(error)?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self)
            }
        }
    };
}

hex_id!(
    /// One Docker engine with one driver: the first 16 bytes of the SHA-256 of its Ed25519 public key.
    HostId, "host id", "32 hex digits"
);
hex_id!(
    /// The cluster's identity, made by the first driver and pinned on each host's disk.
    ClusterId, "cluster id", "32 hex digits"
);
hex_id!(
    /// One history of the store: replaced when a store was wiped or restored.
    Incarnation, "incarnation", "32 hex digits"
);

impl HostId {
    /// The id that belongs to a host's Ed25519 public key.
    pub fn of(public_key: &[u8; 32]) -> Self {
        let digest = Sha256::digest(public_key);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The first 8 digits, enough to tell hosts apart on a screen.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}
