//! Two hosts with a network each, and containers on them that talk.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use wgnet_core::{DesiredPeer, DesiredVeth, Namespace, RouteTarget, Step};
use wgnet_driver::dataplane::Dataplane;
use wgnet_driver::dataplane::linux::{Choice, Linux};
use wgnet_proto::{EndpointId, IfName, MacAddr, PresharedKey, PrivateKey, PublicKey};

use crate::bench::{join, start};
use crate::host::{Host, sh};

const PORT: u16 = 51820;
const MTU: u16 = 1420;
/// What is searched for on the underlay, as text and as ping's pattern.
const PATTERN: &str = "wgnet-clear-text";

/// By what the hosts reach each other.
#[derive(Clone, Copy)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    fn address(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([192, 0, 2, number]),
            Self::V6 => format!("2001:db8::{number}").parse().unwrap(),
        }
    }

    fn length(self) -> &'static str {
        match self {
            Self::V4 => "24",
            Self::V6 => "64 nodad",
        }
    }
}

/// One host with a network `wgnet-talk` and a container `c` in it.
pub(crate) struct Side {
    number: u8,
    pub(crate) host: Host,
    pub(crate) plane: Linux,
}

pub(crate) fn namespace() -> Namespace {
    Namespace::parse("wgnet-talk").unwrap()
}

fn wg0() -> IfName {
    "wg0".parse().unwrap()
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

pub(crate) fn veth(number: u8) -> (IfName, DesiredVeth) {
    let endpoint: EndpointId = format!("{number:02x}").repeat(32).parse().unwrap();
    let veth = DesiredVeth {
        container_end: IfName::veth_container(&endpoint),
        mac: MacAddr::of_address(address(number, false)),
        addresses: vec![
            IpNet::new(address(number, false), 24).unwrap(),
            IpNet::new(address(number, true), 64).unwrap(),
        ],
        sandbox: Some(Path::new("/run/netns/c").to_owned()),
        container_routes: ["10.50.0.0/25 10.50.0.1", "10.50.0.128/25 10.50.0.1"]
            .iter()
            .chain(&["fd50:0:0:0:8000::/65 fd50::1", "fd50::/65 fd50::1"])
            .map(|route| {
                let (destination, gateway) = route.split_once(' ').unwrap();
                (destination.parse().unwrap(), gateway.parse().unwrap())
            })
            .collect(),
        endpoint: endpoint.clone(),
    };
    (IfName::veth_host(&endpoint), veth)
}

/// The address of a side's container.
fn address(number: u8, v6: bool) -> IpAddr {
    let text = if v6 { format!("fd50::1{number}") } else { format!("10.50.0.1{number}") };
    text.parse().unwrap()
}

fn host_route(address: IpAddr, link: IfName) -> Step {
    Step::SetRoute { destination: address.into(), target: RouteTarget::Link(link) }
}

impl Side {
    pub(crate) fn start(number: u8, choice: &Choice) -> Self {
        let host = Host::start(&format!("host{number}"));
        let choice = choice.clone();
        let plane = host.run(async move { start(&choice).await });
        Self { number, host, plane }
    }

    pub(crate) fn apply(&self, step: Step) {
        let plane = self.plane.clone();
        self.host.run(async move {
            if let Err(error) = plane.apply(&namespace(), &step).await {
                panic!("{error}: {} in {step:?}", error.source);
            }
        });
    }

    /// Everything but the peer and the way to it.
    pub(crate) fn make_network(&self) {
        self.apply(Step::CreateNamespace);
        self.apply(Step::Prepare);
        self.apply(Step::AddGateway("10.50.0.1".parse().unwrap()));
        self.apply(Step::AddGateway("fd50::1".parse().unwrap()));
        self.make_wireguard();
        for subnet in ["10.50.0.0/24", "fd50::/64"] {
            let destination = subnet.parse().unwrap();
            self.apply(Step::SetRoute { destination, target: RouteTarget::Unreachable });
        }
        let (name, veth) = veth(self.number);
        self.apply(Step::CreateVeth { name: name.clone(), veth: veth.clone(), mtu: MTU });
        self.host.sh("ip netns add c && ip -n c link set lo up");
        self.host.run(async move { join(&veth, "c") });
        for v6 in [false, true] {
            self.apply(host_route(address(self.number, v6), name.clone()));
        }
    }

    pub(crate) fn make_wireguard(&self) {
        let private_key = key(self.number);
        self.apply(Step::CreateWireguard { name: wg0(), private_key, port: PORT, mtu: MTU });
    }

    fn meet(&self, other: u8, underlay: IpAddr) {
        let addresses = [address(other, false), address(other, true)];
        let config = DesiredPeer {
            preshared_key: Some(PresharedKey::from_bytes([9; 32])),
            underlay: Some((underlay, PORT).into()),
            keepalive: Some(5),
            allowed: addresses.into(),
        };
        let peer: PublicKey = key(other).public();
        self.apply(Step::AddPeer { wireguard: wg0(), peer, config });
        for address in addresses {
            self.apply(host_route(address, wg0()));
        }
    }

    fn pings(&self, to: IpAddr, more: &str) -> bool {
        self.host.try_sh(&format!("ip netns exec c {} {more}", ping(to))).status.success()
    }
}

/// One that carries [`PATTERN`].
fn ping(to: IpAddr) -> String {
    let pattern: String = PATTERN.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("ping -c 1 -W 1 -p {pattern} {to}")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
    }
}

