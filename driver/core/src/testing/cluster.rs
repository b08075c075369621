//! Hosts that share a network, and what they published of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord, Slot};
use wgnet_proto::{EndpointId, Generation, HostId, Incarnation, MacAddr, PresharedKey};

use super::{Dice, endpoint_id, ipv4, ipv6, private_key};
use crate::{
    ClusterView, Desired, Families, LocalEndpoint, LocalNetwork, LocalSlot, NetworkDefinition,
    NetworkOptions, NetworkView, Subnet, derive, superseded,
};

/// Some hosts of one network.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub locals: BTreeMap<HostId, LocalNetwork>,
    pub view: ClusterView,
}

impl Cluster {
    /// Up to four hosts with up to three endpoints each, whose addresses sometimes collide, in the
    /// middle of a rotation or not; everything is published, and losers know that they lost.
    pub fn random(dice: &mut Dice) -> Self {
        let mut cluster = Self { locals: BTreeMap::new(), view: ClusterView::default() };
        cluster.network().generation = dice.pick(&[0, 1]);
        let mut number = 0;
        for host in 0..=dice.below(4) as u8 {
            let id = HostId([host + 1; 16]);
            let mut local = network(slots(host, dice));
            for _ in 0..dice.below(4) {
                let endpoint = endpoint(number, dice);
                local.endpoints.insert(endpoint.id.clone(), endpoint);
                number += 1;
            }
            cluster.locals.insert(id, local);
        }
        for id in cluster.hosts() {
            cluster.publish(id);
        }
        cluster.yield_addresses();
        cluster
    }

    pub fn hosts(&self) -> Vec<HostId> {
        self.locals.keys().copied().collect()
    }

    /// The network as the records tell it.
    pub fn network(&mut self) -> &mut NetworkView {
        let key = network(Vec::new()).definition.key;
        self.view.networks.entry(key).or_default()
    }

    /// What a host derives, with pre-shared keys that both sides of a pair compute alike.
    pub fn desired(&self, host: HostId) -> Option<Desired> {
        let local = &self.locals[&host];
        let keys = |generation: Generation, other: HostId| {
            let pair = host.0[0] ^ other.0[0];
            Some(PresharedKey::from_bytes([pair ^ generation as u8; 32]))
        };
        let network = &self.view.networks[&local.definition.key];
        derive(local, network, &self.view, host, Families::BOTH, &keys)
    }

    /// Writes a host's records as its driver would.
    pub fn publish(&mut self, host: HostId) {
        let local = self.locals[&host].clone();
        let record = HostRecord {
            name: format!("host{}", host.0[0]),
            underlay: vec![IpAddr::from([192, 0, 2, host.0[0]])],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: Incarnation([0; 16]),
        };
        self.view.hosts.insert(host, record);
        let network = self.network();
        let slots = local.slots.iter().map(published).collect();
        network.members.insert(host, MemberRecord { slots, ..MemberRecord::default() });
        network.endpoints.retain(|_, record| record.host != host);
        for endpoint in local.endpoints.values().filter(|e| !e.superseded) {
            let record = EndpointRecord {
                addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
                endpoint: endpoint.id.clone(),
                host,
                mac: endpoint.mac,
                claim: endpoint.claim,
            };
            // A record holds one primary address; the stronger claim stays, whoever comes later.
            let rank = |r: &EndpointRecord| (r.claim, r.host, r.endpoint.clone());
            let primary = record.addresses[0];
            let stands = network.endpoints.get(&primary).is_some_and(|r| rank(r) > rank(&record));
            if !stands {
                network.endpoints.insert(primary, record);
            }
        }
    }

    /// Marks superseded what lost, on every host, and withdraws it.
    pub fn yield_addresses(&mut self) {
        for host in self.hosts() {
            let local = &self.locals[&host];
            let network = &self.view.networks[&local.definition.key];
            let lost: BTreeSet<EndpointId> = superseded(local, network, &self.view, host);
            let local = self.locals.get_mut(&host).expect("one of the hosts");
            for id in lost {
                local.endpoints.get_mut(&id).expect("one of the endpoints").superseded = true;
            }
        }
        for host in self.hosts() {
            self.publish(host);
        }
    }
}

/// A network of both families without endpoints.
pub fn network(slots: Vec<LocalSlot>) -> LocalNetwork {
    let docker_id = "m3v0gvk6pj5e0l1y9h3kz1v2c".parse().expect("a swarm's id");
    let subnet = |pool: &str, gateway| Subnet {
        pool: pool.parse().expect("a subnet"),
        gateway: Some(gateway),
    };
    let definition = NetworkDefinition {
        key: wgnet_proto::NetworkKey::swarm(&docker_id),
        docker_id,
        subnets: vec![subnet("10.50.0.0/24", ipv4(1)), subnet("fd50::/64", ipv6(1))],
        internal: false,
        options: NetworkOptions::default(),
        raw_options: BTreeMap::new(),
        mtu: 1420,
    };
    LocalNetwork { definition, slots, endpoints: BTreeMap::new(), lingering: false }
}

fn slots(host: u8, dice: &mut Dice) -> Vec<LocalSlot> {
    let slot = |generation: Generation| LocalSlot {
        generation,
        private_key: private_key(2 * host + generation as u8),
        made: None,
        port: 51820 + generation as u16,
    };
    match dice.below(3) {
        0 => vec![slot(0)],
        1 => vec![slot(0), slot(1)],
        _ => vec![slot(1)],
    }
}

fn published(slot: &LocalSlot) -> Slot {
    Slot {
        generation: slot.generation,
        public_key: slot.private_key.public(),
        port: slot.port,
        underlay: Vec::new(),
    }
}

fn endpoint(number: u8, dice: &mut Dice) -> LocalEndpoint {
    let primary = ipv4(2 + dice.below(12) as u8);
    let mut addresses = vec![IpNet::new(primary, 24).expect("a prefix of IPv4")];
    if dice.one_in(2) {
        let secondary = ipv6(2 + dice.below(8) as u8);
        addresses.push(IpNet::new(secondary, 64).expect("a prefix of IPv6"));
    }
    LocalEndpoint {
        id: endpoint_id(number),
        addresses,
        mac: MacAddr::of_address(primary),
        mac_given: false,
        claim: dice.below(6) as u64,
        sandbox: dice.one_in(2).then(|| "/var/run/docker/netns/box".into()),
        superseded: false,
    }
}
