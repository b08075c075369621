//! The calls about a network as a whole.

use std::time::Duration;

use tracing::warn;
use wgnet_core::{ClusterView, LocalNetwork, LocalSlot, NetworkDefinition};
use wgnet_proto::status::Problem;
use wgnet_proto::{DockerNetworkId, HostId, NetworkKey, PrivateKey};
use zeroize::Zeroizing;

use super::error::CallError;
use super::parse::{self, NewNetwork};
use super::turns::Delivery;
use super::{Api, Context, wire};
use crate::journal::{JournalError, State, Uptime};
use crate::ports::note_wanted;

const BAD_OPTION: &str = "bad-option";
/// A swarm that wants a network on a host asks that host for it again within seconds.
const ASKED_WITHIN: Duration = Duration::from_secs(120);
/// Whoever leads the swarm is told of the network's end, and may be another manager by then.
const LED_FOR: Duration = Duration::from_secs(3600);
/// A network whose port turned out to be taken may take the one that was just picked; then it is
/// picked again.
const PICKS: u32 = 5;

pub(super) fn object(network: &DockerNetworkId) -> String {
    format!("network {}", network.short())
}

/// Swarm's leader asks once for the whole cluster. What is answered is all that the other hosts get
/// to see of the options, on every leader, so it depends on nothing but the request. An error would
/// leave a network that looks created and never works, with the reason in a log: CreateNetwork tells
/// it where people see it.
pub(super) fn allocate(
    context: &Context,
    request: wire::AllocateNetwork,
) -> Result<wire::Allocated, CallError> {
    let network: DockerNetworkId = request.network.parse()?;
    let options = parse::texts(request.options);
    let outcome = match parse::network_options(&options, false) {
        Ok(parsed) if parsed.id.is_some() => Err(CallError::IdInSwarm(network.clone())),
        Ok(_) => parse::subnets(&network, &request.pools).map(drop),
        Err(source) => Err(CallError::Option { network: network.clone(), source }),
    };
    match outcome.err().filter(CallError::is_of_options) {
        Some(error) => context.problems.set_for(LED_FOR, bad_option(&network, &error)),
        None => context.problems.clear(BAD_OPTION, &object(&network)),
    }
    Ok(wire::Allocated { options })
}

/// Opens or closes the problem that the network's options are. A plain engine has nothing of a network
/// that was refused, and its user has read why. A swarm asks again for as long as anybody wants the
/// network here, and does not tell this host when nobody does any more.
fn note_options(context: &Context, network: &DockerNetworkId, error: Option<&CallError>) {
    match error.filter(|error| error.is_of_options() && network.is_swarm()) {
        Some(error) => context.problems.set_for(ASKED_WITHIN, bad_option(network, error)),
        None => context.problems.clear(BAD_OPTION, &object(network)),
    }
}

fn bad_option(network: &DockerNetworkId, error: &CallError) -> Problem {
    let (object, sentence) = (object(network), error.to_string());
    // The sentence is whole where it stands alone.
    let cause = sentence.strip_prefix(&object).and_then(|rest| rest.strip_prefix(": "));
    Problem {
        code: BAD_OPTION.to_owned(),
        cause: cause.unwrap_or(&sentence).to_owned(),
        object,
        next_step: "remove the network and create it with other options or another subnet"
            .to_owned(),
    }
}

/// The cluster forgets the network; this host when its last container is gone.
pub(super) async fn free(
    context: &Context,
    request: wire::NetworkOnly,
) -> Result<wire::Empty, CallError> {
    let Ok(network) = request.network.parse::<DockerNetworkId>() else {
        return Ok(wire::Empty {});
    };
    let now = context.journal.uptime();
    context.problems.clear(BAD_OPTION, &object(&network));
    let change = move |state: &mut State| {
        if network.is_swarm() {
            state.freed.insert(NetworkKey::swarm(&network));
        }
        state.forget_soon(&network, now);
    };
    context.journal.update(change).await?;
    Ok(wire::Empty {})
}

