//! The engine as a driver sees it, on two hosts made of network namespaces. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;
mod lifecycle;
mod traffic;
