//! The plugin protocol as dockerd speaks it, byte by byte, against the real server.

#[path = "protocol/support.rs"]
mod support;

#[path = "protocol/calls.rs"]
mod calls;
#[path = "protocol/delivery.rs"]
mod delivery;
#[path = "protocol/http.rs"]
mod http;
#[path = "protocol/restarts.rs"]
mod restarts;
