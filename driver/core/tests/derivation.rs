//! What a host derives from its intent and the records, by example.

#![expect(clippy::unwrap_used, reason = "tests may unwrap, in their helpers too")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use wgnet_core::testing::{endpoint_id, ipv4, ipv6, link, private_key};
use wgnet_core::{
    ClusterView, Desired, Families, LocalEndpoint, LocalNetwork, LocalSlot, NetworkView,
    RouteTarget, derive, superseded, testing,
};
use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord, Slot};
use wgnet_proto::{Generation, HostId, IfName, Incarnation, MacAddr, PresharedKey, PublicKey};

const ME: HostId = HostId([5; 16]);
const B: HostId = HostId([6; 16]);
const C: HostId = HostId([4; 16]);

/// Host A, with what it knows of the others.
struct World {
    local: LocalNetwork,
    network: NetworkView,
    cluster: ClusterView,
    families: Families,
}

#[test]
fn a_local_endpoint_has_a_veth_and_a_host_route() {
    let mut world = World::new();
    world.local_endpoint(1, 5, 1);
    let desired = world.desired();
    let name = IfName::veth_host(&endpoint_id(1));
    assert_eq!(desired.routes[&host(5)], RouteTarget::Link(name.clone()));
    let veth = &desired.veths[&name];
    assert_eq!(veth.container_end, IfName::veth_container(&endpoint_id(1)));
    assert_eq!(veth.container_routes.len(), 2);
}

#[test]
fn a_remote_endpoint_has_a_host_route_and_its_address_is_allowed_to_its_host_only() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.member(C, &[0]);
    world.remote_endpoint(2, 6, 1, B);
    let desired = world.desired();
    assert_eq!(desired.routes[&host(6)], RouteTarget::Link(link("wg0")));
    let peers = &desired.wireguards[&link("wg0")].peers;
    assert_eq!(peers[&key(B, 0)].allowed, BTreeSet::from([ipv4(6)]));
    assert!(peers[&key(C, 0)].allowed.is_empty(), "a member without endpoints is a peer");
}

#[test]
fn subnets_are_unreachable_and_gateways_are_ours() {
    let desired = World::new().desired();
    assert_eq!(desired.routes[&"10.50.0.0/24".parse().unwrap()], RouteTarget::Unreachable);
    assert_eq!(desired.routes[&"fd50::/64".parse().unwrap()], RouteTarget::Unreachable);
    assert_eq!(desired.gateways, BTreeSet::from([ipv4(1), ipv6(1)]));
}

#[test]
fn a_lingering_network_has_nothing() {
    let mut world = World::new();
    world.local.lingering = true;
    assert_eq!(world.derived(), None);
}

#[test]
fn the_guard_stands_as_long_as_the_network_even_a_closed_one() {
    let mut world = World::new();
    assert_eq!(world.desired().guard.len(), 2, "a container may just have been taken off it");
    world.local.definition.internal = true;
    world.local.definition.options.gwbridge = Some(false);
    assert_eq!(world.desired().guard.len(), 2, "a second network is another way out");
    world.local.lingering = true;
    assert_eq!(world.derived(), None);
}

#[test]
fn records_of_a_host_that_is_no_member_or_unknown_or_revoked_count_for_nothing() {
    let spoil: [fn(&mut World); 3] = [
        |world| drop(world.network.members.remove(&B)),
        |world| drop(world.cluster.hosts.remove(&B)),
        |world| world.cluster.revoked.extend([B]),
    ];
    for spoil in spoil {
        let mut world = World::new();
        world.member(B, &[0]);
        world.local_endpoint(1, 5, 1);
        world.remote_endpoint(2, 5, 9, B);
        world.remote_endpoint(3, 6, 9, B);
        spoil(&mut world);
        let desired = world.desired();
        assert!(desired.wireguards[&link("wg0")].peers.is_empty());
        assert!(!desired.routes.contains_key(&host(6)));
        assert!(desired.routes.contains_key(&host(5)), "the local endpoint keeps its address");
        assert!(world.lost().is_empty());
    }
}

#[test]
fn own_records_in_the_store_are_not_remote_endpoints() {
    let mut world = World::new();
    world.member(ME, &[0]);
    world.remote_endpoint(1, 5, 9, ME);
    let desired = world.desired();
    assert!(desired.wireguards[&link("wg0")].peers.is_empty());
    assert!(!desired.routes.contains_key(&host(5)));
}

