//! The per-host driver: answers Docker, keeps the journal, follows etcd and reconciles the kernel.

pub mod api;
pub mod applied;
pub mod dataplane;
pub mod journal;
