//! WireGuard's keys: Curve25519 key pairs and pre-shared keys.
//!
//! The secret ones have no `Display` and no `Serialize`, a `Debug` that shows nothing, and are wiped when dropped. Whoever must
//! write one down (the journal, the kernel, the engine) asks for its bytes by name.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Text or bytes that are no 32-byte key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: 32 bytes, 44 characters of base64")]
pub struct BadKey;

/// A WireGuard public key, shown in base64 as `wg` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bytes = STANDARD.decode(text).map_err(|_| BadKey)?;
        Self::try_from(bytes.as_slice())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = BadKey;
    fn try_from(bytes: &[u8]) -> Result<Self, BadKey> {
        Ok(Self(bytes.try_into().map_err(|_| BadKey)?))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A WireGuard private key. Its public half is worked out once: everything that is planned or
/// published asks for it, again and again.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey {
    secret: [u8; 32],
    #[zeroize(skip)]
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from 32 random bytes, clamped as Curve25519 wants (RFC 7748, section 5).
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self::from_bytes(bytes)
    }

    /// The key that was kept as these bytes.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        let public = PublicKey(Point::from(&StaticSecret::from(secret)).to_bytes());
        Self { secret, public }
    }

    /// The secret itself, for the kernel, the engine and the journal.
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// A WireGuard pre-shared key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for the kernel and the engine.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}
