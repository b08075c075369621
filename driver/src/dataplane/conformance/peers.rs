//! Claims about peers and their addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wgnet_core::{DesiredPeer, ObservedPeer, Step};

use super::{Bench, Network, add_peer, ips, link, peer, peer_config, preshared};
use crate::dataplane::Dataplane;

impl<P: Dataplane> Network<'_, P> {
    async fn peer(&self, number: u8) -> ObservedPeer {
        let mut seen = self.seen().await;
        let wireguard = seen.wireguards.get_mut(&link("wg0")).expect("the interface is there");
        wireguard.peers.remove(&peer(number)).expect("the peer is there")
    }

    async fn peers(&self) -> usize {
        self.seen().await.wireguards[&link("wg0")].peers.len()
    }
}

#[track_caller]
fn assert_is(seen: &ObservedPeer, wanted: &DesiredPeer) {
    assert_eq!(seen.preshared_key, wanted.preshared_key);
    assert_eq!(seen.underlay, wanted.underlay);
    assert_eq!(seen.keepalive, wanted.keepalive);
    assert_eq!(seen.allowed, wanted.allowed);
    assert_eq!(seen.last_handshake, None);
}

fn add_allowed(number: u8, addresses: &BTreeSet<IpAddr>) -> Step {
    Step::AddAllowed { wireguard: link("wg0"), peer: peer(number), addresses: addresses.clone() }
}

fn remove_allowed(number: u8, addresses: &BTreeSet<IpAddr>) -> Step {
    Step::RemoveAllowed { wireguard: link("wg0"), peer: peer(number), addresses: addresses.clone() }
}

fn update(number: u8) -> Step {
    Step::UpdatePeer {
        wireguard: link("wg0"),
        peer: peer(number),
        preshared_key: None,
        underlay: None,
        keepalive: None,
    }
}

pub(super) async fn adding_twice_is_adding_once(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "addpeer", 52020).await;
    let config = peer_config(&["10.50.0.7", "fd50::7"]);
    network.apply_twice(add_peer(1, &config)).await;
    assert_is(&network.peer(1).await, &config);
    let bare = DesiredPeer {
        preshared_key: None,
        underlay: None,
        keepalive: None,
        allowed: BTreeSet::new(),
    };
    network.apply_twice(add_peer(2, &bare)).await;
    assert_is(&network.peer(2).await, &bare);
    assert_eq!(network.peers().await, 2);
    network.delete().await;
}

pub(super) async fn adding_again_replaces_everything(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "addagain", 52021).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7", "10.50.0.8"]))).await;
    let config = DesiredPeer {
        preshared_key: None,
        underlay: Some("[2001:db8::7]:40000".parse().expect("an address")),
        keepalive: None,
        allowed: ips(&["10.50.0.9"]),
    };
    network.apply(add_peer(1, &config)).await;
    assert_is(&network.peer(1).await, &config);
    network.delete().await;
}

pub(super) async fn updating_changes_only_what_is_given(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "update", 52022).await;
    let mut config = peer_config(&["10.50.0.7"]);
    network.apply(add_peer(1, &config)).await;
    let (wireguard, peer) = (link("wg0"), peer(1));

    config.underlay = Some("198.51.100.1:7".parse().expect("an address"));
    let underlay = config.underlay;
    let step = Step::UpdatePeer {
        wireguard: wireguard.clone(),
        peer,
        preshared_key: None,
        underlay,
        keepalive: None,
    };
    network.apply_twice(step).await;
    assert_is(&network.peer(1).await, &config);

    config.preshared_key = Some(preshared(3));
    let preshared_key = Some(config.preshared_key.clone());
    let step = Step::UpdatePeer {
        wireguard: wireguard.clone(),
        peer,
        preshared_key,
        underlay: None,
        keepalive: None,
    };
    network.apply_twice(step).await;
    assert_is(&network.peer(1).await, &config);

    (config.preshared_key, config.keepalive) = (None, None);
    let step = Step::UpdatePeer {
        wireguard,
        peer,
        preshared_key: Some(None),
        underlay: None,
        keepalive: Some(0),
    };
    network.apply_twice(step).await;
    assert_is(&network.peer(1).await, &config);
    network.apply(update(1)).await;
    assert_is(&network.peer(1).await, &config);
    network.delete().await;
}

pub(super) async fn an_absent_peer_is_not_made_by_changing_it(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "nopeer", 52023).await;
    let update = Step::UpdatePeer {
        wireguard: link("wg0"),
        peer: peer(1),
        preshared_key: None,
        underlay: None,
        keepalive: Some(7),
    };
    // Whether that is a failure is the data plane's choice.
    let _ = network.plane.apply(&network.namespace, &update).await;
    let _ = network.plane.apply(&network.namespace, &add_allowed(1, &ips(&["10.50.0.7"]))).await;
    network.apply(remove_allowed(1, &ips(&["10.50.0.7"]))).await;
    assert_eq!(network.peers().await, 0);
    network.delete().await;
}

pub(super) async fn removing_can_be_repeated(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "rmpeer", 52024).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7"]))).await;
    network.apply(add_peer(2, &peer_config(&["10.50.0.8"]))).await;
    network.apply_twice(Step::RemovePeer { wireguard: link("wg0"), peer: peer(1) }).await;
    assert_eq!(network.peers().await, 1);
    assert_eq!(network.peer(2).await.allowed, ips(&["10.50.0.8"]));
    network.apply(Step::RemovePeer { wireguard: link("wg1"), peer: peer(1) }).await;
    network.delete().await;
}

