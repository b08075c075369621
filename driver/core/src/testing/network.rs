//! One network on one host, wanted and seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use wgnet_proto::{IfName, MacAddr, PresharedKey, PublicKey};

use super::{Dice, endpoint_id, ipv4, ipv6, link, peer_key, private_key};
use crate::plan::Hints;
use crate::{
    ContainerEnd, ContainerInterface, Desired, DesiredPeer, DesiredVeth, DesiredWireguard,
    Observed, ObservedPeer, ObservedVeth, ObservedWireguard, RouteTarget, Seen,
};

const PEERS: u8 = 4;
const VETHS: u8 = 3;

pub(super) fn desired(dice: &mut Dice) -> Desired {
    let peers: Vec<u8> = (0..PEERS).filter(|_| !dice.one_in(3)).collect();
    let mut veths = BTreeMap::new();
    for number in 0..VETHS {
        if !dice.one_in(3) {
            veths.extend([veth(number, dice)]);
        }
    }
    let mut wireguards = BTreeMap::new();
    for (name, key, port) in interfaces(dice) {
        let peers = peers.iter().map(|peer| (peer_key(*peer), desired_peer(dice))).collect();
        wireguards.insert(name, DesiredWireguard { private_key: private_key(key), port, peers });
    }
    let mut desired = Desired {
        mtu: 1420,
        gateways: [ipv4(1), ipv6(1)].into_iter().filter(|_| !dice.one_in(4)).collect(),
        wireguards,
        veths,
        routes: pools().into_iter().map(|pool| (pool, RouteTarget::Unreachable)).collect(),
        guard: pools().into_iter().filter(|_| !dice.one_in(3)).collect(),
    };
    for address in addresses() {
        give(&mut desired, address, &peers, dice);
    }
    desired
}

/// An address belongs to one endpoint: a veth, or a peer on every interface.
fn give(desired: &mut Desired, address: IpAddr, peers: &[u8], dice: &mut Dice) {
    let target = match dice.below(3) {
        0 => return,
        1 if !desired.veths.is_empty() => {
            let names: Vec<_> = desired.veths.keys().cloned().collect();
            dice.pick(&names)
        }
        _ if !peers.is_empty() && !desired.wireguards.is_empty() => {
            let peer = peer_key(dice.pick(peers));
            let names: Vec<_> = desired.wireguards.keys().cloned().collect();
            for wireguard in desired.wireguards.values_mut() {
                let peer = wireguard.peers.get_mut(&peer);
                peer.expect("every interface has every peer").allowed.insert(address);
            }
            dice.pick(&names)
        }
        _ => return,
    };
    desired.routes.insert(address.into(), RouteTarget::Link(target));
}

pub(super) fn observed(dice: &mut Dice) -> Seen<Observed> {
    match dice.below(16) {
        0 => return Seen::Absent,
        1 => return Seen::Unknown,
        _ => {}
    }
    let mut observed = Observed {
        pinned: !dice.one_in(4),
        prepared: !dice.one_in(4),
        gateways: [ipv4(1), ipv6(1), ipv4(254)].into_iter().filter(|_| dice.one_in(2)).collect(),
        guard: pools().into_iter().filter(|_| dice.one_in(2)).collect(),
        foreign: foreign_links().into_iter().filter(|_| dice.one_in(3)).collect(),
        ..Observed::default()
    };
    for (name, key, port) in interfaces(dice) {
        observed.wireguards.insert(name, observed_wireguard(key, port, dice));
    }
    for number in 0..VETHS {
        if dice.one_in(2) {
            let (name, veth) = observed_veth(number, dice);
            observed.veths.insert(name, veth);
        }
    }
    let up = observed.wireguards.iter().filter(|(_, w)| w.up).map(|(name, _)| name);
    let up = up.chain(observed.veths.iter().filter(|(_, v)| v.up).map(|(name, _)| name));
    let links: Vec<IfName> = up.chain(&observed.foreign).cloned().collect();
    for destination in addresses().into_iter().map(IpNet::from).chain(pools()) {
        let target = match dice.below(3) {
            0 => continue,
            1 if !links.is_empty() => RouteTarget::Link(dice.pick(&links)),
            _ => RouteTarget::Unreachable,
        };
        observed.routes.insert(destination, target);
    }
    Seen::Present(observed)
}

pub(super) fn hints(dice: &mut Dice) -> Hints {
    let mut hints = Hints::default();
    for name in ["wg0", "wg1"] {
        for peer in 0..PEERS {
            let key = (link(name), peer_key(peer));
            if let Some(underlay) = underlay(dice) {
                hints.told.insert(key.clone(), underlay);
            }
            if dice.one_in(5) {
                hints.remake.insert(key);
            }
        }
    }
    hints
}

pub(super) fn foreign_links() -> [IfName; 2] {
    [link("eth7"), link("dummy0")]
}

