//! An engine of the swarm as the driver meets it: which calls it makes, and what it then believes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use wgnet_core::observed::{ContainerEnd, ContainerInterface};
use wgnet_core::{Namespace, Seen};
use wgnet_driver::api::Scope;
use wgnet_proto::record::EndpointRecord;
use wgnet_proto::{EndpointId, IfName, MacAddr};

use super::dice;
use super::trace::{note, wrong};
use super::world::{Network, Running, world};

/// How long the shim keeps a call.
const SHIM_WAITS: Duration = Duration::from_secs(25);

#[derive(Default)]
pub(crate) struct Engine {
    /// Counts its processes: what an earlier one had begun is not gone on with.
    pub(crate) epoch: u32,
    pub(crate) networks: BTreeMap<usize, Attached>,
    pub(crate) endpoints: BTreeMap<u32, Endpoint>,
    /// Endpoints of which the driver may know, and Docker does not any more.
    pub(crate) limbo: BTreeMap<u32, Endpoint>,
    /// The deletion of a network failed, and Docker forgot it all the same.
    pub(crate) is_unsure: bool,
}

/// A network on one engine.
#[derive(Default)]
pub(crate) struct Attached {
    pub(crate) is_there: bool,
    pub(crate) users: u32,
    lock: Arc<Mutex<()>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) number: u32,
    pub(crate) network: usize,
    pub(crate) address: Ipv4Addr,
    pub(crate) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// CreateEndpoint was answered or is under way.
    Starting,
    /// Joined: its container runs.
    Live,
    Stopping,
}

impl Endpoint {
    pub(crate) fn id(&self) -> EndpointId {
        endpoint_id(self.number).parse().expect("64 hex digits")
    }

    pub(crate) fn veth(&self) -> IfName {
        IfName::veth_host(&self.id())
    }

    pub(crate) fn sandbox(&self) -> PathBuf {
        PathBuf::from(format!("/sandboxes/{}", self.number))
    }
}

pub(crate) fn endpoint_id(number: u32) -> String {
    format!("{number:012x}{:052x}", number)
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Done,
    Refused(String),
    /// None within the shim's time.
    Silence,
    /// The engine that asked is no more.
    Abandoned,
}

/// One call, delivered as the shim does: again to the next process if one dies under it.
pub(crate) async fn call(host: usize, epoch: u32, method: &str, body: &Value) -> Answer {
    if epoch_of(host) != epoch {
        return Answer::Abandoned;
    }
    let deadline = Instant::now() + SHIM_WAITS;
    let id = format!("{:016x}", dice::number());
    note(format!("host {host}: {method} {}", told(body)));
    let answer = deliver(host, method, body, &id, deadline).await;
    let answer = if epoch_of(host) == epoch { answer } else { Answer::Abandoned };
    note(format!("host {host}: {method} {}: {answer:?}", told(body)));
    answer
}

/// Which process of the engine runs now.
pub(crate) fn epoch_of(host: usize) -> u32 {
    world(|world| world.hosts[host].engine.epoch)
}

async fn deliver(host: usize, method: &str, body: &Value, id: &str, deadline: Instant) -> Answer {
    let path = format!("/NetworkDriver.{method}");
    let bytes = serde_json::to_vec(body).expect("it is JSON");
    loop {
        let Some(running) = running(host, deadline).await else {
            return Answer::Silence;
        };
        let within = deadline.saturating_duration_since(Instant::now());
        // The clock jumped, and nobody waits any more.
        if within.is_zero() {
            return Answer::Silence;
        }
        let asked =
            running.api.call(Scope::Global, &path, &bytes, Some(id.to_owned()), Some(within));
        let answered = tokio::select! {
            biased;
            () = running.life.death() => None,
            answer = asked => Some(answer),
            () = sleep_until(deadline) => return Answer::Silence,
        };
        let Some((status, answer)) = answered else {
            continue;
        };
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let error = answer["Err"].as_str().unwrap_or_default().to_owned();
        // While a driver stops, the shim's connection breaks; it delivers again.
        if running.life.stop().is_cancelled() {
            running.life.death().await;
            continue;
        }
        return if status == 200 && error.is_empty() {
            Answer::Done
        } else {
            Answer::Refused(error)
        };
    }
}

