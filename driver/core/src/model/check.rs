//! Whether a kernel is as it should be. Written without the planner, so that it can judge it.

use std::collections::BTreeMap;

use crate::plan::KICK;
use crate::{
    ContainerEnd, Desired, DesiredPeer, DesiredVeth, Observed, ObservedPeer, ObservedVeth,
    RouteTarget, Seen,
};

/// Whether nothing of what we own differs from what it should be.
pub fn satisfies(desired: Option<&Desired>, observed: &Seen<Observed>) -> bool {
    differences(desired, observed).is_empty()
}

/// What differs, a line for each object. Left out: what roaming or a running link may differ in (a
/// peer's underlay address once it has one, an MTU) and what is not ours.
pub fn differences(desired: Option<&Desired>, observed: &Seen<Observed>) -> Vec<String> {
    match (desired, observed) {
        (None, Seen::Absent) => Vec::new(),
        (_, Seen::Unknown) => vec!["the namespace cannot be read".to_owned()],
        (None, Seen::Present(_)) => vec!["the namespace exists".to_owned()],
        (Some(_), Seen::Absent) => vec!["the namespace is missing".to_owned()],
        (Some(desired), Seen::Present(observed)) => compare(desired, observed),
    }
}

fn compare(desired: &Desired, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    expect(observed.pinned, "the namespace is not pinned");
    expect(observed.prepared, "the namespace is not prepared");
    expect(observed.gateways == desired.gateways, "the gateways differ");
    expect(observed.guard == desired.guard, "the guard differs");

    each(&desired.wireguards, &observed.wireguards, "interface", &mut found, |wanted, seen| {
        let same = seen.public_key == Some(wanted.private_key.public())
            && seen.port == wanted.port
            && seen.up;
        let mut found = Vec::new();
        each(&wanted.peers, &seen.peers, "peer", &mut found, peer);
        if !same {
            found.push("key, port or state".to_owned());
        }
        found
    });
    each(&desired.veths, &observed.veths, "veth", &mut found, veth);

    let ours: BTreeMap<_, _> = observed
        .routes
        .iter()
        .filter(
            |(_, target)| !matches!(target, RouteTarget::Link(l) if observed.foreign.contains(l)),
        )
        .map(|(destination, target)| (*destination, target.clone()))
        .collect();
    each(&desired.routes, &ours, "route", &mut found, |wanted, seen| {
        if wanted == seen { Vec::new() } else { vec!["another target".to_owned()] }
    });
    found
}

fn each<K: Ord + std::fmt::Display, W, S>(
    wanted: &BTreeMap<K, W>,
    seen: &BTreeMap<K, S>,
    kind: &str,
    found: &mut Vec<String>,
    compare: impl Fn(&W, &S) -> Vec<String>,
) {
    for (key, wanted) in wanted {
        match seen.get(key) {
            None => found.push(format!("{kind} {key} is missing")),
            Some(seen) => {
                let inner = compare(wanted, seen).into_iter();
                found.extend(inner.map(|what| format!("{kind} {key}: {what}")));
            }
        }
    }
    let extra = seen.keys().filter(|key| !wanted.contains_key(key));
    found.extend(extra.map(|key| format!("{kind} {key} should not be there")));
}

fn peer(wanted: &DesiredPeer, seen: &ObservedPeer) -> Vec<String> {
    let kick = wanted.keepalive.is_none() && seen.last_handshake.is_none();
    let keepalive = if kick { Some(KICK) } else { wanted.keepalive };
    let checks = [
        (seen.allowed == wanted.allowed, "addresses"),
        (seen.preshared_key == wanted.preshared_key, "pre-shared key"),
        (seen.underlay.is_some() || wanted.underlay.is_none(), "no underlay address"),
        (seen.keepalive == keepalive, "keepalive"),
    ];
    failed(&checks)
}

fn veth(wanted: &DesiredVeth, seen: &ObservedVeth) -> Vec<String> {
    let container = match &seen.container {
        ContainerEnd::InContainer(Seen::Present(interface)) if wanted.sandbox.is_some() => {
            interface.up
                && wanted.addresses.iter().all(|a| interface.addresses.contains(a))
                && wanted.container_routes.iter().all(|r| interface.routes.contains(r))
        }
        ContainerEnd::InContainer(_) | ContainerEnd::InHost => true,
    };
    let checks = [
        (seen.endpoint.as_ref() == Some(&wanted.endpoint), "mark"),
        (seen.mac == wgnet_proto::MacAddr::GATEWAY, "MAC address"),
        (seen.up, "down"),
        (container, "the container's interface"),
    ];
    failed(&checks)
}

fn failed(checks: &[(bool, &str)]) -> Vec<String> {
    checks.iter().filter(|(holds, _)| !holds).map(|(_, what)| (*what).to_owned()).collect()
}
