//! Claims about routes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use wgnet_core::{RouteTarget, Step};

use super::{Bench, ByHand, Network, link, net, set_route};
use crate::dataplane::Dataplane;

pub(super) async fn a_route_is_replaced_in_one_step(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "route", 52030).await;
    network.apply(super::create_wireguard("wg1", 2, 52031)).await;
    for destination in ["10.50.0.0/24", "10.50.0.7/32", "fd50::/64", "fd50::7/128"] {
        for target in [None, Some("wg0"), Some("wg1"), None, Some("wg0")] {
            network.apply_twice(set_route(destination, target)).await;
            let expected =
                target.map_or(RouteTarget::Unreachable, |name| RouteTarget::Link(link(name)));
            assert_eq!(network.seen().await.routes, BTreeMap::from([(net(destination), expected)]));
        }
        network.apply(Step::RemoveRoute { destination: net(destination) }).await;
    }
    network.delete().await;
}

pub(super) async fn removing_can_be_repeated(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "rmroute", 52032).await;
    for (destination, target) in [
        ("10.50.0.0/24", None),
        ("10.50.0.7/32", Some("wg0")),
        ("fd50::/64", None),
        ("fd50::7/128", Some("wg0")),
    ] {
        network.apply(set_route(destination, target)).await;
        network.apply_twice(Step::RemoveRoute { destination: net(destination) }).await;
    }
    assert!(network.seen().await.routes.is_empty());
    network.delete().await;
}

pub(super) async fn a_route_to_no_link_is_refused(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "nolink").await;
    network.refused(set_route("10.50.0.7/32", Some("wg0"))).await;
    assert!(network.seen().await.routes.is_empty());
    network.delete().await;
}

pub(super) async fn many_routes_are_set_at_once(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "routes", 52033).await;
    let routes =
        (0..2000u32).map(|i| IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a32_0000 + i))));
    let target = RouteTarget::Link(link("wg0"));
    let expected: BTreeMap<_, _> =
        routes.map(|destination| (destination, target.clone())).collect();
    let set = |(destination, target): (&IpNet, &RouteTarget)| Step::SetRoute {
        destination: *destination,
        target: target.clone(),
    };
    let mut steps: Vec<Step> = expected.iter().map(set).collect();
    steps.insert(1000, set_route("10.60.0.0/24", Some("none")));
    let results = network.plane.apply_all(&network.namespace, &steps).await;
    assert_eq!(results.len(), 2001);
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), index == 1000, "step {index}");
    }
    assert_eq!(network.seen().await.routes, expected);
    network.delete().await;
}

pub(super) async fn a_route_deleted_by_hand_is_missed(bench: &mut impl Bench) {
    let network = Network::with_wireguard(bench.plane(), "routehand", 52034).await;
    network.apply(set_route("10.50.0.0/24", None)).await;
    network.apply(set_route("10.50.0.7/32", Some("wg0"))).await;
    bench.by_hand(&network.namespace, &ByHand::DeleteRoute(net("10.50.0.7/32")));
    assert_eq!(network.seen().await.routes.len(), 1);
    network.delete().await;
}
