//! Whether this host's own firewall lets WireGuard's UDP in. Rules are read, not tried: a packet to
//! one port is followed through them, and where a rule cannot be judged nothing is claimed.

mod iptables;
mod nft;
mod rules;

use wgnet_proto::status::DriverStatus;

use super::seen::output;
use super::{Area, Finding};
use crate::settings::Cluster;
use rules::{Fate, Ruleset};

const AREA: &str = "firewall";

pub(super) fn area(cluster: &Cluster, status: Option<&DriverStatus>) -> Area {
    let used = status.map(|status| {
        let slots = status.networks.iter().flat_map(|network| &network.slots);
        slots.map(|slot| slot.port).collect::<Vec<_>>()
    });
    let mut ports = used.unwrap_or_default();
    ports.push(cluster.ports.0);
    ports.sort_unstable();
    ports.dedup();
    let nft = output("nft", &["-j", "list", "ruleset"]).and_then(|json| nft::parse(&json));
    let saved =
        ["iptables-save", "iptables-legacy-save"].map(|name| output(name, &["-t", "filter"]));
    let saved = saved.into_iter().flatten().map(|text| iptables::parse(&text));
    let rulesets: Vec<Ruleset> = nft.into_iter().chain(saved).collect();
    if rulesets.is_empty() {
        return Area::unseen(AREA, "neither nft nor iptables-save tells the rules (are you root?)");
    }
    Area::new(AREA, findings(&rulesets, &ports, cluster.ports))
}

fn findings(rulesets: &[Ruleset], ports: &[u16], range: (u16, u16)) -> Vec<Finding> {
    let closed = |port: &&u16| {
        rulesets.iter().any(|ruleset| {
            ruleset.inputs().any(|chain| ruleset.fate(chain, **port) == Fate::Dropped)
        })
    };
    let closed: Vec<u16> = ports.iter().filter(closed).copied().collect();
    if closed.is_empty() {
        return Vec::new();
    }
    let shown: Vec<String> = closed.iter().take(8).map(ToString::to_string).collect();
    let (first, last) = range;
    vec![Finding::error(
        "firewall-closed",
        format!("this host's own firewall drops UDP to port {}", shown.join(", ")),
        "other hosts cannot begin a session with this one; its containers are reached only if it begins",
        format!(
            "nft insert rule inet filter input udp dport {first}-{last} accept, or: iptables -I INPUT -p udp --dport {first}:{last} -j ACCEPT; and keep it where your rules are kept"
        ),
    )]
}
