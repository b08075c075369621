//! The calls about one container's attachment to one network.

use std::net::IpAddr;
use std::time::Duration;

use tracing::warn;
use wgnet_core::{ClusterView, LocalEndpoint, LocalNetwork, NetworkView};
use wgnet_proto::{DockerNetworkId, EndpointId, HostId, MacAddr};

use super::error::CallError;
use super::parse::{EndpointOf, NewEndpoint, NewJoin};
use super::turns::Delivery;
use super::{Context, wire};
use crate::applied::NotApplied;
use crate::journal::{State, Uptime};

/// Docker forgets what it removes whatever is answered; waiting only keeps its view and the kernel's
/// together.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

/// The endpoint is published from here on, before Docker builds the container around it. Its links
/// are made meanwhile; Join waits for them.
pub(super) async fn create(
    context: &Context,
    request: wire::CreateEndpoint,
    delivery: &Delivery,
) -> Result<wire::EndpointCreated, CallError> {
    let new = NewEndpoint::parse(&request)?;
    wait_for_remembered(context, &new.of.endpoint, delivery).await?;
    let view = context.view.borrow().clone();
    let (me, now, delivery) = (context.me, context.journal.uptime(), delivery.clone());
    let change = move |state: &mut State| {
        delivery.in_time("CreateEndpoint")?;
        put(state, new, &view, me, now)
    };
    let (endpoint, _) = context.journal.try_update(change).await?;
    // dockerd refuses an answer that repeats what it gave.
    let mac = (!endpoint.mac_given).then(|| endpoint.mac.to_string());
    Ok(wire::EndpointCreated { interface: wire::AnsweredInterface { mac } })
}

/// Waits until the view has what was known last.
async fn wait_for_remembered(
    context: &Context,
    endpoint: &EndpointId,
    delivery: &Delivery,
) -> Result<(), CallError> {
    let mut remembered = context.remembered.clone();
    let within = delivery.remaining(context.apply_within);
    let told = tokio::time::timeout(within, remembered.wait_for(|is_so| *is_so)).await;
    match told {
        Ok(told) => told.map(drop).map_err(|_| CallError::Stopping),
        Err(_) => {
            delivery.in_time("CreateEndpoint")?;
            Err(CallError::NotRemembered(endpoint.clone()))
        }
    }
}

fn put(
    state: &mut State,
    new: NewEndpoint,
    view: &ClusterView,
    me: HostId,
    now: Uptime,
) -> Result<LocalEndpoint, CallError> {
    let NewEndpoint { of: EndpointOf { network: id, endpoint: endpoint_id }, addresses, mac } = new;
    let network = state.live(&id).cloned().ok_or_else(|| CallError::NoNetwork(id.clone()))?;
    if let Some(old) = network.endpoints.get(&endpoint_id) {
        let agrees = old.addresses == addresses
            && old.mac_given == mac.is_some()
            && mac.is_none_or(|mac| mac == old.mac);
        let differs = || CallError::EndpointDiffers { network: id, endpoint: endpoint_id };
        return agrees.then(|| old.clone()).ok_or_else(differs);
    }
    if state.deleted.contains_key(&endpoint_id) {
        return Err(CallError::Deleted(endpoint_id));
    }
    for address in &addresses {
        let subnet =
            network.definition.subnets.iter().find(|subnet| subnet.pool.contains(&address.addr()));
        let Some(subnet) = subnet else {
            return Err(CallError::Address {
                network: id,
                endpoint: endpoint_id,
                text: address.to_string(),
            });
        };
        if subnet.gateway == Some(address.addr()) {
            return Err(CallError::GatewayAddress {
                network: id,
                endpoint: endpoint_id,
                address: address.addr(),
            });
        }
    }
    let hosts: Vec<IpAddr> = addresses.iter().map(|address| address.addr()).collect();
    if let Some(elsewhere) = Elsewhere::of(&network, view, me) {
        elsewhere.admit(&network, &hosts)?;
    }
    // Docker's address management is right: whoever had the address before is gone.
    let stale = network
        .endpoints
        .values()
        .filter(|old| old.addresses.iter().any(|a| hosts.contains(&a.addr())));
    for old in stale {
        warn!(
            network = id.short(),
            endpoint = old.id.short(),
            "Docker gave this endpoint's address to another; it is removed"
        );
        state.delete_endpoint(&id, &old.id, now);
    }
    let key = &network.definition.key;
    let highest = state.claims.get(key).copied().unwrap_or(0).max(highest_claim(view, key));
    let claim = highest.saturating_add(1);
    state.raise_claim(key, claim);
    let endpoint = LocalEndpoint {
        id: endpoint_id.clone(),
        mac: mac.unwrap_or_else(|| MacAddr::of_address(hosts[0])),
        mac_given: mac.is_some(),
        addresses,
        claim,
        sandbox: None,
        superseded: false,
    };
    let network = state.network_mut(&id).expect("found above");
    network.endpoints.insert(endpoint_id, endpoint.clone());
    Ok(endpoint)
}

