//! Derives one network again and again, and looks only at what changed since it last did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use wgnet_proto::{Generation, HostId, IfName, PresharedKey, PublicKey};

use super::claims::{Owner, Owners};
use super::derive::{Way, link_to, subnets, veths, whole};
use super::{Desired, Families, RouteTarget};
use crate::{ClusterView, LocalNetwork, NetworkView};

/// Beyond so many addresses that may have changed, looking at all of them costs less.
const MANY: usize = 4096;

/// What is derived from, as in [`derive`](super::derive()).
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub local: &'a Arc<LocalNetwork>,
    pub network: &'a NetworkView,
    pub cluster: &'a ClusterView,
    pub me: HostId,
    pub families: Families,
    pub keys: &'a dyn Fn(Generation, HostId) -> Option<PresharedKey>,
}

/// What may differ from the desired state before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    Everything,
    Parts(Parts),
}

/// Some objects of a desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Addresses that a peer gained or lost.
    pub allowed: BTreeMap<(IfName, PublicKey), BTreeSet<IpAddr>>,
    pub routes: BTreeSet<IpNet>,
    pub veths: BTreeSet<IfName>,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Parts(parts) if *parts == Parts::default())
    }
}

/// One network's desired state and what it was derived from. The same as [`derive`](super::derive())
/// says, whatever changed in between.
#[derive(Debug, Default)]
pub struct Derivation {
    last: Option<Last>,
    desired: Option<Desired>,
    ways: BTreeMap<HostId, Way>,
}

#[derive(Debug)]
struct Last {
    local: Arc<LocalNetwork>,
    network: NetworkView,
    /// Without its networks.
    cluster: ClusterView,
    me: HostId,
    families: Families,
}

impl Derivation {
    pub fn desired(&self) -> Option<&Desired> {
        self.desired.as_ref()
    }

    /// Derives from scratch; for whoever wants to be sure.
    pub fn renew(&mut self, inputs: Option<Inputs<'_>>) -> Difference {
        let derived =
            inputs.and_then(|i| whole(i.local, i.network, i.cluster, i.me, i.families, i.keys));
        let (desired, ways) = match derived {
            Some((desired, ways)) => (Some(desired), ways),
            None => (None, BTreeMap::new()),
        };
        let is_same = self.desired == desired;
        self.desired = desired;
        self.ways = ways;
        self.last = inputs.filter(|_| self.desired.is_some()).map(Last::of);
        if is_same { Difference::Parts(Parts::default()) } else { Difference::Everything }
    }

    /// Derives what may have changed; `None` when the network is not wanted at all. Pre-shared keys
    /// are taken to be the same as before.
    pub fn update(&mut self, inputs: Option<Inputs<'_>>) -> Difference {
        let addresses = match (&self.last, inputs) {
            (Some(last), Some(inputs)) => last.addresses_that_differ(inputs),
            _ => None,
        };
        match (inputs, addresses) {
            (Some(inputs), Some(addresses)) if addresses.len() <= MANY => {
                Difference::Parts(self.change(inputs, addresses))
            }
            (None, _) if self.desired.is_none() => Difference::Parts(Parts::default()),
            _ => self.renew(inputs),
        }
    }

    fn change(&mut self, inputs: Inputs<'_>, addresses: BTreeSet<IpAddr>) -> Parts {
        let mut parts = Parts::default();
        let (Some(last), Some(desired)) = (&self.last, &mut self.desired) else {
            return parts;
        };
        let Inputs { local, network, cluster, me, .. } = inputs;
        let was = Owners::decide_on(
            addresses.clone(),
            &last.local,
            &last.network,
            &last.cluster,
            last.me,
        );
        let is = Owners::decide_on(addresses, local, network, cluster, me);
        let all: BTreeSet<IpAddr> =
            was.by_address.keys().chain(is.by_address.keys()).copied().collect();
        for address in all {
            let (was, is) = (was.by_address.get(&address), is.by_address.get(&address));
            if !is_same(was, is) {
                desired.give(address, was, is, &self.ways, local, &mut parts);
            }
        }
        if last.local.endpoints != local.endpoints {
            let veths = veths(local);
            let names = desired.veths.keys().chain(veths.keys());
            let differing = names.filter(|name| desired.veths.get(*name) != veths.get(*name));
            parts.veths = differing.cloned().collect();
            desired.veths = veths;
        }
        self.last = Some(Last::of(inputs));
        parts
    }
}