/// Containers of two hosts reach each other over both families, nothing of what they say can be
/// read between the hosts, and nothing can leave a network but through WireGuard.
pub(crate) fn between_two_hosts(choices: [Choice; 2], underlay: Underlay) {
    let (a, b) = (Side::start(1, &choices[0]), Side::start(2, &choices[1]));
    let there = b.host.namespace();
    let there = there.display();
    a.host.sh("ip link add wgnett0 type veth peer name wgnett1");
    a.host.sh(&format!("ip link set wgnett1 netns {there}"));
    for (side, link) in [(&a, "wgnett0"), (&b, "wgnett1")] {
        let (own, length) = (underlay.address(side.number), underlay.length());
        side.host.sh(&format!("ip addr add {own}/{length} dev {link} && ip link set {link} up"));
        side.make_network();
    }
    a.meet(2, underlay.address(2));
    b.meet(1, underlay.address(1));

    a_capture_finds_what_is_in_the_clear(&a, underlay.address(2));
    let capture = Capture::start(&a.host, "wgnett0");
    for v6 in [false, true] {
        eventually("the containers reach each other", || {
            a.pings(address(2, v6), "") && b.pings(address(1, v6), "")
        });
    }
    let whole = MTU - 28;
    assert!(a.pings(address(2, false), &format!("-M do -s {whole}")), "the whole MTU is usable");
    assert!(!a.pings(address(77, false), ""), "an address of nobody answers");
    connections_agree_on_segments_that_fit(&a, &b);
    for side in [&a, &b] {
        only_wireguard_leads_out(side);
        only_the_host_has_the_socket(side);
    }
    nothing_leaves_without_wireguard(&a, &b, underlay);
    a_lost_pair_carries_traffic_again(&a);
    let (packets, clear) = capture.end();
    assert!(packets > 5, "the capture saw only {packets} packets");
    assert_eq!(clear, 0, "what containers say can be read on the underlay");
    the_namespace_dies_with_the_network(&a);
}

/// Or it would say nothing of what it does not find.
fn a_capture_finds_what_is_in_the_clear(a: &Side, there: IpAddr) {
    let capture = Capture::start(&a.host, "wgnett0");
    eventually("the hosts reach each other", || a.host.try_sh(&ping(there)).status.success());
    // What is on its way through tcpdump is lost at its end.
    eventually("a ping in the clear is found", || capture.clear() > 0);
    capture.end();
}

/// Even if a container's interface has a larger MTU than the network: what its SYN offers arrives as what fits.
fn connections_agree_on_segments_that_fit(a: &Side, b: &Side) {
    a.host.sh("ip -n c link set eth0 mtu 9000");
    for (v6, headers) in [(false, 40), (true, 60)] {
        b.host.sh(
            "mkdir -p /run/netns/syn; rm -f /run/netns/syn/*; ip netns exec c timeout 60 tcpdump -l -n -c 1 -i eth0 \
             --immediate-mode 'dst port 9' > /run/netns/syn/packets 2> /run/netns/syn/errors &",
        );
        eventually("tcpdump listens", || {
            b.host.try_sh("grep -q listening /run/netns/syn/errors").status.success()
        });
        let mut seen = String::new();
        eventually("a SYN arrives", || {
            let to = address(2, v6);
            a.host.try_sh(&format!("ip netns exec c timeout 5 bash -c ': > /dev/tcp/{to}/9'"));
            seen = b.host.sh("cat /run/netns/syn/packets");
            seen.contains("Flags [S]")
        });
        assert!(seen.contains(&format!("mss {},", MTU - headers)), "{seen}");
    }
    a.host.sh(&format!("ip -n c link set eth0 mtu {MTU}"));
}

