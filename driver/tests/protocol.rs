//! The plugin protocol as dockerd speaks it, byte by byte, against the real server.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[path = "protocol/support.rs"]
mod support;

#[path = "protocol/delivery.rs"]
mod delivery;
#[path = "protocol/endpoints.rs"]
mod endpoints;
#[path = "protocol/http.rs"]
mod http;
#[path = "protocol/networks.rs"]
mod networks;
#[path = "protocol/restarts.rs"]
mod restarts;
