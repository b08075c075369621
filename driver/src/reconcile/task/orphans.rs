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
            // Nobody asks about the namespace of what is in its container.
            let is_missed = end != End::InContainer(Seen::Present(()));
            let path = local.endpoints[&id].sandbox.as_deref();
            let sandbox = match path.filter(|_| is_missed) {
                Some(path) => Some(self.context.dataplane.sandbox(path).await),
                None => None,
            };
            seen.insert(id, Sighting { end, sandbox });
        }
        let engines = self.context.dataplane.engines().await;
        let engines = match &engines {
            Seen::Present(engines) => Some(engines),
            Seen::Absent | Seen::Unknown => None,
        };
        let over = self.memory.orphans.feed(now, engines, &seen);
        if !over.is_empty() {
            let endpoints = local.endpoints.values().filter(|endpoint| over.contains(&endpoint.id));
            self.withdraw(endpoints.cloned().collect()).await;
        }
    }

    /// Wanted endpoints whose container is gone.
    pub(super) fn orphaned(&self) -> BTreeSet<EndpointId> {
        let calls = self.context.applied.calls();
        let wanted = self.memory.derivation.desired().into_iter().flat_map(|d| d.veths.values());
        let gone = wanted.map(|veth| &veth.endpoint).filter(|endpoint| {
            // Docker may be about to make the container that is not there.
            self.memory.orphans.is_gone(endpoint) && !calls.is_running(endpoint.as_str())
        });
        gone.cloned().collect()
    }

    /// What is wanted, where anything of it is to be left out.
    pub(super) fn without_those_left_out(&self) -> Option<Desired> {
        let gone = &self.memory.left_out;
        let mut desired = self.memory.derivation.desired().filter(|_| !gone.is_empty())?.clone();
        leave_out(&mut desired, gone);
        Some(desired)
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

/// A container that is gone gets no new interface, and no route leads to where it was.
fn leave_out(desired: &mut Desired, gone: &BTreeSet<EndpointId>) {
    let names: BTreeSet<IfName> = gone.iter().map(IfName::veth_host).collect();
    desired.veths.retain(|_, veth| !gone.contains(&veth.endpoint));
    let leads_there =
        |target: &RouteTarget| matches!(target, RouteTarget::Link(link) if names.contains(link));
    desired.routes.retain(|_, target| !leads_there(target));
}

fn ends(local: &LocalNetwork, observed: &Observed) -> BTreeMap<EndpointId, End> {
    let end = |id: &EndpointId| match observed.veths.get(&IfName::veth_host(id)) {
        None => End::Nowhere,
        Some(veth) => match veth.container {
            ContainerEnd::InHost => End::InHost,
            ContainerEnd::InContainer(Seen::Present(_)) => End::InContainer(Seen::Present(())),
            ContainerEnd::InContainer(Seen::Absent) => End::InContainer(Seen::Absent),
            ContainerEnd::InContainer(Seen::Unknown) => End::InContainer(Seen::Unknown),
        },
    };
    local.endpoints.keys().map(|id| (id.clone(), end(id))).collect()
}
