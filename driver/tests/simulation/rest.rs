//! What must hold at rest: everybody sees the same, every container is reached from everywhere, and
//! nothing is left of what was removed.

mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use wgnet_control_plane::store::{Listing, MemoryStore, Store as _};
use wgnet_core::{
    ClusterView, ContainerEnd, Families, Judge, LocalEndpoint, NetworkView, Observed, RouteTarget,
    Seen, derive, model,
};
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::journal::State;
use wgnet_driver::keyring::Keyring;
use wgnet_driver::underlay::Underlay;
use wgnet_proto::{ClusterSecrets, HostId, IfName, PublicKey};

use super::checks::{Place, Witness, short};
use super::dice;
use super::docker::{Endpoint, Stage};
use super::kernel::shake_hands;
use super::schedule::History;
use super::seams::is_strange_left_alone;
use super::trace::{is_wrong, note, wrong};
use super::world::{Network, world};
use super::{loss, people};

/// Converged after all was well for so long: of a held listing what living hosts do not put back is
/// believed after 60 s, peers that lost each other look every minute.
const SOON: [u64; 7] = [5, 5, 10, 20, 40, 80, 90];

/// The same if the store told of a change to nobody: until the audit.
const AT_LAST: [u64; 2] = [400, 500];

/// After so much more time nothing of removed networks and endpoints is left.
const LINGERED: [u64; 2] = [700, 200];

/// A host that lives, with everything it knows.
struct Host {
    number: usize,
    me: HostId,
    state: Arc<State>,
    view: Arc<ClusterView>,
    plane: Model,
    underlay: Underlay,
    endpoints: Vec<Endpoint>,
    limbo: BTreeSet<String>,
    is_sure: bool,
}

struct Picture {
    /// Those of the store's cluster ...
    hosts: Vec<Host>,
    /// ... and those of another.
    strangers: Vec<Host>,
    /// Hosts whose journal was lost: they do not know what they had begun.
    forgetful: BTreeSet<HostId>,
    /// Hosts of which there will never be a word again ...
    lost: BTreeSet<HostId>,
    /// ... and whether others have seen them absent for the grace when a run ends.
    is_grace_short: bool,
    networks: Vec<Network>,
    fresh: Judge,
    secrets: ClusterSecrets,
    witness: Arc<Witness>,
}

/// ... and, where the grace is short, after so many graces more nothing of dead hosts.
const GRACES: usize = 3;

/// How many in a thousand runs lose the store's contents once more when all is at rest.
const LOSES_STORE: u64 = 300;

/// Lets time pass until all is as it should be.
pub(crate) async fn settle(mut history: History) {
    if is_wrong() {
        return;
    }
    let mut problems = until_well(&history).await;
    if problems.is_empty() && !is_wrong() && dice::happens(LOSES_STORE) {
        let calm = loss::lose_store(&mut history).await;
        if is_wrong() {
            return;
        }
        problems = if calm { unsaid().await } else { Vec::new() };
        if problems.is_empty() {
            problems = until_well(&history).await;
        }
    }
    if problems.is_empty() && !is_wrong() {
        note("=== lingering");
        let mut waits = LINGERED.to_vec();
        if let Some(grace) = world(|world| world.is_grace_short().then_some(world.grace)) {
            // The dead first, then what they leave without an owner.
            waits.extend([grace.as_secs(); GRACES]);
        }
        problems = waited(&waits, &history, true).await;
    }
    problems.iter().for_each(wrong);
}

async fn until_well(history: &History) -> Vec<String> {
    let mut waits: Vec<u64> = SOON.to_vec();
    if history.lost_changes {
        waits.extend(AT_LAST);
    }
    waited(&waits, history, false).await
}

/// What is wrong after so long, and so much longer; at the first look that finds nothing it is well.
async fn waited(waits: &[u64], history: &History, at_last: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for wait in waits {
        if at_last {
            people::release().await;
        }
        pass(*wait).await;
        problems = look(history, at_last).await;
        if problems.is_empty() || is_wrong() {
            break;
        }
    }
    problems
}

