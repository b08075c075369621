//! What each step does to a kernel, as far as the planner may rely on it.
//!
//! Three things stand on it: the planner's property tests, the reconciler's belief between two
//! observations, and the data plane that lives in memory. It has the semantics that bite: an address
//! given to one peer is taken from another, a route dies with its link, a route into a link that is
//! not there or not up is refused, two interfaces cannot share a port.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wgnet_proto::{IfName, MacAddr, PublicKey};

pub use check::{differences, satisfies};

use crate::{
    ContainerEnd, ContainerInterface, DesiredPeer, DesiredVeth, Observed, ObservedPeer,
    ObservedVeth, ObservedWireguard, RouteTarget, Seen, Step,
};

/// A step that a kernel would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("there is no namespace to change")]
    NoNamespace,
    #[error("it is not known what the namespace looks like")]
    Unknown,
    #[error("there is no link {0}")]
    NoLink(IfName),
    #[error("link {0} is down")]
    LinkDown(IfName),
    #[error("link {0} exists and is another")]
    LinkExists(IfName),
    #[error("link {0} is not ours")]
    ForeignLink(IfName),
    #[error("interface {wireguard} has no peer {peer}")]
    NoPeer { wireguard: IfName, peer: PublicKey },
    #[error("port {port} of {name} is taken by {holder}")]
    PortTaken { name: IfName, port: u16, holder: IfName },
    #[error("the container of {0} is not known")]
    NoContainer(IfName),
}

/// Does to `seen` what the step would do to a kernel. A refused step changes nothing.
///
/// # Errors
///
/// When a kernel would refuse. A removal of what is gone is success.
pub fn apply(seen: &mut Seen<Observed>, step: &Step) -> Result<(), ModelError> {
    match (seen, step) {
        (Seen::Unknown, _) => Err(ModelError::Unknown),
        (seen @ Seen::Absent, Step::CreateNamespace) => {
            *seen = Seen::Present(Observed { pinned: true, ..Observed::default() });
            Ok(())
        }
        (Seen::Absent, step) if is_removal(step) => Ok(()),
        (Seen::Absent, _) => Err(ModelError::NoNamespace),
        (seen @ Seen::Present(_), Step::DeleteNamespace) => {
            *seen = Seen::Absent;
            Ok(())
        }
        (Seen::Present(kernel), step) => apply_inside(kernel, step),
    }
}

/// Does what many steps do; whether a kernel would refuse none.
pub fn apply_all(seen: &mut Seen<Observed>, steps: &[Step]) -> bool {
    let mut owners = Owners::default();
    let mut is_all = true;
    for step in steps {
        let applied = match (&mut *seen, step) {
            (Seen::Present(kernel), Step::AddPeer { wireguard: name, peer, config })
                if steps.len() >= MANY =>
            {
                wireguard(kernel, name).map(|interface| {
                    let owners = owners.of(name, interface);
                    add_peer(interface, *peer, config, Some(owners));
                })
            }
            (Seen::Present(kernel), Step::AddAllowed { wireguard: name, peer, addresses })
                if steps.len() >= MANY =>
            {
                peer_of(kernel, name, peer).map(drop).and_then(|()| {
                    let interface = wireguard(kernel, name)?;
                    give(interface, peer, addresses, Some(owners.of(name, interface)));
                    Ok(())
                })
            }
            (seen, step) => {
                if matches!(step, Step::CreateWireguard { .. } | Step::DeleteNamespace) {
                    owners = Owners::default();
                }
                apply(seen, step)
            }
        };
        is_all &= applied.is_ok();
    }
    is_all
}

/// From so many steps on it pays to know who has which address.
const MANY: usize = 8;

/// Who was given which address of an interface: who has it, if anybody has.
#[derive(Default)]
struct Owners(BTreeMap<IfName, BTreeMap<IpAddr, PublicKey>>);

impl Owners {
    fn of(
        &mut self,
        name: &IfName,
        interface: &ObservedWireguard,
    ) -> &mut BTreeMap<IpAddr, PublicKey> {
        self.0.entry(name.clone()).or_insert_with(|| {
            let peers = interface.peers.iter();
            peers.flat_map(|(key, peer)| peer.allowed.iter().map(|a| (*a, *key))).collect()
        })
    }
}

/// What decides whether a kernel refuses a step: everything but routes and peers' addresses.
pub fn outline(seen: &Seen<Observed>) -> Seen<Observed> {
    let Seen::Present(kernel) = seen else {
        return seen.clone();
    };
    let peer = |peer: &ObservedPeer| ObservedPeer {
        preshared_key: peer.preshared_key.clone(),
        allowed: BTreeSet::new(),
        ..*peer
    };
    let interface = |of: &ObservedWireguard| ObservedWireguard {
        public_key: of.public_key,
        port: of.port,
        mtu: of.mtu,
        up: of.up,
        peers: of.peers.iter().map(|(key, of)| (*key, peer(of))).collect(),
    };
    Seen::Present(Observed {
        pinned: kernel.pinned,
        prepared: kernel.prepared,
        gateways: kernel.gateways.clone(),
        wireguards: kernel.wireguards.iter().map(|(k, w)| (k.clone(), interface(w))).collect(),
        veths: kernel.veths.clone(),
        routes: BTreeMap::new(),
        guard: kernel.guard.clone(),
        foreign: kernel.foreign.clone(),
    })
}

