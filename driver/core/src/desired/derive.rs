//! From local intent and the cluster's records to what one network should look like here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wgnet_proto::record::{MemberRecord, Slot};
use wgnet_proto::{EndpointId, Generation, HostId, IfName, PresharedKey, PublicKey};

use super::claims::{Owner, Owners, counts};
use super::underlay::{Families, choose};
use super::{Desired, DesiredPeer, DesiredVeth, DesiredWireguard, RouteTarget};
use crate::{ClusterView, LocalEndpoint, LocalNetwork, LocalSlot, NetworkView, join};

/// What this host should have of one network; `None` when it should have nothing.
///
/// `keys` gives the pre-shared key with a host for a generation, `families` says which underlay
/// addresses this host can send to.
pub fn derive(
    local: &LocalNetwork,
    network: &NetworkView,
    cluster: &ClusterView,
    me: HostId,
    families: Families,
    keys: &dyn Fn(Generation, HostId) -> Option<PresharedKey>,
) -> Option<Desired> {
    whole(local, network, cluster, me, families, keys).map(|(desired, _)| desired)
}

/// How a host is reached: what its endpoints' addresses lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// As what it is configured on this host's interfaces.
    pub(super) peers: Vec<(IfName, PublicKey)>,
    /// What packets to it go through, if there is a generation that both sides have.
    pub(super) link: Option<IfName>,
}

/// What [`derive`] says, and the ways to the other hosts that it found.
pub(super) fn whole(
    local: &LocalNetwork,
    network: &NetworkView,
    cluster: &ClusterView,
    me: HostId,
    families: Families,
    keys: &dyn Fn(Generation, HostId) -> Option<PresharedKey>,
) -> Option<(Desired, BTreeMap<HostId, Way>)> {
    if local.lingering {
        return None;
    }
    let owners = Owners::decide(local, network, cluster, me);
    let slots = own_slots(local, network.generation);
    let allowed = allowed(&owners);
    let members = Members { network, cluster, me, families, keys, allowed: &allowed };

    let others = network.members.keys().filter(|host| counts(**host, network, cluster, me));
    let way = |host: HostId| Way {
        peers: Vec::new(),
        link: traffic_generation(&slots, network, host).map(IfName::wireguard),
    };
    let mut ways: BTreeMap<HostId, Way> = others.map(|host| (*host, way(*host))).collect();
    let mut wireguards = BTreeMap::new();
    for (name, slot) in &slots {
        wireguards.insert(name.clone(), members.wireguard(local, name, slot, &mut ways));
    }
    let subnets = &local.definition.subnets;
    let desired = Desired {
        mtu: local.definition.mtu,
        gateways: subnets.iter().filter_map(|s| s.gateway).collect(),
        wireguards,
        veths: veths(local),
        routes: routes(local, &owners, &ways),
        guard: guard(local),
    };
    Some((desired, ways))
}

/// The local endpoints that lost their primary address to a remote claim: the journal marks them
/// superseded, for good.
pub fn superseded(
    local: &LocalNetwork,
    network: &NetworkView,
    cluster: &ClusterView,
    me: HostId,
) -> BTreeSet<EndpointId> {
    let own = local.endpoints.values().flat_map(|endpoint| &endpoint.addresses);
    let own = own.map(IpNet::addr).collect();
    let owners = Owners::decide_on(own, local, network, cluster, me);
    let lost = owners.lost.iter().filter_map(|id| local.endpoints.get(*id));
    let to_remote = lost.filter(|endpoint| {
        let winner = endpoint.primary().and_then(|address| owners.by_address.get(&address));
        matches!(winner, Some(Owner::Remote(_)))
    });
    to_remote.map(|endpoint| endpoint.id.clone()).collect()
}

/// This member's slots by interface. Two slots of one parity cannot live together (that would be a
/// rotation that skipped a generation): the current one stays, else the newer.
fn own_slots(local: &LocalNetwork, current: Generation) -> BTreeMap<IfName, &LocalSlot> {
    let mut slots: Vec<&LocalSlot> = local.slots.iter().collect();
    slots.sort_by_key(|slot| (slot.generation == current, slot.generation));
    slots.into_iter().map(|slot| (IfName::wireguard(slot.generation), slot)).collect()
}

/// The addresses of each remote host's endpoints.
fn allowed(owners: &Owners<'_>) -> BTreeMap<HostId, BTreeSet<IpAddr>> {
    let mut allowed: BTreeMap<HostId, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, owner) in &owners.by_address {
        if let Owner::Remote(host) = owner {
            allowed.entry(*host).or_default().insert(*address);
        }
    }
    allowed
}

