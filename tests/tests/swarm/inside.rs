//! All clear text is inside: links, routes and sockets of the namespace that a network has on a host.

use std::collections::BTreeSet;

use serde_json::Value;
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, Result};
use wgnet_tests::swarm::{Swarm, only_network, status};

/// What the kernel makes in every namespace once a tunnel module is loaded; they stay down.
const FALLBACK: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// One namespace for the network on each host; in it lo, WireGuard, veths and nothing that leads out.
pub(crate) fn everything_clear_is_inside(swarm: &Swarm, everyone: &[Container<'_>]) -> Result<()> {
    for host in swarm.lab.hosts() {
        let network = only_network(host)?;
        let name = host.name();
        assert_eq!(host.sh("ls /run/netns")?.trim(), network.namespace, "{name}");
        let here: Vec<_> = everyone.iter().filter(|it| it.host.name() == name).collect();
        let inside =
            |command: &str| host.sh(&format!("ip netns exec {} {command}", network.namespace));

        links_end_in_containers(name, &inside("ip -d -j link")?, &here)?;
        for family in ["-4", "-6"] {
            let routes = inside(&format!("ip {family} route show table all"))?;
            assert!(routes.lines().all(stays_inside), "{name}: {routes}");
            let rules = inside(&format!("ip {family} rule"))?;
            let ordinary = |rule: &str| rule.contains("from all lookup ");
            assert!(rules.lines().all(ordinary), "{name}: {rules}");
        }
        assert!(inside("ip -4 route")?.contains("unreachable 10."), "{name}");
        // TCP, UDP, raw, packet and unix; newer programs do not know DCCP any more.
        assert_eq!(inside("ss -Han -t -u -w -0 -x")?.trim(), "", "{name}: no socket is inside");
        let processes = host.sh(&format!("ip netns pids {}", network.namespace))?;
        assert_eq!(processes.trim(), "", "{name}: no process is inside");

        let port = network.slots[0].port;
        let sockets = host.sh(&format!("ss -Huan sport = :{port}"))?;
        assert!(
            !sockets.trim().is_empty(),
            "{name}: WireGuard's socket is in the host's namespace"
        );
        the_host_forwards_nothing_to_it(host)?;
        for container in here {
            assert!(
                container.exec(&["ip", "route"])?.contains("/25 via "),
                "the halves of the subnet go by the gateway"
            );
        }
    }
    let members = status(swarm.host(1))?;
    let network = &members.networks[0];
    assert_eq!(network.members.len(), 2);
    assert!(network.members.iter().all(|member| member.handshake_age.is_some()), "{network:?}");
    assert!(network.in_sync && members.problems.is_empty(), "{members:?}");
    Ok(())
}

/// Each veth is one half of a pair whose other half is in a container of the network; WireGuard's interface is
/// the kernel's, or the TUN device of the engine.
fn links_end_in_containers(host: &str, links: &str, here: &[&Container<'_>]) -> Result<()> {
    let links: Vec<Value> = serde_json::from_str(links).unwrap_or_default();
    let (mut ends, mut wireguard) = (BTreeSet::new(), 0);
    for link in &links {
        let name = link["ifname"].as_str().unwrap_or_default();
        match link["linkinfo"]["info_kind"].as_str() {
            Some("veth") if name.starts_with("wgv") => {
                ends.insert((link["ifindex"].as_u64(), link["link_index"].as_u64()));
            }
            Some("wireguard" | "tun") if name == "wg0" => wireguard += 1,
            _ if name == "lo" => {}
            _ => assert!(FALLBACK.contains(&name) && link["operstate"] == "DOWN", "{host}: {link}"),
        }
    }
    assert_eq!(wireguard, 1, "{host}: {links:?}");
    let index = |container: &Container<'_>, file: &str| -> Result<Option<u64>> {
        Ok(container.exec(&["cat", &format!("/sys/class/net/eth0/{file}")])?.trim().parse().ok())
    };
    let mut wanted = BTreeSet::new();
    for container in here {
        wanted.insert((index(container, "iflink")?, index(container, "ifindex")?));
    }
    assert_eq!(ends, wanted, "{host}: veths and the containers' interfaces");
    Ok(())
}

/// Of whatever table and type; a default route is none.
fn stays_inside(route: &str) -> bool {
    let words: Vec<_> = route.split_whitespace().collect();
    if words[0] == "unreachable" {
        return true;
    }
    let device = words.iter().position(|word| *word == "dev").and_then(|at| words.get(at + 1));
    !words.contains(&"default")
        && !words.contains(&"via")
        && device.is_some_and(|it| *it == "lo" || *it == "wg0" || it.starts_with("wgv"))
}

/// For containers that lost their interface and have another.
fn the_host_forwards_nothing_to_it(host: &Host) -> Result<()> {
    let guard = host.sh("for table in $(nft list tables | sed -n 's/^table inet \\(wgnet-guard-.*\\)/\\1/p'); do nft list table inet $table; done")?;
    let drops = |line: &str| line.contains("iifkind \"bridge\"") && line.contains("drop");
    assert!(guard.lines().any(drops), "{}: no guard in {guard}", host.name());
    Ok(())
}
