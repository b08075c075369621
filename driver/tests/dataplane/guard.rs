//! The guard stops what a container that lost its interface would send in the clear.

use wgnet_core::{Namespace, Step};
use wgnet_driver::dataplane::Dataplane;
use wgnet_driver::dataplane::linux::{Choice, Linux};

use crate::bench::start;
use crate::host::Host;

/// A container behind docker_gwbridge and, beyond the host, somebody who has an address of the
/// network's subnet.
const SCENE: &str = "
    set -e
    sysctl -qw net.ipv4.ip_forward=1
    ip link add docker_gwbridge type bridge
    ip addr add 172.18.0.1/16 dev docker_gwbridge
    ip link set docker_gwbridge up
    ip netns add c
    ip link add g0 master docker_gwbridge type veth peer name eth1 netns c
    ip link set g0 up
    ip -n c addr add 172.18.0.2/16 dev eth1
    ip -n c link set eth1 up
    ip -n c route add default via 172.18.0.1
    ip netns add beyond
    ip link add out0 type veth peer name out1 netns beyond
    ip addr add 203.0.113.1/24 dev out0
    ip link set out0 up
    ip -n beyond addr add 203.0.113.2/24 dev out1
    ip -n beyond addr add 10.50.0.5/32 dev out1
    ip -n beyond link set out1 up
    ip -n beyond route add default via 203.0.113.1
    ip route add 10.50.0.0/24 via 203.0.113.2
";

/// The host's address is on a bridge with its network card, as hypervisors have it.
const UPLINK_IS_A_BRIDGE: &str = "
    set -e
    ip link add br0 type bridge
    ip addr flush dev out0
    ip link set out0 master br0
    ip addr add 203.0.113.1/24 dev br0
    ip link set br0 up
    ip route add 10.50.0.0/24 via 203.0.113.2
";

/// A plain network with the same subnet; what its containers say to each other may pass through the
/// host's rules too.
const SAME_SUBNET: &str = "
    set -e
    modprobe -q br_netfilter || true
    ip link add br-plain type bridge
    sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
    ip addr add 10.50.0.1/24 dev br-plain
    ip link set br-plain up
    for n in 7 8; do
        ip netns add p$n
        ip link add q$n master br-plain type veth peer name eth0 netns p$n
        ip link set q$n up
        ip -n p$n addr add 10.50.0.$n/24 dev eth0
        ip -n p$n link set eth0 up
        ip -n p$n route add default via 10.50.0.1
    done
";

/// A container's published port, of a kind that ping can ask.
const PUBLISHED: &str = "
    nft -f - << END
    table ip published {
        chain prerouting {
            type nat hook prerouting priority dstnat;
            iifname out0 icmp type echo-request dnat to 172.18.0.2
        }
    }
END
";

struct Guarded {
    host: Host,
    plane: Linux,
    namespace: Namespace,
}

impl Guarded {
    fn start(name: &str, choice: &Choice) -> Self {
        let host = Host::start(name);
        host.sh(SCENE);
        let choice = choice.clone();
        let plane = host.run(async move { start(&choice).await });
        let guarded = Self { host, plane, namespace: Namespace::parse("wgnet-guarded").unwrap() };
        guarded.apply(Step::CreateNamespace);
        guarded
    }

    fn apply(&self, step: Step) {
        let (plane, namespace) = (self.plane.clone(), self.namespace.clone());
        self.host.run(async move { plane.apply(&namespace, &step).await.unwrap() });
    }

    fn guard(&self) {
        self.apply(Step::SetGuard { subnets: ["10.50.0.0/24".parse().unwrap()].into() });
    }

    fn reaches(&self, from: &str, address: &str) -> bool {
        let ping = format!("ip netns exec {from} ping -q -c 1 -W 1 {address}");
        self.host.try_sh(&ping).status.success()
    }

    fn end(self) {
        self.apply(Step::RemoveGuard);
        self.apply(Step::DeleteNamespace);
    }
}

pub(crate) fn a_guarded_subnet_is_not_reached_through_the_bridge(choice: Choice) {
    let it = Guarded::start("guard", &choice);
    assert!(it.reaches("c", "10.50.0.5"), "the scene can show a leak");
    it.guard();
    assert!(!it.reaches("c", "10.50.0.5"), "it leaks");
    assert!(it.reaches("c", "203.0.113.2"), "the way to everybody else stays open");
    it.apply(Step::RemoveGuard);
    assert!(it.reaches("c", "10.50.0.5"));
    it.end();
}

pub(crate) fn a_guarded_subnet_is_not_reached_through_an_uplink_that_is_a_bridge(choice: Choice) {
    let it = Guarded::start("guardbr", &choice);
    it.host.sh(UPLINK_IS_A_BRIDGE);
    assert!(it.reaches("c", "10.50.0.5"), "the scene can show a leak");
    it.guard();
    assert!(!it.reaches("c", "10.50.0.5"), "it leaks");
    assert!(it.reaches("c", "203.0.113.2"), "the way to everybody else stays open");
    it.end();
}

pub(crate) fn a_plain_network_with_a_guarded_subnet_goes_on(choice: Choice) {
    let it = Guarded::start("guardpl", &choice);
    it.host.sh("ip route del 10.50.0.0/24 via 203.0.113.2");
    it.host.sh(SAME_SUBNET);
    assert!(it.reaches("p7", "10.50.0.8") && it.reaches("c", "10.50.0.8"), "the scene works");
    it.guard();
    assert!(it.reaches("p7", "10.50.0.8"), "within a bridge");
    assert!(!it.reaches("c", "10.50.0.8"), "from another bridge");
    it.end();
}

pub(crate) fn a_published_port_answers_a_client_in_a_guarded_subnet(choice: Choice) {
    let it = Guarded::start("guardpub", &choice);
    it.host.sh(PUBLISHED);
    let asks = || it.reaches("beyond", "-I 10.50.0.5 203.0.113.1");
    assert!(asks(), "the scene has a published port");
    it.guard();
    assert!(asks());
    assert!(!it.reaches("c", "10.50.0.5"), "it leaks");
    it.end();
}
