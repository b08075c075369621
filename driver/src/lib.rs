//! The per-host driver: answers Docker, keeps the journal, follows etcd and reconciles the kernel.

pub mod admin;
mod alone;
pub mod api;
pub mod app;
pub mod applied;
pub mod check;
pub mod clean_up;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod dataplane;
mod files;
pub mod forget;
pub mod journal;
pub mod keyring;
pub mod lines;
mod memory;
pub mod metrics;
pub mod notify;
pub mod plugins;
pub mod ports;
pub mod problems;
pub mod progress;
pub mod reconcile;
pub mod socket;
pub mod status;
pub mod underlay;
pub mod unready;
pub mod wiring;

/// An error with its causes, for logs and answers: `cannot add peer ...: no such device`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
