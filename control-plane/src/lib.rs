//! The shared store as the drivers and tools see it: the [`store::Store`] seam with etcd and memory
//! behind it, and the publisher that keeps a host's own records in it.

pub mod store;
