//! The dashboard: the fleet as pages for a browser, live and read only.
//!
//! ```text
//! etcd ─▶ follower ─▶ keeper ─▶ Board ─▶ pages ─▶ HTML
//!                       └─ ticks (server-sent events) ─▶ the page fetches itself and is morphed
//! ```
//!
//! [`board`] and everything below [`pages`] is pure; [`server`] has the clock and the sockets. The
//! store is only read: no code here commits anything.

mod assets;
pub mod board;
mod draw;
pub mod flows;
pub mod guard;
pub mod journal;
mod order;
pub mod pages;
pub mod route;
pub mod series;
pub mod server;
mod text;
pub mod tunnels;
