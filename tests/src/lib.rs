//! What the tests stand on: the lab of real Docker engines, a swarm with wgnet in it, and
//! stand-ins for dockerd that speak to a driver without any engine. And the benchmark and the drills, which
//! stand on the same.

pub mod bench;
pub mod drill;
pub mod faults;
pub mod guide;
pub mod lab;
pub mod package;
pub mod plugin;
pub mod recording;
pub mod replay;
pub mod stream;
pub mod swarm;
