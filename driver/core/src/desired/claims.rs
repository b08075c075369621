//! Who owns which address: the higher claim wins, then the higher host id. What only a backup of the
//! store knows comes after everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wgnet_proto::record::EndpointRecord;
use wgnet_proto::{Claim, EndpointId, HostId};

use crate::{ClusterView, LocalEndpoint, LocalNetwork, NetworkView};

/// The endpoint that an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    Local(&'a LocalEndpoint),
    Remote(HostId),
}

/// The owners of all addresses, and the local endpoints that lost their primary one.
#[derive(Debug, Default)]
pub(super) struct Owners<'a> {
    pub(super) by_address: BTreeMap<IpAddr, Owner<'a>>,
    pub(super) lost: BTreeSet<&'a EndpointId>,
}

impl<'a> Owners<'a> {
    /// Decides every address of a network.
    ///
    /// An endpoint that loses its primary address is out with all of them, as its host will withdraw
    /// it; a lost secondary address is only that (engines give IPv6 addresses without asking each
    /// other). So the strongest claims go first, and what is out takes nothing from the weaker ones.
    pub(super) fn decide(
        local: &'a LocalNetwork,
        network: &'a NetworkView,
        cluster: &ClusterView,
        me: HostId,
    ) -> Self {
        let claimants = claimants(local, network, cluster, me);
        Self::among(claimants, &AddressPlan::of(local))
    }

    /// Decides these addresses, and all that hang together with them: those of whoever claims one,
    /// and so on. What others do is of no influence on who owns them.
    pub(super) fn decide_on(
        addresses: BTreeSet<IpAddr>,
        local: &'a LocalNetwork,
        network: &'a NetworkView,
        cluster: &ClusterView,
        me: HostId,
    ) -> Self {
        let mut at: BTreeMap<IpAddr, Vec<&LocalEndpoint>> = BTreeMap::new();
        for endpoint in live(local) {
            for address in &endpoint.addresses {
                at.entry(address.addr()).or_default().push(endpoint);
            }
        }
        let mut claimants = BTreeMap::new();
        let mut left: Vec<IpAddr> = addresses.iter().copied().collect();
        let mut known = addresses;
        while let Some(address) = left.pop() {
            let here = at.get(&address).into_iter().flatten().map(|e| local_claimant(e, me));
            let there = network.endpoints.on(address);
            let there = there.filter(|(_, record)| counts(record.host, network, cluster, me));
            for claimant in here.chain(there.map(|it| remote_claimant(it, network))) {
                let addresses = claimant.addresses();
                if claimants.insert(claimant.rank(), claimant).is_none() {
                    left.extend(addresses.filter(|address| known.insert(*address)));
                }
            }
        }
        Self::among(claimants.into_values().collect(), &AddressPlan::of(local))
    }

    fn among(mut claimants: Vec<Claimant<'a>>, plan: &AddressPlan) -> Self {
        claimants.sort_unstable_by(|a, b| b.rank().cmp(&a.rank()));
        let mut owners = Self::default();
        for claimant in &claimants {
            owners.admit(claimant, plan);
        }
        owners
    }

    fn admit(&mut self, claimant: &Claimant<'a>, plan: &AddressPlan) {
        let primary = claimant.addresses().next();
        if primary.is_some_and(|address| self.by_address.contains_key(&address)) {
            if let Owner::Local(endpoint) = claimant.owner {
                self.lost.insert(&endpoint.id);
            }
            return;
        }
        for address in claimant.addresses().filter(|a| plan.is_assignable(*a)) {
            self.by_address.entry(address).or_insert(claimant.owner);
        }
    }
}

/// Whether a host's records count in this network: a member, known, not revoked.
pub(super) fn counts(
    host: HostId,
    network: &NetworkView,
    cluster: &ClusterView,
    me: HostId,
) -> bool {
    host != me
        && network.members.contains_key(&host)
        && cluster.hosts.contains_key(&host)
        && !cluster.revoked.contains(&host)
}

