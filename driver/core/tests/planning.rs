//! What the planner does in named situations.

#![expect(clippy::unwrap_used, reason = "tests may unwrap, in their helpers too")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use wgnet_core::plan::KICK;
use wgnet_core::testing::{self, endpoint_id, ipv4, link, peer_key, private_key, reconcile};
use wgnet_core::{
    ContainerEnd, ContainerInterface, Desired, DesiredPeer, DesiredVeth, DesiredWireguard, Hints,
    Observed, RouteTarget, Seen, Step, plan,
};
use wgnet_proto::{IfName, MacAddr, PresharedKey, PublicKey};

#[test]
fn a_new_network_is_made_from_the_inside_out() {
    let mut wanted = network();
    wanted.remote(1, 6);
    wanted.local(1, 5);
    let steps = plan(Some(&wanted), &Seen::Absent, &Hints::default());
    let kinds: Vec<_> = steps.iter().map(kind).collect();
    assert_eq!(
        kinds,
        [
            "CreateNamespace",
            "Prepare",
            "SetGuard",
            "AddGateway",
            "CreateWireguard",
            "AddPeer",
            "AddPeer",
            "CreateVeth",
            "SetRoute",
            "SetRoute",
            "SetRoute",
        ]
    );
}

#[test]
fn what_is_unknown_is_left_alone() {
    assert!(plan(Some(&network()), &Seen::Unknown, &Hints::default()).is_empty());
    assert!(plan(None, &Seen::Unknown, &Hints::default()).is_empty());
}

#[test]
fn an_unwanted_network_loses_its_veths_then_its_guard_then_its_namespace() {
    let mut wanted = network();
    wanted.local(1, 5);
    let kernel = reached(&wanted);
    assert_eq!(
        plan(None, &Seen::Present(kernel), &Hints::default()),
        [Step::RemoveVeth { name: veth_name(1) }, Step::RemoveGuard, Step::DeleteNamespace,]
    );
}

#[test]
fn an_address_that_moves_between_hosts_takes_one_step() {
    let mut before = network();
    before.remote(1, 6);
    let mut after = network();
    after.remote(2, 6);
    assert_eq!(
        steps(&after, &reached(&before)),
        [Step::AddAllowed { wireguard: link("wg0"), peer: peer_key(2), addresses: only(6) }]
    );
}

#[test]
fn an_address_that_comes_here_has_its_veth_and_route_before_the_peer_loses_it() {
    let mut before = network();
    before.remote(1, 6);
    before.local(1, 5);
    let mut after = network();
    after.local(1, 5);
    after.local(2, 6);
    let steps = steps(&after, &reached(&before));
    assert_eq!(
        steps.iter().map(kind).collect::<Vec<_>>(),
        ["CreateVeth", "SetRoute", "RemoveAllowed"]
    );
}

#[test]
fn the_last_endpoint_takes_the_guard_with_it_at_the_very_end() {
    let mut before = network();
    before.local(1, 5);
    let steps = steps(&network(), &reached(&before));
    assert_eq!(
        steps,
        [
            Step::RemoveRoute { destination: ipv4(5).into() },
            Step::RemoveVeth { name: veth_name(1) },
            Step::RemoveGuard,
        ]
    );
}

#[test]
fn a_rotation_switches_the_routes_before_the_old_interface_goes() {
    let mut old = network();
    old.remote(1, 6);
    let mut both = old.clone();
    let second = DesiredWireguard {
        private_key: private_key(2),
        port: 51821,
        peers: [(peer_key(7), peer(&[6]))].into(),
    };
    both.wireguards.insert(link("wg1"), second);
    let mut switched = both.clone();
    switched.routes.insert(ipv4(6).into(), RouteTarget::Link(link("wg1")));
    let mut new = switched.clone();
    new.wireguards.remove(&link("wg0"));

    let kernel = reached(&old);
    assert_eq!(kinds(&both, &kernel), ["CreateWireguard", "AddPeer"]);
    assert_eq!(kinds(&switched, &reached(&both)), ["SetRoute"]);
    assert_eq!(kinds(&new, &reached(&switched)), ["RemoveWireguard"]);
    assert_eq!(
        kinds(&new, &kernel),
        ["CreateWireguard", "AddPeer", "SetRoute", "RemoveWireguard"],
        "in one go, too"
    );
}

#[test]
fn an_interface_of_another_key_is_made_anew_and_its_routes_set_again() {
    let mut wanted = network();
    wanted.remote(1, 6);
    let kernel = reached(&wanted);
    wanted.wireguards.get_mut(&link("wg0")).unwrap().private_key = private_key(9);
    assert_eq!(
        kinds(&wanted, &kernel),
        ["RemoveWireguard", "CreateWireguard", "AddPeer", "AddPeer", "SetRoute"]
    );
}

