//! One life of a driver process: it may end at any seam, and nothing it does afterwards has effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio_util::sync::CancellationToken;

use super::trace::note;

#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

struct Inner {
    name: String,
    /// How many seams are still crossed; negative: all.
    fuse: AtomicI64,
    dead: CancellationToken,
    /// A tidy end, as by SIGTERM.
    stop: CancellationToken,
}

impl Life {
    pub(crate) fn new(name: String) -> Self {
        let (fuse, dead, stop) =
            (AtomicI64::new(-1), CancellationToken::new(), CancellationToken::new());
        Self(Arc::new(Inner { name, fuse, dead, stop }))
    }

    /// Ends it after so many more seams.
    pub(crate) fn arm(&self, seams: u64) {
        self.0.fuse.store(seams as i64, Ordering::Relaxed);
    }

    pub(crate) fn disarm(&self) {
        self.0.fuse.store(-1, Ordering::Relaxed);
    }

    /// Ends it here and now, as SIGKILL does.
    pub(crate) fn kill(&self) {
        if !self.is_dead() {
            note(format!("{} is killed", self.0.name));
            self.0.dead.cancel();
            self.0.stop.cancel();
        }
    }

    /// Whether both are the same life.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.dead.is_cancelled()
    }

    pub(crate) async fn death(&self) {
        self.0.dead.cancelled().await;
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// A place where it may end. Never returns to the dead, at once to the living.
    pub(crate) async fn seam(&self, what: &str) {
        if !self.is_dead() {
            let left = self.0.fuse.load(Ordering::Relaxed);
            if left > 0 {
                self.0.fuse.store(left - 1, Ordering::Relaxed);
            }
            if left == 0 {
                note(format!("{} ends at {what}", self.0.name));
                self.kill();
            }
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