pub(crate) async fn pass(seconds: u64) {
    for _ in 0..seconds.div_ceil(5) {
        shake_hands();
        sleep(Duration::from_secs(5)).await;
        people::locked_out();
    }
}

/// Whose records are not all in this history of the store, as its host says.
async fn unsaid() -> Vec<String> {
    let (picture, _) = picture_now().await;
    let mut found = Vec::new();
    let incarnation = picture.fresh.cluster().map(|record| record.incarnation);
    for host in &picture.hosts {
        picture.published(host, &mut found);
        let record = picture.fresh.view().hosts.get(&host.me);
        if record.map(|record| record.incarnation) != incarnation {
            found.push(format!("host {} has not said that its records are there", host.number));
        }
    }
    found
}

async fn picture_now() -> (Picture, Listing) {
    let (store, secrets): (MemoryStore, _) =
        world(|world| (world.store.clone(), world.secrets.clone()));
    let listing = store.list("").await.expect("the store is well");
    let mut fresh = Judge::new(secrets, None, HostId([0; 16]));
    let entries = listing.entries.iter();
    fresh.listed("", entries.map(|e| (e.key.as_str(), e.value.as_slice(), e.mod_revision)));
    (picture(fresh), listing)
}

async fn look(history: &History, at_last: bool) -> Vec<String> {
    let (picture, listing) = picture_now().await;
    let found = picture.problems(history, at_last, &listing);
    note(format!(
        "looked: {} problems{}",
        found.len(),
        found.first().map_or_else(String::new, |p| format!(", {p}"))
    ));
    found
}

fn picture(fresh: Judge) -> Picture {
    world(|world| {
        let live = world.hosts.iter().filter(|host| !host.is_gone);
        let hosts = live.filter_map(|host| {
            let running = host.running.as_ref()?;
            Some(Host {
                number: host.number,
                me: running.me,
                state: running.journal.state(),
                view: running.view.borrow().clone(),
                plane: host.plane.clone(),
                underlay: host.address.borrow().clone(),
                endpoints: host.engine.endpoints.values().cloned().collect(),
                limbo: host.engine.limbo.values().map(|e| e.id().to_string()).collect(),
                is_sure: host.engine.epoch == 0
                    && host.engine.limbo.is_empty()
                    && !host.engine.is_unsure,
            })
        });
        let cluster = fresh.cluster().map(|record| record.cluster);
        let is_at_home = |host: &Host| host.state.cluster.is_none_or(|id| Some(id) == cluster);
        let (hosts, strangers): (Vec<_>, Vec<_>) = hosts.partition(is_at_home);
        let mut lost = world.lost();
        lost.extend(strangers.iter().map(|host| host.me));
        Picture {
            hosts,
            strangers,
            lost,
            forgetful: world.forgetful(),
            is_grace_short: world.is_grace_short(),
            networks: world.networks.clone(),
            fresh,
            secrets: world.secrets.clone(),
            witness: Arc::clone(&world.witness),
        }
    })
}

impl Picture {
    fn problems(&self, history: &History, at_last: bool, listing: &Listing) -> Vec<String> {
        let mut found = Vec::new();
        for host in self.hosts.iter().chain(&self.strangers) {
            self.applied(host, &mut found);
            self.dockers(host, at_last, &mut found);
        }
        if self.fresh.cluster().is_none() {
            found.push("the store has no cluster".to_owned());
        }
        for host in &self.strangers {
            // An empty store was taken by a host that knew no cluster yet: for people to solve.
            let belongs = "belongs to another cluster than the store";
            note(format!("host {} {belongs}", host.number));
            if !history.another_history {
                found.push(format!("host {} {belongs}", host.number));
            }
        }
        for host in &self.hosts {
            self.same_view(host, &mut found);
            self.published(host, &mut found);
            self.reaches(host, &mut found);
        }
        self.single_owners(&mut found);
        self.revoked(history, &mut found);
        if at_last {
            self.left_over(history, listing, &mut found);
            self.left_of_dead(history, listing, &mut found);
        }
        found
    }

    fn lives(&self, host: HostId) -> bool {
        self.hosts.iter().any(|live| live.me == host)
    }

