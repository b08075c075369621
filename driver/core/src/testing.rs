//! Random networks for property tests: what should be, what is, and whole clusters.
//!
//! Everything is drawn from a small stock of names, keys and addresses, so that what is wanted and
//! what is there meet often. The same bytes always give the same network, smaller bytes a simpler one.

mod cluster;
mod damage;
mod network;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use wgnet_proto::{EndpointId, IfName, PrivateKey, PublicKey};

pub use cluster::{Cluster, network as empty_network};

use crate::plan::Hints;
use crate::{Desired, Observed, Seen, Step, model, plan};

/// What one network should look like.
pub fn desired() -> impl Strategy<Value = Desired> {
    dice(80).prop_map(|mut dice| network::desired(&mut dice))
}

/// What one network may look like: anything a kernel can hold.
pub fn observed() -> impl Strategy<Value = Seen<Observed>> {
    dice(110).prop_map(|mut dice| network::observed(&mut dice))
}

/// What is left of a network that was as it should be, after somebody did damage to it by hand.
pub fn damaged(desired: &Desired, dice: &mut Dice) -> Seen<Observed> {
    damage::some(desired, dice)
}

/// What the driver may remember of the peers.
pub fn hints() -> impl Strategy<Value = Hints> {
    dice(20).prop_map(|mut dice| network::hints(&mut dice))
}

/// Some hosts that share a network, with everything they published.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    dice(120).prop_map(|mut dice| Cluster::random(&mut dice))
}

/// So many choices to make.
pub fn dice(choices: usize) -> impl Strategy<Value = Dice> {
    vec(any::<u8>(), choices).prop_map(|bytes| Dice { bytes, next: 0 })
}

/// These choices.
pub fn dice_of(bytes: &[u8]) -> Dice {
    Dice { bytes: bytes.to_vec(), next: 0 }
}

/// Plans and applies, as the reconciler does, and makes sure that nothing is left to do.
///
/// # Panics
///
/// When a step is refused or the plan of a repaired network is not empty.
pub fn reconcile(desired: Option<&Desired>, kernel: &mut Seen<Observed>, hints: &mut Hints) {
    for step in plan(desired, kernel, hints) {
        apply(kernel, hints, &step);
    }
    let rest = plan(desired, kernel, hints);
    assert!(rest.is_empty(), "still to do after everything was done: {rest:#?}");
}

/// Applies one step and keeps the hints true.
///
/// # Panics
///
/// When the model refuses the step.
pub fn apply(kernel: &mut Seen<Observed>, hints: &mut Hints, step: &Step) {
    if let Err(refusal) = model::apply(kernel, step) {
        panic!("{refusal}: {step:#?}\nin {kernel:#?}");
    }
    hints.applied(step);
}

/// A supply of random choices that shrinks towards the first of each.
#[derive(Debug, Clone)]
pub struct Dice {
    bytes: Vec<u8>,
    next: usize,
}

impl Dice {
    /// A number below `sides`; 0 when the supply is used up.
    pub fn below(&mut self, sides: usize) -> usize {
        let byte = self.bytes.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        usize::from(byte) % sides
    }

    /// Once in `sides` times, but for the simplest choice.
    pub fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == sides - 1
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

/// The private key with this number.
pub fn private_key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

/// The public key of a peer with this number, whose private half nobody knows.
pub fn peer_key(number: u8) -> PublicKey {
    PublicKey([100 + number; 32])
}

/// The endpoint with this number, below 16.
pub fn endpoint_id(number: u8) -> EndpointId {
    let digits = format!("{number:x}").repeat(64);
    digits.parse().expect("64 hex digits")
}

/// An address of 10.50.0.0/24.
pub fn ipv4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 50, 0, last).into()
}

/// An address of fd50::/64.
pub fn ipv6(last: u8) -> IpAddr {
    Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, last.into()).into()
}

/// The name of an interface.
pub fn link(name: &str) -> IfName {
    name.parse().expect("a name the tests chose")
}