/// The driver that runs, or the next one that does.
async fn running(host: usize, deadline: Instant) -> Option<Running> {
    let mut lived = world(|world| world.hosts[host].lived.subscribe());
    loop {
        lived.mark_unchanged();
        let now = world(|world| world.hosts[host].running.clone());
        if let Some(running) = now.filter(|running| !running.life.is_dead()) {
            return Some(running);
        }
        timeout_at(deadline, lived.changed()).await.ok()?.ok()?;
    }
}

fn told(body: &Value) -> String {
    let part = |key: &str, length: usize| {
        let text = body[key].as_str().unwrap_or_default();
        text.get(..length).unwrap_or_default().trim_start_matches('0').to_owned()
    };
    format!("{} {}", part("NetworkID", 4), part("EndpointID", 12))
}

pub(crate) fn create_network(network: &Network) -> Value {
    let prefix = network.prefix();
    json!({
        "NetworkID": network.id.to_string(),
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": {}},
        "IPv4Data": [{"Gateway": format!("{prefix}.1/24"), "Pool": format!("{prefix}.0/24")}],
        "IPv6Data": []
    })
}

pub(crate) fn create_endpoint(network: &Network, number: u32, address: Ipv4Addr) -> Value {
    json!({
        "NetworkID": network.id.to_string(),
        "EndpointID": endpoint_id(number),
        "Interface": {"Address": format!("{address}/24"), "AddressIPv6": "", "MacAddress": ""},
    })
}

pub(crate) fn of(network: &Network, number: u32) -> Value {
    json!({"NetworkID": network.id.to_string(), "EndpointID": endpoint_id(number)})
}

pub(crate) fn join(network: &Network, number: u32) -> Value {
    let sandbox = format!("/sandboxes/{number}");
    json!({"NetworkID": network.id.to_string(), "EndpointID": endpoint_id(number), "SandboxKey": sandbox})
}

pub(crate) fn only(network: &Network) -> Value {
    json!({"NetworkID": network.id.to_string()})
}

/// Counts what is under way, until dropped.
struct Busy;

impl Busy {
    fn begin() -> Self {
        world(|world| world.busy += 1);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        world(|world| world.busy -= 1);
    }
}

/// Starts a container, and with the first one of a network that network.
pub(crate) async fn start(host: usize, endpoint: Endpoint) {
    let _busy = Busy::begin();
    let (network, epoch, lock) = world(|world| {
        let engine = &mut world.hosts[host].engine;
        engine.endpoints.insert(endpoint.number, endpoint.clone());
        let attached = engine.networks.entry(endpoint.network).or_default();
        attached.users += 1;
        (world.networks[endpoint.network].clone(), engine.epoch, Arc::clone(&attached.lock))
    });
    let locked = lock.lock().await;
    if !world(|world| is_attached(world, host, endpoint.network)) {
        match call(host, epoch, "CreateNetwork", &create_network(&network)).await {
            Answer::Done => world(|world| attached(world, host, endpoint.network).is_there = true),
            Answer::Abandoned => return,
            Answer::Refused(_) | Answer::Silence => {
                drop(locked);
                return give_up(host, &network, &endpoint, epoch).await;
            }
        }
    }
    drop(locked);
    if dice::happens(100) {
        // Docker's client gave up in between.
        sleep(dice::millis(0, 3000)).await;
    }
    let create = create_endpoint(&network, endpoint.number, endpoint.address);
    let rival = rival(host, &network, &endpoint);
    match call(host, epoch, "CreateEndpoint", &create).await {
        Answer::Done => claims_above(host, &network, &endpoint, rival),
        Answer::Abandoned => return,
        Answer::Refused(_) | Answer::Silence => {
            return give_up(host, &network, &endpoint, epoch).await;
        }
    }
    if dice::happens(150) {
        match call(host, epoch, "CreateEndpoint", &create).await {
            Answer::Refused(why) if still_wanted(host, &endpoint) => {
                // Another container may have got its address meanwhile.
                note(format!("host {host}: the same CreateEndpoint again: {why}"));
            }
            Answer::Abandoned => return,
            _ => {}
        }
    }
    match call(host, epoch, "Join", &join(&network, endpoint.number)).await {
        Answer::Done => {}
        Answer::Abandoned => return,
        Answer::Refused(_) | Answer::Silence => {
            return undo(host, &network, &endpoint, epoch).await;
        }
    }
    if dice::happens(150) && !is_waited_for(host, &network, &endpoint, epoch).await {
        return;
    }
    if !move_in(host, &network, &endpoint) {
        return undo(host, &network, &endpoint, epoch).await;
    }
    world(|world| {
        let endpoint = world.hosts[host].engine.endpoints.get_mut(&endpoint.number);
        if let Some(endpoint) = endpoint {
            endpoint.stage = Stage::Live;
        }
    });
}

