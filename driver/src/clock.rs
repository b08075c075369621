//! The time that all hosts share more or less. Whoever tells it to others is given it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Since the epoch.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The host's own.
pub fn of_host() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