#[test]
fn the_higher_claim_wins_then_the_higher_host_id() {
    for (mine, theirs, other, wins) in
        [(7, 8, C, false), (8, 7, B, true), (7, 7, B, false), (7, 7, C, true)]
    {
        let mut world = World::new();
        world.member(other, &[0]);
        world.local_endpoint(1, 5, mine);
        world.remote_endpoint(2, 5, theirs, other);
        let desired = world.desired();
        let local = RouteTarget::Link(IfName::veth_host(&endpoint_id(1)));
        assert_eq!(desired.routes[&host(5)] == local, wins);
        let allowed = &desired.wireguards[&link("wg0")].peers[&key(other, 0)].allowed;
        assert_eq!(allowed.is_empty(), wins);
        assert_eq!(world.lost().is_empty(), wins);
    }
}

#[test]
fn of_two_remote_claims_the_higher_one_wins() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.member(C, &[0]);
    world.remote_endpoint(2, 6, 1, B);
    // C's endpoint has B's address as its secondary one.
    world.remote_endpoint(3, 7, 2, C);
    world.also(ipv4(7), ipv4(6));
    let desired = world.desired();
    let peers = &desired.wireguards[&link("wg0")].peers;
    assert!(peers[&key(B, 0)].allowed.is_empty());
    assert_eq!(peers[&key(C, 0)].allowed, BTreeSet::from([ipv4(6), ipv4(7)]));
}

#[test]
fn an_endpoint_that_lost_its_primary_address_has_none() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.local_endpoint(1, 5, 1);
    world.local.endpoints.get_mut(&endpoint_id(1)).unwrap().addresses.push(net(ipv6(5), 64));
    world.remote_endpoint(2, 5, 9, B);
    assert!(!world.desired().routes.contains_key(&ipv6(5).into()));
    assert_eq!(world.lost(), BTreeSet::from([endpoint_id(1)]));
}

#[test]
fn an_endpoint_that_lost_a_secondary_address_keeps_the_primary_one() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.local_endpoint(1, 5, 1);
    world.local.endpoints.get_mut(&endpoint_id(1)).unwrap().addresses.push(net(ipv6(5), 64));
    world.remote_endpoint(2, 6, 9, B);
    world.also(ipv4(6), ipv6(5));
    let desired = world.desired();
    let veth = RouteTarget::Link(IfName::veth_host(&endpoint_id(1)));
    assert_eq!(desired.routes[&host(5)], veth);
    assert_eq!(desired.routes[&ipv6(5).into()], RouteTarget::Link(link("wg0")));
    assert!(world.lost().is_empty());
}

#[test]
fn what_only_a_backup_knows_takes_no_address() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.local_endpoint(1, 5, 1);
    world.remote_endpoint(2, 5, 9, B);
    world.network.endpoints.weaken(ipv4(5));
    let veth = RouteTarget::Link(IfName::veth_host(&endpoint_id(1)));
    assert_eq!(world.desired().routes[&host(5)], veth);
    assert!(world.lost().is_empty());
    // Its host has put it there again.
    world.remote_endpoint(2, 5, 9, B);
    assert_eq!(world.desired().routes[&host(5)], RouteTarget::Link(link("wg0")));
    assert_eq!(world.lost(), BTreeSet::from([endpoint_id(1)]));
}

#[test]
fn among_others_what_only_a_backup_knows_comes_last() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.member(C, &[0]);
    world.remote_endpoint(1, 5, 9, B);
    world.remote_endpoint(2, 6, 1, C);
    world.also(ipv4(5), ipv6(5));
    world.also(ipv4(6), ipv6(5));
    let allowed = |world: &World, host| {
        let peers = &world.desired().wireguards[&link("wg0")].peers;
        peers[&key(host, 0)].allowed.contains(&ipv6(5))
    };
    assert!(allowed(&world, B) && !allowed(&world, C));
    world.network.endpoints.weaken(ipv4(5));
    assert!(allowed(&world, C) && !allowed(&world, B));
}

#[test]
fn an_old_local_endpoint_yields_to_a_new_one_and_is_not_superseded() {
    let mut world = World::new();
    world.local_endpoint(1, 5, 3);
    world.local_endpoint(2, 5, 4);
    let desired = world.desired();
    let newer = RouteTarget::Link(IfName::veth_host(&endpoint_id(2)));
    assert_eq!(desired.routes[&host(5)], newer);
    assert!(world.lost().is_empty());
}

