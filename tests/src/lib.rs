//! What the project's tests stand on: the lab of real Docker engines.

pub mod lab;