fn is_removal(step: &Step) -> bool {
    matches!(
        step,
        Step::DeleteNamespace
            | Step::RemoveGateway(_)
            | Step::RemoveWireguard { .. }
            | Step::RemovePeer { .. }
            | Step::RemoveAllowed { .. }
            | Step::RemoveVeth { .. }
            | Step::RemoveRoute { .. }
            | Step::RemoveGuard
    )
}

fn apply_inside(kernel: &mut Observed, step: &Step) -> Result<(), ModelError> {
    match step {
        Step::CreateNamespace => kernel.pinned = true,
        Step::Prepare => kernel.prepared = true,
        Step::DeleteNamespace => *kernel = Observed::default(),

        Step::AddGateway(address) => drop(kernel.gateways.insert(*address)),
        Step::RemoveGateway(address) => drop(kernel.gateways.remove(address)),

        Step::CreateWireguard { name, private_key, port, mtu } => {
            return create_wireguard(kernel, name, private_key.public(), *port, *mtu);
        }
        Step::RaiseWireguard { name } => wireguard(kernel, name)?.up = true,
        Step::RemoveWireguard { name } => {
            kernel.wireguards.remove(name);
            routes_die(kernel, name);
        }

        Step::AddPeer { wireguard: name, peer, config } => {
            add_peer(wireguard(kernel, name)?, *peer, config, None);
        }
        Step::UpdatePeer { wireguard: name, peer, preshared_key, underlay, keepalive } => {
            let known = peer_of(kernel, name, peer)?;
            if let Some(key) = preshared_key {
                known.preshared_key = key.clone();
            }
            known.underlay = underlay.or(known.underlay);
            if let Some(seconds) = keepalive {
                known.keepalive = Some(*seconds).filter(|s| *s > 0);
            }
        }
        Step::RemovePeer { wireguard: name, peer } => {
            if let Some(wireguard) = kernel.wireguards.get_mut(name) {
                wireguard.peers.remove(peer);
            }
        }
        Step::AddAllowed { wireguard: name, peer, addresses } => {
            peer_of(kernel, name, peer)?;
            give(wireguard(kernel, name)?, peer, addresses, None);
        }
        Step::RemoveAllowed { wireguard: name, peer, addresses } => {
            let wireguard = kernel.wireguards.get_mut(name);
            if let Some(peer) = wireguard.and_then(|w| w.peers.get_mut(peer)) {
                take(&mut peer.allowed, addresses);
            }
        }

        Step::CreateVeth { name, veth, mtu } => {
            return create_veth(kernel, name, veth, *mtu, ContainerEnd::InHost);
        }
        Step::RestoreVeth { name, veth, mtu } => {
            if veth.sandbox.is_none() {
                return Err(ModelError::NoContainer(name.clone()));
            }
            let interface = Seen::Present(configured(veth));
            return create_veth(kernel, name, veth, *mtu, ContainerEnd::InContainer(interface));
        }
        Step::FixVeth { name, veth } => {
            let known = veth_of(kernel, name)?;
            known.endpoint = Some(veth.endpoint.clone());
            known.mac = MacAddr::GATEWAY;
            known.up = true;
        }
        Step::FixContainer { name, veth } => {
            let ContainerEnd::InContainer(seen) = &mut veth_of(kernel, name)?.container else {
                return Err(ModelError::NoContainer(name.clone()));
            };
            let Seen::Present(interface) = seen else {
                return Err(ModelError::NoContainer(name.clone()));
            };
            interface.up = true;
            interface.addresses.extend(veth.addresses.iter().copied());
            interface.routes.extend(veth.container_routes.iter().copied());
        }
        Step::RemoveVeth { name } => {
            kernel.veths.remove(name);
            routes_die(kernel, name);
        }

        Step::SetRoute { destination, target } => {
            if let RouteTarget::Link(link) = target {
                require_up(kernel, link)?;
            }
            kernel.routes.insert(*destination, target.clone());
        }
        Step::RemoveRoute { destination } => drop(kernel.routes.remove(destination)),

        Step::SetGuard { subnets } => kernel.guard = subnets.clone(),
        Step::RemoveGuard => kernel.guard.clear(),
    }
    Ok(())
}

fn create_wireguard(
    kernel: &mut Observed,
    name: &IfName,
    public_key: PublicKey,
    port: u16,
    mtu: u16,
) -> Result<(), ModelError> {
    refuse_foreign(kernel, name)?;
    if let Some(existing) = kernel.wireguards.get(name) {
        let same = existing.public_key == Some(public_key) && existing.port == port;
        return if same { Ok(()) } else { Err(ModelError::LinkExists(name.clone())) };
    }
    if let Some((holder, _)) = kernel.wireguards.iter().find(|(_, w)| w.port == port) {
        let (name, holder) = (name.clone(), holder.clone());
        return Err(ModelError::PortTaken { name, port, holder });
    }
    let public_key = Some(public_key);
    let made = ObservedWireguard { public_key, port, mtu, up: true, peers: Default::default() };
    kernel.wireguards.insert(name.clone(), made);
    Ok(())
}