    /// What the store holds of a network, as far as it is of hosts that live.
    fn of_the_living(&self, network: &NetworkView) -> NetworkView {
        let mut network = network.clone();
        network.members.retain(|host, _| self.lives(*host));
        network.endpoints.retain(|_, endpoint| self.lives(endpoint.host));
        network
    }

    fn same_view(&self, host: &Host, found: &mut Vec<String>) {
        let fresh = self.fresh.view();
        let n = host.number;
        let hosts = |view: &ClusterView| {
            let hosts = view.hosts.iter().filter(|(id, _)| self.lives(**id));
            hosts.map(|(id, record)| (*id, record.clone())).collect::<BTreeMap<_, _>>()
        };
        if hosts(fresh) != hosts(&host.view) {
            let (seen, there) = (hosts(&host.view), hosts(fresh));
            let differing: Vec<_> = self
                .hosts
                .iter()
                .filter(|of| seen.get(&of.me) != there.get(&of.me))
                .map(|of| (of.number, seen.get(&of.me), there.get(&of.me)))
                .collect();
            found.push(format!("host {n} sees other hosts than the store has: {differing:?}"));
        }
        if host.view.revoked != fresh.revoked {
            let (seen, there) = (&host.view.revoked, &fresh.revoked);
            found.push(format!("host {n} takes {seen:?} for revoked, in the store are {there:?}"));
        }
        let alive: BTreeSet<HostId> = self.hosts.iter().map(|host| host.me).collect();
        if host.view.alive != alive {
            found.push(format!(
                "host {n} takes {} hosts for alive, there are {}",
                host.view.alive.len(),
                alive.len()
            ));
        }
        for key in host.state.networks.values().map(|network| &network.definition.key) {
            let none = NetworkView::default();
            let seen = self.of_the_living(host.view.networks.get(key).unwrap_or(&none));
            let there = self.of_the_living(fresh.networks.get(key).unwrap_or(&none));
            if seen != there {
                found.push(format!(
                    "host {n} sees {key} otherwise than the store has it: {}",
                    differing(&seen, &there)
                ));
            }
        }
    }

    /// Journal and store say the same of a host.
    fn published(&self, host: &Host, found: &mut Vec<String>) {
        let n = host.number;
        let fresh = self.fresh.view();
        if !fresh.hosts.contains_key(&host.me) {
            found.push(format!("host {n} is not in the store"));
        }
        for network in host.state.networks.values() {
            let key = &network.definition.key;
            let none = NetworkView::default();
            let there = fresh.networks.get(key).unwrap_or(&none);
            if network.lingering {
                if there.endpoints.values().any(|endpoint| endpoint.host == host.me) {
                    found.push(format!(
                        "host {n} left {key}, and an endpoint of it is in the store"
                    ));
                }
                continue;
            }
            if !there.members.contains_key(&host.me) {
                found.push(format!("host {n} is not a member of {key} in the store"));
            }
            for endpoint in network.endpoints.values().filter(|e| !e.superseded) {
                let address = endpoint.primary().expect("every endpoint has an address");
                let record = there.endpoints.get(&address);
                if record.is_none_or(|r| r.endpoint != endpoint.id || r.host != host.me) {
                    found.push(format!(
                        "{address} of host {n} (claim {}) is not in the store: {record:?}",
                        endpoint.claim
                    ));
                }
            }
        }
        for (key, network) in &fresh.networks {
            let local = host.state.by_key(key);
            if network.members.contains_key(&host.me) && local.is_none() {
                found.push(format!(
                    "host {n} is a member of {key} in the store, and has no such network"
                ));
            }
            for record in network.endpoints.values().filter(|e| e.host == host.me) {
                let known = local.and_then(|local| local.endpoints.get(&record.endpoint));
                if known.is_none_or(|known| known.superseded) {
                    found.push(format!(
                        "{} of host {n} is in the store, and not on the host",
                        record.addresses[0]
                    ));
                }
            }
        }
    }

