//! The fleet as rows: what `wgnetctl networks`, `hosts`, `endpoints` and `peers` list. The names of
//! fields are those of `--json` and stay; new ones may come.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;
use wgnet_core::NetworkView;
use wgnet_proto::text::printable;
use wgnet_proto::{Claim, EndpointId, Generation, HostId, MacAddr, NetworkKey, PublicKey};

use super::Fleet;
use super::report::{PeerReport, PeerSlot, STALE_AFTER};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkRow {
    pub network: NetworkKey,
    pub subnets: Vec<IpNet>,
    pub state: NetworkState,
    /// Of the keys in use.
    pub generation: Generation,
    pub members: usize,
    /// Members whose hosts are alive.
    pub alive: usize,
    pub endpoints: usize,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkState {
    Up,
    /// Docker gave it back; hosts take it down.
    Freed,
    /// Members or endpoints stand without the network's own record.
    Unrecorded,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostRow {
    pub host: HostId,
    pub name: String,
    pub state: HostState,
    pub underlay: Vec<IpAddr>,
    pub version: String,
    pub backend: String,
    pub networks: usize,
    pub endpoints: usize,
    /// Its records that are not in etcd yet, where it tells.
    pub unpublished: Option<u64>,
    /// Its kernel's release, where it tells.
    pub kernel: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    Alive,
    /// Its lease ran out: no driver there has reached etcd for 45 s.
    Gone,
    /// There is a tombstone: nothing it writes counts.
    Revoked,
    /// It has records in networks, and none of itself.
    Unrecorded,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointRow {
    pub network: NetworkKey,
    pub addresses: Vec<IpAddr>,
    pub endpoint: EndpointId,
    pub mac: MacAddr,
    pub host: HostId,
    pub host_name: String,
    pub claim: Claim,
    pub state: EndpointState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    Up,
    HostGone,
    HostRevoked,
    /// Its host has no record of itself, so that nobody knows the way.
    HostUnrecorded,
    /// Its host is no member of the network: nobody sends there.
    NoMember,
}

/// One direction of a tunnel, as the host at its beginning tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerRow {
    pub network: NetworkKey,
    pub host: HostId,
    pub host_name: String,
    pub peer: HostId,
    pub peer_name: String,
    /// The peer's; none if it has published another one since.
    pub public_key: Option<PublicKey>,
    /// Where the peer's UDP is sent to now.
    pub underlay: Option<SocketAddr>,
    /// Seconds since the epoch, by the clock of `host`; none: never.
    pub last_handshake: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub state: PeerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    Up,
    /// The last session ran out. Without traffic that is normal.
    Idle,
    /// Something is sent to it, and nothing comes back.
    Silent,
    /// There was never a session.
    NoHandshake,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub network: Option<NetworkKey>,
    pub host: Option<HostId>,
}

impl Filter {
    fn has_network(&self, network: &NetworkKey) -> bool {
        self.network.as_ref().is_none_or(|wanted| wanted == network)
    }

    fn has_host(&self, host: HostId) -> bool {
        self.host.is_none_or(|wanted| wanted == host)
    }
}

impl Fleet {
    /// The networks whose key, or whose key's part after the first dash, is this or begins so.
    pub fn networks_named(&self, text: &str) -> Vec<NetworkKey> {
        let keys = || self.view().networks.keys();
        let named = |key: &&NetworkKey| {
            key.as_str() == text || key.as_str().split_once('-').is_some_and(|(_, id)| id == text)
        };
        let exact: Vec<NetworkKey> = keys().filter(named).cloned().collect();
        if !exact.is_empty() || text.is_empty() {
            return exact;
        }
        let begins = |key: &&NetworkKey| {
            let id = key.as_str().split_once('-').map_or("", |(_, id)| id);
            key.as_str().starts_with(text) || id.starts_with(text)
        };
        keys().filter(begins).cloned().collect()
    }

    pub fn network_rows(&self, filter: &Filter) -> Vec<NetworkRow> {
        let networks = self.view().networks.iter().filter(|(key, network)| {
            let is_here = filter.host.is_none_or(|host| network.members.contains_key(&host));
            filter.has_network(key) && is_here
        });
        networks.map(|(key, network)| self.network_row(key, network)).collect()
    }

    fn network_row(&self, key: &NetworkKey, network: &NetworkView) -> NetworkRow {
        let record = network.record.as_ref();
        let state = match record {
            Some(record) if record.freed => NetworkState::Freed,
            Some(_) => NetworkState::Up,
            None => NetworkState::Unrecorded,
        };
        let alive = network.members.keys().filter(|host| self.state_of(**host) == HostState::Alive);
        let options = record.map(|record| record.options.iter()).into_iter().flatten();
        NetworkRow {
            network: key.clone(),
            subnets: record.map(|record| record.subnets.clone()).unwrap_or_default(),
            state,
            generation: network.generation,
            members: network.members.len(),
            alive: alive.count(),
            endpoints: network.endpoints.len(),
            options: options
                .map(|(name, value)| (printable(name).into_owned(), printable(value).into_owned()))
                .collect(),
        }
    }

    pub fn host_rows(&self, filter: &Filter) -> Vec<HostRow> {
        let view = self.view();
        let mut rows: BTreeMap<HostId, HostRow> = BTreeMap::new();
        let members = view
            .networks
            .iter()
            .flat_map(|(key, network)| network.members.keys().map(move |host| (*host, Some(key))));
        let hosts = view.hosts.keys().chain(&view.revoked).map(|host| (*host, None));
        for (host, network) in hosts.chain(members) {
            let is_asked = filter.has_host(host)
                && (filter.network.is_none()
                    || view.networks.iter().any(|(key, network)| {
                        filter.has_network(key) && network.members.contains_key(&host)
                    }));
            if is_asked {
                let row = rows.entry(host).or_insert_with(|| self.host_row(host));
                row.networks += usize::from(network.is_some());
            }
        }
        for endpoint in view.networks.values().flat_map(|network| network.endpoints.values()) {
            if let Some(row) = rows.get_mut(&endpoint.host) {
                row.endpoints += 1;
            }
        }
        let mut rows: Vec<HostRow> = rows.into_values().collect();
        rows.sort_by(|a, b| (&a.name, a.host).cmp(&(&b.name, b.host)));
        rows
    }

    fn host_row(&self, host: HostId) -> HostRow {
        let record = self.view().hosts.get(&host);
        let text = |text: &str| printable(text).into_owned();
        HostRow {
            host,
            name: self.host_name(host),
            state: self.state_of(host),
            underlay: record.map(|record| record.underlay.clone()).unwrap_or_default(),
            version: record.map(|record| text(&record.version)).unwrap_or_default(),
            backend: record.map(|record| text(&record.backend)).unwrap_or_default(),
            networks: 0,
            endpoints: 0,
            unpublished: self.reports().get(&host).map(|report| report.unpublished),
            kernel: self
                .reports()
                .get(&host)
                .filter(|report| !report.kernel.is_empty())
                .map(|report| report.kernel.clone()),
        }
    }

    pub fn state_of(&self, host: HostId) -> HostState {
        let view = self.view();
        if view.revoked.contains(&host) {
            HostState::Revoked
        } else if !view.hosts.contains_key(&host) {
            HostState::Unrecorded
        } else if view.alive.contains(&host) {
            HostState::Alive
        } else {
            HostState::Gone
        }
    }

    pub fn endpoint_rows(&self, filter: &Filter) -> Vec<EndpointRow> {
        let networks = self.view().networks.iter().filter(|(key, _)| filter.has_network(key));
        let all = networks.flat_map(|(key, network)| {
            network.endpoints.values().map(move |endpoint| (key, network, endpoint))
        });
        let rows = all.filter(|(_, _, endpoint)| filter.has_host(endpoint.host));
        let rows = rows.map(|(key, network, endpoint)| EndpointRow {
            network: key.clone(),
            addresses: endpoint.addresses.clone(),
            endpoint: endpoint.endpoint.clone(),
            mac: endpoint.mac,
            host: endpoint.host,
            host_name: self.host_name(endpoint.host),
            claim: endpoint.claim,
            state: match self.state_of(endpoint.host) {
                HostState::Revoked => EndpointState::HostRevoked,
                HostState::Unrecorded => EndpointState::HostUnrecorded,
                _ if !network.members.contains_key(&endpoint.host) => EndpointState::NoMember,
                HostState::Gone => EndpointState::HostGone,
                HostState::Alive => EndpointState::Up,
            },
        });
        rows.collect()
    }

    /// Tunnels, as far as hosts tell of them.
    pub fn peer_rows(&self, filter: &Filter, now: u64) -> Vec<PeerRow> {
        let told = self.reports().iter().flat_map(|(host, report)| {
            report.networks.iter().map(move |(key, network)| (*host, key, network))
        });
        let told = told.filter(|(_, key, _)| filter.has_network(key));
        let peers = told.flat_map(|(host, key, network)| {
            network.peers.iter().map(move |peer| (host, key, peer))
        });
        let peers =
            peers.filter(|(host, _, peer)| filter.has_host(*host) || filter.has_host(peer.host));
        let mut rows: Vec<PeerRow> = peers
            .map(|(host, key, peer)| PeerRow {
                network: key.clone(),
                host,
                host_name: self.host_name(host),
                peer: peer.host,
                peer_name: self.host_name(peer.host),
                public_key: self.key_of(key, peer),
                underlay: peer.underlay,
                last_handshake: peer.last_handshake,
                received_bytes: peer.received_bytes,
                sent_bytes: peer.sent_bytes,
                state: match peer.last_handshake {
                    None => PeerState::NoHandshake,
                    Some(_) if peer.silent => PeerState::Silent,
                    Some(at) if now.saturating_sub(at) <= STALE_AFTER => PeerState::Up,
                    Some(_) => PeerState::Idle,
                },
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.network, &a.host_name, &a.peer_name, a.public_key).cmp(&(
                &b.network,
                &b.host_name,
                &b.peer_name,
                b.public_key,
            ))
        });
        rows
    }

    fn key_of(&self, network: &NetworkKey, peer: &PeerReport) -> Option<PublicKey> {
        let generation = match peer.slot {
            PeerSlot::Key(key) => return Some(key),
            PeerSlot::Generation(generation) => generation,
        };
        let member = self.view().networks.get(network)?.members.get(&peer.host)?;
        let slot = member.slots.iter().find(|slot| slot.generation == generation);
        slot.map(|slot| slot.public_key)
    }

    /// Hosts that are alive and of whose tunnels nothing is known.
    pub fn silent_hosts(&self) -> Vec<HostId> {
        let hosts = self.view().alive.iter().filter(|host| self.view().hosts.contains_key(host));
        hosts.copied().filter(|host| !self.reports().contains_key(host)).collect()
    }
}
