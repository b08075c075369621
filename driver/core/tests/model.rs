//! The semantics of a kernel that the model must have, because the planner relies on them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wgnet_core::model::{self, ModelError};
use wgnet_core::testing::{endpoint_id, ipv4, link, peer_key, private_key};
use wgnet_core::{DesiredPeer, DesiredVeth, Observed, RouteTarget, Seen, Step};
use wgnet_proto::{IfName, MacAddr};

#[test]
fn an_address_given_to_one_peer_is_taken_from_another() {
    let mut kernel = kernel();
    run(&mut kernel, add_peer("wg0", 1, &[6]));
    run(&mut kernel, add_peer("wg0", 2, &[]));
    run(&mut kernel, add_allowed(2, 6));
    assert_eq!(allowed(&kernel, 1), BTreeSet::new());
    assert_eq!(allowed(&kernel, 2), BTreeSet::from([ipv4(6)]));
    run(&mut kernel, add_peer("wg0", 3, &[6]));
    assert_eq!(allowed(&kernel, 2), BTreeSet::new());
}

#[test]
fn an_address_may_have_an_owner_on_each_interface() {
    let mut kernel = kernel();
    run(&mut kernel, create("wg1", 2, 51821));
    run(&mut kernel, add_peer("wg0", 1, &[6]));
    run(&mut kernel, add_peer("wg1", 2, &[6]));
    assert_eq!(allowed(&kernel, 1), BTreeSet::from([ipv4(6)]));
}

#[test]
fn a_route_dies_with_its_link() {
    let mut kernel = kernel();
    run(&mut kernel, set_route(6, "wg0"));
    run(&mut kernel, Step::RemoveWireguard { name: link("wg0") });
    assert!(inside(&kernel).routes.is_empty());
}

#[test]
fn a_route_into_a_missing_link_or_one_that_is_down_is_refused() {
    let mut kernel = kernel();
    assert_eq!(refused(&mut kernel, set_route(6, "wg1")), ModelError::NoLink(link("wg1")));
    let Seen::Present(network) = &mut kernel else { unreachable!() };
    network.wireguards.get_mut(&link("wg0")).unwrap().up = false;
    assert_eq!(refused(&mut kernel, set_route(6, "wg0")), ModelError::LinkDown(link("wg0")));
    run(&mut kernel, Step::RaiseWireguard { name: link("wg0") });
    run(&mut kernel, set_route(6, "wg0"));
}

#[test]
fn adding_to_what_is_missing_is_refused() {
    let mut kernel = kernel();
    refused(&mut kernel, add_peer("wg1", 1, &[]));
    refused(&mut kernel, add_allowed(1, 6));
    refused(&mut kernel, Step::FixVeth { name: veth_name(), veth: veth() });
    let mut nothing = Seen::Absent;
    assert_eq!(refused(&mut nothing, Step::Prepare), ModelError::NoNamespace);
}

#[test]
fn removing_what_is_missing_is_success() {
    let removals = [
        Step::RemoveGateway(ipv4(1)),
        Step::RemovePeer { wireguard: link("wg1"), peer: peer_key(1) },
        Step::RemoveAllowed { wireguard: link("wg0"), peer: peer_key(1), addresses: [].into() },
        Step::RemoveVeth { name: veth_name() },
        Step::RemoveRoute { destination: ipv4(6).into() },
        Step::RemoveWireguard { name: link("wg1") },
        Step::RemoveGuard,
        Step::DeleteNamespace,
        Step::DeleteNamespace,
        Step::RemoveVeth { name: veth_name() },
    ];
    let mut kernel = kernel();
    removals.into_iter().for_each(|step| run(&mut kernel, step));
    assert_eq!(kernel, Seen::Absent);
}

