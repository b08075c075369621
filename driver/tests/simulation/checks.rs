//! What must hold after every step: in a kernel after each change of it, in the store after each write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wgnet_control_plane::store::{Change, Revision};
use wgnet_core::{Namespace, Observed, RouteTarget, Seen, Step};
use wgnet_driver::dataplane::Claimed;
use wgnet_driver::journal::State;
use wgnet_proto::{
    Claim, ClusterId, ClusterSecrets, EndpointId, HostId, NetworkKey, Opener, Path, PublicKey,
    Record,
};

use super::trace::{note, wrong};

/// Sees every change of a kernel and every write to the store.
pub(crate) struct Witness {
    /// How long a host must be absent before others remove its records.
    grace: Duration,
    secrets: ClusterSecrets,
    clusters: Mutex<BTreeSet<ClusterId>>,
    seen: Mutex<Published>,
}

/// After so long everybody who can is told of a host that is back.
const TOLD: Duration = Duration::from_secs(60);

/// One address of one network.
pub(crate) type Place = (NetworkKey, IpAddr);

/// What was ever published.
#[derive(Default)]
struct Published {
    /// Which record each number of a host sealed.
    numbers: BTreeMap<(HostId, u64), (Path, Vec<u8>)>,
    keys: BTreeMap<PublicKey, (NetworkKey, HostId)>,
    claims: BTreeMap<Place, BTreeSet<(Claim, HostId, EndpointId)>>,
    /// Who ever wrote anything of a network.
    writers: BTreeMap<NetworkKey, BTreeSet<HostId>>,
    /// Since when there has been no sign of life in the store; `None` for hosts with a lease.
    absent: BTreeMap<HostId, Option<Instant>>,
    /// When a host with a lease came back, and since when it had been absent.
    back: BTreeMap<HostId, (Option<Instant>, Instant)>,
    /// The number of each host's own record, as long as it stands.
    own: BTreeMap<HostId, u64>,
    /// Whose records may go at once: of hosts that are revoked, or forgotten by order.
    let_go: BTreeSet<HostId>,
}

/// What somebody without the secret writes.
pub(crate) const RUBBISH: &[u8] = b"rubbish";

impl Witness {
    pub(crate) fn new(secrets: ClusterSecrets, grace: Duration) -> Self {
        Self { grace, secrets, clusters: Mutex::default(), seen: Mutex::default() }
    }