pub(super) async fn an_address_moves_to_the_peer_it_is_given_to(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "move", 52025).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7", "10.50.0.8", "fd50::7"]))).await;
    network.apply(add_peer(2, &peer_config(&["10.50.0.9"]))).await;
    network.apply_twice(add_allowed(2, &ips(&["10.50.0.7", "fd50::7"]))).await;
    assert_eq!(network.peer(1).await.allowed, ips(&["10.50.0.8"]));
    assert_eq!(network.peer(2).await.allowed, ips(&["10.50.0.7", "10.50.0.9", "fd50::7"]));
    network.apply(add_peer(3, &peer_config(&["10.50.0.8"]))).await;
    assert_eq!(network.peer(1).await.allowed, ips(&[]));
    network.delete().await;
}

pub(super) async fn an_address_is_taken_only_from_the_peer_that_is_named(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "take", 52026).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7", "10.50.0.8", "fd50::7"]))).await;
    network.apply(add_peer(2, &peer_config(&["10.50.0.9"]))).await;
    network
        .apply_twice(remove_allowed(1, &ips(&["10.50.0.8", "10.50.0.9", "fd50::7", "10.50.0.77"])))
        .await;
    assert_eq!(network.peer(1).await.allowed, ips(&["10.50.0.7"]));
    assert_eq!(network.peer(2).await.allowed, ips(&["10.50.0.9"]));
    assert_eq!(network.peers().await, 2);
    network.delete().await;
}

pub(super) async fn thousands_of_addresses_fit_on_a_peer(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "many", 52027).await;
    let v4 = (0..3000u32).map(|i| IpAddr::from(Ipv4Addr::from(0x0a32_0000 + i)));
    let v6 = (0..3000u128).map(|i| IpAddr::from(Ipv6Addr::from((0xfd50 << 112) + i)));
    let all: BTreeSet<IpAddr> = v4.chain(v6).collect();
    let config = DesiredPeer { allowed: all.clone(), ..peer_config(&[]) };
    network.apply_twice(add_peer(1, &config)).await;
    network.apply(add_peer(2, &peer_config(&["192.0.2.1"]))).await;
    assert_is(&network.peer(1).await, &config);
    let (even, odd): (BTreeSet<_>, BTreeSet<_>) =
        all.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let even: BTreeSet<IpAddr> = even.into_iter().map(|(_, address)| *address).collect();
    let odd: BTreeSet<IpAddr> = odd.into_iter().map(|(_, address)| *address).collect();
    network.apply(remove_allowed(1, &even)).await;
    assert_eq!(network.peer(1).await.allowed, odd);
    network.apply(add_allowed(2, &all)).await;
    assert_eq!(network.peer(1).await.allowed.len(), 0);
    assert_eq!(network.peer(2).await.allowed.len(), 6001);
    network.delete().await;
}

pub(super) async fn many_peers_are_made_and_changed_at_once(bench: &mut impl Bench) {
    const PEERS: u8 = 150;
    let network = Network::with_wireguard(bench.plane(), "peers", 52028).await;
    let address = |peer: u8, number: u32| {
        IpAddr::from(Ipv4Addr::from(0x0a32_0000 + (u32::from(peer) << 12) + number))
    };
    // More addresses than fit in a message, here and there.
    let count = |peer: u8| if peer % 50 == 7 { 2100 } else { 20 };
    let config = |peer: u8| DesiredPeer {
        allowed: (0..count(peer)).map(|number| address(peer, number)).collect(),
        ..peer_config(&[])
    };
    let mut steps: Vec<Step> = (0..PEERS).map(|peer| add_peer(peer, &config(peer))).collect();
    let moved = BTreeSet::from([address(1, 0), address(2, 1)]);
    steps.push(add_allowed(3, &moved));
    // Whether that is a failure is the data plane's choice; it is nobody else's.
    steps.insert(100, add_allowed(PEERS, &ips(&["10.60.0.1"])));
    let results = network.plane.apply_all(&network.namespace, &steps).await;
    assert_eq!(results.len(), steps.len());
    for (index, result) in results.iter().enumerate().filter(|(index, _)| *index != 100) {
        assert!(result.is_ok(), "step {index}: {result:?}");
    }
    assert_eq!(network.peers().await, usize::from(PEERS));
    for peer in [0, 1, 2, 3, 57, PEERS - 1] {
        let mut wanted = config(peer);
        match peer {
            1 | 2 => wanted.allowed.retain(|address| !moved.contains(address)),
            3 => wanted.allowed.extend(&moved),
            _ => {}
        }
        assert_is(&network.peer(peer).await, &wanted);
    }
    // One address, now that it was read and changed who has which.
    network.apply(remove_allowed(1, &BTreeSet::from([address(1, 0), address(1, 2)]))).await;
    assert!(network.peer(3).await.allowed.contains(&address(1, 0)), "it is another's by now");
    network.apply(add_allowed(1, &moved)).await;
    network.apply(remove_allowed(1, &moved)).await;
    network.apply(remove_allowed(3, &moved)).await;
    assert_eq!(network.peer(1).await.allowed.len(), 18);
    assert_eq!(network.peer(3).await.allowed.len(), 20);
    network.delete().await;
}
