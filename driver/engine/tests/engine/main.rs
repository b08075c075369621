//! The engine as a driver sees it, on two hosts made of network namespaces. Needs root.

mod lab;
mod lifecycle;
mod traffic;