    /// Operators let a host go: nobody need wait with its records.
    pub(crate) fn let_go(&self, host: HostId) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).let_go.insert(host);
    }

    /// The store's contents were replaced by others: no lease is left that anybody must respect.
    pub(crate) fn begins_anew(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for since in seen.absent.values_mut() {
            since.get_or_insert_with(Instant::now);
        }
        seen.own.clear();
    }

    /// Time jumps: leases end before anybody is told of those who have just come back.
    pub(crate) fn time_jumps(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = seen.back.iter().filter(|(_, (_, at))| at.elapsed() < TOLD);
        let untold: Vec<HostId> = untold.map(|(host, _)| *host).collect();
        seen.let_go.extend(untold);
    }

    /// Whether a host's own record stands in the store, with a number that is not below this one.
    pub(crate) fn shows(&self, host: HostId, number: u64) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.own.get(&host).is_some_and(|own| *own >= number)
    }

    /// Every key that a host ever published.
    pub(crate) fn keys_of(&self, host: HostId) -> Vec<PublicKey> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = seen.keys.iter().filter(|(_, (_, owner))| *owner == host);
        keys.map(|(key, _)| *key).collect()
    }

    /// Whether an address was ever published with a higher claim than this, by another host.
    pub(crate) fn was_outclaimed(
        &self,
        network: &NetworkKey,
        address: IpAddr,
        claim: Claim,
        host: HostId,
    ) -> bool {
        let is_higher = |c, h| h != host && (c, h) > (claim, host);
        self.was_claimed(network, address, is_higher)
    }

    /// The same by another endpoint of this host.
    pub(crate) fn was_given_anew(
        &self,
        network: &NetworkKey,
        address: IpAddr,
        claim: Claim,
        host: HostId,
    ) -> bool {
        self.was_claimed(network, address, |c, h| h == host && c > claim)
    }

    fn was_claimed(
        &self,
        network: &NetworkKey,
        address: IpAddr,
        is_so: impl Fn(Claim, HostId) -> bool,
    ) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = seen.claims.get(&(network.clone(), address));
        claims.into_iter().flatten().any(|(claim, host, _)| is_so(*claim, *host))
    }

    /// Whether one of these hosts ever wrote anything of a network.
    pub(crate) fn wrote_in(&self, network: &NetworkKey, hosts: &BTreeSet<HostId>) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.writers.get(network).is_some_and(|writers| !writers.is_disjoint(hosts))
    }

    pub(crate) fn changed(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(entry) => self.published(&entry.key, &entry.value, entry.mod_revision),
                Change::Delete { key, mod_revision } => {
                    note(format!("store {mod_revision}: {key} deleted"));
                    self.deleted(key);
                }
            }
        }
    }

    /// A lease ends by itself; a host's own record goes when the host was absent for the grace.
    fn deleted(&self, key: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match Path::parse(key) {
            Some(Path::Alive(host)) => {
                let since = match seen.back.get(&host) {
                    Some((Some(before), at)) if at.elapsed() < TOLD => *before,
                    _ => Instant::now(),
                };
                seen.absent.insert(host, Some(since));
            }
            Some(Path::Host(host)) => {
                seen.own.remove(&host);
                let is_early =
                    |since: Option<Instant>| since.is_none_or(|since| since.elapsed() < self.grace);
                let absent = seen.absent.get(&host).copied();
                if absent.is_some_and(is_early) && !seen.let_go.contains(&host) {
                    wrong(format!("{key} was removed, and its host was there within the grace"));
                }
            }
            _ => {}
        }
    }

    fn published(&self, key: &str, value: &[u8], revision: Revision) {
        let Some(path) = Path::parse(key) else {
            return wrong(format!("a key nobody knows was written: {key}"));
        };
        if value == RUBBISH {
            return note(format!("store {revision}: {key} is rubbish"));
        }
        let Some((seq, record)) = self.opened(&path, value) else {
            return wrong(format!("what was written to {key} does not open"));
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = wgnet_proto::seal::claimed_writer(value) else {
            return wrong(format!("{key} has no writer"));
        };
        note(format!("store {revision}: {key} by {} {seq}", writer.short()));
        let content = (path.clone(), record.encode());
        let before = seen.numbers.entry((writer, seq)).or_insert_with(|| content.clone());
        if *before != content {
            let first = before.0.to_string();
            wrong(format!("number {seq} of {} sealed {first} and {key}", writer.short()));
        }
        if let Some(network) = path.network() {
            seen.writers.entry(network.clone()).or_default().insert(writer);
        }
        match (path, record) {
            (Path::Alive(host), _) => {
                let before = seen.absent.insert(host, None).flatten();
                seen.back.insert(host, (before, Instant::now()));
            }
            (Path::Host(host), _) => {
                seen.own.insert(host, seq);
                if let Some(Some(since)) = seen.absent.get_mut(&host) {
                    *since = Instant::now();
                }
            }
            (Path::Member(network, host), Record::Member(member)) => {
                for slot in member.slots {
                    let owner = (network.clone(), host);
                    let known = seen.keys.entry(slot.public_key).or_insert_with(|| owner.clone());
                    if *known != owner {
                        wrong(format!("one public key was published for {known:?} and {owner:?}"));
                    }
                }
            }
            (Path::Endpoint(network, address), Record::Endpoint(endpoint)) => {
                let claim = (endpoint.claim, endpoint.host, endpoint.endpoint);
                seen.claims.entry((network, address)).or_default().insert(claim);
            }
            _ => {}
        }
    }

    /// A record under its number. Several clusters may be founded at once; all but one die out.
    fn opened(&self, path: &Path, value: &[u8]) -> Option<(u64, Record)> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if *path == Path::Cluster {
            let opened = Opener::new(self.secrets.clone(), None).open(path, value).ok()?;
            clusters.insert(opened.cluster);
        }
        let mut openers =
            clusters.iter().map(|cluster| Opener::new(self.secrets.clone(), Some(*cluster)));
        let opened = openers.find_map(|opener| opener.open(path, value).ok())?;
        Some((opened.seq, Record::decode(path, &opened.payload).ok()?))
    }

    pub(crate) fn stepped(
        &self,
        host: usize,
        namespace: &Namespace,
        step: &Step,
        before: &Seen<Observed>,
        after: &Seen<Observed>,
    ) {
        if before != after {
            note(format!("host {host} {namespace}: {}", brief(step)));
        }
        for problem in problems(step, before, after) {
            wrong(format!("host {host} {namespace} after {}: {problem}", brief(step)));
        }
    }
}