/// The record of another host that a host knows for an address.
fn rival(host: usize, network: &Network, endpoint: &Endpoint) -> Option<EndpointRecord> {
    let running = world(|world| world.hosts[host].running.clone())?;
    let view = running.view.borrow();
    let records = &view.networks.get(&network.key())?.endpoints;
    let known = records.get(&endpoint.address.into())?;
    (known.host != running.me).then(|| known.clone())
}

/// Docker gave an endpoint an address that another host had, which its host knew all the time: the
/// new endpoint's claim is the higher one.
fn claims_above(
    host: usize,
    network: &Network,
    endpoint: &Endpoint,
    before: Option<EndpointRecord>,
) {
    let Some(rival) = before.filter(|it| rival(host, network, endpoint).as_ref() == Some(it))
    else {
        return;
    };
    let state = world(|world| world.hosts[host].disk.state());
    let local = state.live(&network.id).and_then(|local| local.endpoints.get(&endpoint.id()));
    if local.is_some_and(|local| local.claim <= rival.claim) {
        wrong(format!("host {host}: {} is claimed no higher than by another", endpoint.address));
    }
}

fn is_attached(world: &mut super::world::World, host: usize, network: usize) -> bool {
    attached(world, host, network).is_there
}

fn attached(world: &mut super::world::World, host: usize, network: usize) -> &mut Attached {
    world.hosts[host].engine.networks.entry(network).or_default()
}

/// Whether nobody else was given its address since.
fn still_wanted(host: usize, endpoint: &Endpoint) -> bool {
    world(|world| {
        let owner = world.networks[endpoint.network].addresses.get(&endpoint.address);
        owner == Some(&endpoint.number)
            && world.hosts[host].engine.endpoints.contains_key(&endpoint.number)
    })
}

/// What dockerd does after Join: takes the pair's end into the container. Without it, it fails.
fn move_in(host: usize, network: &Network, endpoint: &Endpoint) -> bool {
    let plane = world(|world| world.hosts[host].plane.clone());
    let (namespace, veth) = (network.namespace(), endpoint.veth());
    let Seen::Present(kernel) = &*plane.look(&namespace) else {
        wrong(format!("host {host}: Join was answered and {namespace} is not there"));
        return false;
    };
    let tampered = world(|world| world.hosts[host].is_tampered);
    if !tampered && (kernel.guard.is_empty() || !kernel.prepared) {
        wrong(format!("host {host}: Join was answered before the guard of {namespace} stood"));
    }
    let Some(pair) = kernel.veths.get(&veth) else {
        // Somebody may have taken the pair away by hand, or the address has another owner by now.
        if !tampered && is_wanted_by_driver(host, network, endpoint) {
            wrong(format!("host {host}: Join was answered and there is no {veth}"));
        }
        return false;
    };
    plane.start_container(&endpoint.sandbox());
    if pair.container == ContainerEnd::InHost {
        plane.move_into(&namespace, &veth, &endpoint.sandbox(), interface(network, endpoint));
    }
    true
}

