//! What nobody will ever take back: endpoints of containers that are gone, records of hosts that are,
//! networks that Docker forgot.
//! On simulated time, with the journal, the store and the kernel in memory.

#[path = "sweep/cluster.rs"]
mod cluster;
#[path = "sweep/endpoints.rs"]
mod endpoints;
#[path = "sweep/forget.rs"]
mod forget;
#[path = "sweep/world.rs"]
mod world;
