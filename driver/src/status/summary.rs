//! The status as it is kept in etcd: everything counted, the worst and the busiest named, and never
//! more than fits. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Instant;
use wgnet_control_plane::publisher::Unpublished;
use wgnet_core::ClusterView;
use wgnet_proto::record::rules::{MAX_ADDRESSES, MAX_NAME, MAX_SENTENCE, MAX_STATUS};
use wgnet_proto::record::status::{NetworkState, PeerState, StatusTotals, StoreState};
use wgnet_proto::record::{Record, StatusRecord};
use wgnet_proto::status::{DriverStatus, NetworkStatus, Problem};
use wgnet_proto::text::{clipped, printable};
use wgnet_proto::{Generation, HostId, NetworkKey, PublicKey};

use super::peers::Peers;
use crate::progress::{Progress, Standing};

/// What is named at most, before it is cut further to fit.
const MOST_PEERS: usize = 256;
const MOST_NETWORKS: usize = 128;
const MOST_PROBLEMS: usize = 32;

/// What the summary is of.
pub(super) struct Whole<'a> {
    pub(super) status: &'a DriverStatus,
    pub(super) peers: &'a Peers,
    pub(super) view: &'a ClusterView,
    pub(super) progress: &'a Progress,
    pub(super) unpublished: &'a BTreeMap<NetworkKey, Unpublished>,
    pub(super) kernel: &'a str,
    /// Seconds since the epoch.
    pub(super) started: u64,
    pub(super) written: u64,
    pub(super) now: Instant,
}

impl Whole<'_> {
    /// The record for etcd.
    pub(super) fn summary(&self) -> StatusRecord {
        let status = self.status;
        let mut networks: Vec<_> = status.networks.iter().map(|it| self.network(it)).collect();
        let mut problems = self.silent_hosts();
        problems.extend(status.problems.iter().map(problem));
        let totals = totals(&networks, problems.len());
        problems.truncate(MOST_PROBLEMS);
        // The worst first, then the busiest.
        networks.sort_by_key(|network| {
            let traffic = network.received_bytes.saturating_add(network.sent_bytes);
            (network.in_sync, Reverse(network.peers_silent), Reverse(traffic))
        });
        networks.truncate(MOST_NETWORKS);
        let record = StatusRecord {
            written: self.written,
            next_within: 0,
            started: self.started,
            name: name(&status.name),
            version: name(&status.version),
            backend: name(&status.backend),
            kernel: name(self.kernel),
            underlay: underlay(&status.underlay),
            store: StoreState {
                revision: status.store.revision,
                unpublished: status.store.unpublished as u64,
                watch_restarts: status.store.watch_restarts,
                error: sentence(status.store.error.as_deref().unwrap_or_default()),
            },
            totals,
            networks,
            problems,
            refused: status.refused.iter().map(|(why, count)| (name(why), *count)).collect(),
        };
        fitting(record)
    }

    /// Hosts that do not answer through WireGuard, each said once for all networks.
    fn silent_hosts(&self) -> Vec<Problem> {
        let mut silent: BTreeMap<HostId, (&str, String, usize)> = BTreeMap::new();
        for network in &self.status.networks {
            for member in &network.members {
                let seen = self.peers.get(&network.docker_id, member.public_key);
                if seen.is_silent(self.now) {
                    let at = member.underlay.map_or("no address".to_owned(), |at| at.to_string());
                    silent.entry(member.host_id).or_insert((&member.name, at, 0)).2 += 1;
                }
            }
        }
        let problems = silent.into_iter().map(|(host, (name, at, networks))| {
            let is_alive = self.view.alive.contains(&host);
            let what = format!("nothing comes back through WireGuard from {at} ({networks} networks)");
            problem(&Problem {
                code: "host-silent".to_owned(),
                object: format!("host {name}"),
                cause: if is_alive {
                    format!("{what}, though its driver lives")
                } else {
                    format!("{what}, and its driver gives no sign of life")
                },
                next_step: if is_alive {
                    "let UDP pass both ways between the hosts, on the ports of `ports` in the driver's settings".to_owned()
                } else {
                    "look whether the host is up; if it is gone for good: wgnetctl forget-host".to_owned()
                },
            })
        });
        problems.collect()
    }

    fn network(&self, network: &NetworkStatus) -> NetworkState {
        let Standing { told, followed, lag } = self.progress.get(&network.key);
        let none = Unpublished::default();
        let unpublished = self.unpublished.get(&network.key).unwrap_or(&none);
        let mut peers = self.peers(network);
        let silent = peers.iter().filter(|peer| peer.silent).count();
        let sum =
            |bytes: fn(&PeerState) -> u64| peers.iter().map(bytes).fold(0, u64::saturating_add);
        let (received_bytes, sent_bytes) = (sum(|it| it.received_bytes), sum(|it| it.sent_bytes));
        let peers_total = count(peers.len());
        peers.sort_by_key(worst_first);
        peers.truncate(MOST_PEERS);
        let here = network.endpoints.iter().filter(|endpoint| endpoint.local).count();
        let is_member = |host: &HostId| *host != self.status.host_id;
        let others = self
            .view
            .networks
            .get(&network.key)
            .map_or(0, |network| network.members.keys().filter(|host| is_member(host)).count());
        NetworkState {
            key: network.key.clone(),
            docker_id: network.docker_id.clone(),
            in_sync: network.in_sync,
            error: sentence(network.error.as_deref().unwrap_or_default()),
            revision: told,
            applied: followed,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            mtu: network.mtu,
            generation: network.newest_slot().map(|slot| slot.generation).unwrap_or_default(),
            key_made: network.key_made(),
            members: count(others + 1),
            endpoints: count(network.endpoints.len()),
            endpoints_here: count(here),
            endpoints_unpublished: count(unpublished.count),
            unpublished: unpublished.first.iter().take(MAX_ADDRESSES).copied().collect(),
            repairs: network.repairs,
            peers_total,
            peers_silent: count(silent),
            received_bytes,
            sent_bytes,
            peers,
        }
    }

    fn peers(&self, network: &NetworkStatus) -> Vec<PeerState> {
        let members = network.members.iter().map(|member| {
            let seen = self.peers.get(&network.docker_id, member.public_key);
            PeerState {
                host: member.host_id,
                generation: self.generation(&network.key, member.host_id, member.public_key),
                handshake: member.handshake_age.map(|age| self.written.saturating_sub(age)),
                received_bytes: member.received_bytes,
                sent_bytes: member.sent_bytes,
                underlay: member.underlay,
                underlay_changes: seen.underlay_changes,
                silent: seen.is_silent(self.now),
            }
        });
        members.collect()
    }

    fn generation(&self, network: &NetworkKey, host: HostId, key: PublicKey) -> Generation {
        let members = self.view.networks.get(network).map(|network| &network.members);
        let slots = members.and_then(|members| members.get(&host)).map(|member| &member.slots);
        let slot = slots.and_then(|slots| slots.iter().find(|slot| slot.public_key == key));
        slot.map(|slot| slot.generation).unwrap_or_default()
    }
}

