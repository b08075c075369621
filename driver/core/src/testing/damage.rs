//! What people and crashes do to a network by hand.

use wgnet_proto::IfName;

use super::network::foreign_links;
use super::{Dice, peer_key, reconcile};
use crate::plan::Hints;
use crate::{ContainerEnd, Desired, Observed, ObservedPeer, RouteTarget, Seen};

/// A network as it should be, then up to four blows.
pub(super) fn some(desired: &Desired, dice: &mut Dice) -> Seen<Observed> {
    let mut kernel = Seen::Absent;
    reconcile(Some(desired), &mut kernel, &mut Hints::default());
    let Seen::Present(mut network) = kernel else {
        unreachable!("a wanted network was made");
    };
    for _ in 0..dice.below(5) {
        strike(&mut network, dice);
    }
    Seen::Present(network)
}

fn strike(network: &mut Observed, dice: &mut Dice) {
    match dice.below(13) {
        0 => network.pinned = false,
        1 => network.prepared = false,
        2 => drop(network.gateways.pop_first()),
        3 => drop(network.guard.pop_last()),
        4 => drop(network.routes.pop_last()),
        5 => {
            if let Some(name) = any_of(network.wireguards.keys(), dice) {
                network.wireguards.remove(&name);
                routes_die(network, &name);
            }
        }
        6 => {
            if let Some(name) = any_of(network.veths.keys(), dice) {
                network.veths.remove(&name);
                routes_die(network, &name);
            }
        }
        7 => {
            for (name, wireguard) in &mut network.wireguards {
                wireguard.up = false;
                network.routes.retain(|_, target| *target != RouteTarget::Link(name.clone()));
            }
        }
        8 => {
            if let Some(mut wireguard) = network.wireguards.first_entry() {
                wireguard.get_mut().peers.pop_first();
            }
        }
        9 => {
            if let Some(mut wireguard) = network.wireguards.last_entry() {
                let peers = &mut wireguard.get_mut().peers;
                let allowed = peers.values_mut().flat_map(|p| std::mem::take(&mut p.allowed));
                let allowed = allowed.collect();
                let intruder = ObservedPeer { allowed, ..ObservedPeer::default() };
                peers.insert(peer_key(9), intruder);
            }
        }
        10 => {
            for peer in network.wireguards.values_mut().flat_map(|w| w.peers.values_mut()) {
                peer.last_handshake = Some(1_700_000_000);
                peer.underlay = Some("198.51.100.9:4500".parse().expect("an address and port"));
            }
        }
        11 => {
            for veth in network.veths.values_mut() {
                if let ContainerEnd::InContainer(Seen::Present(interface)) = &mut veth.container {
                    interface.addresses.clear();
                    interface.routes.clear();
                }
            }
        }
        _ => {
            let [name, _] = foreign_links();
            let theirs = "10.99.0.0/16".parse().expect("a subnet");
            network.routes.insert(theirs, RouteTarget::Link(name.clone()));
            network.foreign.insert(name);
        }
    }
}

fn routes_die(network: &mut Observed, link: &IfName) {
    network.routes.retain(|_, target| *target != RouteTarget::Link(link.clone()));
}

fn any_of<'a>(names: impl Iterator<Item = &'a IfName>, dice: &mut Dice) -> Option<IfName> {
    let names: Vec<_> = names.cloned().collect();
    (!names.is_empty()).then(|| dice.pick(&names))
}
