//! Parts of what is desired and of what is there, so that only they are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wgnet_proto::PublicKey;

use crate::{
    Desired, DesiredPeer, DesiredWireguard, Observed, ObservedPeer, ObservedWireguard, Parts,
};

/// The parts on both sides, with what a network has once; of a peer, only these of its addresses.
pub(super) fn only(
    desired: &Desired,
    observed: &Observed,
    parts: &Parts,
) -> Option<(Desired, Observed)> {
    let mut wireguards = BTreeMap::new();
    let mut seen_wireguards = BTreeMap::new();
    for (name, wanted) in &desired.wireguards {
        let peers = parts.allowed.iter().filter(|((of, _), _)| of == name);
        let peers: Vec<_> = peers.map(|((_, key), addresses)| (key, addresses)).collect();
        let (wanted, seen) = interface(wanted, observed.wireguards.get(name)?, &peers)?;
        wireguards.insert(name.clone(), wanted);
        seen_wireguards.insert(name.clone(), seen);
    }
    // A link that is in use elsewhere, or should not be there, is no part.
    let is_whole = observed.wireguards.len() == desired.wireguards.len();
    let desired = Desired {
        mtu: desired.mtu,
        gateways: desired.gateways.clone(),
        wireguards,
        veths: these(&desired.veths, &parts.veths),
        routes: these(&desired.routes, &parts.routes),
        guard: desired.guard.clone(),
    };
    let observed = Observed {
        pinned: observed.pinned,
        prepared: observed.prepared,
        gateways: observed.gateways.clone(),
        wireguards: seen_wireguards,
        veths: these(&observed.veths, &parts.veths),
        routes: these(&observed.routes, &parts.routes),
        guard: observed.guard.clone(),
        foreign: observed.foreign.clone(),
    };
    is_whole.then_some((desired, observed))
}

fn interface(
    wanted: &DesiredWireguard,
    seen: &ObservedWireguard,
    parts: &[(&PublicKey, &BTreeSet<IpAddr>)],
) -> Option<(DesiredWireguard, ObservedWireguard)> {
    let mut peers = BTreeMap::new();
    let mut seen_peers = BTreeMap::new();
    for (key, addresses) in parts {
        // One that is to be made is made with all its addresses.
        let (wanted, seen) = (wanted.peers.get(*key)?, seen.peers.get(*key)?);
        let of = |allowed: &BTreeSet<IpAddr>| addresses.intersection(allowed).copied().collect();
        let wanted = DesiredPeer {
            preshared_key: wanted.preshared_key.clone(),
            allowed: of(&wanted.allowed),
            ..*wanted
        };
        let seen = ObservedPeer {
            preshared_key: seen.preshared_key.clone(),
            allowed: of(&seen.allowed),
            ..*seen
        };
        peers.insert(**key, wanted);
        seen_peers.insert(**key, seen);
    }
    let wanted =
        DesiredWireguard { private_key: wanted.private_key.clone(), port: wanted.port, peers };
    let seen = ObservedWireguard {
        public_key: seen.public_key,
        port: seen.port,
        mtu: seen.mtu,
        up: seen.up,
        peers: seen_peers,
    };
    Some((wanted, seen))
}

fn these<K: Ord + Clone, V: Clone>(all: &BTreeMap<K, V>, wanted: &BTreeSet<K>) -> BTreeMap<K, V> {
    wanted.iter().filter_map(|key| Some((key.clone(), all.get(key)?.clone()))).collect()
}
