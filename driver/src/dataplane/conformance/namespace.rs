//! Claims about namespaces, gateways, the guard, and what is not ours.

use std::collections::BTreeSet;
use std::time::Duration;

use wgnet_core::{Observed, Seen, Step};

use super::{
    Bench, ByHand, Network, add_peer, create_wireguard, ip, ips, link, net, peer, peer_config,
    set_route, veth,
};
use crate::dataplane::{Dataplane, Events, Joined};

pub(super) async fn creating_twice_is_creating_once(bench: &mut impl Bench) {
    let network = Network::named(bench.plane(), "twice");
    network.apply_twice(Step::CreateNamespace).await;
    let expected = Observed { pinned: true, ..Observed::default() };
    assert_eq!(network.seen().await, expected);
    assert!(bench.plane().namespaces().await.is_ok_and(|all| all.contains(&network.namespace)));
    network.delete().await;
}

pub(super) async fn an_absent_namespace_is_absent_and_has_nothing_to_remove(
    bench: &mut impl Bench,
) {
    let network = Network::named(bench.plane(), "absent");
    let seen = bench.plane().observe(&network.namespace, &Joined::new()).await;
    assert_eq!(seen, Seen::Absent);
    let (wg0, address) = (link("wg0"), ip("10.50.0.9"));
    for removal in [
        Step::DeleteNamespace,
        Step::RemoveGateway(address),
        Step::RemoveWireguard { name: wg0.clone() },
        Step::RemovePeer { wireguard: wg0.clone(), peer: super::peer(1) },
        Step::RemoveAllowed { wireguard: wg0, peer: super::peer(1), addresses: [address].into() },
        Step::RemoveVeth { name: veth(2, None).0 },
        Step::RemoveRoute { destination: net("10.50.0.9/32") },
        Step::RemoveGuard,
    ] {
        network.apply(removal).await;
    }
    network.refused(Step::AddGateway(address)).await;
    network.refused(create_wireguard("wg0", 1, 52000)).await;
    assert_eq!(bench.plane().observe(&network.namespace, &Joined::new()).await, Seen::Absent);
}

pub(super) async fn preparing_twice_is_preparing_once(bench: &mut impl Bench) {
    let network = Network::named(bench.plane(), "prepare");
    network.apply(Step::CreateNamespace).await;
    assert!(!network.seen().await.prepared);
    network.apply_twice(Step::Prepare).await;
    assert!(network.seen().await.prepared);
    network.delete().await;
}

pub(super) async fn deleting_takes_everything_and_can_be_repeated(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "delete", 52001).await;
    let (name, veth) = veth(2, None);
    network.apply(Step::CreateVeth { name, veth, mtu: 1420 }).await;
    network.apply(Step::AddGateway(ip("10.50.0.1"))).await;
    network.apply(Step::SetGuard { subnets: [net("10.50.0.0/24")].into() }).await;
    network.apply_twice(Step::DeleteNamespace).await;
    assert!(bench.plane().namespaces().await.is_ok_and(|all| !all.contains(&network.namespace)));
    assert!(bench.plane().port_is_free(52001).await);
    network.apply(Step::CreateNamespace).await;
    let expected = Observed { pinned: true, ..Observed::default() };
    assert_eq!(network.seen().await, expected);
    network.delete().await;
}

pub(super) async fn a_lost_pin_comes_back_to_the_same_namespace(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "pin", 52002).await;
    let before = network.seen().await;
    bench.by_hand(&network.namespace, &ByHand::RemovePin);
    let unpinned = network.seen().await;
    assert!(!unpinned.pinned);
    assert!(unpinned.wireguards.contains_key(&link("wg0")));
    assert!(bench.plane().namespaces().await.is_ok_and(|all| all.contains(&network.namespace)));
    network.apply_twice(Step::CreateNamespace).await;
    assert_eq!(network.seen().await, before);
    network.delete().await;
}

pub(super) async fn a_restarted_driver_sees_what_was_there<B: Bench>(bench: &mut B) {
    let network = Network::with_wireguard(bench.plane(), "restart", 52003).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7", "fd50::7"]))).await;
    network.apply(Step::AddGateway(ip("10.50.0.1"))).await;
    network.apply(set_route("10.50.0.0/24", None)).await;
    network.apply(set_route("10.50.0.7/32", Some("wg0"))).await;
    let (name, veth) = veth(2, None);
    network.apply(Step::CreateVeth { name, veth, mtu: 1400 }).await;
    let (before, namespace) = (network.seen().await, network.namespace);
    bench.restart().await;
    let network = Network { plane: bench.plane(), namespace };
    assert!(bench.plane().namespaces().await.is_ok_and(|all| all.contains(&network.namespace)));
    assert_eq!(without_keys(network.seen().await), without_keys(before));
    // It knows the namespace only by the pin, and has to make another all the same.
    bench.by_hand(&network.namespace, &ByHand::RemovePin);
    network.apply(Step::CreateNamespace).await;
    assert!(network.seen().await.pinned);
    network.delete().await;
}

/// A backend need not tell pre-shared keys, only whether there is one.
fn without_keys(mut observed: Observed) -> Observed {
    for peer in observed.wireguards.values_mut().flat_map(|wireguard| wireguard.peers.values_mut())
    {
        if peer.preshared_key.is_some() {
            peer.preshared_key = Some(super::preshared(0));
        }
        // A backend may be sending handshakes meanwhile.
        peer.sent_bytes = 0;
    }
    observed
}

