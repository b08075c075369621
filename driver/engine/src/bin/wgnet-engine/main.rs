//! The userspace WireGuard engine of a host.
fn main() {}
