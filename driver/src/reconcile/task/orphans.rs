//! Endpoints whose container is gone without a word of Docker's: looked at, left alone, given up.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};
use wgnet_core::orphan::{End, Sighting};
use wgnet_core::{ContainerEnd, Desired, LocalEndpoint, LocalNetwork, Observed, RouteTarget, Seen};
use wgnet_proto::{EndpointId, IfName};

use super::NetworkTask;
use crate::dataplane::Dataplane;

impl<D: Dataplane> NetworkTask<D> {
    /// Takes a new look in, and withdraws the endpoints that have been without a container for long.
    pub(super) async fn give_up_orphans(&mut self, local: &LocalNetwork, now: u64) {
        let ends = match &self.memory.believed {
            Seen::Present(observed) => ends(local, observed),
            Seen::Absent => ends(local, &Observed::default()),
            Seen::Unknown => return,
        };
        let mut seen = BTreeMap::new();
        for (id, end) in ends {
            // Nobody asks about the namespace of what is in a container.
            let path = local.endpoints[&id].sandbox.as_deref();
            let sandbox = match path.filter(|_| end != End::InContainer) {
                Some(path) => Some(self.context.dataplane.sandbox(path).await),
                None => None,
            };
            seen.insert(id, Sighting { end, sandbox });
        }
        let over = self.memory.orphans.feed(now, &seen);
        if !over.is_empty() {
            let endpoints = local.endpoints.values().filter(|endpoint| over.contains(&endpoint.id));
            self.withdraw(endpoints.cloned().collect()).await;
        }
    }

    /// Does what DeleteEndpoint would, for endpoints that are still as they were seen and that no
    /// call is about.
    async fn withdraw(&self, endpoints: Vec<LocalEndpoint>) {
        let (network, now) = (self.network.clone(), self.context.journal.uptime());
        let calls = self.context.applied.calls().clone();
        let withdrawn = self.context.journal.update(move |state| {
            let mut withdrawn = Vec::new();
            for seen in endpoints {
                let known = state.networks.get(&network);
                let is_same = known.and_then(|known| known.endpoints.get(&seen.id)) == Some(&seen);
                // Asked here, where no call can change the endpoint meanwhile.
                if is_same && !calls.is_running(seen.id.as_str()) {
                    state.delete_endpoint(&network, &seen.id, now);
                    withdrawn.push(seen);
                }
            }
            withdrawn
        });
        match withdrawn.await {
            Ok((withdrawn, _)) => withdrawn.iter().for_each(|endpoint| {
                let joined = endpoint.sandbox.is_some();
                info!(
                    endpoint = endpoint.id.short(),
                    joined, "No container has this endpoint any more, and Docker never deleted it"
                );
            }),
            Err(error) => {
                warn!(error = crate::chain(&error), "Cannot give up an endpoint without container");
            }
        }
    }
}

fn ends(local: &LocalNetwork, observed: &Observed) -> BTreeMap<EndpointId, End> {
    let end = |id: &EndpointId| match observed.veths.get(&IfName::veth_host(id)) {
        None => End::Nowhere,
        Some(veth) => match veth.container {
            ContainerEnd::InHost => End::InHost,
            ContainerEnd::InContainer(_) => End::InContainer,
        },
    };
    local.endpoints.keys().map(|id| (id.clone(), end(id))).collect()
}

/// A container that is gone gets no new interface, and no route leads to where it was.
pub(super) fn leave_out(desired: &mut Desired, is_gone: impl Fn(&EndpointId) -> bool) {
    let gone = desired.veths.iter().filter(|(_, veth)| is_gone(&veth.endpoint));
    let gone: BTreeSet<IfName> = gone.map(|(name, _)| name.clone()).collect();
    if gone.is_empty() {
        return;
    }
    desired.veths.retain(|name, _| !gone.contains(name));
    let leads_there =
        |target: &RouteTarget| matches!(target, RouteTarget::Link(link) if gone.contains(link));
    desired.routes.retain(|_, target| !leads_there(target));
}