/// Docker takes its time to make what it joined; `false` if it ended meanwhile.
async fn is_waited_for(host: usize, network: &Network, endpoint: &Endpoint, epoch: u32) -> bool {
    let local = || {
        let state = world(|world| world.hosts[host].disk.state());
        state.live(&network.id)?.endpoints.get(&endpoint.id()).cloned()
    };
    let joined = local();
    let slow = dice::millis(0, 60_000);
    // When all is well Docker is quick, too.
    sleep(if world(|world| world.healing) { Duration::ZERO } else { slow }).await;
    if epoch_of(host) != epoch {
        return false;
    }
    let Some(joined) = joined.filter(|_| local().is_none()) else {
        return true;
    };
    let may_go = world(|world| {
        let me = world.hosts[host].disk.host_id().expect("it runs since long");
        let (key, address) = (network.key(), endpoint.address.into());
        // What nobody reaches there, or somebody took away by hand, looks like what has ended.
        // So does what another container here was given the address of.
        world.hosts[host].is_tampered
            || world.witness.was_given_anew(&key, address, joined.claim, me)
            || world.witness.was_outclaimed(&key, address, joined.claim, me)
    });
    if !may_go {
        wrong(format!(
            "host {host}: endpoint {} was given up before Docker made its container",
            endpoint.number
        ));
    }
    true
}

fn is_wanted_by_driver(host: usize, network: &Network, endpoint: &Endpoint) -> bool {
    let state = world(|world| world.hosts[host].disk.state());
    let local = state.live(&network.id).and_then(|local| local.endpoints.get(&endpoint.id()));
    local.is_some_and(|local| !local.superseded)
}

fn interface(network: &Network, endpoint: &Endpoint) -> ContainerInterface {
    let prefix = network.prefix();
    let gateway = format!("{prefix}.1").parse().expect("an address");
    let half = |text: String| -> IpNet { text.parse().expect("a network") };
    ContainerInterface {
        name: "eth0".to_owned(),
        mac: Some(MacAddr::of_address(endpoint.address.into())),
        up: true,
        addresses: [half(format!("{}/24", endpoint.address))].into(),
        routes: [
            (half(format!("{prefix}.0/25")), gateway),
            (half(format!("{prefix}.128/25")), gateway),
        ]
        .into(),
    }
}

/// CreateNetwork or CreateEndpoint failed: Docker forgets what it asked for, and says nothing.
async fn give_up(host: usize, network: &Network, endpoint: &Endpoint, epoch: u32) {
    world(|world| {
        let engine = &mut world.hosts[host].engine;
        engine.endpoints.remove(&endpoint.number);
        engine.limbo.insert(endpoint.number, endpoint.clone());
        free_address(&mut world.networks[endpoint.network], endpoint);
    });
    detach(host, network, epoch).await;
}

/// Join failed: Docker deletes the endpoint.
async fn undo(host: usize, network: &Network, endpoint: &Endpoint, epoch: u32) {
    let deleted = call(host, epoch, "DeleteEndpoint", &of(network, endpoint.number)).await;
    if matches!(deleted, Answer::Abandoned) {
        return;
    }
    forget(host, endpoint, matches!(deleted, Answer::Done));
    detach(host, network, epoch).await;
}

fn forget(host: usize, endpoint: &Endpoint, is_deleted: bool) {
    world(|world| {
        let host = &mut world.hosts[host];
        host.plane.end_container(&endpoint.sandbox());
        host.engine.endpoints.remove(&endpoint.number);
        if !is_deleted {
            host.engine.limbo.insert(endpoint.number, endpoint.clone());
        }
        free_address(&mut world.networks[endpoint.network], endpoint);
    });
}

pub(crate) fn free_address(network: &mut Network, endpoint: &Endpoint) {
    if network.addresses.get(&endpoint.address) == Some(&endpoint.number) {
        network.addresses.remove(&endpoint.address);
    }
}