pub(super) async fn create(
    api: &Api,
    request: wire::CreateNetwork,
    delivery: &Delivery,
) -> Result<wire::Empty, CallError> {
    let context = &api.context;
    let id: DockerNetworkId = request.network.parse()?;
    let made = match NewNetwork::parse(request) {
        Ok(new) => make(api, new.into_definition((context.underlay_mtu)()), delivery).await,
        Err(error) => Err(error),
    };
    // Once all of it is judged: a swarm asks again every few seconds, and what is still so stays told.
    note_options(context, &id, made.as_ref().err());
    let (made, revision) = made?;
    if made == Made::Same || id.is_swarm() {
        // A swarm's user would see an error from here 20 s late and without its text; one from
        // CreateEndpoint or Join at once.
        return Ok(wire::Empty {});
    }
    let within = delivery.remaining(context.apply_within);
    let Err(source) = context.applied.wait(&id, revision, within).await else {
        return Ok(wire::Empty {});
    };
    // After an error Docker knows no such network and never deletes it.
    let (now, network) = (context.journal.uptime(), id.clone());
    context.journal.update(move |state| state.delete_network(&network, now)).await?;
    Err(CallError::NotApplied { network: id, source })
}

/// What CreateNetwork came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It was there already.
    Same,
    New,
}

/// Why a network was not put into the journal.
enum Refused {
    /// Somebody was faster with this port.
    PortGone,
    Call(CallError),
}

impl From<JournalError> for Refused {
    fn from(error: JournalError) -> Self {
        Self::Call(error.into())
    }
}

async fn make(
    api: &Api,
    definition: NetworkDefinition,
    delivery: &Delivery,
) -> Result<(Made, u64), CallError> {
    let context = &api.context;
    let _picking = api.picking.lock().await;
    let id = definition.docker_id.clone();
    let generation = {
        let view = context.view.borrow();
        view.networks.get(&definition.key).map_or(0, |network| network.generation)
    };
    let mut secret = Zeroizing::new([0; 32]);
    (context.random)(secret.as_mut());
    let private_key = PrivateKey::from_random(*secret);
    let made = Some((context.clock)().as_secs());
    for _ in 0..PICKS {
        let state = context.journal.state();
        if state.live(&id).is_some_and(|network| same(&network.definition, &definition)) {
            return Ok((Made::Same, state.revision_of(&id)));
        }
        if let Some(refused) = holding_a_host(&definition, &context.view.borrow()) {
            return Err(refused);
        }
        let wanted = definition.options.port;
        let picked = (context.ports)(wanted, state.ports(Some(&id))).await;
        let port = picked.map_err(|reason| CallError::NoPort { network: id.clone(), reason })?;
        let private_key = private_key.clone();
        let fresh = LocalSlot { generation, private_key, made, port };
        let arrival = Arrival {
            me: context.me,
            now: context.journal.uptime(),
            floor: context.journal.next_unused_seq(),
            definition: definition.clone(),
            fresh,
        };
        let delivery = delivery.clone();
        let change = move |state: &mut State| {
            delivery.in_time("CreateNetwork").map_err(Refused::Call)?;
            put(state, arrival)
        };
        match context.journal.try_update(change).await {
            Ok(((made, port), revision)) => {
                note_wanted(&context.problems, object(&id), wanted, port);
                return Ok((made, revision));
            }
            Err(Refused::PortGone) => {}
            Err(Refused::Call(error)) => return Err(error),
        }
    }
    Err(CallError::NoPort {
        network: id,
        reason: "other networks took every port that was picked; try again".to_owned(),
    })
}

/// The host keeps what it forwards away from a network's subnets: no host may have its address there.
fn holding_a_host(definition: &NetworkDefinition, view: &ClusterView) -> Option<CallError> {
    let subnets = definition.subnets.iter().map(|subnet| subnet.pool);
    let hosts = view.hosts.values();
    let mut addresses = hosts.flat_map(|host| host.underlay.iter().map(|at| (*at, &host.name)));
    addresses.find_map(|(address, host)| {
        let subnet = subnets.clone().find(|subnet| subnet.contains(&address))?;
        let (network, host) = (definition.docker_id.clone(), host.clone());
        Some(CallError::HoldsHost { network, subnet, address, host })
    })
}

/// A network that is to be put into the journal.
struct Arrival {
    me: HostId,
    now: Uptime,
    /// Voids what this host published of the network in an earlier life.
    floor: u64,
    definition: NetworkDefinition,
    /// Its slot, if no older one can be used again.
    fresh: LocalSlot,
}

