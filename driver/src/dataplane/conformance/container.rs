//! Claims about veth pairs and containers' interfaces.

use std::path::Path;

use wgnet_core::observed::{ContainerEnd, ContainerInterface};
use wgnet_core::orphan::Sandbox;
use wgnet_core::{DesiredVeth, ObservedVeth, Seen, Step};
use wgnet_proto::{IfName, MacAddr};

use super::{Bench, ByHand, Inside, Network, ip, veth};
use crate::dataplane::{Dataplane, ErrorKind, Joined};

fn joined(name: &IfName, sandbox: &Path) -> Joined {
    Joined::from([(name.clone(), sandbox.to_owned())])
}

fn waiting(veth: &DesiredVeth) -> ObservedVeth {
    let endpoint = Some(veth.endpoint.clone());
    ObservedVeth {
        endpoint,
        mac: MacAddr::GATEWAY,
        mtu: 1400,
        up: true,
        container: ContainerEnd::InHost,
    }
}

fn configured(veth: &DesiredVeth) -> ContainerInterface {
    ContainerInterface {
        name: "eth0".to_owned(),
        mac: Some(veth.mac),
        up: true,
        addresses: veth.addresses.iter().copied().collect(),
        routes: veth.container_routes.iter().copied().collect(),
    }
}

impl<P: Dataplane> Network<'_, P> {
    async fn inside(&self, name: &IfName, sandbox: &Path) -> Seen<ContainerInterface> {
        let mut seen = self.look_into(&joined(name, sandbox)).await;
        match seen.veths.remove(name).map(|veth| veth.container) {
            Some(ContainerEnd::InContainer(interface)) => interface,
            other => panic!("{name} should be in a container, not {other:?}"),
        }
    }

    /// A network with gateways and a veth pair that a container took.
    async fn with_container(
        bench: &impl Bench<Plane = P>,
        id: &str,
        name: &IfName,
        veth: &DesiredVeth,
    ) {
        let network = Network::made(bench.plane(), id).await;
        network.apply(Step::AddGateway(ip("10.50.0.1"))).await;
        network.apply(Step::AddGateway(ip("fd50::1"))).await;
        network.apply(Step::CreateVeth { name: name.clone(), veth: veth.clone(), mtu: 1400 }).await;
        bench.join(&network.namespace, name, veth, veth.sandbox.as_deref().expect("it is to join"));
    }
}

pub(super) async fn a_new_pair_waits_in_the_host(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "veth").await;
    let (name, veth) = veth(2, None);
    network
        .apply_twice(Step::CreateVeth { name: name.clone(), veth: veth.clone(), mtu: 1400 })
        .await;
    assert_eq!(network.seen().await.veths, [(name, waiting(&veth))].into());
    network.delete().await;
}

pub(super) async fn a_pair_is_set_right(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "fixveth").await;
    let (name, veth) = veth(2, None);
    network.apply(Step::CreateVeth { name: name.clone(), veth: veth.clone(), mtu: 1400 }).await;
    bench.by_hand(&network.namespace, &ByHand::SetDown(name.clone()));
    bench.by_hand(&network.namespace, &ByHand::Unmark(name.clone()));
    let spoilt = &network.seen().await.veths[&name];
    assert_eq!((spoilt.up, &spoilt.endpoint), (false, &None));
    network.apply_twice(Step::FixVeth { name: name.clone(), veth: veth.clone() }).await;
    assert_eq!(network.seen().await.veths, [(name, waiting(&veth))].into());
    network.delete().await;
}

pub(super) async fn a_joined_container_is_looked_into_only_when_asked(bench: &mut impl Bench) {
    let sandbox = bench.start_container("joined");
    let elsewhere = bench.start_container("elsewhere");
    let (name, veth) = veth(3, Some(&sandbox));
    Network::with_container(bench, "join", &name, &veth).await;
    let network = Network::named(bench.plane(), "join");
    let unasked = network.seen().await.veths.remove(&name).map(|veth| veth.container);
    assert_eq!(unasked, Some(ContainerEnd::InContainer(Seen::Unknown)));
    assert_eq!(network.inside(&name, &sandbox).await, Seen::Present(configured(&veth)));
    assert_eq!(network.inside(&name, &elsewhere).await, Seen::Absent);
    network.delete().await;
    bench.end_container(&sandbox);
    bench.end_container(&elsewhere);
}