#[test]
fn an_interface_without_a_key_is_made_anew() {
    let wanted = network();
    let mut kernel = reached(&wanted);
    kernel.wireguards.get_mut(&link("wg0")).unwrap().public_key = None;
    assert_eq!(
        kinds(&wanted, &kernel),
        ["RemoveWireguard", "CreateWireguard", "AddPeer", "AddPeer"]
    );
}

#[test]
fn an_interface_deleted_by_hand_comes_back_with_its_key_peers_and_routes() {
    let mut wanted = network();
    wanted.remote(1, 6);
    let mut kernel = reached(&wanted);
    kernel.wireguards.clear();
    kernel.routes.remove(&ipv4(6).into());
    let steps = steps(&wanted, &kernel);
    assert!(
        matches!(&steps[0], Step::CreateWireguard { private_key, .. } if *private_key == self::private_key(1))
    );
    let kinds: Vec<_> = steps.iter().map(kind).collect();
    assert_eq!(kinds, ["CreateWireguard", "AddPeer", "AddPeer", "SetRoute"]);
}

#[test]
fn the_mtu_of_what_exists_is_not_changed() {
    let mut wanted = network();
    wanted.local(1, 5);
    let kernel = reached(&wanted);
    wanted.mtu = 1280;
    assert!(steps(&wanted, &kernel).is_empty());
}

#[test]
fn a_peer_is_kicked_until_its_first_handshake_and_then_keeps_quiet() {
    let wanted = network();
    let mut kernel = reached(&wanted);
    assert_eq!(peer_in(&mut kernel, 1).keepalive, Some(KICK));
    assert!(steps(&wanted, &kernel).is_empty());
    peer_in(&mut kernel, 1).last_handshake = Some(1_700_000_000);
    assert_eq!(steps(&wanted, &kernel), [update(1, None, None, Some(0))]);
}

#[test]
fn a_configured_keepalive_stays() {
    let mut wanted = network();
    let peers = &mut wanted.wireguards.get_mut(&link("wg0")).unwrap().peers;
    peers.get_mut(&peer_key(1)).unwrap().keepalive = Some(25);
    let mut kernel = reached(&wanted);
    assert_eq!(peer_in(&mut kernel, 1).keepalive, Some(25));
    peer_in(&mut kernel, 1).last_handshake = Some(1_700_000_000);
    assert!(steps(&wanted, &kernel).is_empty());
}

#[test]
fn roaming_is_respected_a_new_record_is_not_ignored() {
    let [published, roamed, moved] =
        ["192.0.2.1:51820", "198.51.100.7:4500", "192.0.2.9:51820"].map(underlay);
    let mut wanted = network();
    set_underlay(&mut wanted, published);
    let mut kernel = Seen::Absent;
    let mut hints = Hints::default();
    reconcile(Some(&wanted), &mut kernel, &mut hints);
    let Seen::Present(mut kernel) = kernel else { unreachable!() };
    peer_in(&mut kernel, 1).underlay = Some(roamed);
    let seen = Seen::Present(kernel);
    assert!(plan(Some(&wanted), &seen, &hints).is_empty(), "it roamed");
    assert!(plan(Some(&wanted), &seen, &Hints::default()).is_empty(), "and we restarted");
    let mut restarted = Hints::default();
    let Seen::Present(kernel) = &seen else { unreachable!() };
    restarted.adopt(&wanted, kernel);
    assert!(plan(Some(&wanted), &seen, &restarted).is_empty(), "the same record is not told again");

    set_underlay(&mut wanted, moved);
    assert!(plan(Some(&wanted), &seen, &Hints::default()).is_empty(), "who knows which is newer");
    for hints in [hints, restarted] {
        assert_eq!(plan(Some(&wanted), &seen, &hints), [update(1, None, Some(moved), None)]);
    }
}

#[test]
fn a_peer_without_an_underlay_address_is_given_one_after_a_restart() {
    let mut wanted = network();
    let kernel = reached(&wanted);
    let address = underlay("192.0.2.1:51820");
    set_underlay(&mut wanted, address);
    assert_eq!(steps(&wanted, &kernel), [update(1, None, Some(address), None)]);
}

#[test]
fn a_preshared_key_is_changed_in_place() {
    let mut wanted = network();
    let kernel = reached(&wanted);
    let key = PresharedKey::from_bytes([3; 32]);
    let peers = &mut wanted.wireguards.get_mut(&link("wg0")).unwrap().peers;
    peers.get_mut(&peer_key(1)).unwrap().preshared_key = Some(key.clone());
    assert_eq!(steps(&wanted, &kernel), [update(1, Some(Some(key)), None, None)]);
}

