//! The deterministic simulation.
fn main() {}
