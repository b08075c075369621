//! What WireGuard does by itself between the simulated kernels: handshakes where keys, pre-shared
//! keys and addresses fit, roaming, and packets that get no answer where they do not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wgnet_core::{Namespace, Observed, Seen};
use wgnet_driver::dataplane::model::Model;
use wgnet_proto::{IfName, PresharedKey, PublicKey};

use super::world::world;

/// One side of a tunnel.
struct Side {
    host: usize,
    namespace: Namespace,
    link: IfName,
    port: u16,
    address: std::net::IpAddr,
    /// By the clock of its host: the kernel tells handshakes by it.
    now: u64,
    /// By the key of the other side: what it is believed to be reached at.
    peers: BTreeMap<PublicKey, (Option<PresharedKey>, Option<SocketAddr>)>,
}

/// Lets every pair of peers try once.
pub(crate) fn shake_hands() {
    let (planes, sides) = world(|world| {
        let mut sides: BTreeMap<PublicKey, Side> = BTreeMap::new();
        for host in world.hosts.iter().filter(|host| host.has_power) {
            let address = host.address.borrow().addresses[0];
            for network in &world.networks {
                let namespace = network.namespace();
                let Seen::Present(kernel) = &*host.plane.look(&namespace) else {
                    continue;
                };
                for (link, wireguard) in kernel.wireguards.iter().filter(|(_, w)| w.up) {
                    let Some(key) = wireguard.public_key else {
                        continue;
                    };
                    let peers = wireguard.peers.iter();
                    let peers = peers.map(|(key, p)| (*key, (p.preshared_key.clone(), p.underlay)));
                    let side = Side {
                        host: host.number,
                        namespace: namespace.clone(),
                        link: link.clone(),
                        port: wireguard.port,
                        address,
                        now: host.clock.now().as_secs(),
                        peers: peers.collect(),
                    };
                    sides.insert(key, side);
                }
            }
        }
        (world.hosts.iter().map(|host| host.plane.clone()).collect::<Vec<_>>(), sides)
    });
    for (key, side) in &sides {
        for (other_key, (preshared, believed)) in &side.peers {
            let answered = sides.get(other_key).and_then(|other| {
                let (theirs, back) = other.peers.get(key)?;
                let at = SocketAddr::new(other.address, other.port);
                let here = SocketAddr::new(side.address, side.port);
                let found = *believed == Some(at) || *back == Some(here);
                (theirs == preshared && found).then_some(at)
            });
            change(&planes[side.host], side, other_key, |peer| match answered {
                Some(at) => {
                    peer.underlay = Some(at);
                    peer.last_handshake = Some(side.now);
                }
                None => peer.sent_bytes += 148,
            });
        }
    }
}

fn change(
    plane: &Model,
    side: &Side,
    peer: &PublicKey,
    how: impl FnOnce(&mut wgnet_core::ObservedPeer),
) {
    plane.quietly(&side.namespace, |kernel: &mut Observed| {
        let wireguard = kernel.wireguards.get_mut(&side.link);
        if let Some(peer) = wireguard.and_then(|wireguard| wireguard.peers.get_mut(peer)) {
            how(peer);
        }
    });
}
