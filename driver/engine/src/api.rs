//! What can be asked of the engine and what it answers, as plain types.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use crate::wire::proto::Code;

/// A private or pre-shared key: wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key's bytes; whoever copies them wipes the copy.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SecretKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// Names a device: interfaces of different namespaces may have the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Where the namespace is pinned, e.g. `/run/netns/wgnet-…`.
    pub namespace: PathBuf,
    pub ifname: String,
}

impl DeviceId {
    pub fn new(namespace: impl Into<PathBuf>, ifname: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), ifname: ifname.into() }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.ifname, self.namespace.display())
    }
}

/// A device to be made: its link is born in the namespace, down and without addresses; its UDP
/// socket is in the engine's namespace.
#[derive(Debug)]
pub struct NewDevice {
    pub id: DeviceId,
    pub private_key: SecretKey,
    pub port: u16,
    pub mtu: u16,
}

/// Who answers on the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    pub protocol: u32,
    pub build: String,
    pub pid: u32,
    /// SHA-256 of the executable that runs; see [`crate::binary_digest`].
    pub binary_digest: String,
}

/// A device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    pub public_key: [u8; 32],
    pub port: u16,
    /// The link's, as last seen.
    pub mtu: u16,
    /// Why it carries nothing any more: its link was deleted, or the pin is gone or names another
    /// namespace. Such a device is to be deleted and made again.
    pub dead: Option<String>,
    /// By public key.
    pub peers: Vec<PeerState>,
}

impl DeviceState {
    pub fn is_alive(&self) -> bool {
        self.dead.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub public_key: [u8; 32],
    pub has_preshared_key: bool,
    /// The one in use, which roaming may have changed.
    pub underlay_address: Option<SocketAddr>,
    /// In seconds; `None` is off.
    pub keepalive: Option<u16>,
    /// In order.
    pub allowed_ips: Vec<IpNet>,
    /// Age of the handshake of the session in use, confirmed by both sides. `None` without a
    /// session: there never was one, or it is older than WireGuard allows (three minutes) and
    /// nothing was sent since.
    pub last_handshake: Option<Duration>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// One step of a configuration.
#[derive(Clone, Debug)]
pub enum Operation {
    AddOrUpdatePeer(PeerUpdate),
    /// Ends its session. Removing an unknown peer succeeds.
    RemovePeer([u8; 32]),
    /// An address has one owner: these are taken from whichever peer has them.
    AddAllowedIps([u8; 32], Vec<IpNet>),
    /// Those the peer does not have are passed over.
    RemoveAllowedIps([u8; 32], Vec<IpNet>),
    ReplaceAllowedIps([u8; 32], Vec<IpNet>),
}

/// Adds a peer, or changes the fields that are given; the session is kept.
///
/// A peer with a keepalive is sent a handshake at once when its keepalive or underlay address is
/// given, and again whenever it has lost its session; not while it has one.
#[derive(Clone, Debug, Default)]
pub struct PeerUpdate {
    pub public_key: [u8; 32],
    pub preshared_key: Option<PresharedKey>,
    pub underlay_address: Option<SocketAddr>,
    /// In seconds; 0 is off.
    pub keepalive: Option<u16>,
}

#[derive(Clone, Debug)]
pub enum PresharedKey {
    Use(SecretKey),
    None,
}

/// Why one operation of a configuration was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFailure {
    /// Its place in the list that was sent.
    pub index: usize,
    pub code: Code,
    pub text: String,
}