/// What a sweep must leave: all that the journal has at that moment.
pub(crate) fn claims_all(host: usize, journal: &State, claimed: &Claimed) {
    for network in journal.networks.values() {
        let namespace = network.namespace();
        let is_claimed = claimed.namespaces.contains(&namespace)
            && network.endpoints.keys().all(|endpoint| claimed.endpoints.contains(endpoint));
        if !is_claimed {
            wrong(format!("host {host}: a sweep may take {namespace}, which the journal has"));
        }
    }
}

/// Each time a journal is to reach its disk, and has reached it: it tells what the disk holds, or, if
/// a write failed, what it told or the disk held before.
pub(crate) fn journal_told(
    host: usize,
    told: &State,
    disk: &State,
    before: Option<&(Arc<State>, Arc<State>)>,
) {
    let says = |other: &State| {
        told.networks == other.networks
            && told.claims == other.claims
            && told.floors == other.floors
            && told.freed == other.freed
            && told.reserved_seq == other.reserved_seq
            && (told.cluster, told.incarnation) == (other.cluster, other.incarnation)
    };
    let was = before.is_some_and(|(told, disk)| says(told) || says(disk));
    if !says(disk) && !was {
        wrong(format!("host {host}: its journal tells what its disk does not hold"));
    }
}

fn problems(step: &Step, before: &Seen<Observed>, after: &Seen<Observed>) -> Vec<String> {
    let mut found = Vec::new();
    if let (Step::DeleteNamespace, Seen::Present(before)) = (step, before)
        && !before.guard.is_empty()
    {
        found.push("the namespace went before its guard".to_owned());
    }
    let Seen::Present(kernel) = after else {
        return found;
    };
    if *step == Step::RemoveGuard && !kernel.veths.is_empty() {
        found.push("the guard went before the last pair".to_owned());
    }
    for (destination, target) in &kernel.routes {
        let RouteTarget::Link(link) = target else {
            continue;
        };
        let there = kernel.wireguards.contains_key(link)
            || kernel.veths.contains_key(link)
            || kernel.foreign.contains(link);
        if !there {
            found.push(format!("route {destination} leads into {link}, which is not there"));
        }
    }
    for (name, wireguard) in &kernel.wireguards {
        let owned: Vec<_> = wireguard.peers.values().flat_map(|peer| &peer.allowed).collect();
        if owned.len() != owned.iter().collect::<BTreeSet<_>>().len() {
            found.push(format!("an address has two owners on {name}"));
        }
    }
    if let Seen::Present(before) = before {
        let foreign = |kernel: &Observed| {
            let through = |target: &RouteTarget| matches!(target, RouteTarget::Link(link) if kernel.foreign.contains(link));
            let routes = kernel.routes.iter().filter(|(_, target)| through(target));
            let routes: Vec<_> = routes.map(|(to, target)| (*to, target.clone())).collect();
            (kernel.foreign.clone(), routes)
        };
        if foreign(before) != foreign(kernel) {
            found.push("something foreign was touched".to_owned());
        }
    }
    found
}

fn brief(step: &Step) -> String {
    match step {
        Step::CreateWireguard { name, port, .. } => format!("create {name} on {port}"),
        Step::AddPeer { wireguard, peer, config } => {
            format!("add peer {} to {wireguard} with {:?}", short(peer), config.allowed)
        }
        Step::UpdatePeer { wireguard, peer, underlay, keepalive, .. } => format!(
            "update peer {} of {wireguard}: underlay {underlay:?}, keepalive {keepalive:?}",
            short(peer)
        ),
        Step::RemovePeer { wireguard, peer } => {
            format!("remove peer {} of {wireguard}", short(peer))
        }
        Step::AddAllowed { peer, addresses, .. } => {
            format!("give {addresses:?} to {}", short(peer))
        }
        Step::RemoveAllowed { peer, addresses, .. } => {
            format!("take {addresses:?} from {}", short(peer))
        }
        Step::CreateVeth { name, .. } => format!("create {name}"),
        Step::FixVeth { name, .. } => format!("fix {name}"),
        Step::RestoreVeth { name, .. } => format!("restore {name}"),
        Step::FixContainer { name, .. } => format!("fix the container of {name}"),
        other => format!("{other:?}"),
    }
}

pub(crate) fn short(key: &PublicKey) -> String {
    key.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
