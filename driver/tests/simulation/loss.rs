//! The store is wiped or restored under a cluster at rest: nobody may lose sight of anybody who
//! lives, in view or kernel, not for a moment, and soon everybody's records are there again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wgnet_core::{ClusterView, Namespace, NetworkView, Observed, RouteTarget, Seen};
use wgnet_driver::journal::State;
use wgnet_proto::record::{EndpointRecord, MemberRecord};
use wgnet_proto::{HostId, NetworkKey};

use super::dice;
use super::kernel::shake_hands;
use super::schedule::{History, clean_store};
use super::seams::{Weather, set_weather};
use super::trace::{note, wrong};
use super::world::{Host, World, world};

/// Until when every living host's records must be in the new history, on lines that are well.
pub(crate) const SPEAKS_WITHIN: Duration = Duration::from_secs(10);

/// On bad ones this long is watched.
const WATCHED: Duration = Duration::from_secs(60);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// What one host knew of a network when the store was lost.
struct Known {
    namespace: Namespace,
    network: NetworkView,
}

/// A host that was there when the store was lost.
struct Observer {
    me: HostId,
    life: u32,
    known: BTreeMap<NetworkKey, Known>,
}

/// How the store was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Wiped,
    Restored,
}

/// Loses the store's contents and watches what comes of it. Returns whether the lines were well.
pub(crate) async fn lose_store(history: &mut History) -> bool {
    let backup = history.backup.as_ref();
    let how = if backup.is_some() && dice::happens(400) { How::Restored } else { How::Wiped };
    let calm = dice::happens(700);
    set_weather(weather(calm));
    let observers = world(|world| observers(world));
    history.another_history = true;
    history.restored =
        backup.filter(|_| how == How::Restored).map_or(0, |backup| backup.revision());
    let (is_away, kills) = (dice::happens(300), dice::happens(200));
    note(format!("=== the store is lost: {how:?}, calm: {calm}, away: {is_away}, kills: {kills}"));
    if is_away {
        world(|world| world.store.stop());
        sleep(dice::millis(0, 20_000)).await;
    }
    world(|world| {
        match backup.filter(|_| how == How::Restored) {
            Some(backup) => world.store.restore(backup),
            None => world.store.wipe(),
        }
        world.witness.begins_anew();
    });
    if is_away {
        sleep(dice::millis(0, 5000)).await;
        world(|world| world.store.start());
    }
    if kills {
        world(|world| {
            let host = dice::index(world.hosts.len());
            if let Some(running) = &world.hosts[host].running {
                running.life.arm(dice::below(60));
            }
        });
    }
    let is_cleaned = clean_store().await;
    let calm = calm && !kills && !is_cleaned;
    watch(&observers, if calm { SPEAKS_WITHIN } else { WATCHED }).await;
    world(|world| {
        let running = world.hosts.iter().filter_map(|host| host.running.as_ref());
        running.for_each(|running| running.life.disarm());
    });
    set_weather(Weather::default());
    calm
}

fn weather(calm: bool) -> Weather {
    if calm {
        let (call_ms, event_ms) = ([0, 5, 30][dice::index(3)], [0, 5, 50][dice::index(3)]);
        return Weather { call_ms, event_ms, ..Weather::default() };
    }
    Weather {
        call_fails: dice::below(200),
        answer_lost: dice::below(150),
        call_ms: [5, 200, 2000][dice::index(3)],
        event_ms: [50, 500, 3000][dice::index(3)],
        ..Weather::default()
    }
}

fn observers(world: &World) -> BTreeMap<usize, Observer> {
    let running = world.hosts.iter().filter_map(|host| Some((host, host.running.as_ref()?)));
    let observer = |(host, running): (&Host, &super::world::Running)| {
        let view = running.view.borrow();
        let known = world.networks.iter().filter_map(|network| {
            let (key, namespace) = (network.key(), network.namespace());
            let seen = view.networks.get(&key)?;
            let kernel = host.plane.look(&namespace);
            // What is not in the kernel yet cannot be lost.
            let mut network = seen.clone();
            network.members.retain(|id, it| lost_member(*id, it, seen, &kernel).is_none());
            network.endpoints.retain(|at, it| lost_endpoint(*at, it, seen, &kernel).is_none());
            Some((key, Known { namespace, network }))
        });
        let known = known.collect();
        (host.number, Observer { me: running.me, life: host.lives, known })
    };
    running.map(observer).collect()
}

async fn watch(observers: &BTreeMap<usize, Observer>, within: Duration) {
    let begun = Instant::now();
    let mut looks = 0u32;
    let mut last = Vec::new();
    while begun.elapsed() < within {
        if let Some(lost) = world(|world| look_again(world, observers, &mut last)) {
            let after = begun.elapsed().as_secs_f64();
            return wrong(format!("{after:.2} s after the store was lost, {lost}"));
        }
        if looks.is_multiple_of(50) {
            shake_hands();
        }
        looks += 1;
        sleep(LOOK).await;
    }
}

/// All that a host has to do with what [`look`] finds. What is shared is kept, so that what is at the same
/// place is the same.
struct Sight {
    me: Option<HostId>,
    is_up: bool,
    life: Option<u32>,
    state: Arc<State>,
    view: Option<Arc<ClusterView>>,
    kernels: Vec<Arc<Seen<Observed>>>,
}

