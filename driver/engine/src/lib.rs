//! The driver's side of the userspace WireGuard engine: protocol, client, and how to start it.
//!
//! The engine is a process of its own (`wgnet-engine`, one per host) that outlives the driver: a
//! killed, restarted or upgraded driver finds its devices running and adopts them by listing them.
//! The engine keeps nothing on disk. Its devices live as long as it does; after its death the
//! driver, which owns keys and configuration, makes them again.
//!
//! The engine itself is in `bin/wgnet-engine`; nothing of it is linked into users of this library.

pub mod api;
pub mod client;
pub mod spawn;
pub mod wire;

pub use api::{
    Code, DeviceId, DeviceState, EngineInfo, NewDevice, Operation, OperationFailure, PeerState,
    PeerUpdate, PresharedKey, SecretKey,
};
pub use client::{Client, ClientError};
pub use spawn::{Spawn, SpawnError, binary_digest, spawn_detached};