/// A peer that exists keeps its session and gets this configuration, addresses included.
fn add_peer(
    wireguard: &mut ObservedWireguard,
    peer: PublicKey,
    config: &DesiredPeer,
    owners: Option<&mut BTreeMap<IpAddr, PublicKey>>,
) {
    let known = wireguard.peers.entry(peer).or_default();
    known.preshared_key = config.preshared_key.clone();
    known.underlay = config.underlay.or(known.underlay);
    known.keepalive = config.keepalive;
    known.allowed.clear();
    give(wireguard, &peer, &config.allowed, owners);
}

/// WireGuard has one table of addresses for an interface: what one peer gets, the others lose.
fn give(
    wireguard: &mut ObservedWireguard,
    receiver: &PublicKey,
    addresses: &BTreeSet<IpAddr>,
    owners: Option<&mut BTreeMap<IpAddr, PublicKey>>,
) {
    if let Some(owners) = owners {
        for address in addresses {
            let owner = owners.insert(*address, *receiver);
            if let Some(owner) = owner.and_then(|owner| wireguard.peers.get_mut(&owner)) {
                owner.allowed.remove(address);
            }
        }
    } else {
        for peer in wireguard.peers.values_mut() {
            take(&mut peer.allowed, addresses);
        }
    }
    if let Some(peer) = wireguard.peers.get_mut(receiver) {
        peer.allowed.extend(addresses.iter().copied());
    }
}

/// At the price of the smaller set.
fn take(allowed: &mut BTreeSet<IpAddr>, addresses: &BTreeSet<IpAddr>) {
    if addresses.len() < allowed.len() {
        for address in addresses {
            allowed.remove(address);
        }
    } else {
        allowed.retain(|address| !addresses.contains(address));
    }
}

fn create_veth(
    kernel: &mut Observed,
    name: &IfName,
    veth: &DesiredVeth,
    mtu: u16,
    container: ContainerEnd,
) -> Result<(), ModelError> {
    refuse_foreign(kernel, name)?;
    let endpoint = Some(veth.endpoint.clone());
    if let Some(existing) = kernel.veths.get(name) {
        let same = existing.endpoint == endpoint;
        return if same { Ok(()) } else { Err(ModelError::LinkExists(name.clone())) };
    }
    let made = ObservedVeth { endpoint, mac: MacAddr::GATEWAY, mtu, up: true, container };
    kernel.veths.insert(name.clone(), made);
    Ok(())
}

/// A container's interface as Docker, or the restoring of it, leaves it.
fn configured(veth: &DesiredVeth) -> ContainerInterface {
    ContainerInterface {
        name: "eth0".to_owned(),
        mac: Some(veth.mac),
        up: true,
        addresses: veth.addresses.iter().copied().collect(),
        routes: veth.container_routes.iter().copied().collect(),
    }
}

fn routes_die(kernel: &mut Observed, link: &IfName) {
    kernel.routes.retain(|_, target| !matches!(target, RouteTarget::Link(l) if l == link));
}

fn wireguard<'a>(
    kernel: &'a mut Observed,
    name: &IfName,
) -> Result<&'a mut ObservedWireguard, ModelError> {
    kernel.wireguards.get_mut(name).ok_or_else(|| ModelError::NoLink(name.clone()))
}

fn peer_of<'a>(
    kernel: &'a mut Observed,
    name: &IfName,
    peer: &PublicKey,
) -> Result<&'a mut ObservedPeer, ModelError> {
    let missing = || ModelError::NoPeer { wireguard: name.clone(), peer: *peer };
    wireguard(kernel, name)?.peers.get_mut(peer).ok_or_else(missing)
}

fn veth_of<'a>(
    kernel: &'a mut Observed,
    name: &IfName,
) -> Result<&'a mut ObservedVeth, ModelError> {
    kernel.veths.get_mut(name).ok_or_else(|| ModelError::NoLink(name.clone()))
}

fn require_up(kernel: &Observed, link: &IfName) -> Result<(), ModelError> {
    let wireguard = kernel.wireguards.get(link).map(|w| w.up);
    let veth = kernel.veths.get(link).map(|v| v.up);
    match wireguard.or(veth) {
        Some(true) => Ok(()),
        Some(false) => Err(ModelError::LinkDown(link.clone())),
        None => Err(ModelError::NoLink(link.clone())),
    }
}

fn refuse_foreign(kernel: &Observed, name: &IfName) -> Result<(), ModelError> {
    if kernel.foreign.contains(name) {
        return Err(ModelError::ForeignLink(name.clone()));
    }
    Ok(())
}
