//! The WireGuard interfaces and their peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wgnet_proto::{IfName, PublicKey};

use super::{Hints, KICK, Steps};
use crate::{
    Desired, DesiredPeer, DesiredWireguard, Observed, ObservedPeer, ObservedWireguard, Step,
};

/// Interfaces that must be made anew go before any is made: they may exchange their ports.
pub(super) fn interfaces(desired: &Desired, observed: &Observed, steps: &mut Steps) {
    let stands = |name: &IfName| {
        let pair = desired.wireguards.get(name).zip(observed.wireguards.get(name));
        pair.is_some_and(|(wanted, seen)| is_same(wanted, seen))
    };
    let missing: Vec<_> = desired.wireguards.iter().filter(|(name, _)| !stands(name)).collect();
    for (name, seen) in observed.wireguards.iter().filter(|(name, _)| !stands(name)) {
        let in_the_way = missing.iter().any(|(n, wanted)| *n == name || wanted.port == seen.port);
        let removal = Step::RemoveWireguard { name: name.clone() };
        if in_the_way {
            steps.take(name, removal);
        } else {
            steps.later(removal);
        }
    }
    for (name, wanted) in missing {
        steps.now(Step::CreateWireguard {
            name: name.clone(),
            private_key: wanted.private_key.clone(),
            port: wanted.port,
            mtu: desired.mtu,
        });
    }
    for (name, seen) in &observed.wireguards {
        if stands(name) && !seen.up {
            steps.now(Step::RaiseWireguard { name: name.clone() });
        }
    }
}

pub(super) fn peers(desired: &Desired, observed: &Observed, hints: &Hints, steps: &mut Steps) {
    let none = BTreeMap::new();
    for (name, wanted) in &desired.wireguards {
        let seen = observed.wireguards.get(name).filter(|seen| is_same(wanted, seen));
        let seen = seen.map_or(&none, |seen| &seen.peers);
        Interface { name, hints, steps: &mut *steps }.peers(&wanted.peers, seen);
    }
}

/// An interface of another key or port is another interface, whatever its name.
fn is_same(wanted: &DesiredWireguard, seen: &ObservedWireguard) -> bool {
    seen.port == wanted.port && seen.public_key == Some(wanted.private_key.public())
}

struct Interface<'a> {
    name: &'a IfName,
    hints: &'a Hints,
    steps: &'a mut Steps,
}

impl Interface<'_> {
    fn peers(
        &mut self,
        wanted: &BTreeMap<PublicKey, DesiredPeer>,
        seen: &BTreeMap<PublicKey, ObservedPeer>,
    ) {
        // What one peer gains, WireGuard takes from whichever has it.
        let mut gained = BTreeSet::new();
        for (peer, config) in wanted {
            let remade = self.hints.remake.contains(&(self.name.clone(), *peer));
            match seen.get(peer) {
                Some(seen) if !remade => self.mend(peer, config, seen, &mut gained),
                seen => {
                    if seen.is_some() {
                        let step = Step::RemovePeer { wireguard: self.name.clone(), peer: *peer };
                        self.steps.now(step);
                    }
                    self.add(peer, config);
                    gained.extend(config.allowed.iter().copied());
                }
            }
        }
        for (peer, seen) in seen {
            match wanted.get(peer) {
                None => {
                    let step = Step::RemovePeer { wireguard: self.name.clone(), peer: *peer };
                    self.steps.withdraw(step);
                }
                Some(config) => self.withdraw(peer, config, seen, &gained),
            }
        }
    }

    fn add(&mut self, peer: &PublicKey, config: &DesiredPeer) {
        let keepalive = config.keepalive.or(Some(KICK));
        let config = DesiredPeer { keepalive, ..config.clone() };
        self.steps.now(Step::AddPeer { wireguard: self.name.clone(), peer: *peer, config });
    }

    fn mend(
        &mut self,
        peer: &PublicKey,
        config: &DesiredPeer,
        seen: &ObservedPeer,
        gained: &mut BTreeSet<IpAddr>,
    ) {
        let preshared_key =
            (seen.preshared_key != config.preshared_key).then(|| config.preshared_key.clone());
        let told = self.hints.told.get(&(self.name.clone(), *peer));
        let underlay = config
            .underlay
            .filter(|wanted| seen.underlay.is_none() || told.is_some_and(|told| told != wanted));
        let keepalive = match seen.last_handshake {
            Some(_) => config.keepalive,
            None => config.keepalive.or(Some(KICK)),
        };
        let keepalive = (seen.keepalive != keepalive).then_some(keepalive.unwrap_or(0));
        if preshared_key.is_some() || underlay.is_some() || keepalive.is_some() {
            let wireguard = self.name.clone();
            self.steps.now(Step::UpdatePeer {
                wireguard,
                peer: *peer,
                preshared_key,
                underlay,
                keepalive,
            });
        }
        let addresses: BTreeSet<_> = config.allowed.difference(&seen.allowed).copied().collect();
        if !addresses.is_empty() {
            gained.extend(addresses.iter().copied());
            let wireguard = self.name.clone();
            self.steps.now(Step::AddAllowed { wireguard, peer: *peer, addresses });
        }
    }

    fn withdraw(
        &mut self,
        peer: &PublicKey,
        config: &DesiredPeer,
        seen: &ObservedPeer,
        gained: &BTreeSet<IpAddr>,
    ) {
        if self.hints.remake.contains(&(self.name.clone(), *peer)) {
            return;
        }
        let left = seen.allowed.difference(&config.allowed).copied();
        let addresses: BTreeSet<_> = left.filter(|a| !gained.contains(a)).collect();
        if !addresses.is_empty() {
            let wireguard = self.name.clone();
            self.steps.withdraw(Step::RemoveAllowed { wireguard, peer: *peer, addresses });
        }
    }
}