#[test]
fn a_superseded_endpoint_has_no_veth_and_no_route_though_its_claim_is_high() {
    let mut world = World::new();
    world.local_endpoint(1, 5, 99);
    world.local.endpoints.get_mut(&endpoint_id(1)).unwrap().superseded = true;
    let desired = world.desired();
    assert!(desired.veths.is_empty());
    assert!(!desired.routes.contains_key(&host(5)));
}

#[test]
fn addresses_that_no_endpoint_can_have_are_ignored() {
    let mut world = World::new();
    world.member(B, &[0]);
    let hostile = ["10.50.0.0", "10.50.0.1", "10.50.0.255", "10.51.0.9", "0.0.0.0", "127.0.0.1"];
    let hostile = hostile.iter().chain(&["fd50::", "fd50::1", "fd51::9", "::", "ff02::1"]);
    let hostile: Vec<IpAddr> = hostile.map(|a| a.parse().unwrap()).collect();
    for address in &hostile {
        let mut record = record(2, *address, 99, B);
        record.addresses.extend(&hostile);
        world.network.endpoints.insert(*address, record);
    }
    let desired = world.desired();
    assert_eq!(desired.routes.len(), 2, "{:?}", desired.routes);
    assert!(desired.wireguards[&link("wg0")].peers[&key(B, 0)].allowed.is_empty());
}

#[test]
fn a_subnet_of_two_addresses_has_no_edges() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.local.definition.subnets[0].pool = "10.50.0.0/31".parse().unwrap();
    world.remote_endpoint(2, 0, 1, B);
    assert!(world.desired().routes.contains_key(&host(0)));
}

#[test]
fn traffic_uses_the_current_generation_if_both_have_it_else_the_highest_common_one() {
    for (mine, theirs, current, expected) in [
        (&[3, 4][..], &[3, 4][..], 3, Some("wg1")),
        (&[3, 4], &[3, 4], 4, Some("wg0")),
        (&[3, 4], &[3], 4, Some("wg1")),
        (&[3, 4], &[3, 4], 7, Some("wg0")),
        (&[4], &[3], 4, None),
    ] {
        let mut world = World::new();
        world.local.slots = mine.iter().map(|g| slot(*g)).collect();
        world.network.generation = current;
        world.member(B, theirs);
        world.remote_endpoint(2, 6, 1, B);
        let target = world.desired().routes.get(&host(6)).cloned();
        assert_eq!(target, expected.map(|name| RouteTarget::Link(link(name))));
    }
}

#[test]
fn a_peer_of_both_generations_has_its_addresses_on_both_interfaces() {
    let mut world = World::new();
    world.local.slots = vec![slot(3), slot(4)];
    world.member(B, &[3, 4]);
    world.member(C, &[3]);
    world.remote_endpoint(2, 6, 1, B);
    let desired = world.desired();
    for (name, generation) in [("wg1", 3), ("wg0", 4)] {
        let peers = &desired.wireguards[&link(name)].peers;
        assert_eq!(peers[&key(B, generation)].allowed, BTreeSet::from([ipv4(6)]));
    }
    assert_eq!(desired.wireguards[&link("wg0")].peers.len(), 1);
}

#[test]
fn the_preshared_key_is_that_of_the_generation_and_the_host() {
    let mut world = World::new();
    world.member(B, &[0]);
    let peer = &world.desired().wireguards[&link("wg0")].peers[&key(B, 0)];
    assert_eq!(peer.preshared_key, Some(psk(0, B)));
}

#[test]
fn the_underlay_address_is_the_first_of_a_family_this_host_has() {
    let four: IpAddr = "192.0.2.6".parse().unwrap();
    let six: IpAddr = "2001:db8::6".parse().unwrap();
    let only4 = Families { ipv4: true, ipv6: false };
    let only6 = Families { ipv4: false, ipv6: true };
    for (families, own, of_host, expected) in [
        (Families::BOTH, vec![], vec![six, four], Some(six)),
        (only4, vec![], vec![six, four], Some(four)),
        (only6, vec![], vec![four], None),
        (only4, vec!["198.51.100.1".parse().unwrap()], vec![four], "198.51.100.1".parse().ok()),
        (only4, vec![six], vec![four], Some(four)),
        (Families::BOTH, vec!["127.0.0.1".parse().unwrap()], vec![four], Some(four)),
        (Families::BOTH, vec!["0.0.0.0".parse().unwrap()], vec![four], Some(four)),
        (Families::BOTH, vec!["224.0.0.1".parse().unwrap()], vec![four], Some(four)),
        (Families::BOTH, vec!["255.255.255.255".parse().unwrap()], vec![four], Some(four)),
        (Families::BOTH, vec!["::ffff:127.0.0.1".parse().unwrap()], vec![four], Some(four)),
        (Families::BOTH, vec!["fe80::1".parse().unwrap()], vec![], None),
    ] {
        let mut world = World::new();
        world.families = families;
        world.member(B, &[0]);
        world.network.members.get_mut(&B).unwrap().slots[0].underlay = own;
        world.cluster.hosts.get_mut(&B).unwrap().underlay = of_host;
        let peer = &world.desired().wireguards[&link("wg0")].peers[&key(B, 0)];
        assert_eq!(peer.underlay.map(|u| u.ip()), expected);
        assert!(peer.underlay.is_none_or(|u| u.port() == 51820));
    }
}