pub(super) async fn a_spoilt_interface_is_set_right(bench: &mut impl Bench) {
    let sandbox = bench.start_container("spoilt");
    let (name, veth) = veth(4, Some(&sandbox));
    Network::with_container(bench, "spoilt", &name, &veth).await;
    let network = Network::named(bench.plane(), "spoilt");
    for damage in [Inside::SetDown, Inside::DeleteAddress, Inside::DeleteRoutes] {
        bench.inside(&network.namespace, &name, &sandbox, damage);
        assert_ne!(network.inside(&name, &sandbox).await, Seen::Present(configured(&veth)));
        network.apply_twice(Step::FixContainer { name: name.clone(), veth: veth.clone() }).await;
        assert_eq!(network.inside(&name, &sandbox).await, Seen::Present(configured(&veth)));
    }
    network.delete().await;
    bench.end_container(&sandbox);
}

pub(super) async fn a_lost_pair_comes_back_into_its_container(bench: &mut impl Bench) {
    let sandbox = bench.start_container("lost");
    let (name, veth) = veth(5, Some(&sandbox));
    Network::with_container(bench, "lost", &name, &veth).await;
    let network = Network::named(bench.plane(), "lost");
    let restore = Step::RestoreVeth { name: name.clone(), veth: veth.clone(), mtu: 1400 };

    bench.by_hand(&network.namespace, &ByHand::DeleteLink(name.clone()));
    assert!(network.seen().await.veths.is_empty());
    network.apply_twice(restore.clone()).await;
    assert_eq!(network.inside(&name, &sandbox).await, Seen::Present(configured(&veth)));

    bench.inside(&network.namespace, &name, &sandbox, Inside::DeleteInterface);
    assert!(network.seen().await.veths.is_empty());
    network.apply(restore).await;
    assert_eq!(network.inside(&name, &sandbox).await, Seen::Present(configured(&veth)));
    network.delete().await;
    bench.end_container(&sandbox);
}

pub(super) async fn a_dead_container_is_told_apart(bench: &mut impl Bench) {
    let sandbox = bench.start_container("dead");
    let (name, veth) = veth(6, Some(&sandbox));
    Network::with_container(bench, "dead", &name, &veth).await;
    let network = Network::named(bench.plane(), "dead");
    bench.end_container(&sandbox);
    // The kernel tears a namespace down when it gets round to it.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while network.seen().await.veths.contains_key(&name) {
        assert!(tokio::time::Instant::now() < deadline, "the pair of a dead container stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let error = network.refused(Step::RestoreVeth { name, veth, mtu: 1400 }).await;
    assert_eq!(error.kind, ErrorKind::ContainerGone, "{}", super::text(&error));
    assert!(network.seen().await.veths.is_empty());
    network.delete().await;
}

pub(super) async fn a_container_that_lost_its_name_is_told_apart(bench: &mut impl Bench) {
    let sandbox = bench.start_container("forgotten");
    let (name, veth) = veth(8, Some(&sandbox));
    Network::with_container(bench, "forgotten", &name, &veth).await;
    let network = Network::named(bench.plane(), "forgotten");
    assert_eq!(network.plane.sandbox(&sandbox).await, Sandbox::There);
    bench.forget_container(&sandbox);
    assert_eq!(network.plane.sandbox(&sandbox).await, Sandbox::Missing);
    assert_eq!(network.inside(&name, &sandbox).await, Seen::Absent);
    network.apply_twice(Step::RemoveVeth { name }).await;
    assert!(network.seen().await.veths.is_empty());
    network.delete().await;
}

pub(super) async fn removing_can_be_repeated(bench: &mut impl Bench) {
    let network = Network::made(bench.plane(), "rmveth").await;
    let (name, veth) = veth(7, None);
    network.apply(Step::CreateVeth { name: name.clone(), veth, mtu: 1400 }).await;
    network.apply(super::set_route("10.50.0.7/32", Some(name.as_str()))).await;
    network.apply_twice(Step::RemoveVeth { name }).await;
    let seen = network.seen().await;
    assert!(seen.veths.is_empty() && seen.routes.is_empty());
    network.delete().await;
}
