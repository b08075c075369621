//! What the tests stand on: the lab of real Docker engines, a swarm with wgnet in it, and
//! stand-ins for dockerd that speak to a driver without any engine. And the benchmark, which stands on
//! the same.

pub mod bench;
pub mod lab;
pub mod plugin;
pub mod recording;
pub mod replay;
pub mod swarm;