    /// The kernel is as journal and view want it, and has no network more.
    fn applied(&self, host: &Host, found: &mut Vec<String>) {
        let n = host.number;
        if !is_strange_left_alone(&host.plane) {
            found.push(format!("host {n}: a namespace that is not ours is not as it was"));
        }
        let keyring = Keyring::new(self.secrets.clone(), host.me);
        for network in &self.networks {
            let kernel = host.plane.look(&network.namespace());
            let desired = host.state.networks.get(&network.id).and_then(|local| {
                let key = &local.definition.key;
                let keys = |generation, peer| keyring.preshared_key(key, generation, peer);
                let none = NetworkView::default();
                let view = host.view.networks.get(key).unwrap_or(&none);
                let families = Families::of(&host.underlay.addresses);
                derive(local, view, &host.view, host.me, families, &keys)
            });
            for difference in model::differences(desired.as_ref(), &kernel) {
                found.push(format!("host {n} network {}: {difference}", network.number));
            }
        }
    }

    /// Docker's truth: what it believes to run does, and what it removed is gone.
    fn dockers(&self, host: &Host, at_last: bool, found: &mut Vec<String>) {
        let n = host.number;
        for endpoint in host.endpoints.iter().filter(|e| e.stage == Stage::Live) {
            let network = &self.networks[endpoint.network];
            let local = host.state.live(&network.id).and_then(|l| l.endpoints.get(&endpoint.id()));
            let Some(local) = local else {
                if self.taken_here(host, endpoint) {
                    continue;
                }
                found.push(format!("host {n} lost endpoint {}", endpoint.number));
                continue;
            };
            let address = IpAddr::V4(endpoint.address);
            let outclaimed =
                || self.witness.was_outclaimed(&network.key(), address, local.claim, host.me);
            if local.superseded && !outclaimed() {
                found.push(format!("host {n} gave {address} up, and nobody claimed it higher"));
            }
        }
        for (id, network) in &host.state.networks {
            for local in network.endpoints.values() {
                let known = host.endpoints.iter().any(|e| e.id() == local.id);
                // Given up after a while.
                let excused = !at_last && host.limbo.contains(local.id.as_str());
                if !known && !excused {
                    found.push(format!(
                        "endpoint {} is left on host {n} in {}, limbo: {}",
                        u64::from_str_radix(local.id.short(), 16).unwrap_or_default(),
                        id.short(),
                        host.limbo.contains(local.id.as_str())
                    ));
                }
            }
            let used = host.endpoints.iter().any(|e| self.networks[e.network].id == *id);
            if host.is_sure && !network.lingering && !used {
                found.push(format!("network {} is left on host {n}", id.short()));
            }
            if at_last && host.is_sure && network.lingering {
                found.push(format!("network {} lingers for ever on host {n}", id.short()));
            }
        }
    }

    /// What runs here is reached from everywhere.
    fn reaches(&self, host: &Host, found: &mut Vec<String>) {
        for endpoint in host.endpoints.iter().filter(|e| e.stage == Stage::Live) {
            let network = &self.networks[endpoint.network];
            let local = host.state.live(&network.id).and_then(|l| l.endpoints.get(&endpoint.id()));
            if local.is_some_and(|local| !local.superseded) {
                self.reached(host, network, endpoint, found);
            }
        }
    }

    /// Docker gave the same host the same address again for another container.
    fn taken_here(&self, host: &Host, endpoint: &Endpoint) -> bool {
        let here = host.endpoints.iter();
        here.filter(|e| e.network == endpoint.network && e.address == endpoint.address).count() > 1
    }

    /// A packet from every member arrives in the container.
    fn reached(
        &self,
        home: &Host,
        network: &Network,
        endpoint: &Endpoint,
        found: &mut Vec<String>,
    ) {
        let address = IpAddr::V4(endpoint.address);
        let namespace = network.namespace();
        let Seen::Present(there) = &*home.plane.look(&namespace) else {
            return found.push(format!("host {} has no namespace {namespace}", home.number));
        };
        let mut lost = |why: &str| {
            found.push(format!("{address} on host {} is not reached: {why}", home.number));
        };
        let veth = endpoint.veth();
        if there.routes.get(&address.into()) != Some(&RouteTarget::Link(veth.clone())) {
            lost("no route into its pair");
        }
        match there.veths.get(&veth).map(|pair| &pair.container) {
            Some(ContainerEnd::InContainer(Seen::Present(interface))) if interface.up => {}
            other => lost(&format!("its container's interface is {other:?}")),
        }
        if home.plane.container_of(&namespace, &veth) != Some(endpoint.sandbox()) {
            lost("its pair ends elsewhere");
        }
        let others = self.hosts.iter().filter(|other| other.number != home.number);
        for other in others.filter(|other| other.state.live(&network.id).is_some()) {
            let Seen::Present(here) = &*other.plane.look(&namespace) else {
                lost(&format!("host {} has no namespace", other.number));
                continue;
            };
            if let Err(why) = way(address, (here, other), (there, home)) {
                lost(&format!("from host {}: {why}", other.number));
            }
        }
    }

