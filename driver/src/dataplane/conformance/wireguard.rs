//! Claims about WireGuard interfaces.

use wgnet_core::Step;

use super::{
    Bench, ByHand, Network, add_peer, create_wireguard, link, net, peer_config, private_key,
    set_route,
};
use crate::dataplane::{Dataplane, ErrorKind};

pub(super) async fn creating_twice_is_creating_once(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "create").await;
    network.apply(create_wireguard("wg0", 1, 52010)).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7"]))).await;
    network.apply(create_wireguard("wg0", 1, 52010)).await;
    let seen = network.seen().await;
    let wireguard = &seen.wireguards[&link("wg0")];
    assert_eq!(wireguard.public_key, Some(private_key(1).public()));
    assert_eq!((wireguard.port, wireguard.mtu, wireguard.up), (52010, 1420, true));
    assert_eq!(wireguard.peers.len(), 1);
    assert!(seen.foreign.is_empty());
    network.delete().await;
}

pub(super) async fn another_key_does_not_replace_an_interface(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "otherkey", 52011).await;
    network.refused(create_wireguard("wg0", 2, 52011)).await;
    network.refused(create_wireguard("wg0", 1, 52012)).await;
    let seen = network.seen().await;
    assert_eq!(seen.wireguards[&link("wg0")].public_key, Some(private_key(1).public()));
    network.delete().await;
}

pub(super) async fn a_taken_port_is_told_apart(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "port").await;
    assert!(bench.plane().port_is_free(52013).await);
    bench.occupy_port(52013, true);
    assert!(!bench.plane().port_is_free(52013).await);
    let error = network.refused(create_wireguard("wg0", 1, 52013)).await;
    assert_eq!(error.kind, ErrorKind::PortTaken, "{}", super::text(&error));
    assert!(network.seen().await.wireguards.is_empty());
    bench.occupy_port(52013, false);
    network.apply(create_wireguard("wg0", 1, 52013)).await;
    assert!(!bench.plane().port_is_free(52013).await);

    let other = Network::made(bench.plane(), "port2").await;
    let error = other.refused(create_wireguard("wg0", 2, 52013)).await;
    assert_eq!(error.kind, ErrorKind::PortTaken, "{}", super::text(&error));
    network.delete().await;
    other.apply(create_wireguard("wg0", 2, 52013)).await;
    other.delete().await;
}

pub(super) async fn two_interfaces_live_side_by_side(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "rotate", 52014).await;
    network.apply(create_wireguard("wg1", 2, 52015)).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7"]))).await;
    let peer = Step::AddPeer {
        wireguard: link("wg1"),
        peer: super::peer(2),
        config: peer_config(&["10.50.0.7"]),
    };
    network.apply(peer).await;
    let seen = network.seen().await;
    for (name, key, port) in [("wg0", 1, 52014), ("wg1", 2, 52015)] {
        let wireguard = &seen.wireguards[&link(name)];
        assert_eq!((wireguard.public_key, wireguard.port), (Some(private_key(key).public()), port));
        assert_eq!(wireguard.peers.len(), 1);
    }
    network.apply(Step::RemoveWireguard { name: link("wg0") }).await;
    let seen = network.seen().await;
    assert_eq!(seen.wireguards.keys().collect::<Vec<_>>(), [&link("wg1")]);
    network.delete().await;
}

pub(super) async fn removing_takes_the_routes_along(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "remove", 52016).await;
    network.apply(set_route("10.50.0.0/24", None)).await;
    network.apply(set_route("10.50.0.7/32", Some("wg0"))).await;
    network.apply_twice(Step::RemoveWireguard { name: link("wg0") }).await;
    let seen = network.seen().await;
    assert!(seen.wireguards.is_empty());
    assert_eq!(seen.routes.keys().collect::<Vec<_>>(), [&net("10.50.0.0/24")]);
    assert!(bench.plane().port_is_free(52016).await);
    network.delete().await;
}

pub(super) async fn an_interface_deleted_by_hand_is_made_again(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "byhand", 52017).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7"]))).await;
    bench.by_hand(&network.namespace, &ByHand::DeleteLink(link("wg0")));
    assert!(network.seen().await.wireguards.is_empty());
    network.apply(create_wireguard("wg0", 1, 52017)).await;
    let seen = network.seen().await;
    let wireguard = &seen.wireguards[&link("wg0")];
    assert_eq!((wireguard.public_key, wireguard.port), (Some(private_key(1).public()), 52017));
    assert!(wireguard.up && wireguard.peers.is_empty());
    network.delete().await;
}

pub(super) async fn an_interface_set_down_by_hand_is_raised(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "raise", 52018).await;
    bench.by_hand(&network.namespace, &ByHand::SetDown(link("wg0")));
    assert!(!network.seen().await.wireguards[&link("wg0")].up);
    network.apply_twice(Step::RaiseWireguard { name: link("wg0") }).await;
    assert!(network.seen().await.wireguards[&link("wg0")].up);
    network.delete().await;
}
