//! The steps from what is to what should be.
//!
//! # Order
//!
//! A step never needs one that comes later, and nothing that is right is taken away in between:
//! namespace, guard, gateways, WireGuard interfaces, peers and addresses, veths, then the routes
//! into them; only then what is no longer wanted, routes first, links after them, the guard last.
//! So an address that moves has its new way before it loses the old one, and a plan that is cut
//! short anywhere leaves a state from which the next plan goes on.
//!
//! # What a difference is
//!
//! - **Underlay address** of a peer: written when the peer is made, and afterwards only when the
//!   desired one is not what we told last ([`Hints::told`]), or the peer has none. Another one in
//!   the kernel is no reason: the member may have roamed. So where we do not know what we told (the
//!   driver was restarted), what is there stays until another one is desired ([`Hints::adopt`]). A
//!   wrong one is cured by [`Hints::remake`].
//! - **Keepalive**: until a peer's first handshake, [`KICK`] where no option asks for one: that makes
//!   WireGuard start the handshake at once instead of at the first packet. After it, what the option
//!   says.
//! - **Key or port** of an interface: it is another interface, removed and made anew.
//! - **MTU** of what exists: never (a change under running containers is a silent black hole).
//! - **A container's interface**: only what it lacks. While the other end is still in the host's
//!   namespace, Docker is about to move it.

mod links;
mod parts;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use wgnet_proto::{IfName, PublicKey};

use crate::{Desired, Observed, Parts, RouteTarget, Seen, Step};

/// Seconds of keepalive while a peer without a configured one waits for its first handshake: as
/// often as WireGuard itself would try again (REKEY_TIMEOUT).
pub const KICK: u16 = 5;

/// What the kernel cannot tell and the planner must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The underlay address each peer was last given by us. A peer that is missing here is given one
    /// only if it has none.
    pub told: BTreeMap<(IfName, PublicKey), SocketAddr>,
    /// Peers to remove and add again: sent to without a handshake for too long.
    pub remake: BTreeSet<(IfName, PublicKey)>,
}

impl Hints {
    /// After the first look of a restarted driver: what is desired of the peers that are there counts
    /// as told. It may be older than what the kernel knows, but the next one will be newer than both.
    pub fn adopt(&mut self, desired: &Desired, observed: &Observed) {
        for (name, wireguard) in &desired.wireguards {
            let Some(seen) = observed.wireguards.get(name) else { continue };
            for (peer, config) in &wireguard.peers {
                let is_told = seen.peers.get(peer).is_some_and(|seen| seen.underlay.is_some());
                if let Some(underlay) = config.underlay.filter(|_| is_told) {
                    self.told.entry((name.clone(), *peer)).or_insert(underlay);
                }
            }
        }
    }

    /// Keeps the hints true after a step was applied.
    pub fn applied(&mut self, step: &Step) {
        match step {
            Step::AddPeer { wireguard, peer, config } => {
                let key = (wireguard.clone(), *peer);
                self.remake.remove(&key);
                match config.underlay {
                    Some(underlay) => self.told.insert(key, underlay),
                    None => self.told.remove(&key),
                };
            }
            Step::UpdatePeer { wireguard, peer, underlay: Some(underlay), .. } => {
                self.told.insert((wireguard.clone(), *peer), *underlay);
            }
            Step::RemovePeer { wireguard, peer } => {
                let key = (wireguard.clone(), *peer);
                self.told.remove(&key);
                self.remake.remove(&key);
            }
            Step::CreateWireguard { name, .. } | Step::RemoveWireguard { name } => {
                self.told.retain(|(wireguard, _), _| wireguard != name);
                self.remake.retain(|(wireguard, _)| wireguard != name);
            }
            Step::DeleteNamespace => *self = Self::default(),
            Step::CreateNamespace
            | Step::Prepare
            | Step::AddGateway(_)
            | Step::RemoveGateway(_)
            | Step::RaiseWireguard { .. }
            | Step::UpdatePeer { underlay: None, .. }
            | Step::AddAllowed { .. }
            | Step::RemoveAllowed { .. }
            | Step::CreateVeth { .. }
            | Step::FixVeth { .. }
            | Step::RestoreVeth { .. }
            | Step::FixContainer { .. }
            | Step::RemoveVeth { .. }
            | Step::SetRoute { .. }
            | Step::RemoveRoute { .. }
            | Step::SetGuard { .. }
            | Step::RemoveGuard => {}
        }
    }
}

/// The minimal ordered list of steps that makes `observed` into `desired` (`None`: the network must
/// be absent). What is unknown is left alone.
pub fn plan(desired: Option<&Desired>, observed: &Seen<Observed>, hints: &Hints) -> Vec<Step> {
    match (desired, observed) {
        (_, Seen::Unknown) | (None, Seen::Absent) => Vec::new(),
        (None, Seen::Present(observed)) => teardown(observed),
        (Some(desired), Seen::Absent) => difference(desired, &Observed::default(), hints),
        (Some(desired), Seen::Present(observed)) => difference(desired, observed, hints),
    }
}

