//! The per-host driver: answers Docker, keeps the journal, follows etcd and reconciles the kernel.

pub mod dataplane;