fn pools() -> [IpNet; 2] {
    ["10.50.0.0/24", "fd50::/64"].map(|pool| pool.parse().expect("a subnet"))
}

fn addresses() -> Vec<IpAddr> {
    (2..7).map(ipv4).chain((2..4).map(ipv6)).collect()
}

/// Up to two interfaces with their keys and ports; no two share a port.
fn interfaces(dice: &mut Dice) -> Vec<(IfName, u8, u16)> {
    let wg0 = (link("wg0"), dice.pick(&[1, 3]), dice.pick(&[51820, 51822]));
    let wg1 = (link("wg1"), dice.pick(&[2, 4]), dice.pick(&[51821, 51822]));
    match dice.below(4) {
        0 => vec![],
        1 => vec![wg0],
        2 => vec![wg1],
        _ if wg0.2 == wg1.2 => vec![wg0],
        _ => vec![wg0, wg1],
    }
}

fn desired_peer(dice: &mut Dice) -> DesiredPeer {
    DesiredPeer {
        preshared_key: preshared_key(dice),
        underlay: underlay(dice),
        keepalive: dice.pick(&[None, None, Some(25)]),
        allowed: BTreeSet::new(),
    }
}

fn observed_wireguard(key: u8, port: u16, dice: &mut Dice) -> ObservedWireguard {
    let mut peers: BTreeMap<PublicKey, ObservedPeer> = BTreeMap::new();
    for number in 0..PEERS {
        if dice.one_in(2) {
            let peer = ObservedPeer {
                preshared_key: preshared_key(dice),
                underlay: underlay(dice),
                keepalive: dice.pick(&[None, Some(crate::plan::KICK), Some(25)]),
                last_handshake: dice.pick(&[None, Some(1_700_000_000)]),
                ..ObservedPeer::default()
            };
            peers.insert(peer_key(number), peer);
        }
    }
    let keys: Vec<PublicKey> = peers.keys().copied().collect();
    for address in addresses() {
        if !keys.is_empty() && !dice.one_in(3) {
            let owner = dice.pick(&keys);
            peers.get_mut(&owner).expect("picked from them").allowed.insert(address);
        }
    }
    let public_key = (!dice.one_in(8)).then(|| private_key(key).public());
    ObservedWireguard { public_key, port, mtu: 1420, up: !dice.one_in(4), peers }
}

fn veth(number: u8, dice: &mut Dice) -> (IfName, DesiredVeth) {
    let endpoint = endpoint_id(number);
    let name = IfName::veth_host(&endpoint);
    let veth = DesiredVeth {
        container_end: IfName::veth_container(&endpoint),
        endpoint,
        mac: MacAddr::of_address(ipv4(number)),
        addresses: vec![container_address(number)],
        sandbox: dice.one_in(2).then(|| "/var/run/docker/netns/box".into()),
        container_routes: container_routes(),
    };
    (name, veth)
}

fn observed_veth(number: u8, dice: &mut Dice) -> (IfName, ObservedVeth) {
    let endpoint = endpoint_id(number);
    let name = IfName::veth_host(&endpoint);
    let another = endpoint_id(number + 8);
    let interface = ContainerInterface {
        name: "eth0".to_owned(),
        mac: None,
        up: !dice.one_in(3),
        addresses: [container_address(number)].into_iter().filter(|_| dice.one_in(2)).collect(),
        routes: container_routes().into_iter().filter(|_| dice.one_in(2)).collect(),
    };
    let veth = ObservedVeth {
        endpoint: dice.pick(&[Some(endpoint.clone()), Some(endpoint), None, Some(another)]),
        mac: dice.pick(&[MacAddr::GATEWAY, MacAddr::of_address(ipv4(9))]),
        mtu: dice.pick(&[1420, 1300]),
        up: !dice.one_in(4),
        container: dice.pick(&[
            ContainerEnd::InHost,
            ContainerEnd::InContainer(Seen::Unknown),
            ContainerEnd::InContainer(Seen::Absent),
            ContainerEnd::InContainer(Seen::Present(interface)),
        ]),
    };
    (name, veth)
}

fn container_address(number: u8) -> IpNet {
    IpNet::new(ipv4(number + 2), 24).expect("a prefix of IPv4")
}

fn container_routes() -> Vec<(IpNet, IpAddr)> {
    let halves = ["10.50.0.128/25", "10.50.0.0/25"];
    halves.map(|half| (half.parse().expect("a subnet"), ipv4(1))).to_vec()
}

fn preshared_key(dice: &mut Dice) -> Option<PresharedKey> {
    [None, Some(7), Some(8)][dice.below(3)].map(|byte| PresharedKey::from_bytes([byte; 32]))
}

fn underlay(dice: &mut Dice) -> Option<SocketAddr> {
    let choices = [None, Some("192.0.2.1:51820"), Some("192.0.2.2:51820")];
    choices[dice.below(3)].map(|text| text.parse().expect("an address and port"))
}