/// The other members, as peers.
struct Members<'a> {
    network: &'a NetworkView,
    cluster: &'a ClusterView,
    me: HostId,
    families: Families,
    keys: &'a dyn Fn(Generation, HostId) -> Option<PresharedKey>,
    allowed: &'a BTreeMap<HostId, BTreeSet<IpAddr>>,
}

impl Members<'_> {
    fn wireguard(
        &self,
        local: &LocalNetwork,
        name: &IfName,
        slot: &LocalSlot,
        ways: &mut BTreeMap<HostId, Way>,
    ) -> DesiredWireguard {
        let own_key = slot.private_key.public();
        let mut peers: BTreeMap<PublicKey, DesiredPeer> = BTreeMap::new();
        for (host, member) in &self.network.members {
            if !counts(*host, self.network, self.cluster, self.me) {
                continue;
            }
            // A WireGuard interface silently refuses a peer with its own key.
            let theirs = slot_of(member, slot.generation).filter(|s| s.public_key != own_key);
            let (Some(theirs), Some(record)) = (theirs, self.cluster.hosts.get(host)) else {
                continue;
            };
            // Of hosts that publish one key, which only one of them can hold, every host takes the
            // first; what is sent to the others cannot be read by them anyway.
            let Entry::Vacant(peer) = peers.entry(theirs.public_key) else {
                continue;
            };
            ways.entry(*host).or_default().peers.push((name.clone(), theirs.public_key));
            peer.insert(DesiredPeer {
                preshared_key: (self.keys)(slot.generation, *host),
                underlay: choose(theirs, record, self.families),
                keepalive: local.definition.options.keepalive,
                allowed: self.allowed.get(host).cloned().unwrap_or_default(),
            });
        }
        DesiredWireguard { private_key: slot.private_key.clone(), port: slot.port, peers }
    }
}

fn slot_of(member: &MemberRecord, generation: Generation) -> Option<&Slot> {
    member.slots.iter().find(|slot| slot.generation == generation)
}

/// Superseded endpoints have no pair: a container that cannot be reached shall not look healthy.
pub(super) fn veths(local: &LocalNetwork) -> BTreeMap<IfName, DesiredVeth> {
    let live = local.endpoints.values().filter(|endpoint| !endpoint.superseded);
    live.map(|endpoint| (IfName::veth_host(&endpoint.id), veth(local, endpoint))).collect()
}

fn veth(local: &LocalNetwork, endpoint: &LocalEndpoint) -> DesiredVeth {
    DesiredVeth {
        endpoint: endpoint.id.clone(),
        container_end: IfName::veth_container(&endpoint.id),
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        sandbox: endpoint.sandbox.clone(),
        container_routes: join::container_routes(&local.definition.subnets, &endpoint.addresses),
    }
}

fn routes(
    local: &LocalNetwork,
    owners: &Owners<'_>,
    ways: &BTreeMap<HostId, Way>,
) -> BTreeMap<IpNet, RouteTarget> {
    let mut routes: BTreeMap<_, _> =
        subnets(local).map(|subnet| (subnet, RouteTarget::Unreachable)).collect();
    for (address, owner) in &owners.by_address {
        // Without a common generation the subnet's route answers: unreachable.
        if let Some(link) = link_to(owner, ways) {
            routes.insert(IpNet::from(*address), RouteTarget::Link(link));
        }
    }
    routes
}

pub(super) fn subnets(local: &LocalNetwork) -> impl Iterator<Item = IpNet> {
    local.definition.subnets.iter().map(|subnet| subnet.pool.trunc())
}

/// The link that an owner's address leads through.
pub(super) fn link_to(owner: &Owner<'_>, ways: &BTreeMap<HostId, Way>) -> Option<IfName> {
    match owner {
        Owner::Local(endpoint) => Some(IfName::veth_host(&endpoint.id)),
        Owner::Remote(host) => ways.get(host)?.link.clone(),
    }
}

/// The generation that packets to a host go through: the network's current one if both sides have
/// it, else the highest that both have.
fn traffic_generation(
    slots: &BTreeMap<IfName, &LocalSlot>,
    network: &NetworkView,
    host: HostId,
) -> Option<Generation> {
    let member = network.members.get(&host)?;
    let common = slots.values().map(|slot| slot.generation);
    let common = common.filter(|generation| slot_of(member, *generation).is_some());
    common.max_by_key(|generation| (*generation == network.generation, *generation))
}

/// Present as long as the network is, closed networks included: a container that is on another
/// network as well, or was taken off this one, still has words for it and another way out.
fn guard(local: &LocalNetwork) -> BTreeSet<IpNet> {
    subnets(local).collect()
}
