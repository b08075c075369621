//! What is derived and planned of what changed alone is what everything together gives.

#![expect(clippy::unwrap_used, reason = "tests may unwrap, in their helpers too")]

use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use wgnet_core::testing::{self, Cluster, Dice, endpoint_id, ipv4, ipv6};
use wgnet_core::{
    Derivation, DesiredPeer, Difference, Families, Hints, Inputs, LocalEndpoint, LocalNetwork,
    Observed, Parts, RouteTarget, Seen, Step, derive, model, plan, plan_parts, superseded,
};
use wgnet_proto::record::EndpointRecord;
use wgnet_proto::{EndpointId, Generation, HostId, IfName, MacAddr, PresharedKey};

/// One host of a cluster, and what it keeps from one change to the next.
struct Host {
    me: HostId,
    local: Arc<LocalNetwork>,
    derivation: Derivation,
    kernel: Seen<Observed>,
    hints: Hints,
}

fn keys(generation: Generation, host: HostId) -> Option<PresharedKey> {
    Some(PresharedKey::from_bytes([host.0[0] ^ generation as u8; 32]))
}

impl Host {
    fn new(me: HostId, cluster: &Cluster) -> Self {
        let local = Arc::new(cluster.locals[&me].clone());
        let (derivation, hints) = (Derivation::default(), Hints::default());
        Self { me, local, derivation, kernel: Seen::Absent, hints }
    }

    /// Follows the cluster; returns what differed.
    fn follow(&mut self, cluster: &Cluster) -> Difference {
        if *self.local != cluster.locals[&self.me] {
            self.local = Arc::new(cluster.locals[&self.me].clone());
        }
        let network = &cluster.view.networks[&self.local.definition.key];
        let (me, families) = (self.me, Families::BOTH);
        let (local, cluster) = (&self.local, &cluster.view);
        let inputs = Inputs { local, network, cluster, me, families, keys: &keys };
        let before = self.derivation.desired().cloned();
        let difference = self.derivation.update(Some(inputs));
        let whole = derive(local, network, cluster, me, families, &keys);
        assert_eq!(self.derivation.desired(), whole.as_ref(), "after {difference:?}");
        assert!(!difference.is_none() || before == whole);
        difference
    }

    /// Brings the kernel up to date; the parts alone lead to the same steps as everything.
    fn apply(&mut self, difference: &Difference) {
        let desired = self.derivation.desired();
        let steps = plan(desired, &self.kernel, &self.hints);
        if let (Some(desired), Difference::Parts(parts)) = (desired, difference)
            && let Seen::Present(observed) = &self.kernel
        {
            let of_parts = plan_parts(desired, observed, parts, &self.hints);
            assert_eq!(of_parts.as_ref(), Some(&steps), "of {parts:#?}");
        }
        let mut at_once = self.kernel.clone();
        assert!(model::apply_all(&mut at_once, &steps));
        for step in steps {
            testing::apply(&mut self.kernel, &mut self.hints, &step);
        }
        assert_eq!(at_once, self.kernel);
        assert!(model::satisfies(desired, &self.kernel));
    }
}

/// Something happens somewhere: an endpoint comes, goes, moves or changes, a record appears that no
/// driver would write, a member comes, goes, or changes its slots.
fn change(cluster: &mut Cluster, dice: &mut Dice) {
    let hosts = cluster.hosts();
    let host = dice.pick(&hosts);
    let kind = dice.below(12);
    let local = cluster.locals.get_mut(&host).unwrap();
    match kind {
        0..4 => {
            let endpoint = endpoint(dice);
            local.endpoints.insert(endpoint.id.clone(), endpoint);
            cluster.publish(host);
        }
        4 | 5 => {
            local.endpoints.pop_first();
            cluster.publish(host);
        }
        6 => {
            for endpoint in local.endpoints.values_mut() {
                endpoint.sandbox = dice.one_in(2).then(|| "/var/run/docker/netns/other".into());
                endpoint.superseded = dice.one_in(4);
            }
        }
        7 | 8 => {
            let LocalEndpoint { id, addresses, mac, claim, .. } = endpoint(dice);
            let mut addresses: Vec<_> = addresses.iter().map(IpNet::addr).collect();
            addresses.extend((0..dice.below(3)).map(|_| ipv4(2 + dice.below(12) as u8)));
            let host = dice.pick(&[host, HostId([77; 16])]);
            let at = addresses[0];
            let record = EndpointRecord { addresses, endpoint: id, host, mac, claim };
            cluster.network().endpoints.insert(at, record);
            if dice.one_in(3) {
                cluster.network().endpoints.weaken(at);
            }
        }
        9 => {
            let at = ipv4(2 + dice.below(12) as u8);
            match dice.one_in(2) {
                true => drop(cluster.network().endpoints.remove(&at)),
                false => cluster.network().endpoints.weaken(at),
            }
        }
        10 => cluster.yield_addresses(),
        _ => match dice.below(4) {
            0 => drop(cluster.network().members.remove(&host)),
            1 => drop(cluster.view.revoked.insert(host)),
            2 => {
                cluster.view.revoked.clear();
                cluster.publish(host);
            }
            _ => cluster.network().generation = dice.pick(&[0, 1]),
        },
    }
}

