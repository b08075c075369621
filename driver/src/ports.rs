//! UDP ports for WireGuard interfaces: one a slot, stable, from the configured range.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use crate::dataplane::Dataplane;

type Probe = dyn Fn(u16) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// Picks ports that neither this driver's networks nor anybody else on the host has.
#[derive(Clone)]
pub struct Ports {
    range: RangeInclusive<u16>,
    probe: Arc<Probe>,
}

/// Every port of the range is taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "every UDP port from {first} to {last} is taken on this host; widen `ports` in the driver's settings"
)]
pub struct NoPort {
    first: u16,
    last: u16,
}

impl Ports {
    pub fn new<D: Dataplane>(range: RangeInclusive<u16>, dataplane: D) -> Self {
        let probe = move |port| -> Pin<Box<dyn Future<Output = bool> + Send>> {
            let dataplane = dataplane.clone();
            Box::pin(async move { dataplane.port_is_free(port).await })
        };
        Self { range, probe: Arc::new(probe) }
    }

    /// The wanted port if it is free, else the first free one of the range.
    ///
    /// # Errors
    ///
    /// When the whole range is taken.
    pub async fn pick(&self, wanted: Option<u16>, taken: &BTreeSet<u16>) -> Result<u16, NoPort> {
        for port in wanted.into_iter().chain(self.range.clone()) {
            if !taken.contains(&port) && (self.probe)(port).await {
                return Ok(port);
            }
        }
        Err(NoPort { first: *self.range.start(), last: *self.range.end() })
    }
}
