//! What must hold for every plan, on any network a kernel can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use wgnet_core::testing::{self, Cluster, Dice};
use wgnet_core::{
    Desired, Hints, LocalEndpoint, Observed, RouteTarget, Seen, Step, model, plan, superseded,
};
use wgnet_proto::{EndpointId, HostId, IfName, MacAddr, PublicKey};

/// Together 20 500 cases.
fn cases(cases: u32) -> ProptestConfig {
    let failures = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(failures)),
        ..ProptestConfig::default()
    }
}

/// What is wanted, what is there (anything, or a damaged network, of this or another wish) and what
/// the driver remembers.
fn situation() -> impl Strategy<Value = (Option<Desired>, Seen<Observed>, Hints)> {
    let wanted = prop_oneof![9 => testing::desired().prop_map(Some), 1 => Just(None)];
    let parts = (wanted, testing::desired(), testing::observed(), testing::dice(8));
    (parts, testing::hints()).prop_map(|((wanted, other, any, mut dice), hints)| {
        let seen = match dice.below(3) {
            0 => any,
            1 => testing::damaged(wanted.as_ref().unwrap_or(&other), &mut dice),
            _ => testing::damaged(&other, &mut dice),
        };
        (wanted, seen, hints)
    })
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn a_plan_converges_and_a_second_one_is_empty((wanted, seen, hints) in situation()) {
        let (mut kernel, mut hints) = (seen.clone(), hints);
        testing::reconcile(wanted.as_ref(), &mut kernel, &mut hints);
        if seen == Seen::Unknown {
            prop_assert_eq!(kernel, Seen::Unknown);
        } else {
            let left = model::differences(wanted.as_ref(), &kernel);
            prop_assert!(left.is_empty(), "{left:#?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn every_step_changes_something((wanted, seen, hints) in situation()) {
        let mut kernel = seen.clone();
        for step in plan(wanted.as_ref(), &seen, &hints) {
            let before = kernel.clone();
            testing::apply(&mut kernel, &mut Hints::default(), &step);
            // The kernel may have learnt by itself what we have to tell it.
            let told = matches!(step, Step::UpdatePeer { .. });
            prop_assert!(told || kernel != before, "idle: {step:#?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(2500))]

    #[test]
    fn a_change_of_one_endpoint_touches_no_other(
        (before, change) in (testing::cluster(), testing::dice(8))
    ) {
        one_change(before, change)?;
    }
}

proptest! {
    #![proptest_config(cases(2500))]

    #[test]
    fn what_is_not_ours_is_left_alone((wanted, seen, hints) in situation()) {
        let foreign = foreign_things(&seen);
        let mut kernel = seen.clone();
        for step in plan(wanted.as_ref(), &seen, &hints) {
            testing::apply(&mut kernel, &mut Hints::default(), &step);
            if let Seen::Present(network) = &kernel {
                let Seen::Present(before) = &seen else { continue };
                prop_assert_eq!(&network.foreign, &before.foreign);
                for (destination, target) in &foreign {
                    let ours = wanted.as_ref().is_some_and(|w| w.routes.contains_key(destination));
                    prop_assert!(ours || network.routes.get(destination) == Some(target));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn a_plan_cut_short_anywhere_is_taken_up_again(
        (wanted, seen, hints) in situation(),
        cut: prop::sample::Index,
        restarted: bool,
    ) {
        let steps = plan(wanted.as_ref(), &seen, &hints);
        let (mut kernel, mut hints) = (seen.clone(), hints);
        for step in &steps[..cut.index(steps.len() + 1)] {
            testing::apply(&mut kernel, &mut hints, step);
        }
        if restarted {
            hints = Hints::default();
        }
        testing::reconcile(wanted.as_ref(), &mut kernel, &mut hints);
        prop_assert!(seen == Seen::Unknown || model::satisfies(wanted.as_ref(), &kernel));
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn no_step_breaks_what_works((wanted, seen, hints) in situation()) {
        let steps = plan(wanted.as_ref(), &seen, &hints);
        let sacrificed = sacrificed(&steps);
        let mut kernel = seen.clone();
        for step in &steps {
            let before = kernel.clone();
            testing::apply(&mut kernel, &mut Hints::default(), step);
            prop_assert!(in_order(&kernel, step, &before), "out of order: {step:#?}");
            let Some(wanted) = &wanted else { continue };
            for (destination, _) in wanted.routes.iter().filter(|(d, _)| is_host(d)) {
                let old = way(&before, destination.addr());
                let new = way(&kernel, destination.addr());
                let kept = old.is_none() || new.is_some();
                let excused = old.is_some_and(|w| sacrificed.iter().any(|s| s.stops(&w)));
                prop_assert!(kept || excused, "{destination} lost its way by {step:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn the_same_input_gives_the_same_steps((wanted, seen, hints) in situation()) {
        let again = plan(wanted.clone().as_ref(), &seen.clone(), &hints.clone());
        prop_assert_eq!(plan(wanted.as_ref(), &seen, &hints), again);
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn all_hosts_agree_where_an_address_is(cluster in testing::cluster()) {
        agreement(&cluster)?;
    }
}

/// Adds, moves or removes one endpoint somewhere; every host may touch its addresses only, and in a
/// constant number of steps.
fn one_change(mut cluster: Cluster, mut dice: Dice) -> Result<(), TestCaseError> {
    let hosts = cluster.hosts();
    let mut kernels: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (mut kernel, mut hints) = (Seen::Absent, Hints::default());
            testing::reconcile(cluster.desired(*host).as_ref(), &mut kernel, &mut hints);
            (*host, kernel, hints)
        })
        .collect();

    let changed = dice.pick(&hosts);
    let before = cluster.clone();
    let local = cluster.locals.get_mut(&changed).expect("one of the hosts");
    let endpoint = if dice.one_in(3) {
        let Some((_, gone)) = local.endpoints.pop_first() else {
            return Ok(());
        };
        gone
    } else {
        // New, or moved here from wherever its address is.
        let last = dice.pick(&[200, 2, 3, 4, 5, 6, 7]);
        let new = sample_endpoint(&testing::endpoint_id(15), last);
        local.endpoints.insert(new.id.clone(), new.clone());
        new
    };
    let touched = connected(&before, &endpoint);
    cluster.publish(changed);
    cluster.yield_addresses();

    for (host, kernel, hints) in &mut kernels {
        let wanted = cluster.desired(*host);
        let steps = plan(wanted.as_ref(), kernel, hints);
        prop_assert!(steps.len() <= 8 * touched.len().max(1), "too many: {steps:#?}");
        for step in &steps {
            let addresses = addresses_of(step);
            prop_assert!(addresses.is_subset(&touched), "{step:#?} beyond {touched:?}");
            let heavy = matches!(
                step,
                Step::AddPeer { .. }
                    | Step::RemovePeer { .. }
                    | Step::CreateWireguard { .. }
                    | Step::RemoveWireguard { .. }
                    | Step::Prepare
                    | Step::CreateNamespace
                    | Step::DeleteNamespace
            );
            prop_assert!(!heavy, "for one endpoint: {step:#?}");
        }
    }
    Ok(())
}

/// The endpoint's addresses, and those of endpoints that it has an address in common with: what one
/// loses, the other may get.
fn connected(cluster: &Cluster, endpoint: &LocalEndpoint) -> BTreeSet<IpAddr> {
    let mut touched: BTreeSet<IpAddr> = endpoint.addresses.iter().map(|a| a.addr()).collect();
    loop {
        let size = touched.len();
        for other in cluster.locals.values().flat_map(|local| local.endpoints.values()) {
            let addresses: BTreeSet<IpAddr> = other.addresses.iter().map(|a| a.addr()).collect();
            if !other.superseded && !addresses.is_disjoint(&touched) {
                touched.extend(addresses);
            }
        }
        if touched.len() == size {
            return touched;
        }
    }
}

/// An endpoint that was just created: its claim is above all that were seen.
fn sample_endpoint(id: &EndpointId, last: u8) -> LocalEndpoint {
    let address = testing::ipv4(last);
    LocalEndpoint {
        id: id.clone(),
        addresses: vec![IpNet::new(address, 24).expect("a prefix of IPv4")],
        mac: MacAddr::of_address(address),
        mac_given: false,
        claim: 100,
        sandbox: None,
        superseded: false,
    }
}

/// The containers' addresses a step is about.
fn addresses_of(step: &Step) -> BTreeSet<IpAddr> {
    match step {
        Step::AddAllowed { addresses, .. } | Step::RemoveAllowed { addresses, .. } => {
            addresses.clone()
        }
        Step::SetRoute { destination, .. } | Step::RemoveRoute { destination } => {
            BTreeSet::from([destination.addr()])
        }
        Step::CreateVeth { veth, .. }
        | Step::FixVeth { veth, .. }
        | Step::RestoreVeth { veth, .. }
        | Step::FixContainer { veth, .. } => veth.addresses.iter().map(|a| a.addr()).collect(),
        _ => BTreeSet::new(),
    }
}

/// An address has one home at most; every host that shares a generation with it sends there, and
/// takes packets from there.
fn agreement(cluster: &Cluster) -> Result<(), TestCaseError> {
    let mut homes: BTreeMap<IpAddr, HostId> = BTreeMap::new();
    for host in cluster.hosts() {
        let wanted = cluster.desired(host).expect("no host lingers");
        for (destination, target) in &wanted.routes {
            if matches!(target, RouteTarget::Link(link) if wanted.veths.contains_key(link)) {
                let other = homes.insert(destination.addr(), host);
                prop_assert!(other.is_none(), "{destination} at {host} and {other:?}");
            }
        }
        let network = &cluster.view.networks[&cluster.locals[&host].definition.key];
        let lost = superseded(&cluster.locals[&host], network, &cluster.view, host);
        prop_assert!(lost.is_empty());
    }
    for here in cluster.hosts() {
        let wanted = cluster.desired(here).expect("no host lingers");
        let mut kernel = Seen::Absent;
        testing::reconcile(Some(&wanted), &mut kernel, &mut Hints::default());
        for (address, home) in homes.iter().filter(|(_, home)| **home != here) {
            let generations = |host: &HostId| -> BTreeSet<u32> {
                cluster.locals[host].slots.iter().map(|s| s.generation).collect()
            };
            let (mine, theirs) = (generations(&here), generations(home));
            let common: Vec<u32> = mine.intersection(&theirs).copied().collect();
            let slot = |g: u32| cluster.locals[home].slots.iter().find(|s| s.generation == g);
            for generation in &common {
                let key = slot(*generation).expect("a common one").private_key.public();
                let interface = &wanted.wireguards[&IfName::wireguard(*generation)];
                prop_assert!(interface.peers[&key].allowed.contains(address));
            }
            let Some(way) = way(&kernel, *address) else {
                prop_assert!(common.is_empty(), "{here} has no way to {address} at {home}");
                continue;
            };
            let keys: Vec<_> =
                common.iter().filter_map(|g| Some(slot(*g)?.private_key.public())).collect();
            prop_assert!(matches!(&way, Way::Peer(_, key) if keys.contains(key)));
        }
    }
    Ok(())
}

/// Where a packet to an address goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Veth(IfName),
    Peer(IfName, PublicKey),
}

fn way(kernel: &Seen<Observed>, address: IpAddr) -> Option<Way> {
    let Seen::Present(network) = kernel else {
        return None;
    };
    let RouteTarget::Link(link) = network.routes.get(&address.into())? else {
        return None;
    };
    if network.veths.get(link).is_some_and(|veth| veth.up) {
        return Some(Way::Veth(link.clone()));
    }
    let wireguard = network.wireguards.get(link).filter(|wireguard| wireguard.up)?;
    let owner = wireguard.peers.iter().find(|(_, peer)| peer.allowed.contains(&address));
    owner.map(|(key, _)| Way::Peer(link.clone(), *key))
}

/// What a plan gives up on purpose, because it must be made anew.
enum Sacrifice {
    Link(IfName),
    Peer(IfName, PublicKey),
}

impl Sacrifice {
    fn stops(&self, way: &Way) -> bool {
        match (self, way) {
            (Self::Link(link), Way::Veth(l) | Way::Peer(l, _)) => link == l,
            (Self::Peer(link, peer), Way::Peer(l, p)) => link == l && peer == p,
            (Self::Peer(..), Way::Veth(_)) => false,
        }
    }
}

/// Links of a wrong key, port or mark whose place or port another takes, and peers that do not
/// answer.
fn sacrificed(steps: &[Step]) -> Vec<Sacrifice> {
    let makes = steps.iter().rposition(|s| {
        matches!(
            s,
            Step::CreateWireguard { .. } | Step::CreateVeth { .. } | Step::RestoreVeth { .. }
        )
    });
    let early = &steps[..makes.map_or(0, |last| last + 1)];
    let links = early.iter().filter_map(|step| match step {
        Step::RemoveWireguard { name } | Step::RemoveVeth { name } => {
            Some(Sacrifice::Link(name.clone()))
        }
        _ => None,
    });
    let peers = steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::RemovePeer { wireguard, peer } => {
            let again = steps[at..].iter().any(
                |s| matches!(s, Step::AddPeer { wireguard: w, peer: p, .. } if w == wireguard && p == peer),
            );
            again.then(|| Sacrifice::Peer(wireguard.clone(), *peer))
        }
        _ => None,
    });
    links.chain(peers).collect()
}

/// No route into a missing link, no address with two owners, no namespace gone before its guard, no
/// container reachable before the guard stands.
fn in_order(kernel: &Seen<Observed>, step: &Step, before: &Seen<Observed>) -> bool {
    if let (Step::DeleteNamespace, Seen::Present(network)) = (step, before) {
        return network.guard.is_empty() && network.veths.is_empty();
    }
    let Seen::Present(network) = kernel else {
        return true;
    };
    let linked = network.routes.values().all(|target| match target {
        RouteTarget::Link(link) => {
            network.wireguards.contains_key(link)
                || network.veths.contains_key(link)
                || network.foreign.contains(link)
        }
        RouteTarget::Unreachable => true,
    });
    let single = network.wireguards.values().all(|wireguard| {
        let owned: Vec<_> = wireguard.peers.values().flat_map(|p| &p.allowed).collect();
        owned.len() == owned.iter().collect::<BTreeSet<_>>().len()
    });
    linked && single
}

fn is_host(destination: &IpNet) -> bool {
    destination.prefix_len() == destination.max_prefix_len()
}

fn foreign_things(seen: &Seen<Observed>) -> Vec<(IpNet, RouteTarget)> {
    let Seen::Present(network) = seen else {
        return Vec::new();
    };
    let through = |target: &RouteTarget| matches!(target, RouteTarget::Link(link) if network.foreign.contains(link));
    let routes = network.routes.iter().filter(|(_, target)| through(target));
    routes.map(|(destination, target)| (*destination, target.clone())).collect()
}