/// What of a status is worth a write before its time: everything but counters, times and what other
/// hosts did.
pub(super) fn gist(record: &StatusRecord) -> StatusRecord {
    let mut gist = record.clone();
    (gist.written, gist.next_within) = (0, 0);
    (gist.store.revision, gist.store.watch_restarts) = (0, 0);
    (gist.totals.received_bytes, gist.totals.sent_bytes) = (0, 0);
    gist.totals.peers = 0;
    gist.refused.clear();
    for network in &mut gist.networks {
        (network.revision, network.applied, network.lag_ms) = (0, 0, 0);
        (network.received_bytes, network.sent_bytes) = (0, 0);
        (network.members, network.endpoints, network.peers_total) = (0, 0, 0);
        network.peers.retain(|peer| peer.silent);
        for peer in &mut network.peers {
            (peer.received_bytes, peer.sent_bytes, peer.handshake) = (0, 0, None);
        }
        network.peers.sort_by_key(|peer| (peer.host, peer.generation));
    }
    gist.networks.sort_by(|a, b| a.key.cmp(&b.key));
    gist
}

fn totals(networks: &[NetworkState], problems: usize) -> StatusTotals {
    let sum = |of: fn(&NetworkState) -> u32| networks.iter().map(of).fold(0, u32::saturating_add);
    let bytes = |of: fn(&NetworkState) -> u64| networks.iter().map(of).fold(0, u64::saturating_add);
    StatusTotals {
        networks: count(networks.len()),
        networks_out_of_sync: count(networks.iter().filter(|it| !it.in_sync).count()),
        endpoints: sum(|it| it.endpoints_here),
        endpoints_unpublished: sum(|it| it.endpoints_unpublished),
        peers: sum(|it| it.peers_total),
        peers_silent: sum(|it| it.peers_silent),
        received_bytes: bytes(|it| it.received_bytes),
        sent_bytes: bytes(|it| it.sent_bytes),
        problems: count(problems),
    }
}

/// Takes details away until the record may stand in etcd.
fn fitting(mut record: StatusRecord) -> StatusRecord {
    let mut most = MOST_PEERS;
    loop {
        keep_peers(&mut record, most);
        let size = Record::Status(Box::new(record.clone())).encode().len();
        if size + ROOM <= MAX_STATUS {
            return record;
        }
        if most > 0 {
            most /= 2;
        } else if record.networks.len() > 1 {
            record.networks.truncate(record.networks.len() / 2);
        } else if !record.problems.is_empty() {
            record.problems.truncate(record.problems.len() / 2);
        } else if !record.networks.is_empty() {
            record.networks.clear();
        } else {
            record.refused.pop_last();
        }
    }
}

/// For what is filled in when it is written.
const ROOM: usize = 64;

/// Keeps the worst and the busiest of all networks together.
fn keep_peers(record: &mut StatusRecord, most: usize) {
    let all = record.networks.iter().flat_map(|network| &network.peers);
    let mut ranks: Vec<_> = all.map(worst_first).collect();
    if ranks.len() <= most {
        return;
    }
    ranks.sort();
    let mut left = most;
    let last = most.checked_sub(1).map(|last| ranks[last]);
    for network in &mut record.networks {
        network.peers.retain(|peer| {
            let stays = left > 0 && last.is_some_and(|last| worst_first(peer) <= last);
            left -= usize::from(stays);
            stays
        });
    }
}

fn worst_first(peer: &PeerState) -> (Reverse<bool>, bool, Reverse<u64>, HostId) {
    let traffic = peer.received_bytes.saturating_add(peer.sent_bytes);
    (Reverse(peer.silent), peer.handshake.is_some(), Reverse(traffic), peer.host)
}

fn underlay(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for address in addresses {
        if kept.len() < MAX_ADDRESSES && !kept.contains(address) {
            kept.push(*address);
        }
    }
    kept
}

fn problem(problem: &Problem) -> Problem {
    Problem {
        code: name(&problem.code),
        object: sentence(&problem.object),
        cause: sentence(&problem.cause),
        next_step: sentence(&problem.next_step),
    }
}

/// At most [`MAX_SENTENCE`] bytes: the last character may be long when written out.
fn sentence(text: &str) -> String {
    clipped(text, MAX_SENTENCE - 16)
}

fn name(text: &str) -> String {
    let shown = printable(text);
    let name: String = shown.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    name.chars().take(MAX_NAME).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