/// Swarm takes a network from an engine with the last container of it.
async fn detach(host: usize, network: &Network, epoch: u32) {
    let lock = world(|world| {
        let attached = attached(world, host, network.number);
        attached.users = attached.users.saturating_sub(1);
        Arc::clone(&attached.lock)
    });
    let _locked = lock.lock().await;
    let is_last = world(|world| {
        world.hosts[host].engine.epoch == epoch
            && attached(world, host, network.number).users == 0
            && is_attached(world, host, network.number)
    });
    if is_last {
        // Docker forgets it whatever is answered.
        let answer = call(host, epoch, "DeleteNetwork", &only(network)).await;
        world(|world| {
            if world.hosts[host].engine.epoch == epoch {
                attached(world, host, network.number).is_there = false;
                world.hosts[host].engine.is_unsure |= !matches!(answer, Answer::Done);
            }
        });
        if let Answer::Refused(why) = answer
            && !why.contains("journal")
        {
            wrong(format!("host {host}: DeleteNetwork was refused: {why}"));
        }
    }
}

/// Stops a container.
pub(crate) async fn stop(host: usize, number: u32) {
    let _busy = Busy::begin();
    let found = world(|world| {
        let engine = &mut world.hosts[host].engine;
        let endpoint = engine.endpoints.get_mut(&number).filter(|e| e.stage == Stage::Live)?;
        endpoint.stage = Stage::Stopping;
        Some((endpoint.clone(), engine.epoch))
    });
    let Some((endpoint, epoch)) = found else {
        return;
    };
    let network = world(|world| world.networks[endpoint.network].clone());
    let namespace: Namespace = network.namespace();
    // Leave may never come.
    if dice::happens(900) {
        match call(host, epoch, "Leave", &of(&network, number)).await {
            Answer::Abandoned => return,
            Answer::Refused(why) if !why.contains("journal") => {
                wrong(format!("host {host}: Leave was refused: {why}"));
            }
            _ => {}
        }
        let plane = world(|world| world.hosts[host].plane.clone());
        plane.move_out(&namespace, &endpoint.veth());
    }
    let deleted = call(host, epoch, "DeleteEndpoint", &of(&network, number)).await;
    match &deleted {
        Answer::Abandoned => return,
        Answer::Refused(why) if !why.contains("journal") => {
            wrong(format!("host {host}: DeleteEndpoint was refused: {why}"));
        }
        _ => {}
    }
    forget(host, &endpoint, matches!(deleted, Answer::Done));
    if matches!(deleted, Answer::Done) && dice::happens(200) {
        too_late(host, epoch, &network, &endpoint).await;
    }
    detach(host, &network, epoch).await;
}

/// A CreateEndpoint that was overtaken by its DeleteEndpoint must not bring the endpoint back.
async fn too_late(host: usize, epoch: u32, network: &Network, endpoint: &Endpoint) {
    let boots = world(|world| world.hosts[host].boots);
    let body = create_endpoint(network, endpoint.number, endpoint.address);
    if matches!(call(host, epoch, "CreateEndpoint", &body).await, Answer::Done)
        && world(|world| world.hosts[host].boots) == boots
    {
        wrong(format!("host {host}: endpoint {} came back after its end", endpoint.number));
    }
}

/// By which name its process is to be seen.
pub(crate) fn name_of(epoch: u32) -> String {
    format!("dockerd {epoch}")
}

/// Of a thousand containers that do not end, so many live on when dockerd is killed, and the next one does not
/// know them.
const FORGOTTEN: u64 = 200;

/// dockerd is killed, and its containers with it, or are forgotten; it says nothing of them afterwards.
pub(crate) fn kill_engine(host: usize) {
    world(|world| {
        let plane = world.hosts[host].plane.clone();
        let engine = &mut world.hosts[host].engine;
        plane.engine(&name_of(engine.epoch), false);
        engine.epoch += 1;
        plane.engine(&name_of(engine.epoch), true);
        engine.networks.clear();
        let endpoints = std::mem::take(&mut engine.endpoints);
        for (number, endpoint) in endpoints {
            if endpoint.stage != Stage::Stopping && dice::happens(FORGOTTEN) {
                plane.forget_container(&endpoint.sandbox());
            } else {
                plane.end_container(&endpoint.sandbox());
            }
            free_address(&mut world.networks[endpoint.network], &endpoint);
            world.hosts[host].engine.limbo.insert(number, endpoint);
        }
    });
}