impl Sight {
    fn of(host: &Host, observers: &BTreeMap<usize, Observer>) -> Self {
        let running = host.running.as_ref();
        let known = observers.get(&host.number).into_iter().flat_map(|it| it.known.values());
        Self {
            me: host.disk.host_id(),
            is_up: host.has_power && !host.is_gone,
            life: running.map(|_| host.lives),
            state: host.disk.state(),
            view: running.map(|running| running.view.borrow().clone()),
            kernels: known.map(|known| host.plane.look(&known.namespace)).collect(),
        }
    }
}

impl PartialEq for Sight {
    fn eq(&self, other: &Self) -> bool {
        (self.me, self.is_up, self.life) == (other.me, other.is_up, other.life)
            && Arc::ptr_eq(&self.state, &other.state)
            && self.view.as_ref().map(Arc::as_ptr) == other.view.as_ref().map(Arc::as_ptr)
            && self.kernels.iter().map(Arc::as_ptr).eq(other.kernels.iter().map(Arc::as_ptr))
    }
}

/// Looks unless everything is as it was at the last look, which found nothing. Who was ever outclaimed
/// stays so, hence what the witness learns meanwhile only excuses.
fn look_again(
    world: &World,
    observers: &BTreeMap<usize, Observer>,
    last: &mut Vec<Sight>,
) -> Option<String> {
    let now: Vec<_> = world.hosts.iter().map(|host| Sight::of(host, observers)).collect();
    if now == *last {
        return None;
    }
    *last = now;
    look(world, observers)
}

/// What some host has lost of another that still has it.
fn look(world: &World, observers: &BTreeMap<usize, Observer>) -> Option<String> {
    let states: BTreeMap<HostId, Arc<State>> = world
        .hosts
        .iter()
        .filter(|host| host.has_power && !host.is_gone)
        .filter_map(|host| Some((host.disk.host_id()?, host.disk.state())))
        .collect();
    for (number, observer) in observers {
        let host = &world.hosts[*number];
        // What another process has read from its disk may be older.
        let Some(running) = host.running.as_ref().filter(|_| host.lives == observer.life) else {
            continue;
        };
        let view = running.view.borrow().clone();
        let still_has = |key: &NetworkKey| {
            states.get(&observer.me).is_some_and(|state| has_network(state, key))
        };
        for (key, known) in observer.known.iter().filter(|(key, _)| still_has(key)) {
            let none = NetworkView::default();
            let seen = view.networks.get(key).unwrap_or(&none);
            let kernel = host.plane.look(&known.namespace);
            let members = known.network.members.iter().filter(|(member, _)| {
                **member != observer.me
                    && states.get(member).is_some_and(|state| has_network(state, key))
            });
            for (member, record) in members {
                let lost = lost_member(*member, record, seen, &kernel);
                if let Some(lost) = lost {
                    return Some(format!("host {number} lost {lost} of {key}"));
                }
            }
            let endpoints = known.network.endpoints.iter().filter(|(_, record)| {
                record.host != observer.me
                    && states.get(&record.host).is_some_and(|state| has(state, key, record))
            });
            for (address, record) in endpoints {
                let is_outclaimed =
                    world.witness.was_outclaimed(key, *address, record.claim, record.host);
                if !is_outclaimed && let Some(lost) = lost_endpoint(*address, record, seen, &kernel)
                {
                    return Some(format!("host {number} lost {lost} of {key}"));
                }
            }
        }
    }
    None
}

fn has_network(state: &State, key: &NetworkKey) -> bool {
    state.by_key(key).is_some_and(|network| !network.lingering) && !state.freed.contains(key)
}

fn has(state: &State, key: &NetworkKey, record: &EndpointRecord) -> bool {
    let endpoint = state.by_key(key).and_then(|it| it.endpoints.get(&record.endpoint));
    has_network(state, key) && endpoint.is_some_and(|endpoint| !endpoint.superseded)
}

fn lost_member(
    member: HostId,
    record: &MemberRecord,
    seen: &NetworkView,
    kernel: &Seen<Observed>,
) -> Option<String> {
    let member_is = member.short();
    if !seen.members.contains_key(&member) {
        return Some(format!("sight of member {member_is}"));
    }
    let Seen::Present(kernel) = kernel else {
        return Some("its namespace".to_owned());
    };
    let is_peer = |key| kernel.wireguards.values().any(|wg| wg.peers.contains_key(key));
    let there = record.slots.iter().any(|slot| is_peer(&slot.public_key));
    (!there).then(|| format!("the peer of member {member_is}"))
}

fn lost_endpoint(
    address: IpAddr,
    record: &EndpointRecord,
    seen: &NetworkView,
    kernel: &Seen<Observed>,
) -> Option<String> {
    let seen = seen.endpoints.get(&address);
    if seen.is_none_or(|seen| seen.endpoint != record.endpoint) {
        return Some(format!("sight of {address}, and sees {seen:?}"));
    }
    let Seen::Present(kernel) = kernel else {
        return Some("its namespace".to_owned());
    };
    let Some(RouteTarget::Link(link)) = kernel.routes.get(&address.into()) else {
        return Some(format!("the route to {address}"));
    };
    let peers = kernel.wireguards.get(link).into_iter().flat_map(|it| it.peers.values());
    let is_allowed = peers.into_iter().any(|peer| peer.allowed.contains(&address));
    (!is_allowed).then(|| format!("the peer for {address}"))
}
