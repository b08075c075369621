//! The shared store as the drivers and tools see it: the [`store::Store`] seam with etcd and memory
//! behind it, the [`follower`] that keeps a picture of the store current, the [`publisher`] that
//! keeps a host's own records in it, the [`fleet`] that people are shown, and the [`dashboard`] that
//! shows it to browsers.

pub mod admin;
mod backoff;
pub mod dashboard;
pub mod fleet;
pub mod follower;
pub mod meant;
pub mod publisher;
pub mod session;
pub mod settings;
pub mod store;
pub mod tombstone;
