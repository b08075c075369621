//! One driver a host: who has the lock of the run directory has the sockets, and Docker, too.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};
use tracing::info;

const LOCK: &str = "driver.lock";

/// How long another one has to end: it may just have been told to, and then ends its calls and its tasks.
const PATIENCE: Duration = Duration::from_secs(12);
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Held while it lives. The kernel lets go of the lock (flock(2)) when the process ends, however it does.
pub(crate) struct Alone {
    _lock: File,
}

impl Alone {
    /// # Errors
    ///
    /// When another driver goes on, or the file cannot be made.
    pub(crate) async fn on_this_host(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(LOCK);
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let until = Instant::now() + PATIENCE;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            info!(lock = %path.display(), "Another wgnet-driver runs; waiting for its end");
        }
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _lock: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(TRY_AGAIN).await,
                Err(TryLockError::WouldBlock) => anyhow::bail!(
                    "another wgnet-driver runs on this host and has {}; to look at it: `systemctl status wgnet-driver`; only to check the settings: `wgnet-driver --check`",
                    path.display()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}
