//! Claims about what is there already: a plan that was carried out leaves nothing to do, for the
//! driver that did it and for the next one; and what nobody claims goes.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_core::plan::KICK;
use wgnet_core::{Desired, DesiredWireguard, Hints, RouteTarget, Seen, Step, plan};

use super::{Bench, Network, ip, ips, link, net, peer, peer_config, private_key, veth};
use crate::dataplane::{Claimed, Dataplane, Joined};

/// A network with everything a network can have.
fn desired(port: u16) -> Desired {
    let (waiting, waiting_veth) = veth(2, None);
    let mut peers = BTreeMap::new();
    peers.insert(peer(1), peer_config(&["10.50.0.7", "fd50::7"]));
    peers.insert(peer(2), peer_config(&["10.50.0.8"]));
    let wireguard = DesiredWireguard { private_key: private_key(1), port, peers };
    let to = |name: &str| RouteTarget::Link(link(name));
    Desired {
        mtu: 1400,
        gateways: ips(&["10.50.0.1", "fd50::1"]),
        wireguards: [(link("wg0"), wireguard)].into(),
        veths: [(waiting.clone(), waiting_veth)].into(),
        routes: [
            (net("10.50.0.0/24"), RouteTarget::Unreachable),
            (net("fd50::/64"), RouteTarget::Unreachable),
            (net("10.50.0.7/32"), to("wg0")),
            (net("fd50::7/128"), to("wg0")),
            (net("10.50.0.8/32"), to("wg0")),
            (net("10.50.0.2/32"), RouteTarget::Link(waiting)),
        ]
        .into(),
        guard: [net("10.50.0.0/24"), net("fd50::/64")].into(),
    }
}

impl<P: Dataplane> Network<'_, P> {
    async fn plan(&self, desired: &Desired) -> Vec<Step> {
        let seen = self.plane.observe(&self.namespace, &Joined::new()).await;
        plan(Some(desired), &seen, &Hints::default())
    }

    async fn carry_out(&self, steps: Vec<Step>) {
        for step in steps {
            self.apply(step).await;
        }
    }
}

/// Telling a peer the pre-shared key it has: a backend need not say which one that is.
fn tells_a_key_again(step: &Step, desired: &Desired) -> bool {
    let Step::UpdatePeer { wireguard, peer, preshared_key, underlay: None, keepalive: None } = step
    else {
        return false;
    };
    let known = &desired.wireguards[wireguard].peers[peer].preshared_key;
    preshared_key.as_ref() == Some(known)
}

pub(super) async fn what_was_carried_out_needs_no_step(bench: &mut impl Bench) {
    let network = Network::named(bench.plane(), "settled");
    let desired = desired(52030);
    let steps = network.plan(&desired).await;
    network.carry_out(steps.clone()).await;
    assert_eq!(network.plan(&desired).await, []);
    // Every step may be applied twice, and then again there is nothing to do.
    network.carry_out(steps).await;
    assert_eq!(network.plan(&desired).await, []);
    network.delete().await;
}

pub(super) async fn a_restarted_driver_has_nothing_to_do<B: Bench>(bench: &mut B) {
    let network = Network::named(bench.plane(), "adopted");
    let desired = desired(52031);
    network.carry_out(network.plan(&desired).await).await;
    let namespace = network.namespace;
    bench.restart().await;
    let network = Network { plane: bench.plane(), namespace };
    let steps = network.plan(&desired).await;
    assert!(steps.iter().all(|step| tells_a_key_again(step, &desired)), "{steps:#?}");
    network.carry_out(steps).await;
    assert_eq!(network.plan(&desired).await, []);
    network.delete().await;
}

pub(super) async fn an_option_for_keepalives_is_all_that_changes(bench: &mut impl Bench) {
    let network = Network::named(bench.plane(), "onechange");
    let mut desired = desired(52032);
    network.carry_out(network.plan(&desired).await).await;
    let peers = &mut desired.wireguards.get_mut(&link("wg0")).expect("it was made").peers;
    peers.get_mut(&peer(1)).expect("it was added").keepalive = None;
    let steps = network.plan(&desired).await;
    let [Step::UpdatePeer { peer: changed, keepalive: Some(KICK), .. }] = steps.as_slice() else {
        panic!("one step should do, not {steps:#?}");
    };
    assert_eq!(*changed, peer(1));
    network.delete().await;
}

pub(super) async fn a_sweep_takes_the_networks_that_nobody_claims(bench: &mut impl Bench) {
    let kept = Network::made(bench.plane(), "kept").await;
    let stray = Network::with_wireguard(bench.plane(), "stray", 52033).await;
    stray.apply(Step::AddGateway(ip("10.50.0.1"))).await;
    stray.apply(Step::SetGuard { subnets: [net("10.50.0.0/24")].into() }).await;
    let (name, veth) = veth(3, None);
    stray.apply(Step::CreateVeth { name, veth, mtu: 1400 }).await;
    let claimed =
        Claimed { namespaces: [kept.namespace.clone()].into(), endpoints: BTreeSet::new() };
    let swept = bench.plane().sweep(|| claimed.clone()).await;
    let swept = swept.unwrap_or_else(|error| panic!("{}", super::text(&error)));
    assert!(!swept.removed.is_empty() && swept.in_use.is_empty(), "{swept:?}");
    assert_eq!(bench.plane().observe(&stray.namespace, &Joined::new()).await, Seen::Absent);
    assert!(bench.plane().port_is_free(52033).await);
    assert!(kept.seen().await.prepared);
    let again = bench.plane().sweep(|| claimed.clone()).await;
    assert!(again.is_ok_and(|again| again.removed.is_empty()));
    kept.delete().await;
}