/// Whether an address leads to the same place as before.
fn is_same(was: Option<&Owner<'_>>, is: Option<&Owner<'_>>) -> bool {
    match (was, is) {
        (Some(Owner::Local(was)), Some(Owner::Local(is))) => was.id == is.id,
        (Some(Owner::Remote(was)), Some(Owner::Remote(is))) => was == is,
        (None, None) => true,
        _ => false,
    }
}

impl Desired {
    /// Gives an address to another owner.
    fn give(
        &mut self,
        address: IpAddr,
        was: Option<&Owner<'_>>,
        is: Option<&Owner<'_>>,
        ways: &BTreeMap<HostId, Way>,
        local: &LocalNetwork,
        parts: &mut Parts,
    ) {
        let mut allow = |owner: Option<&Owner<'_>>, is_in: bool| {
            let Some(Owner::Remote(host)) = owner else { return };
            for (name, key) in ways.get(host).into_iter().flat_map(|way| &way.peers) {
                let wireguard = self.wireguards.get_mut(name);
                let Some(peer) = wireguard.and_then(|w| w.peers.get_mut(key)) else { continue };
                if is_in {
                    peer.allowed.insert(address);
                } else {
                    peer.allowed.remove(&address);
                }
                parts.allowed.entry((name.clone(), *key)).or_default().insert(address);
            }
        };
        allow(was, false);
        allow(is, true);
        let destination = IpNet::from(address);
        let target = match is.and_then(|owner| link_to(owner, ways)) {
            Some(link) => Some(RouteTarget::Link(link)),
            // What is left where the subnet has this one address.
            None => subnets(local).any(|s| s == destination).then_some(RouteTarget::Unreachable),
        };
        match target {
            Some(target) => self.routes.insert(destination, target),
            None => self.routes.remove(&destination),
        };
        parts.routes.insert(destination);
    }
}

impl Last {
    fn of(inputs: Inputs<'_>) -> Self {
        let ClusterView { hosts, alive, revoked, networks: _ } = inputs.cluster;
        let (hosts, alive, revoked) = (hosts.clone(), alive.clone(), revoked.clone());
        Self {
            local: Arc::clone(inputs.local),
            network: inputs.network.clone(),
            cluster: ClusterView { hosts, alive, revoked, networks: BTreeMap::new() },
            me: inputs.me,
            families: inputs.families,
        }
    }

    /// The addresses of endpoints that differ; `None` if anything else does.
    fn addresses_that_differ(&self, inputs: Inputs<'_>) -> Option<BTreeSet<IpAddr>> {
        let Inputs { local, network, cluster, me, families, .. } = inputs;
        let is_other = self.local.definition != local.definition
            || self.local.slots != local.slots
            || self.local.lingering != local.lingering
            || self.network.generation != network.generation
            || self.network.members != network.members
            || self.cluster.hosts != cluster.hosts
            || self.cluster.revoked != cluster.revoked
            || self.me != me
            || self.families != families;
        if is_other {
            return None;
        }
        let mut addresses = self.network.endpoints.addresses_that_differ(&network.endpoints);
        let (was, is) = (&self.local.endpoints, &local.endpoints);
        if Arc::ptr_eq(&self.local, local) {
            return Some(addresses);
        }
        for id in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let (was, is) = (was.get(id), is.get(id));
            if was != is {
                let endpoints = was.into_iter().chain(is);
                addresses.extend(endpoints.flat_map(|e| &e.addresses).map(IpNet::addr));
            }
        }
        Some(addresses)
    }
}
