//! Keeps one lease of this host alive, and takes a new one when it is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backoff::Backoff;
use crate::store::{LeaseId, Store, StoreError, chain};

/// How long a lease outlives its host.
pub const LEASE_TTL: Duration = Duration::from_secs(45);

/// A running lease keeper, until its token is cancelled; cheap to clone. The lease is left to
/// expire when the keeper ends, so that a restarted driver does not blink.
#[derive(Clone)]
pub struct Session {
    lease: watch::Receiver<Option<LeaseId>>,
    look: Arc<Notify>,
}

impl Session {
    pub fn start<S: Store>(store: S, ttl: Duration, cancel: &CancellationToken) -> Self {
        let (told, lease) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let keeper = keep(store, ttl, told, Arc::clone(&look));
        tokio::spawn(cancel.clone().run_until_cancelled_owned(keeper));
        Self { lease, look }
    }

    /// The lease of now; `None` while there is none.
    pub fn lease(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease.clone()
    }

    /// Somebody was told that this lease is gone: look at once.
    pub fn lost(&self, lease: LeaseId) {
        if *self.lease.borrow() == Some(lease) {
            self.look.notify_one();
        }
    }
}

async fn keep<S: Store>(
    store: S,
    ttl: Duration,
    told: watch::Sender<Option<LeaseId>>,
    look: Arc<Notify>,
) {
    let mut backoff = Backoff::new();
    loop {
        let granted = Instant::now();
        let lease = match store.grant(ttl).await {
            Ok(lease) => lease,
            Err(error) => {
                debug!(error = chain(&error), "No lease");
                sleep(backoff.wait_after(&error)).await;
                continue;
            }
        };
        backoff.reset();
        told.send_replace(Some(lease));
        renew(&store, lease, ttl, granted, &look).await;
        told.send_replace(None);
    }
}

/// Returns when the lease is lost, or has not been renewed for so long that it must be.
async fn renew<S: Store>(
    store: &S,
    lease: LeaseId,
    ttl: Duration,
    granted: Instant,
    look: &Notify,
) {
    let mut renewed = granted;
    let mut backoff = Backoff::new();
    let mut pause = ttl / 3;
    loop {
        // Both arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            () = sleep(pause) => {}
            () = look.notified() => {}
        }
        let asked = Instant::now();
        match store.keep_alive(lease).await {
            Ok(()) => {
                renewed = asked;
                backoff.reset();
                pause = ttl / 3;
            }
            Err(StoreError::LeaseLost(_)) => return,
            Err(error) => {
                debug!(error = chain(&error), "The lease was not renewed");
                if renewed.elapsed() > ttl {
                    return;
                }
                pause = backoff.wait_after(&error);
            }
        }
    }
}
