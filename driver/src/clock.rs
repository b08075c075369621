//! The time that all hosts share more or less. Whoever tells it to others is given it.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Since the epoch.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The host's own.
pub fn of_host() -> Clock {
    Arc::new(host)
}

/// What the host's clock said when this process first asked, and what has passed since: nobody sets
/// it, so that a time made of an age stays what it is.
pub fn steady() -> Duration {
    static BEGINNING: LazyLock<(Duration, Duration)> = LazyLock::new(|| (host(), since_boot()));
    let (at, up) = *BEGINNING;
    at + since_boot().saturating_sub(up)
}

fn host() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// With the time that the host slept: so the engine counts ages.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_begins_as_the_hosts_and_goes_on() {
        let (before, first) = (host(), steady());
        assert!(first.abs_diff(before) < Duration::from_secs(5), "{first:?} {before:?}");
        let later = std::iter::repeat_with(steady).take(1_000_000).find(|now| *now > first);
        assert!(later.is_some(), "it stands still");
    }
}
