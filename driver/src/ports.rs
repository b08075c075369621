//! UDP ports for WireGuard interfaces: one a slot, stable, from the configured range.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use wgnet_proto::status::Problem;

use crate::dataplane::Dataplane;
use crate::problems::Problems;

const TAKEN: &str = "port-taken";

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

/// Opens or closes the problem that a network (`object`) has not the port that was wanted for it.
pub(crate) fn note_wanted(problems: &Problems, object: String, wanted: Option<u16>, port: u16) {
    match wanted {
        Some(wanted) if wanted != port => note_taken(problems, object, "", wanted, port),
        _ => problems.clear(TAKEN, &object),
    }
}

/// `interface`: whose port it was, with a space after it, or nothing.
pub(crate) fn note_taken(
    problems: &Problems,
    object: String,
    interface: &str,
    taken: u16,
    port: u16,
) {
    problems.set(Problem {
        code: TAKEN.to_owned(),
        object,
        cause: format!("UDP port {taken} {interface}was taken on this host when it was wanted; {port} is used instead"),
        next_step: format!(
            "nothing; or, if the firewall allows only that port, free it (ss -lunp sport = :{taken}) and make \
             the network anew"
        ),
    });
}