#[test]
fn every_step_may_be_applied_twice() {
    let mut kernel = Seen::Absent;
    let steps = [
        Step::CreateNamespace,
        Step::Prepare,
        Step::AddGateway(ipv4(1)),
        create("wg0", 1, 51820),
        add_peer("wg0", 1, &[6]),
        add_allowed(1, 7),
        Step::CreateVeth { name: veth_name(), veth: veth(), mtu: 1420 },
        set_route(6, "wg0"),
        Step::SetGuard { subnets: ["10.50.0.0/24".parse().unwrap()].into() },
    ];
    for step in steps {
        run(&mut kernel, step.clone());
        let once = kernel.clone();
        run(&mut kernel, step);
        assert_eq!(kernel, once);
    }
}

#[test]
fn two_interfaces_cannot_share_a_port() {
    let refusal = refused(&mut kernel(), create("wg1", 2, 51820));
    let (name, holder) = (link("wg1"), link("wg0"));
    assert_eq!(refusal, ModelError::PortTaken { name, port: 51820, holder });
}

#[test]
fn a_link_that_is_not_ours_is_not_made_over() {
    let mut kernel = kernel();
    let Seen::Present(network) = &mut kernel else { unreachable!() };
    network.foreign.insert(link("wg1"));
    let refusal = refused(&mut kernel, create("wg1", 2, 51821));
    assert_eq!(refusal, ModelError::ForeignLink(link("wg1")));
}

#[test]
fn a_refused_step_changes_nothing() {
    let mut kernel = kernel();
    let before = kernel.clone();
    refused(&mut kernel, set_route(6, "wg1"));
    refused(&mut kernel, create("wg0", 9, 51829));
    assert_eq!(kernel, before);
}

/// A namespace with one interface.
fn kernel() -> Seen<Observed> {
    let mut kernel = Seen::Absent;
    run(&mut kernel, Step::CreateNamespace);
    run(&mut kernel, create("wg0", 1, 51820));
    kernel
}

fn run(kernel: &mut Seen<Observed>, step: Step) {
    if let Err(refusal) = model::apply(kernel, &step) {
        panic!("{step:?}: {refusal}");
    }
}

fn refused(kernel: &mut Seen<Observed>, step: Step) -> ModelError {
    model::apply(kernel, &step).expect_err("a kernel would refuse this")
}

fn inside(kernel: &Seen<Observed>) -> &Observed {
    let Seen::Present(network) = kernel else { panic!("{kernel:?}") };
    network
}

fn allowed(kernel: &Seen<Observed>, peer: u8) -> BTreeSet<IpAddr> {
    inside(kernel).wireguards[&link("wg0")].peers[&peer_key(peer)].allowed.clone()
}

fn create(name: &str, key: u8, port: u16) -> Step {
    let private_key = private_key(key);
    Step::CreateWireguard { name: link(name), private_key, port, mtu: 1420 }
}

fn add_peer(wireguard: &str, peer: u8, allowed: &[u8]) -> Step {
    let allowed = allowed.iter().map(|last| ipv4(*last)).collect();
    let config = DesiredPeer { preshared_key: None, underlay: None, keepalive: None, allowed };
    Step::AddPeer { wireguard: link(wireguard), peer: peer_key(peer), config }
}

fn add_allowed(peer: u8, last: u8) -> Step {
    let addresses = [ipv4(last)].into();
    Step::AddAllowed { wireguard: link("wg0"), peer: peer_key(peer), addresses }
}

fn set_route(last: u8, name: &str) -> Step {
    Step::SetRoute { destination: ipv4(last).into(), target: RouteTarget::Link(link(name)) }
}

fn veth_name() -> IfName {
    IfName::veth_host(&endpoint_id(1))
}

fn veth() -> DesiredVeth {
    DesiredVeth {
        endpoint: endpoint_id(1),
        container_end: IfName::veth_container(&endpoint_id(1)),
        mac: MacAddr::of_address(ipv4(5)),
        addresses: Vec::new(),
        sandbox: None,
        container_routes: Vec::new(),
    }
}
