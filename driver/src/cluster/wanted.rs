//! Which records this host wants in the store, from its journal and what the cluster says. Pure.

use std::collections::BTreeMap;

use wgnet_control_plane::publisher::{Wanted, WantedRecords};
use wgnet_core::{ClusterView, Judge, LocalEndpoint, LocalNetwork};
use wgnet_proto::record::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot,
};
use wgnet_proto::{HostId, Incarnation, NetworkKey, Path, Record};

use crate::journal::State;

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub me: HostId,
    pub name: String,
    pub version: String,
    pub backend: String,
    pub boot: String,
    pub underlay: Vec<std::net::IpAddr>,
}

/// Everything but the host's own record, which is written last.
pub(super) fn records(facts: &HostFacts, state: &State, view: &ClusterView) -> WantedRecords {
    let mut wanted = BTreeMap::new();
    let alive = Record::Alive(AliveRecord { boot: facts.boot.clone() });
    wanted.insert(Path::Alive(facts.me), Wanted { record: alive, leased: true });
    for network in state.networks.values().filter(|network| network.definition.key.is_shared()) {
        let key = &network.definition.key;
        let freed = state.freed.contains(key) || is_freed(view, key);
        if network.lingering && freed {
            continue;
        }
        let record = network_record(network, freed);
        insert(&mut wanted, Path::Network(key.clone()), Record::Network(record));
        let member = member(network, state.floor(key, facts.me));
        insert(&mut wanted, Path::Member(key.clone(), facts.me), Record::Member(member));
        for endpoint in network.endpoints.values().filter(|endpoint| !endpoint.superseded) {
            if let Some(record) = endpoint_record(endpoint, facts.me) {
                insert(
                    &mut wanted,
                    Path::Endpoint(key.clone(), record.addresses[0]),
                    Record::Endpoint(record),
                );
            }
        }
    }
    for key in &state.freed {
        let known = view.networks.get(key).and_then(|network| network.record.as_ref());
        if let Some(known) = known.filter(|_| !wanted.contains_key(&Path::Network(key.clone()))) {
            let record = NetworkRecord { freed: true, ..known.clone() };
            insert(&mut wanted, Path::Network(key.clone()), Record::Network(record));
        }
    }
    wanted
}

/// The record by which this host says that all its others are in this history of the store.
pub(super) fn host_record(facts: &HostFacts, incarnation: Incarnation) -> Record {
    Record::Host(HostRecord {
        name: facts.name.clone(),
        underlay: facts.underlay.clone(),
        version: facts.version.clone(),
        backend: facts.backend.clone(),
        incarnation,
    })
}

/// The record of a cluster that has none.
pub(super) fn cluster_record(record: ClusterRecord) -> WantedRecords {
    let record = Record::Cluster(record);
    BTreeMap::from([(Path::Cluster, Wanted { record, leased: false })])
}

/// Whether the store holds every wanted record as it is wanted.
pub(super) fn is_complete(wanted: &WantedRecords, judge: &Judge) -> bool {
    wanted.iter().all(|(path, wanted)| {
        let accepted = judge.in_store(path).and_then(|held| held.accepted);
        accepted.is_some_and(|accepted| accepted.record == wanted.record)
    })
}

pub(super) fn is_freed(view: &ClusterView, key: &NetworkKey) -> bool {
    view.networks
        .get(key)
        .and_then(|network| network.record.as_ref())
        .is_some_and(|record| record.freed)
}

fn insert(wanted: &mut WantedRecords, path: Path, record: Record) {
    wanted.insert(path, Wanted { record, leased: false });
}

/// The same from every host, so that whoever comes first may create it.
fn network_record(network: &LocalNetwork, freed: bool) -> NetworkRecord {
    let definition = &network.definition;
    let mut options = definition.raw_options.clone();
    // What each engine adds of its own is not the network's.
    options.retain(|key, _| !key.starts_with("com.docker."));
    NetworkRecord {
        subnets: definition.subnets.iter().map(|subnet| subnet.pool).collect(),
        options,
        freed,
    }
}

fn member(network: &LocalNetwork, floor: u64) -> MemberRecord {
    let slot = |slot: &wgnet_core::LocalSlot| Slot {
        generation: slot.generation,
        public_key: slot.private_key.public(),
        port: slot.port,
        underlay: Vec::new(),
    };
    let slots: Vec<Slot> = network.slots.iter().map(slot).collect();
    let ready_generation = slots.iter().map(|slot| slot.generation).min().unwrap_or(0);
    MemberRecord { slots, ready_generation, floor }
}

fn endpoint_record(endpoint: &LocalEndpoint, me: HostId) -> Option<EndpointRecord> {
    let addresses: Vec<_> = endpoint.addresses.iter().map(ipnet::IpNet::addr).collect();
    (!addresses.is_empty()).then(|| EndpointRecord {
        addresses,
        endpoint: endpoint.id.clone(),
        host: me,
        mac: endpoint.mac,
        claim: endpoint.claim,
    })
}
