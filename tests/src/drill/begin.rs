//! When a container really began: dockerd's own time of it comes only after its first program ran.

use std::time::{Duration, SystemTime};

use crate::lab::{Host, Result, wait_for};
use crate::swarm::SOON;

/// An image and its command, which says first of all when it began, in the kernel's count.
pub(crate) const BEGINS: [&str; 4] = ["perf", "sh", "-c", "cat /proc/uptime; exec sleep 1000000"];

/// When the first program of a container of [`BEGINS`] ran, since it was last started.
///
/// # Errors
///
/// When it has not said so in time.
pub(crate) fn began(host: &Host, name: &str) -> Result<SystemTime> {
    let (said, _) = wait_for("the time of the container's start", SOON, || {
        let logged = host.docker(&["logs", name]).map_err(|error| error.to_string())?;
        logged.lines().last().and_then(seconds).ok_or(logged)
    })?;
    let now = host.read("/proc/uptime")?;
    let since = seconds(&now).map_or(0.0, |now| (now - said).max(0.0));
    Ok(SystemTime::now() - Duration::from_secs_f64(since))
}

fn seconds(uptime: &str) -> Option<f64> {
    uptime.split_whitespace().next()?.parse().ok()
}
