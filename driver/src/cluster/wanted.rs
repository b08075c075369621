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

/// Networks of this host that the cluster says are freed, and its journal does not say yet. The
/// cluster forgets a freed network while this host still takes it down: it must not be published anew.
pub(super) fn freed_unnoted(state: &State, view: &ClusterView) -> Vec<NetworkKey> {
    let keys = state.networks.values().map(|network| &network.definition.key);
    let unnoted = keys.filter(|key| is_freed(view, key) && !state.freed.contains(*key));
    unnoted.cloned().collect()
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
        accepted.is_some_and(|accepted| match (&accepted.record, &wanted.record) {
            // Plain engines may differ in options; whoever was first has said it for all.
            (Record::Network(there), Record::Network(wanted)) => there.freed || !wanted.freed,
            // An address that another host holds: who yields is decided once each knows the other,
            // and what makes this host known must not wait for that.
            (Record::Endpoint(there), Record::Endpoint(wanted)) if there.host != wanted.host => {
                true
            }
            (there, wanted) => there == wanted,
        })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wgnet_core::{NetworkDefinition, NetworkOptions, NetworkView, Subnet};
    use wgnet_proto::DockerNetworkId;

    use super::*;

    fn id() -> DockerNetworkId {
        "a".repeat(25).parse().unwrap()
    }

    fn facts() -> HostFacts {
        HostFacts {
            me: HostId([1; 16]),
            name: "h1".to_owned(),
            version: "0".to_owned(),
            backend: "kernel".to_owned(),
            boot: "boot".to_owned(),
            underlay: Vec::new(),
        }
    }

    fn lingering() -> State {
        let pool = "10.50.0.0/24".parse().unwrap();
        let definition = NetworkDefinition {
            docker_id: id(),
            key: NetworkKey::swarm(&id()),
            subnets: vec![Subnet { pool, gateway: None }],
            internal: false,
            options: NetworkOptions::default(),
            raw_options: BTreeMap::new(),
            mtu: 1420,
        };
        let network =
            LocalNetwork { definition, slots: vec![], endpoints: BTreeMap::new(), lingering: true };
        State { networks: [(id(), Arc::new(network))].into(), ..State::default() }
    }

    fn view_with(freed: bool) -> ClusterView {
        let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed };
        let network = NetworkView { record: Some(record), ..NetworkView::default() };
        let networks = BTreeMap::from([(NetworkKey::swarm(&id()), network)]);
        ClusterView { networks, ..ClusterView::default() }
    }

    fn publishes_network(state: &State, view: &ClusterView) -> bool {
        records(&facts(), state, view).keys().any(|path| path.network().is_some())
    }

    #[test]
    fn a_freed_network_is_noted_once() {
        let mut state = lingering();
        assert!(freed_unnoted(&state, &view_with(false)).is_empty());
        assert_eq!(freed_unnoted(&state, &view_with(true)), [NetworkKey::swarm(&id())]);
        state.freed.insert(NetworkKey::swarm(&id()));
        assert!(freed_unnoted(&state, &view_with(true)).is_empty());
    }

    #[test]
    fn a_freed_network_is_not_published_anew_when_the_cluster_has_forgotten_it() {
        let mut state = lingering();
        assert!(publishes_network(&state, &view_with(false)), "it may come back");
        assert!(!publishes_network(&State::default(), &ClusterView::default()));
        state.freed.extend(freed_unnoted(&state, &view_with(true)));
        assert!(!publishes_network(&state, &ClusterView::default()));
    }
}
