//! The dashboard: pages of planted clusters, and its server over a store in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "dashboard/command.rs"]
mod command;
#[path = "dashboard/http.rs"]
mod http;
#[path = "dashboard/journal.rs"]
mod journal;
#[path = "dashboard/markup.rs"]
mod markup;
#[path = "dashboard/pages.rs"]
mod pages;
#[path = "dashboard/server.rs"]
mod server;
#[allow(dead_code, reason = "the bench uses more of it")]
#[path = "dashboard/world.rs"]
mod world;