#[test]
fn a_peer_that_does_not_answer_is_removed_and_added_with_all_it_had() {
    let mut wanted = network();
    wanted.remote(1, 6);
    let kernel = reached(&wanted);
    let mut hints = Hints::default();
    hints.remake.insert((link("wg0"), peer_key(1)));
    let steps = plan(Some(&wanted), &Seen::Present(kernel), &hints);
    let [Step::RemovePeer { .. }, Step::AddPeer { config, .. }] = &steps[..] else {
        panic!("{steps:#?}");
    };
    assert_eq!(config.allowed, only(6));
    steps.iter().for_each(|step| hints.applied(step));
    assert!(hints.remake.is_empty(), "once");
}

#[test]
fn a_peer_added_by_hand_is_removed() {
    let wanted = network();
    let mut kernel = reached(&wanted);
    let peers = &mut kernel.wireguards.get_mut(&link("wg0")).unwrap().peers;
    peers.insert(peer_key(9), Default::default());
    let removal = Step::RemovePeer { wireguard: link("wg0"), peer: peer_key(9) };
    assert_eq!(steps(&wanted, &kernel), [removal]);
}

#[test]
fn a_missing_veth_is_made_before_join_and_restored_after_it() {
    let mut wanted = network();
    wanted.local(1, 5);
    let mut kernel = reached(&wanted);
    kernel.veths.clear();
    kernel.routes.remove(&ipv4(5).into());
    assert_eq!(kinds(&wanted, &kernel), ["CreateVeth", "SetRoute"]);
    wanted.join(1);
    assert_eq!(kinds(&wanted, &kernel), ["RestoreVeth", "SetRoute"]);
}

#[test]
fn a_joined_endpoint_whose_interface_docker_has_not_fetched_yet_is_left_alone() {
    let mut wanted = network();
    wanted.local(1, 5);
    let kernel = reached(&wanted);
    wanted.join(1);
    assert!(steps(&wanted, &kernel).is_empty());
}

#[test]
fn a_containers_interface_gets_back_what_it_lacks() {
    let mut wanted = network();
    wanted.local(1, 5);
    wanted.join(1);
    let veth = wanted.veths[&veth_name(1)].clone();
    let whole = ContainerInterface {
        name: "eth0".to_owned(),
        mac: Some(veth.mac),
        up: true,
        addresses: veth.addresses.iter().copied().collect(),
        routes: veth.container_routes.iter().copied().collect(),
    };
    let with = |change: fn(&mut ContainerInterface)| {
        let mut interface = whole.clone();
        change(&mut interface);
        let mut kernel = reached(&wanted);
        let seen = ContainerEnd::InContainer(Seen::Present(interface));
        kernel.veths.get_mut(&veth_name(1)).unwrap().container = seen;
        kinds(&wanted, &kernel)
    };
    assert!(with(|_| {}).is_empty());
    assert_eq!(with(|i| i.addresses.clear()), ["FixContainer"]);
    assert_eq!(with(|i| i.routes.retain(|(net, _)| net.addr() == ipv4(0))), ["FixContainer"]);
    assert_eq!(with(|i| i.up = false), ["FixContainer"]);
    let more = with(|i| i.addresses.extend(["10.9.9.9/32".parse::<IpNet>().unwrap()]));
    assert!(more.is_empty(), "what else a container has is its own business");
}

#[test]
fn a_container_that_cannot_be_read_is_left_alone() {
    let mut wanted = network();
    wanted.local(1, 5);
    wanted.join(1);
    for seen in [Seen::Unknown, Seen::Absent] {
        let mut kernel = reached(&wanted);
        let veth = kernel.veths.get_mut(&veth_name(1)).unwrap();
        veth.container = ContainerEnd::InContainer(seen);
        assert!(steps(&wanted, &kernel).is_empty());
    }
}

#[test]
fn a_veth_that_was_not_marked_before_a_crash_is_marked() {
    let mut wanted = network();
    wanted.local(1, 5);
    let mut kernel = reached(&wanted);
    kernel.veths.get_mut(&veth_name(1)).unwrap().endpoint = None;
    assert_eq!(kinds(&wanted, &kernel), ["FixVeth"]);
}

#[test]
fn a_namespace_that_lost_its_pin_is_only_pinned_again() {
    let wanted = network();
    let mut kernel = reached(&wanted);
    kernel.pinned = false;
    assert_eq!(steps(&wanted, &kernel), [Step::CreateNamespace]);
}

