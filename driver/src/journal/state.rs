//! What the journal holds, as plain data. What of it changed in an update is found by comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use wgnet_core::LocalNetwork;
use wgnet_proto::{Claim, ClusterId, DockerNetworkId, EndpointId, HostId, Incarnation, NetworkKey};

use super::sweep::{DELETED_MOST, FREED_LINGER, LINGER};

/// Time the driver has been up. Lingering is measured in it, so that an hour of downtime is not an
/// hour in which Docker could have come back.
pub type Uptime = Duration;

/// Everything durable, and (marked) a little that is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Counts the changes since this process opened the journal. Not durable.
    pub revision: u64,
    /// The boot in which `endpoints` were made.
    pub boot: String,
    /// The cluster this host belongs to, once it knows.
    pub cluster: Option<ClusterId>,
    /// The newest history of the store that was seen, and its number.
    pub incarnation: Option<Incarnation>,
    pub history: u64,
    /// Records of this host with a lower seq are of an earlier history, and written anew.
    pub written_from: u64,
    /// How far that history was seen to have come, noted now and then: a store that is behind it when
    /// the driver starts was restored meanwhile.
    pub store_revision: i64,
    /// Sequence numbers below this one may have been used.
    pub reserved_seq: u64,
    pub networks: BTreeMap<DockerNetworkId, Arc<LocalNetwork>>,
    /// The revision at which each network last changed. Not durable.
    pub changed: BTreeMap<DockerNetworkId, u64>,
    /// When lingering networks are forgotten. Not durable: a restart begins the wait anew.
    pub lingers_until: BTreeMap<DockerNetworkId, Uptime>,
    /// FreeNetwork came: to be told the cluster, then taken out of here.
    pub freed: BTreeSet<NetworkKey>,
    /// The highest claim this host made or met, by network. Outlives the network here, so that a
    /// host that comes back does not begin below what it knew; not one that was freed, which nobody
    /// can come back to.
    pub claims: BTreeMap<NetworkKey, Claim>,
    /// The highest floor seen of each member, this host's own included.
    pub floors: Arc<BTreeMap<(NetworkKey, HostId), u64>>,
    /// Endpoint ids that were deleted, and (not durable) until when that is remembered.
    pub deleted: Arc<BTreeMap<EndpointId, Uptime>>,
}

impl State {
    /// A network Docker has on this host now.
    pub fn live(&self, network: &DockerNetworkId) -> Option<&Arc<LocalNetwork>> {
        self.networks.get(network).filter(|network| !network.lingering)
    }

    /// The network, to be changed.
    pub fn network_mut(&mut self, network: &DockerNetworkId) -> Option<&mut LocalNetwork> {
        self.networks.get_mut(network).map(Arc::make_mut)
    }

    /// The revision at which the network is as it is now: what to wait for in the kernel.
    pub fn revision_of(&self, network: &DockerNetworkId) -> u64 {
        self.changed.get(network).copied().unwrap_or(0)
    }

    /// The network of this key, lingering or not.
    pub fn by_key(&self, key: &NetworkKey) -> Option<&Arc<LocalNetwork>> {
        self.networks.values().find(|network| network.definition.key == *key)
    }

    /// Every UDP port that belongs to a network here, except `but`'s.
    pub fn ports(&self, but: Option<&DockerNetworkId>) -> BTreeSet<u16> {
        let others = self.networks.iter().filter(|(id, _)| Some(*id) != but);
        others.flat_map(|(_, network)| network.slots.iter().map(|slot| slot.port)).collect()
    }

    /// Forgets endpoints and remembers their ids, so that a late CreateEndpoint is refused.
    pub fn delete_endpoint(
        &mut self,
        network: &DockerNetworkId,
        endpoint: &EndpointId,
        now: Uptime,
    ) {
        if self
            .networks
            .get(network)
            .is_some_and(|network| network.endpoints.contains_key(endpoint))
        {
            self.network_mut(network).expect("just found").endpoints.remove(endpoint);
        }
        self.remember_deleted(endpoint, now);
    }