pub(super) async fn gateways_come_and_go(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "gateway").await;
    network.apply_twice(Step::AddGateway(ip("10.50.0.1"))).await;
    network.apply_twice(Step::AddGateway(ip("fd50::1"))).await;
    assert_eq!(network.seen().await.gateways, ips(&["10.50.0.1", "fd50::1"]));
    network.apply_twice(Step::RemoveGateway(ip("10.50.0.1"))).await;
    assert_eq!(network.seen().await.gateways, ips(&["fd50::1"]));
    network.delete().await;
}

pub(super) async fn a_gateway_deleted_by_hand_is_missed(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "gatewayhand").await;
    network.apply(Step::AddGateway(ip("10.50.0.1"))).await;
    bench.by_hand(&network.namespace, &ByHand::DeleteGateway(ip("10.50.0.1")));
    assert!(network.seen().await.gateways.is_empty());
    network.delete().await;
}

pub(super) async fn a_guard_is_replaced_as_a_whole(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "guard").await;
    let first = BTreeSet::from([net("10.50.0.0/24"), net("fd50::/64")]);
    network.apply_twice(Step::SetGuard { subnets: first.clone() }).await;
    assert_eq!(network.seen().await.guard, first);
    let second = BTreeSet::from([net("10.51.0.0/16")]);
    network.apply(Step::SetGuard { subnets: second.clone() }).await;
    assert_eq!(network.seen().await.guard, second);
    network.apply_twice(Step::RemoveGuard).await;
    assert!(network.seen().await.guard.is_empty());
    network.delete().await;
}

pub(super) async fn guards_of_two_networks_do_not_touch_each_other(bench: &mut impl Bench) {
    let (blue, red) =
        (Network::made(bench.plane(), "blue").await, Network::made(bench.plane(), "red").await);
    let subnets = BTreeSet::from([net("10.50.0.0/24")]);
    blue.apply(Step::SetGuard { subnets: subnets.clone() }).await;
    red.apply(Step::SetGuard { subnets: subnets.clone() }).await;
    blue.apply(Step::RemoveGuard).await;
    assert!(blue.seen().await.guard.is_empty());
    assert_eq!(red.seen().await.guard, subnets);
    blue.delete().await;
    red.delete().await;
}

pub(super) async fn a_guard_deleted_by_hand_is_missed(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "guardhand").await;
    let subnets = BTreeSet::from([net("10.50.0.0/24")]);
    network.apply(Step::SetGuard { subnets: subnets.clone() }).await;
    bench.by_hand(&network.namespace, &ByHand::DeleteGuard);
    assert!(network.seen().await.guard.is_empty());
    network.apply(Step::SetGuard { subnets: subnets.clone() }).await;
    assert_eq!(network.seen().await.guard, subnets);
    network.delete().await;
}

pub(super) async fn strangers_links_are_reported_and_left_alone(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "stranger", 52004).await;
    bench.by_hand(&network.namespace, &ByHand::AddLink(link("admins")));
    let seen = network.seen().await;
    assert_eq!(seen.foreign, [link("admins")].into());
    assert_eq!(seen.veths.len(), 0);
    network.apply(Step::RemoveWireguard { name: link("wg0") }).await;
    assert_eq!(network.seen().await.foreign, [link("admins")].into());
    network.delete().await;
}

pub(super) async fn a_strangers_name_is_not_taken(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "name").await;
    let (name, veth) = veth(2, None);
    bench.by_hand(&network.namespace, &ByHand::AddLink(link("wg0")));
    bench.by_hand(&network.namespace, &ByHand::AddLink(name.clone()));
    network.refused(create_wireguard("wg0", 1, 52005)).await;
    network.refused(Step::CreateVeth { name: name.clone(), veth, mtu: 1420 }).await;
    let seen = network.seen().await;
    assert_eq!(seen.foreign, [link("wg0"), name].into());
    assert!(seen.wireguards.is_empty() && seen.veths.is_empty());
    network.delete().await;
}

pub(super) async fn changes_by_hand_are_reported(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "events", 52006).await;
    network.apply(Step::AddGateway(ip("10.50.0.1"))).await;
    network.apply(set_route("10.50.0.7/32", Some("wg0"))).await;
    network.apply(Step::SetGuard { subnets: [net("10.50.0.0/24")].into() }).await;
    network.apply(add_peer(1, &peer_config(&["10.50.0.7"]))).await;
    let mut events = bench.plane().events();
    for what in [
        ByHand::RemovePeer(link("wg0"), peer(1)),
        ByHand::DeleteGuard,
        ByHand::DeleteRoute(net("10.50.0.7/32")),
        ByHand::DeleteGateway(ip("10.50.0.1")),
        ByHand::DeleteLink(link("wg0")),
        ByHand::RemovePin,
    ] {
        // What was changed until now is reported by then, and not what comes.
        let quiet = Duration::from_millis(1500);
        while tokio::time::timeout(quiet, events.next()).await.is_ok() {}
        bench.by_hand(&network.namespace, &what);
        let reported =
            async { while events.next().await.expect("events go on") != network.namespace {} };
        // On an idle machine it takes at most one second.
        let reported = tokio::time::timeout(Duration::from_secs(10), reported).await;
        assert!(reported.is_ok(), "{what:?} was not reported");
    }
    network.delete().await;
}
