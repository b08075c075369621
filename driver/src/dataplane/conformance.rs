//! What every data plane must do: one suite that the model and Linux with either backend pass.
//!
//! Each claim works in a namespace of its own and leaves it deleted. What a claim needs beyond the
//! data plane itself, somebody's hand and Docker's, is a [`Bench`].

mod adoption;
mod container;
mod dockerd;
mod namespace;
mod peers;
mod route;
mod wireguard;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use wgnet_core::{DesiredPeer, DesiredVeth, Namespace, Observed, RouteTarget, Seen, Step};
use wgnet_proto::{EndpointId, IfName, MacAddr, PresharedKey, PrivateKey, PublicKey};

use super::{Dataplane, DataplaneError, Joined};

/// What somebody may do to a network by hand.
#[derive(Debug, Clone)]
pub enum ByHand {
    RemovePin,
    DeleteLink(IfName),
    SetDown(IfName),
    /// Takes the mark off a link of ours.
    Unmark(IfName),
    /// Makes a link that is nobody's of ours.
    AddLink(IfName),
    DeleteRoute(IpNet),
    DeleteGateway(IpAddr),
    DeleteGuard,
    RemovePeer(IfName, PublicKey),
}

/// What a container's owner may do to its interface.
#[derive(Debug, Clone, Copy)]
pub enum Inside {
    SetDown,
    /// Takes its first address away, and with it the routes that need it.
    DeleteAddress,
    /// And not its addresses.
    DeleteRoutes,
    DeleteInterface,
}

/// A host to run the suite on.
pub trait Bench {
    type Plane: Dataplane;

    fn plane(&self) -> &Self::Plane;

    /// Replaces the data plane as a restart of the driver does.
    fn restart(&mut self) -> impl Future<Output = ()>;

    fn by_hand(&self, namespace: &Namespace, what: &ByHand);

    /// Starts a container and says where its namespace is.
    fn start_container(&self, name: &str) -> PathBuf;

    /// Moves the waiting end of a veth pair into a container and configures it, as Docker does.
    fn join(&self, namespace: &Namespace, name: &IfName, veth: &DesiredVeth, sandbox: &Path);

    fn inside(&self, namespace: &Namespace, name: &IfName, sandbox: &Path, what: Inside);

    fn end_container(&self, sandbox: &Path);

    /// Takes the name of a container's namespace away while a process lives in it.
    fn forget_container(&self, sandbox: &Path);

    /// Starts a dockerd, or ends it, and says by which name it is to be seen.
    fn engine(&self, id: &str, runs: bool) -> String;

    /// Binds a UDP port of the host, or lets go of it.
    fn occupy_port(&self, port: u16, occupied: bool);
}

/// Runs every claim.
///
/// # Panics
///
/// At the first that does not hold.
pub async fn suite(bench: &mut impl Bench) {
    macro_rules! claims {
        ($($module:ident::$claim:ident),* $(,)?) => {$(
            let claim = stringify!($claim).replace('_', " ");
            // What a failure is about is in the line before it.
            eprintln!("{} data plane: {claim}", bench.plane().backend());
            $module::$claim(bench).await;
        )*};
    }
    claims![
        namespace::creating_twice_is_creating_once,
        namespace::an_absent_namespace_is_absent_and_has_nothing_to_remove,
        namespace::preparing_twice_is_preparing_once,
        namespace::deleting_takes_everything_and_can_be_repeated,
        namespace::a_lost_pin_comes_back_to_the_same_namespace,
        namespace::a_restarted_driver_sees_what_was_there,
        namespace::gateways_come_and_go,
        namespace::a_gateway_deleted_by_hand_is_missed,
        namespace::a_guard_is_replaced_as_a_whole,
        namespace::guards_of_two_networks_do_not_touch_each_other,
        namespace::a_guard_deleted_by_hand_is_missed,
        namespace::strangers_links_are_reported_and_left_alone,
        namespace::a_strangers_name_is_not_taken,
        namespace::changes_by_hand_are_reported,
        wireguard::creating_twice_is_creating_once,
        wireguard::another_key_does_not_replace_an_interface,
        wireguard::a_taken_port_is_told_apart,
        wireguard::two_interfaces_live_side_by_side,
        wireguard::removing_takes_the_routes_along,
        wireguard::an_interface_deleted_by_hand_is_made_again,
        wireguard::an_interface_set_down_by_hand_is_raised,
        peers::adding_twice_is_adding_once,
        peers::adding_again_replaces_everything,
        peers::updating_changes_only_what_is_given,
        peers::an_absent_peer_is_not_made_by_changing_it,
        peers::removing_can_be_repeated,
        peers::an_address_moves_to_the_peer_it_is_given_to,
        peers::an_address_is_taken_only_from_the_peer_that_is_named,
        peers::thousands_of_addresses_fit_on_a_peer,
        peers::many_peers_are_made_and_changed_at_once,
        route::a_route_is_replaced_in_one_step,
        route::removing_can_be_repeated,
        route::a_route_to_no_link_is_refused,
        route::many_routes_are_set_at_once,
        route::a_route_deleted_by_hand_is_missed,
        container::a_new_pair_waits_in_the_host,
        container::a_pair_is_set_right,
        container::a_joined_container_is_looked_into_only_when_asked,
        container::a_spoilt_interface_is_set_right,
        container::a_lost_pair_comes_back_into_its_container,
        container::a_dead_container_is_told_apart,
        container::a_container_that_lost_its_name_is_told_apart,
        container::removing_can_be_repeated,
        dockerd::each_start_has_a_name_and_only_as_long_as_it_runs,
        adoption::what_was_carried_out_needs_no_step,
        adoption::a_restarted_driver_has_nothing_to_do,
        adoption::an_option_for_keepalives_is_all_that_changes,
        adoption::a_sweep_takes_the_networks_that_nobody_claims,
    ];
}