/// What other engines have of a plain engine's network. Between them nobody coordinates addresses;
/// in a swarm its leader does, and what it gave last is right.
struct Elsewhere<'a> {
    view: &'a ClusterView,
    seen: &'a NetworkView,
    me: HostId,
}

impl<'a> Elsewhere<'a> {
    fn of(network: &LocalNetwork, view: &'a ClusterView, me: HostId) -> Option<Self> {
        let definition = &network.definition;
        let seen = view.networks.get(&definition.key).filter(|_| !definition.docker_id.is_swarm());
        seen.map(|seen| Self { view, seen, me })
    }

    /// Refuses addresses that a live host has, and networks that do not fit together.
    fn admit(&self, network: &LocalNetwork, addresses: &[IpAddr]) -> Result<(), CallError> {
        let id = &network.definition.docker_id;
        for record in self.seen.endpoints.values().filter(|record| self.is_there(record.host)) {
            let holder = || self.name(record.host);
            if let Some(address) = addresses.iter().find(|a| record.addresses.contains(a)) {
                let (network, address, holder) = (id.clone(), *address, holder());
                return Err(CallError::AddressTaken { network, address, holder });
            }
            let fits = |address: &IpAddr| {
                network.definition.subnets.iter().any(|subnet| subnet.pool.contains(address))
            };
            if let Some(address) = record.addresses.first().filter(|address| !fits(address)) {
                let (network, address, holder) = (id.clone(), *address, holder());
                return Err(CallError::OtherSubnets { network, address, holder });
            }
        }
        Ok(())
    }

    fn is_there(&self, host: HostId) -> bool {
        host != self.me
            && self.view.alive.contains(&host)
            && !self.view.revoked.contains(&host)
            && self.seen.members.contains_key(&host)
    }

    fn name(&self, host: HostId) -> String {
        self.view.hosts.get(&host).map_or_else(|| host.short(), |record| record.name.clone())
    }
}

fn highest_claim(view: &ClusterView, key: &wgnet_proto::NetworkKey) -> u64 {
    let highest = view.networks.get(key).and_then(|network| network.endpoints.highest_claim());
    // Leaves room for one more, whatever somebody with the secret wrote.
    highest.unwrap_or(0).min(u64::MAX - 1)
}