/// What passes a link of a host, while it lasts.
struct Capture<'a> {
    host: &'a Host,
    link: &'static str,
}

impl<'a> Capture<'a> {
    fn start(host: &'a Host, link: &'static str) -> Self {
        host.sh("mkdir -p /run/netns/capture");
        let capture = Self { host, link };
        capture.begin();
        capture
    }

    fn begin(&self) {
        let link = self.link;
        self.host.sh(&format!(
            "tcpdump --immediate-mode -U -Z root -n -i {link} -w /run/netns/capture/packets \
             > /dev/null 2> /run/netns/capture/errors & echo $! > /run/netns/capture/pid"
        ));
        eventually("tcpdump listens", || {
            self.host.try_sh("grep -q listening /run/netns/capture/errors").status.success()
        });
    }

    fn stop(&self) {
        self.host.try_sh("kill $(cat /run/netns/capture/pid) 2> /dev/null");
    }

    /// Packets seen, and how often the pattern was in them.
    fn end(self) -> (usize, usize) {
        self.stop();
        eventually("tcpdump ends", || {
            self.host.try_sh("grep -q captured /run/netns/capture/errors").status.success()
        });
        let said = self.host.sh("cat /run/netns/capture/errors");
        let count = |line: &str| line.split_once(" packet").map(|(count, _)| count.parse());
        let packets = said.lines().find(|line| line.ends_with(" captured")).and_then(count);
        (packets.expect(&said).expect(&said), self.clear())
    }

    /// How often the pattern is in what was seen so far.
    fn clear(&self) -> usize {
        let found = format!("grep -a -o '{PATTERN}' /run/netns/capture/packets | wc -l");
        self.host.sh(&found).trim().parse().unwrap()
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn only_wireguard_leads_out(side: &Side) {
    let links = side.host.sh(&format!("ip -n {} -o link", namespace()));
    for line in links.lines() {
        let name = line.split(": ").nth(1).unwrap().split('@').next().unwrap();
        let known = ["lo", "wg0"].contains(&name) || name.starts_with("wgv");
        let idle = line.contains("state DOWN") || !line.contains(",UP");
        assert!(known || idle, "what is this link? {line}");
    }
    for family in ["-4", "-6"] {
        let routes = side.host.sh(&format!("ip -n {} {family} route", namespace()));
        assert!(!routes.contains("default"), "there is a way out: {routes}");
    }
}

fn only_the_host_has_the_socket(side: &Side) {
    let socket = format!(":{PORT:04X} ");
    let sockets = "cat /proc/thread-self/net/udp /proc/thread-self/net/udp6";
    let inside = side.host.sh(&format!("ip netns exec {} {sockets}", namespace()));
    assert_eq!(
        inside.lines().filter(|line| !line.contains("local_address")).count(),
        0,
        "{inside}"
    );
    let host = side.host.run(async move { sh(sockets) });
    assert!(host.contains(&socket), "nobody listens on port {PORT} of the host: {host}");
}

/// The interface is deleted under traffic, and made again.
fn nothing_leaves_without_wireguard(a: &Side, b: &Side, underlay: Underlay) {
    a.host.sh(&format!("ip -n {} link del wg0", namespace()));
    for v6 in [false, true] {
        let seen = a.host.try_sh(&format!("ip netns exec c {}", ping(address(2, v6))));
        let said = String::from_utf8_lossy(&seen.stdout).to_lowercase();
        assert!(!seen.status.success() && said.contains("unreachable"), "{said}");
    }
    a.make_wireguard();
    a.meet(b.number, underlay.address(b.number));
    eventually("the remade interface carries traffic", || a.pings(address(2, false), ""));
}

/// As the planner repairs it.
fn a_lost_pair_carries_traffic_again(a: &Side) {
    let (name, veth) = veth(a.number);
    a.host.sh("ip -n c link del eth0");
    assert!(!a.pings(address(2, false), ""));
    a.apply(Step::RestoreVeth { name: name.clone(), veth, mtu: MTU });
    for v6 in [false, true] {
        a.apply(host_route(address(a.number, v6), name.clone()));
        eventually("the restored pair carries traffic", || a.pings(address(2, v6), ""));
    }
}

fn the_namespace_dies_with_the_network(side: &Side) {
    side.apply(Step::RemoveGuard);
    side.apply(Step::DeleteNamespace);
    let left = side.host.sh("ip -o link; nft list tables; ls /run/netns");
    assert!(!left.contains("wgnet-") && !left.contains("wgv") && !left.contains("wgc"), "{left}");
}