#[test]
fn one_change_costs_the_same_in_a_large_network() {
    let mut wanted = network();
    for last in 10..250 {
        wanted.remote(1 + last % 2, last);
    }
    let kernel = reached(&wanted);
    wanted.remote(1, 251);
    assert_eq!(kinds(&wanted, &kernel), ["AddAllowed", "SetRoute"]);
}

/// Two members, no endpoint.
fn network() -> Desired {
    let peers = [(peer_key(1), peer(&[])), (peer_key(2), peer(&[]))].into();
    let wireguard = DesiredWireguard { private_key: private_key(1), port: 51820, peers };
    Desired {
        mtu: 1420,
        gateways: [ipv4(1)].into(),
        wireguards: [(link("wg0"), wireguard)].into(),
        veths: Default::default(),
        routes: [("10.50.0.0/24".parse().unwrap(), RouteTarget::Unreachable)].into(),
        guard: Default::default(),
    }
}

trait Wish {
    fn remote(&mut self, peer: u8, last: u8);
    fn local(&mut self, number: u8, last: u8);
    fn join(&mut self, number: u8);
}

impl Wish for Desired {
    /// An endpoint on another host.
    fn remote(&mut self, peer: u8, last: u8) {
        let peers = &mut self.wireguards.get_mut(&link("wg0")).unwrap().peers;
        peers.get_mut(&peer_key(peer)).unwrap().allowed.insert(ipv4(last));
        self.routes.insert(ipv4(last).into(), RouteTarget::Link(link("wg0")));
    }

    /// An endpoint on this host, before its Join.
    fn local(&mut self, number: u8, last: u8) {
        let endpoint = endpoint_id(number);
        let veth = DesiredVeth {
            container_end: IfName::veth_container(&endpoint),
            endpoint,
            mac: MacAddr::of_address(ipv4(last)),
            addresses: vec![IpNet::new(ipv4(last), 24).unwrap()],
            sandbox: None,
            container_routes: vec![
                ("10.50.0.128/25".parse().unwrap(), ipv4(1)),
                ("10.50.0.0/25".parse().unwrap(), ipv4(1)),
            ],
        };
        self.veths.insert(veth_name(number), veth);
        self.routes.insert(ipv4(last).into(), RouteTarget::Link(veth_name(number)));
        self.guard = ["10.50.0.0/24".parse().unwrap()].into();
    }

    fn join(&mut self, number: u8) {
        let veth = self.veths.get_mut(&veth_name(number)).unwrap();
        veth.sandbox = Some("/var/run/docker/netns/box".into());
    }
}

fn peer(allowed: &[u8]) -> DesiredPeer {
    let allowed = allowed.iter().map(|last| ipv4(*last)).collect();
    DesiredPeer { preshared_key: None, underlay: None, keepalive: None, allowed }
}

/// A kernel that is as it should be.
fn reached(wanted: &Desired) -> Observed {
    let mut kernel = Seen::Absent;
    testing::reconcile(Some(wanted), &mut kernel, &mut Hints::default());
    let Seen::Present(kernel) = kernel else { unreachable!("it was made") };
    kernel
}

fn steps(wanted: &Desired, kernel: &Observed) -> Vec<Step> {
    plan(Some(wanted), &Seen::Present(kernel.clone()), &Hints::default())
}

fn kinds(wanted: &Desired, kernel: &Observed) -> Vec<String> {
    steps(wanted, kernel).iter().map(kind).collect()
}

fn kind(step: &Step) -> String {
    let text = format!("{step:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

fn update(
    peer: u8,
    preshared_key: Option<Option<PresharedKey>>,
    underlay: Option<SocketAddr>,
    keepalive: Option<u16>,
) -> Step {
    let (wireguard, peer) = (link("wg0"), peer_key(peer));
    Step::UpdatePeer { wireguard, peer, preshared_key, underlay, keepalive }
}

fn peer_in(kernel: &mut Observed, peer: u8) -> &mut wgnet_core::ObservedPeer {
    let peer: PublicKey = peer_key(peer);
    kernel.wireguards.get_mut(&link("wg0")).unwrap().peers.get_mut(&peer).unwrap()
}

fn set_underlay(wanted: &mut Desired, address: SocketAddr) {
    let peers = &mut wanted.wireguards.get_mut(&link("wg0")).unwrap().peers;
    peers.get_mut(&peer_key(1)).unwrap().underlay = Some(address);
}

fn underlay(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn only(last: u8) -> BTreeSet<IpAddr> {
    [ipv4(last)].into()
}

fn veth_name(number: u8) -> IfName {
    IfName::veth_host(&endpoint_id(number))
}
