//! What every wgnet process agrees on: identifiers, keys, the records in etcd, where they live there
//! and how they are sealed.
//!
//! Text and bytes from outside become the types of this crate at the edge ("parse, then trust the
//! type"); nothing here does I/O except [`secret`], which reads and writes the cluster secret file.

mod frame;
pub mod id;
pub mod ifname;
pub mod key;
pub mod mac;
pub mod path;
pub mod record;
pub mod seal;
pub mod secret;
pub mod status;
pub mod text;

pub use id::{ClusterId, DockerNetworkId, EndpointId, HostId, IdError, Incarnation, NetworkKey};
pub use ifname::{BadIfName, IfName};
pub use key::{BadKey, PresharedKey, PrivateKey, PublicKey};
pub use mac::{BadMac, MacAddr};
pub use path::Path;
pub use record::{BadRecord, Record};
pub use seal::{HostKey, Opened, Opener, Refused, Sealer};
pub use secret::{ClusterSecrets, SecretError};

/// Which of a member's WireGuard interfaces: counts rotations of a network's keys.
pub type Generation = u32;

/// Decides who owns an address; the higher claim wins, then the higher [`HostId`].
pub type Claim = u64;