pub(super) async fn join(
    context: &Context,
    request: wire::Join,
    delivery: &Delivery,
) -> Result<wire::Joined, CallError> {
    let NewJoin { of, sandbox } = NewJoin::parse(request)?;
    let EndpointOf { network, endpoint } = of.clone();
    let (key, awaited) = (sandbox.clone(), delivery.clone());
    let change = move |state: &mut State| {
        awaited.in_time("Join")?;
        let found = state.live(&network).ok_or_else(|| CallError::NoNetwork(network.clone()))?;
        let Some(joined) = found.endpoints.get(&endpoint) else {
            return Err(CallError::NoEndpoint { network, endpoint });
        };
        if joined.superseded {
            return Err(CallError::Superseded { network, endpoint });
        }
        let answer = wgnet_core::join(&found.definition, joined);
        let before = joined.sandbox.clone();
        if before.as_ref().is_some_and(|before| *before != key) {
            set_sandbox(state, &EndpointOf { network, endpoint }, None);
        }
        Ok((answer, before))
    };
    // The pair first: once the container is known, a missing one is put right into it, and Docker may
    // make the container only after Join.
    let ((answer, before), revision) = context.journal.try_update(change).await?;
    let mut applied = follow(context, &of.network, revision, delivery).await;
    if applied.is_ok() {
        let joined = of.clone();
        let change = move |state: &mut State| set_sandbox(state, &joined, Some(sandbox));
        let ((), revision) = context.journal.update(change).await?;
        applied = follow(context, &of.network, revision, delivery).await;
    }
    if let Err(source) = applied {
        let network = of.network.clone();
        context.journal.update(move |state| set_sandbox(state, &of, before)).await?;
        return Err(CallError::NotApplied { network, source });
    }
    let route = |(destination, gateway): &(ipnet::IpNet, IpAddr)| wire::StaticRoute {
        destination: destination.to_string(),
        route_type: 0,
        next_hop: gateway.to_string(),
    };
    Ok(wire::Joined {
        interface_name: wire::InterfaceName {
            src_name: answer.source.to_string(),
            dst_prefix: answer.destination_prefix,
        },
        static_routes: answer.routes.iter().map(route).collect(),
        disable_gateway_service: answer.disable_gateway_service,
    })
}

/// Waits until the kernel has what the journal held of a network at a revision.
async fn follow(
    context: &Context,
    network: &DockerNetworkId,
    revision: u64,
    delivery: &Delivery,
) -> Result<(), NotApplied> {
    let needed = revision.min(context.journal.state().revision_of(network));
    let within = delivery.remaining(context.apply_within);
    context.applied.wait(network, needed, within).await
}

/// Docker takes the interface out of the container after this; the link itself goes with
/// DeleteEndpoint.
pub(super) async fn leave(
    context: &Context,
    request: wire::EndpointOnly,
) -> Result<wire::Empty, CallError> {
    if let Ok(of) = EndpointOf::parse(&request.network, &request.endpoint) {
        context.journal.update(move |state| set_sandbox(state, &of, None)).await?;
    }
    Ok(wire::Empty {})
}

fn set_sandbox(state: &mut State, of: &EndpointOf, sandbox: Option<std::path::PathBuf>) {
    let known = state
        .networks
        .get(&of.network)
        .is_some_and(|network| network.endpoints.contains_key(&of.endpoint));
    if known {
        let network = state.network_mut(&of.network).expect("just found");
        network.endpoints.get_mut(&of.endpoint).expect("just found").sandbox = sandbox;
    }
}

pub(super) async fn delete(
    context: &Context,
    request: wire::EndpointOnly,
    delivery: &Delivery,
) -> Result<wire::Empty, CallError> {
    let Ok(of) = EndpointOf::parse(&request.network, &request.endpoint) else {
        return Ok(wire::Empty {});
    };
    let (now, network) = (context.journal.uptime(), of.network.clone());
    let change = move |state: &mut State| {
        let known = state
            .networks
            .get(&of.network)
            .is_some_and(|network| network.endpoints.contains_key(&of.endpoint));
        // An unknown one too: its CreateEndpoint may still be on its way.
        state.delete_endpoint(&of.network, &of.endpoint, now);
        known
    };
    let (known, revision) = context.journal.update(change).await?;
    if known {
        wait_for_removal(context, &network, revision, delivery).await;
    }
    Ok(wire::Empty {})
}

/// Waits a little for the kernel to follow; a removal succeeds all the same, and is tried again.
pub(super) async fn wait_for_removal(
    context: &Context,
    network: &DockerNetworkId,
    revision: u64,
    delivery: &Delivery,
) {
    let within = delivery.remaining(REMOVE_WITHIN.min(context.apply_within));
    if let Err(error) = context.applied.wait(network, revision, within).await {
        warn!(network = network.short(), %error, "Removed for Docker, not yet in the kernel");
    }
}