/// One network while a claim is about it.
struct Network<'a, P> {
    plane: &'a P,
    namespace: Namespace,
}

impl<'a, P: Dataplane> Network<'a, P> {
    /// Named, not made.
    fn named(plane: &'a P, id: &str) -> Self {
        let namespace = Namespace::parse(&format!("wgnet-{id}")).expect("a name the claim chose");
        Self { plane, namespace }
    }

    async fn made(plane: &'a P, id: &str) -> Self {
        let network = Self::named(plane, id);
        network.apply(Step::CreateNamespace).await;
        network.apply(Step::Prepare).await;
        network
    }

    /// With one WireGuard interface, wg0.
    async fn with_wireguard(plane: &'a P, id: &str, port: u16) -> Self {
        let network = Self::made(plane, id).await;
        network.apply(create_wireguard("wg0", 1, port)).await;
        network
    }

    async fn apply(&self, step: Step) {
        if let Err(error) = self.plane.apply(&self.namespace, &step).await {
            panic!("{} in {step:#?}", text(&error));
        }
    }

    async fn apply_twice(&self, step: Step) {
        self.apply(step.clone()).await;
        self.apply(step).await;
    }

    async fn refused(&self, step: Step) -> DataplaneError {
        let refused = self.plane.apply(&self.namespace, &step).await;
        refused.expect_err("the step should have been refused")
    }

    async fn seen(&self) -> Observed {
        self.look_into(&Joined::new()).await
    }

    async fn look_into(&self, joined: &Joined) -> Observed {
        match self.plane.observe(&self.namespace, joined).await {
            Seen::Present(observed) => observed,
            other => panic!("{} should be there, not {other:?}", self.namespace),
        }
    }

    async fn delete(self) {
        self.apply(Step::RemoveGuard).await;
        self.apply(Step::DeleteNamespace).await;
        let left = self.plane.observe(&self.namespace, &Joined::new()).await;
        assert_eq!(left, Seen::Absent);
    }
}

/// An error with its causes, as people see it.
fn text(error: &DataplaneError) -> String {
    format!("{error}: {}", error.source)
}

fn link(name: &str) -> IfName {
    name.parse().expect("a name the claim chose")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address the claim chose")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network the claim chose")
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn private_key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

/// A key of somebody.
fn peer(number: u8) -> PublicKey {
    PrivateKey::from_random([100 + number; 32]).public()
}

fn preshared(number: u8) -> PresharedKey {
    PresharedKey::from_bytes([number; 32])
}

fn create_wireguard(name: &str, key: u8, port: u16) -> Step {
    Step::CreateWireguard { name: link(name), private_key: private_key(key), port, mtu: 1420 }
}

fn peer_config(allowed: &[&str]) -> DesiredPeer {
    DesiredPeer {
        preshared_key: Some(preshared(9)),
        underlay: Some("192.0.2.7:51820".parse().expect("an address")),
        keepalive: Some(25),
        allowed: ips(allowed),
    }
}

fn add_peer(number: u8, config: &DesiredPeer) -> Step {
    Step::AddPeer { wireguard: link("wg0"), peer: peer(number), config: config.clone() }
}

fn set_route(destination: &str, target: Option<&str>) -> Step {
    let target = target.map_or(RouteTarget::Unreachable, |name| RouteTarget::Link(link(name)));
    Step::SetRoute { destination: net(destination), target }
}

fn endpoint(number: u8) -> EndpointId {
    format!("{number:02x}").repeat(32).parse().expect("64 hex digits")
}

fn veth(number: u8, sandbox: Option<&Path>) -> (IfName, DesiredVeth) {
    let endpoint = endpoint(number);
    let address = IpAddr::from([10, 50, 0, number]);
    let veth = DesiredVeth {
        container_end: IfName::veth_container(&endpoint),
        mac: MacAddr::of_address(address),
        addresses: vec![
            IpNet::new(address, 24).expect("a prefix length of IPv4"),
            net(&format!("fd50::{number:x}/64")),
        ],
        sandbox: sandbox.map(Path::to_owned),
        container_routes: vec![
            (net("10.50.0.0/25"), ip("10.50.0.1")),
            (net("10.50.0.128/25"), ip("10.50.0.1")),
            (net("fd50:0:0:0:8000::/65"), ip("fd50::1")),
            (net("fd50::/65"), ip("fd50::1")),
        ],
        endpoint: endpoint.clone(),
    };
    (IfName::veth_host(&endpoint), veth)
}