#[test]
fn a_member_that_publishes_our_own_key_is_no_peer() {
    let mut world = World::new();
    world.member(B, &[0]);
    world.network.members.get_mut(&B).unwrap().slots[0].public_key = slot(0).private_key.public();
    assert!(world.desired().wireguards[&link("wg0")].peers.is_empty());
}

#[test]
fn the_order_in_which_records_came_does_not_matter() {
    let mut late = World::new();
    late.remote_endpoint(2, 6, 1, B);
    late.member(B, &[0]);
    let mut early = World::new();
    early.member(B, &[0]);
    early.remote_endpoint(2, 6, 1, B);
    assert_eq!(late.desired(), early.desired());
}

impl World {
    fn new() -> Self {
        Self {
            local: testing::empty_network(vec![slot(0)]),
            network: NetworkView::default(),
            cluster: ClusterView::default(),
            families: Families::BOTH,
        }
    }

    fn member(&mut self, host: HostId, generations: &[Generation]) {
        let slots = generations.iter().map(|generation| Slot {
            generation: *generation,
            public_key: key(host, *generation),
            port: 51820,
            underlay: Vec::new(),
        });
        let member = MemberRecord { slots: slots.collect(), ..MemberRecord::default() };
        self.network.members.insert(host, member);
        let record = HostRecord {
            name: "other".to_owned(),
            underlay: vec![IpAddr::from([192, 0, 2, host.0[0]])],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: Incarnation([0; 16]),
        };
        self.cluster.hosts.insert(host, record);
    }

    fn local_endpoint(&mut self, number: u8, last: u8, claim: u64) {
        let endpoint = LocalEndpoint {
            id: endpoint_id(number),
            addresses: vec![net(ipv4(last), 24)],
            mac: MacAddr::of_address(ipv4(last)),
            mac_given: false,
            claim,
            sandbox: None,
            superseded: false,
        };
        self.local.endpoints.insert(endpoint.id.clone(), endpoint);
    }

    fn remote_endpoint(&mut self, number: u8, last: u8, claim: u64, host: HostId) {
        let address = ipv4(last);
        self.network.endpoints.insert(address, record(number, address, claim, host));
    }

    /// Gives a remote endpoint another address.
    fn also(&mut self, at: IpAddr, address: IpAddr) {
        let mut record = self.network.endpoints.get(&at).unwrap().clone();
        record.addresses.push(address);
        self.network.endpoints.insert(at, record);
    }

    fn derived(&self) -> Option<Desired> {
        let keys = |generation, host| Some(psk(generation, host));
        derive(&self.local, &self.network, &self.cluster, ME, self.families, &keys)
    }

    fn desired(&self) -> Desired {
        self.derived().expect("the network does not linger")
    }

    fn lost(&self) -> BTreeSet<wgnet_proto::EndpointId> {
        superseded(&self.local, &self.network, &self.cluster, ME)
    }
}

fn slot(generation: Generation) -> LocalSlot {
    let private_key = private_key(40 + generation as u8);
    LocalSlot { generation, private_key, made: None, port: 51820 }
}

fn key(host: HostId, generation: Generation) -> PublicKey {
    PublicKey([host.0[0] * 10 + generation as u8; 32])
}

fn psk(generation: Generation, host: HostId) -> PresharedKey {
    PresharedKey::from_bytes([host.0[0] * 10 + generation as u8; 32])
}

fn record(number: u8, address: IpAddr, claim: u64, host: HostId) -> EndpointRecord {
    EndpointRecord {
        addresses: vec![address],
        endpoint: endpoint_id(number),
        host,
        mac: MacAddr::of_address(address),
        claim,
    }
}

fn host(last: u8) -> IpNet {
    ipv4(last).into()
}

fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap()
}