    /// Of all endpoints with one address one counts, and it is the strongest.
    fn single_owners(&self, found: &mut Vec<String>) {
        let mut owners: BTreeMap<Place, Vec<(u64, HostId, &LocalEndpoint)>> = BTreeMap::new();
        for host in &self.hosts {
            for network in host.state.networks.values().filter(|network| !network.lingering) {
                for endpoint in network.endpoints.values().filter(|e| !e.superseded) {
                    let address = endpoint.primary().expect("every endpoint has an address");
                    let claims = owners.entry((network.definition.key.clone(), address));
                    claims.or_default().push((endpoint.claim, host.me, endpoint));
                }
            }
        }
        for ((network, address), claims) in owners {
            if claims.len() > 1 {
                let claims: Vec<_> = claims.iter().map(|(c, h, _)| (c, h.short())).collect();
                found.push(format!("{address} of {network} has several owners: {claims:?}"));
            }
        }
    }
}

fn differing(seen: &NetworkView, there: &NetworkView) -> String {
    let mut found = Vec::new();
    if seen.record != there.record {
        found.push(format!("record {:?} for {:?}", seen.record, there.record));
    }
    let hosts: BTreeSet<_> = seen.members.keys().chain(there.members.keys()).collect();
    for host in hosts {
        let (seen, there) = (seen.members.get(host), there.members.get(host));
        if seen != there {
            found.push(format!("member {} {seen:?} for {there:?}", host.short()));
        }
    }
    let addresses: BTreeSet<_> = seen.endpoints.keys().chain(there.endpoints.keys()).collect();
    for address in addresses {
        let (seen, there) = (seen.endpoints.get(address), there.endpoints.get(address));
        if seen != there {
            found.push(format!("{address} {seen:?} for {there:?}"));
        }
    }
    found.join("; ")
}

/// Where a packet goes from one kernel, and whether the other takes it.
fn way(
    address: IpAddr,
    (here, from): (&Observed, &Host),
    (there, home): (&Observed, &Host),
) -> Result<(), String> {
    let target = here.routes.get(&address.into());
    let Some(RouteTarget::Link(link)) = target else {
        return Err(format!("its route is {target:?}"));
    };
    let wireguard = here.wireguards.get(link).filter(|wireguard| wireguard.up);
    let wireguard =
        wireguard.ok_or_else(|| format!("{link} is no WireGuard interface that is up"))?;
    let owner = wireguard.peers.iter().find(|(_, peer)| peer.allowed.contains(&address));
    let (key, peer) = owner.ok_or("no peer has it")?;
    let (their_link, theirs) = of_key(there, key)
        .ok_or_else(|| format!("peer {} is not host {}", short(key), home.number))?;
    let at = SocketAddr::new(home.underlay.addresses[0], theirs.port);
    if peer.underlay != Some(at) {
        return Err(format!("its peer is looked for at {:?}, and is at {at}", peer.underlay));
    }
    let back = wireguard.public_key.and_then(|key| theirs.peers.get(&key));
    let back =
        back.ok_or_else(|| format!("{their_link} there does not know host {}", from.number))?;
    if back.preshared_key != peer.preshared_key {
        return Err("the pre-shared keys differ".to_owned());
    }
    Ok(())
}

fn of_key<'a>(
    kernel: &'a Observed,
    key: &PublicKey,
) -> Option<(&'a IfName, &'a wgnet_core::ObservedWireguard)> {
    kernel.wireguards.iter().find(|(_, wireguard)| wireguard.public_key == Some(*key))
}