/// The same as [`plan`] for a kernel that was as desired until these parts of it changed, at the
/// price of the parts. `None` if it cannot have been: then plan everything.
pub fn plan_parts(
    desired: &Desired,
    observed: &Observed,
    parts: &Parts,
    hints: &Hints,
) -> Option<Vec<Step>> {
    if *parts == Parts::default() {
        return Some(Vec::new());
    }
    let (desired, observed) = parts::only(desired, observed, parts)?;
    Some(difference(&desired, &observed, hints))
}

/// The guard goes after the last way into the network and before the namespace: with the namespace
/// gone nobody would look for it again.
fn teardown(observed: &Observed) -> Vec<Step> {
    let veths = observed.veths.keys().map(|name| Step::RemoveVeth { name: name.clone() });
    let guard = (!observed.guard.is_empty()).then_some(Step::RemoveGuard);
    veths.chain(guard).chain([Step::DeleteNamespace]).collect()
}

fn difference(desired: &Desired, observed: &Observed, hints: &Hints) -> Vec<Step> {
    let mut steps = Steps::default();
    namespace(desired, observed, &mut steps);
    wireguard::interfaces(desired, observed, &mut steps);
    wireguard::peers(desired, observed, hints, &mut steps);
    links::veths(desired, observed, &mut steps);
    routes(desired, observed, &mut steps);
    gateways_left(desired, observed, &mut steps);
    if desired.guard.is_empty() && !observed.guard.is_empty() {
        steps.later(Step::RemoveGuard);
    }
    steps.in_order()
}

fn namespace(desired: &Desired, observed: &Observed, steps: &mut Steps) {
    if !observed.pinned {
        steps.now(Step::CreateNamespace);
    }
    if !observed.prepared {
        steps.now(Step::Prepare);
    }
    if !desired.guard.is_empty() && desired.guard != observed.guard {
        steps.now(Step::SetGuard { subnets: desired.guard.clone() });
    }
    for gateway in desired.gateways.difference(&observed.gateways) {
        steps.now(Step::AddGateway(*gateway));
    }
}

fn gateways_left(desired: &Desired, observed: &Observed, steps: &mut Steps) {
    for gateway in observed.gateways.difference(&desired.gateways) {
        steps.later(Step::RemoveGateway(*gateway));
    }
}

fn routes(desired: &Desired, observed: &Observed, steps: &mut Steps) {
    for (destination, target) in &desired.routes {
        let stands = observed.routes.get(destination) == Some(target) && !steps.took(target);
        if !stands {
            let (destination, target) = (*destination, target.clone());
            steps.now(Step::SetRoute { destination, target });
        }
    }
    for (destination, target) in &observed.routes {
        let died = steps.took(target);
        if !died && is_stray(desired, observed, destination, target) {
            steps.unroute(Step::RemoveRoute { destination: *destination });
        }
    }
}

/// A route of ours that nobody wants. Into a foreign link it is not ours.
fn is_stray(
    desired: &Desired,
    observed: &Observed,
    destination: &IpNet,
    target: &RouteTarget,
) -> bool {
    let foreign = matches!(target, RouteTarget::Link(link) if observed.foreign.contains(link));
    !foreign && !desired.routes.contains_key(destination)
}

/// The steps by when they come.
#[derive(Debug, Default)]
struct Steps {
    now: Vec<Step>,
    unroute: Vec<Step>,
    withdraw: Vec<Step>,
    later: Vec<Step>,
    /// Links that an earlier step removes, and their routes with them.
    taken: BTreeSet<IfName>,
}

impl Steps {
    /// What makes or mends, in the order of the calls.
    fn now(&mut self, step: Step) {
        self.now.push(step);
    }

    /// After everything is made: routes nobody wants.
    fn unroute(&mut self, step: Step) {
        self.unroute.push(step);
    }

    /// After the routes: addresses and peers nobody wants.
    fn withdraw(&mut self, step: Step) {
        self.withdraw.push(step);
    }

    /// At the end: links, gateways, the guard.
    fn later(&mut self, step: Step) {
        self.later.push(step);
    }

    /// Removes a link at once, because something else must take its place.
    fn take(&mut self, name: &IfName, removal: Step) {
        self.taken.insert(name.clone());
        self.now.push(removal);
    }

    fn took(&self, target: &RouteTarget) -> bool {
        matches!(target, RouteTarget::Link(link) if self.taken.contains(link))
    }

    fn in_order(self) -> Vec<Step> {
        let mut steps = self.now;
        steps.extend(self.unroute);
        steps.extend(self.withdraw);
        steps.extend(self.later);
        steps
    }
}
