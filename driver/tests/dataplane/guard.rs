//! The guard stops what a container that lost its interface would send in the clear.

use wgnet_core::{Namespace, Step};
use wgnet_driver::dataplane::Dataplane;
use wgnet_driver::dataplane::linux::Choice;

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

pub(crate) fn a_guarded_subnet_is_not_reached_through_the_bridge(choice: Choice) {
    let host = Host::start("guard");
    host.sh(SCENE);
    let plane = host.run(async move { start(&choice).await });
    let namespace = Namespace::parse("wgnet-guarded").unwrap();
    let apply = |step: Step| {
        let (plane, namespace) = (plane.clone(), namespace.clone());
        host.run(async move { plane.apply(&namespace, &step).await.unwrap() });
    };
    let reaches = |address: &str| {
        let ping = format!("ip netns exec c ping -q -c 1 -W 1 {address}");
        host.try_sh(&ping).status.success()
    };
    apply(Step::CreateNamespace);
    assert!(reaches("10.50.0.5"), "the scene can show a leak");
    apply(Step::SetGuard { subnets: ["10.50.0.0/24".parse().unwrap()].into() });
    assert!(!reaches("10.50.0.5"), "it leaks");
    assert!(reaches("203.0.113.2"), "the way to everybody else stays open");
    apply(Step::RemoveGuard);
    assert!(reaches("10.50.0.5"));
    apply(Step::DeleteNamespace);
}