fn endpoint(dice: &mut Dice) -> LocalEndpoint {
    let primary = ipv4(2 + dice.below(12) as u8);
    let mut addresses = vec![IpNet::new(primary, 24).unwrap()];
    if dice.one_in(2) {
        addresses.push(IpNet::new(ipv6(2 + dice.below(8) as u8), 64).unwrap());
    }
    LocalEndpoint {
        id: endpoint_id(dice.below(16) as u8),
        addresses,
        mac: MacAddr::of_address(primary),
        mac_given: false,
        claim: dice.below(9) as u64,
        sandbox: dice.one_in(2).then(|| "/var/run/docker/netns/box".into()),
        superseded: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_changed_alone_gives_what_everything_gives(
        (mut cluster, mut dice) in (testing::cluster(), testing::dice(120)),
        changes in 1..20_usize,
    ) {
        let mut hosts: Vec<_> =
            cluster.hosts().into_iter().map(|me| Host::new(me, &cluster)).collect();
        for _ in 0..changes {
            // A host that is busy sees several changes at once.
            for host in &mut hosts {
                if !dice.one_in(4) {
                    let difference = host.follow(&cluster);
                    host.apply(&difference);
                }
            }
            change(&mut cluster, &mut dice);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn who_lost_is_found_without_looking_at_all(cluster in testing::cluster(), mut dice in testing::dice(60)) {
        let mut cluster = cluster;
        for _ in 0..5 {
            change(&mut cluster, &mut dice);
        }
        for (host, local) in &cluster.locals {
            let network = &cluster.view.networks[&local.definition.key];
            let lost = superseded(local, network, &cluster.view, *host);
            let desired = derive(local, network, &cluster.view, *host, Families::BOTH, &keys).unwrap();
            for id in &lost {
                let endpoint = &local.endpoints[id];
                let way = desired.routes.get(&endpoint.primary().unwrap().into());
                prop_assert!(!endpoint.superseded && leads_to(way, id).is_none(), "{endpoint:?}");
            }
            let live = local.endpoints.values().filter(|e| !e.superseded);
            let by_other = |e: &&LocalEndpoint| {
                let way = desired.routes.get(&e.primary().unwrap().into());
                !local.endpoints.keys().any(|id| leads_to(way, id).is_some())
            };
            let beaten = live.filter(by_other);
            // Without a common generation there is no route, and with an edge address none either.
            for endpoint in beaten {
                let has_way = desired.routes.contains_key(&endpoint.primary().unwrap().into());
                prop_assert!(!has_way || lost.contains(&endpoint.id), "{endpoint:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn peers_that_are_changed_at_once_end_as_one_after_the_other(
        desired in testing::desired(),
        mut dice in testing::dice(200),
    ) {
        let mut kernel = Seen::Absent;
        testing::reconcile(Some(&desired), &mut kernel, &mut Hints::default());
        let Some(wireguard) = desired.wireguards.keys().next() else { return Ok(()) };
        let step = |dice: &mut Dice| {
            let (wireguard, peer) = (wireguard.clone(), testing::peer_key(dice.below(4) as u8));
            let allowed = (0..dice.below(5)).map(|_| ipv4(dice.below(10) as u8)).collect();
            let (preshared_key, underlay, keepalive) = (None, None, None);
            match dice.below(5) {
                0 => Step::RemovePeer { wireguard, peer },
                1 => Step::RemoveAllowed { wireguard, peer, addresses: allowed },
                2 => Step::AddAllowed { wireguard, peer, addresses: allowed },
                _ => {
                    let config = DesiredPeer { preshared_key, underlay, keepalive, allowed };
                    Step::AddPeer { wireguard, peer, config }
                }
            }
        };
        let steps: Vec<Step> = (0..20).map(|_| step(&mut dice)).collect();
        let mut at_once = kernel.clone();
        let is_all = model::apply_all(&mut at_once, &steps);
        let results: Vec<_> = steps.iter().map(|step| model::apply(&mut kernel, step)).collect();
        prop_assert_eq!(is_all, results.iter().all(Result::is_ok));
        prop_assert_eq!(at_once, kernel);
    }
}

fn leads_to(way: Option<&RouteTarget>, endpoint: &EndpointId) -> Option<()> {
    (way == Some(&RouteTarget::Link(IfName::veth_host(endpoint)))).then_some(())
}

#[test]
fn nothing_new_is_no_difference() {
    let cluster = Cluster::random(&mut testing::dice_of(&[3; 120]));
    let mut host = Host::new(cluster.hosts()[0], &cluster);
    assert_eq!(host.follow(&cluster), Difference::Everything);
    assert_eq!(host.follow(&cluster), Difference::Parts(Parts::default()));
}