struct Claimant<'a> {
    is_strong: bool,
    claim: Claim,
    host: HostId,
    endpoint: &'a EndpointId,
    addresses: Addresses<'a>,
    owner: Owner<'a>,
}

type Rank<'a> = (bool, Claim, HostId, &'a EndpointId, Option<IpAddr>);

#[derive(Clone, Copy)]
enum Addresses<'a> {
    Given(&'a [IpNet]),
    Published(&'a [IpAddr]),
}

impl<'a> Claimant<'a> {
    /// A host numbers its claims once; id and primary address only make the order total.
    fn rank(&self) -> Rank<'a> {
        (self.is_strong, self.claim, self.host, self.endpoint, self.addresses().next())
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let (given, published): (&[IpNet], &[IpAddr]) = match self.addresses {
            Addresses::Given(nets) => (nets, &[]),
            Addresses::Published(addresses) => (&[], addresses),
        };
        given.iter().map(IpNet::addr).chain(published.iter().copied())
    }
}

fn claimants<'a>(
    local: &'a LocalNetwork,
    network: &'a NetworkView,
    cluster: &ClusterView,
    me: HostId,
) -> Vec<Claimant<'a>> {
    // Once per host, not once per endpoint.
    let hosts: BTreeSet<HostId> =
        network.members.keys().copied().filter(|h| counts(*h, network, cluster, me)).collect();
    let remote = network.endpoints.iter().filter(move |(_, e)| hosts.contains(&e.host));
    let remote = remote.map(|(at, record)| (*at, record));
    live(local)
        .map(|endpoint| local_claimant(endpoint, me))
        .chain(remote.map(|it| remote_claimant(it, network)))
        .collect()
}

/// Superseded endpoints claim nothing.
fn live(local: &LocalNetwork) -> impl Iterator<Item = &LocalEndpoint> {
    local.endpoints.values().filter(|endpoint| !endpoint.superseded)
}

fn local_claimant(endpoint: &LocalEndpoint, me: HostId) -> Claimant<'_> {
    Claimant {
        is_strong: true,
        claim: endpoint.claim,
        host: me,
        endpoint: &endpoint.id,
        addresses: Addresses::Given(&endpoint.addresses),
        owner: Owner::Local(endpoint),
    }
}

fn remote_claimant<'a>(
    (at, record): (IpAddr, &'a EndpointRecord),
    network: &NetworkView,
) -> Claimant<'a> {
    Claimant {
        is_strong: !network.endpoints.is_weak(&at),
        claim: record.claim,
        host: record.host,
        endpoint: &record.endpoint,
        addresses: Addresses::Published(&record.addresses),
        owner: Owner::Remote(record.host),
    }
}

/// Which addresses an endpoint can have at all. Whatever else a record claims is ignored.
struct AddressPlan {
    pools: Vec<IpNet>,
    gateways: BTreeSet<IpAddr>,
}

impl AddressPlan {
    fn of(local: &LocalNetwork) -> Self {
        let subnets = &local.definition.subnets;
        Self {
            pools: subnets.iter().map(|s| s.pool.trunc()).collect(),
            gateways: subnets.iter().filter_map(|s| s.gateway).collect(),
        }
    }

    fn is_assignable(&self, address: IpAddr) -> bool {
        let pool = self.pools.iter().find(|p| p.contains(&address));
        let Some(pool) = pool else { return false };
        // A pool of one or two addresses has no edges to spare (RFC 3021, RFC 6164).
        let has_edges = pool.prefix_len() + 1 < pool.max_prefix_len();
        let at_edge = match pool {
            IpNet::V4(p) => address == p.network() || address == p.broadcast(),
            // IPv6 has no broadcast; the lowest address is the routers' anycast.
            IpNet::V6(p) => address == p.network(),
        };
        !(self.gateways.contains(&address) || has_edges && at_edge)
    }
}