fn put(state: &mut State, arrival: Arrival) -> Result<(Made, u16), Refused> {
    let Arrival { me, now, floor, definition, fresh } = arrival;
    let id = definition.docker_id.clone();
    let mut slots = match state.networks.get(&id) {
        Some(old) if !old.lingering && same(&old.definition, &definition) => {
            return Ok((Made::Same, port_of(old)));
        }
        Some(old) if !old.lingering && !old.endpoints.is_empty() => {
            let endpoints = old.endpoints.len();
            return Err(Refused::Call(CallError::Differs { network: id, endpoints }));
        }
        Some(old) => kept_slots(old, &definition, &fresh),
        None => slots_of_namesake(state, &definition, &fresh, now)?,
    };
    let others = state.ports(Some(&id));
    for slot in slots.iter_mut().filter(|slot| others.contains(&slot.port)) {
        if others.contains(&fresh.port) {
            return Err(Refused::PortGone);
        }
        slot.port = fresh.port;
    }
    state.raise_floor(&definition.key, me, floor);
    let network =
        LocalNetwork { definition, slots, endpoints: Default::default(), lingering: false };
    let port = port_of(&network);
    state.networks.insert(id, std::sync::Arc::new(network));
    Ok((Made::New, port))
}

/// On a plain engine a network that is deleted and created again has another Docker id; by `id` it is
/// the same one, and its key and port are used again.
fn slots_of_namesake(
    state: &mut State,
    definition: &NetworkDefinition,
    fresh: &LocalSlot,
    now: Uptime,
) -> Result<Vec<LocalSlot>, Refused> {
    let Some(namesake) = state.by_key(&definition.key).cloned() else {
        return Ok(vec![fresh.clone()]);
    };
    let other = namesake.definition.docker_id.clone();
    if !namesake.lingering {
        if !namesake.endpoints.is_empty() {
            let id = definition.options.id.clone().unwrap_or_default();
            let network = definition.docker_id.clone();
            return Err(Refused::Call(CallError::IdTaken { network, id, other }));
        }
        // Docker forgets a network it could not tell its driver to delete.
        warn!(network = other.short(), "Another network has its id now; it is removed");
        state.linger(&other, now);
    }
    let slots = kept_slots(&namesake, definition, fresh);
    // Its namespace is still to be taken down; only its slots go over.
    if let Some(namesake) = state.network_mut(&other) {
        namesake.slots.clear();
        namesake.definition.key = NetworkKey::local(&other);
    }
    state.forget_soon(&other, now);
    Ok(slots)
}

/// The slots of an earlier life, on the port that is wanted now.
fn kept_slots(
    old: &LocalNetwork,
    definition: &NetworkDefinition,
    fresh: &LocalSlot,
) -> Vec<LocalSlot> {
    let mut slots = old.slots.clone();
    if slots.is_empty() {
        return vec![fresh.clone()];
    }
    if definition.options.port.is_some() && definition.options.port != old.definition.options.port {
        let newest = slots.iter_mut().max_by_key(|slot| slot.generation).expect("not empty");
        newest.port = fresh.port;
    }
    slots
}

/// Whether Docker asks for what is there. The MTU follows the underlay and is kept as it was.
fn same(old: &NetworkDefinition, new: &NetworkDefinition) -> bool {
    NetworkDefinition { mtu: old.mtu, ..new.clone() } == *old
}

fn port_of(network: &LocalNetwork) -> u16 {
    let newest = network.slots.iter().max_by_key(|slot| slot.generation);
    newest.map_or(0, |slot| slot.port)
}

pub(super) async fn delete(
    context: &Context,
    request: wire::NetworkOnly,
    delivery: &Delivery,
) -> Result<wire::Empty, CallError> {
    let Ok(network) = request.network.parse::<DockerNetworkId>() else {
        return Ok(wire::Empty {});
    };
    let (now, id) = (context.journal.uptime(), network.clone());
    let change = move |state: &mut State| state.delete_network(&id, now);
    let (was_live, revision) = context.journal.update(change).await?;
    if was_live {
        super::endpoint::wait_for_removal(context, &network, revision, delivery).await;
    }
    // A look that was under way may have told one until now.
    context.problems.clear_object(&object(&network));
    Ok(wire::Empty {})
}