    fn remember_deleted(&mut self, endpoint: &EndpointId, now: Uptime) {
        if self.deleted.contains_key(endpoint) {
            return;
        }
        let deleted = Arc::make_mut(&mut self.deleted);
        if deleted.len() >= DELETED_MOST {
            let oldest = deleted.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone());
            oldest.map(|id| deleted.remove(&id));
        }
        deleted.insert(endpoint.clone(), now + super::DELETED_KEPT);
    }

    /// DeleteNetwork; whether Docker had the network. A plain engine deletes only what its user
    /// removes. A swarm deletes and creates the same network over and over, which shall not be a
    /// change of keys each time.
    pub fn delete_network(&mut self, network: &DockerNetworkId, now: Uptime) -> bool {
        let was_live = self.live(network).is_some();
        self.linger(network, now);
        if !network.is_swarm() {
            self.forget_soon(network, now);
        }
        was_live
    }

    /// The endpoints go, key and port stay for a while.
    pub fn linger(&mut self, network: &DockerNetworkId, now: Uptime) {
        let Some(found) = self.networks.get(network) else {
            return;
        };
        let endpoints: Vec<_> = found.endpoints.keys().cloned().collect();
        let key = found.definition.key.clone();
        for endpoint in &endpoints {
            self.delete_endpoint(network, endpoint, now);
        }
        if !self.networks[network].lingering {
            self.network_mut(network).expect("just found").lingering = true;
            self.lingers_until.insert(network.clone(), now + LINGER);
        }
        // Nobody can ever ask for these again.
        if self.freed.contains(&key) || !key.is_shared() {
            self.forget_soon(network, now);
        }
    }

    /// A lingering network nobody will ask for again.
    pub fn forget_soon(&mut self, network: &DockerNetworkId, now: Uptime) {
        if let Some(until) = self.lingers_until.get_mut(network) {
            *until = (*until).min(now + FREED_LINGER);
        }
    }

    /// Forgets a network altogether, its keys too.
    pub fn forget(&mut self, network: &DockerNetworkId) {
        let Some(gone) = self.networks.remove(network) else {
            return;
        };
        self.lingers_until.remove(network);
        let key = &gone.definition.key;
        if !key.is_shared() {
            self.claims.remove(key);
        }
        if self.floors.keys().any(|(of, _)| of == key) {
            Arc::make_mut(&mut self.floors).retain(|(of, _), _| of != key);
        }
    }

    /// A freed network is told the cluster: nobody can ask for it again, nor claim an address in it.
    pub fn forget_freed(&mut self, key: &NetworkKey) {
        self.freed.remove(key);
        if self.by_key(key).is_none() {
            self.claims.remove(key);
        }
    }

    /// Remembers a claim that was made or met.
    pub fn raise_claim(&mut self, key: &NetworkKey, claim: Claim) {
        let highest = self.claims.entry(key.clone()).or_default();
        *highest = (*highest).max(claim);
    }

    /// Remembers a member's floor.
    pub fn raise_floor(&mut self, key: &NetworkKey, member: HostId, floor: u64) {
        let slot = (key.clone(), member);
        if self.floors.get(&slot).is_none_or(|known| *known < floor) {
            Arc::make_mut(&mut self.floors).insert(slot, floor);
        }
    }

    pub fn floor(&self, key: &NetworkKey, member: HostId) -> u64 {
        self.floors.get(&(key.clone(), member)).copied().unwrap_or(0)
    }

    /// A remote claim won this endpoint's address: it is never published again.
    pub fn supersede(&mut self, network: &DockerNetworkId, endpoint: &EndpointId) {
        let endpoint =
            self.network_mut(network).and_then(|network| network.endpoints.get_mut(endpoint));
        if let Some(endpoint) = endpoint {
            endpoint.superseded = true;
        }
    }

    /// What a new boot leaves of the old one.
    pub(super) fn enter_boot(&mut self, boot: &str, me: HostId) {
        self.boot = boot.to_owned();
        self.deleted = Arc::default();
        let ids: Vec<_> = self.networks.keys().cloned().collect();
        for id in ids {
            let network = self.network_mut(&id).expect("just listed");
            network.endpoints.clear();
            let key = network.definition.key.clone();
            // Swarm creates its networks again when a task needs them; plain engines never do.
            if id.is_swarm() && !network.lingering {
                network.lingering = true;
                self.lingers_until.insert(id, LINGER);
            }
            self.raise_floor(&key, me, self.reserved_seq);
        }
    }

    /// Marks what differs from `before` as changed at the next revision.
    pub(super) fn stamp(&mut self, before: &State) {
        self.revision = before.revision + 1;
        let (revision, networks) = (self.revision, &self.networks);
        self.changed.retain(|id, _| networks.contains_key(id));
        self.lingers_until
            .retain(|id, _| networks.get(id).is_some_and(|network| network.lingering));
        for (id, network) in networks {
            let same = before
                .networks
                .get(id)
                .is_some_and(|old| Arc::ptr_eq(old, network) || old == network);
            if !same {
                self.changed.insert(id.clone(), revision);
            }
        }
    }
}
