//! The status to protobuf and back.

use std::net::SocketAddr;

use super::{addresses_from_wire, addresses_to_wire, id, v1};
use crate::record::status::{NetworkState, PeerState, StatusTotals, StoreState};
use crate::record::{BadRecord, StatusRecord};
use crate::status::Problem;

pub(super) fn to_wire(record: &StatusRecord) -> v1::StatusRecord {
    let store = &record.store;
    let totals = &record.totals;
    v1::StatusRecord {
        written: record.written,
        next_within: record.next_within,
        started: record.started,
        name: record.name.clone(),
        version: record.version.clone(),
        backend: record.backend.clone(),
        kernel: record.kernel.clone(),
        underlay: addresses_to_wire(&record.underlay),
        store: Some(v1::StoreState {
            revision: store.revision,
            unpublished: store.unpublished,
            watch_restarts: store.watch_restarts,
            error: store.error.clone(),
        }),
        totals: Some(v1::StatusTotals {
            networks: totals.networks,
            networks_out_of_sync: totals.networks_out_of_sync,
            endpoints: totals.endpoints,
            endpoints_unpublished: totals.endpoints_unpublished,
            peers: totals.peers,
            peers_silent: totals.peers_silent,
            received_bytes: totals.received_bytes,
            sent_bytes: totals.sent_bytes,
            problems: totals.problems,
        }),
        networks: record.networks.iter().map(network_to_wire).collect(),
        problems: record.problems.iter().map(problem_to_wire).collect(),
        refused: record.refused.clone(),
    }
}

pub(super) fn from_wire(wire: v1::StatusRecord) -> Result<StatusRecord, BadRecord> {
    let store = wire.store.unwrap_or_default();
    let totals = wire.totals.unwrap_or_default();
    Ok(StatusRecord {
        written: wire.written,
        next_within: wire.next_within,
        started: wire.started,
        name: wire.name,
        version: wire.version,
        backend: wire.backend,
        kernel: wire.kernel,
        underlay: addresses_from_wire("underlay", &wire.underlay)?,
        store: StoreState {
            revision: store.revision,
            unpublished: store.unpublished,
            watch_restarts: store.watch_restarts,
            error: store.error,
        },
        totals: StatusTotals {
            networks: totals.networks,
            networks_out_of_sync: totals.networks_out_of_sync,
            endpoints: totals.endpoints,
            endpoints_unpublished: totals.endpoints_unpublished,
            peers: totals.peers,
            peers_silent: totals.peers_silent,
            received_bytes: totals.received_bytes,
            sent_bytes: totals.sent_bytes,
            problems: totals.problems,
        },
        networks: wire.networks.into_iter().map(network_from_wire).collect::<Result<_, _>>()?,
        problems: wire.problems.into_iter().map(problem_from_wire).collect(),
        refused: wire.refused,
    })
}

fn network_to_wire(network: &NetworkState) -> v1::NetworkState {
    v1::NetworkState {
        key: network.key.to_string(),
        docker_id: network.docker_id.to_string(),
        in_sync: network.in_sync,
        error: network.error.clone(),
        revision: network.revision,
        applied: network.applied,
        lag_ms: network.lag_ms,
        mtu: network.mtu.into(),
        generation: network.generation,
        key_made: network.key_made,
        members: network.members,
        endpoints: network.endpoints,
        endpoints_here: network.endpoints_here,
        endpoints_unpublished: network.endpoints_unpublished,
        unpublished: addresses_to_wire(&network.unpublished),
        repairs: network.repairs,
        peers_total: network.peers_total,
        peers_silent: network.peers_silent,
        received_bytes: network.received_bytes,
        sent_bytes: network.sent_bytes,
        peers: network.peers.iter().map(peer_to_wire).collect(),
    }
}

fn network_from_wire(wire: v1::NetworkState) -> Result<NetworkState, BadRecord> {
    Ok(NetworkState {
        key: wire.key.parse().map_err(|_| BadRecord::new("key", "a network key"))?,
        docker_id: wire
            .docker_id
            .parse()
            .map_err(|_| BadRecord::new("docker_id", "a Docker network id"))?,
        in_sync: wire.in_sync,
        error: wire.error,
        revision: wire.revision,
        applied: wire.applied,
        lag_ms: wire.lag_ms,
        mtu: u16::try_from(wire.mtu).map_err(|_| BadRecord::new("mtu", "at most 65535"))?,
        generation: wire.generation,
        key_made: wire.key_made,
        members: wire.members,
        endpoints: wire.endpoints,
        endpoints_here: wire.endpoints_here,
        endpoints_unpublished: wire.endpoints_unpublished,
        unpublished: addresses_from_wire("unpublished", &wire.unpublished)?,
        repairs: wire.repairs,
        peers_total: wire.peers_total,
        peers_silent: wire.peers_silent,
        received_bytes: wire.received_bytes,
        sent_bytes: wire.sent_bytes,
        peers: wire.peers.into_iter().map(peer_from_wire).collect::<Result<_, _>>()?,
    })
}

fn peer_to_wire(peer: &PeerState) -> v1::PeerState {
    v1::PeerState {
        host: peer.host.0.to_vec(),
        generation: peer.generation,
        handshake: peer.handshake,
        received_bytes: peer.received_bytes,
        sent_bytes: peer.sent_bytes,
        underlay: peer.underlay.map_or(Vec::new(), |at| super::address_to_wire(&at.ip())),
        port: peer.underlay.map_or(0, |at| at.port().into()),
        underlay_changes: peer.underlay_changes,
        silent: peer.silent,
    }
}

fn peer_from_wire(wire: v1::PeerState) -> Result<PeerState, BadRecord> {
    let underlay = if wire.underlay.is_empty() {
        None
    } else {
        let port = u16::try_from(wire.port).map_err(|_| BadRecord::new("port", "at most 65535"))?;
        Some(SocketAddr::new(super::address_from_wire("underlay", &wire.underlay)?, port))
    };
    Ok(PeerState {
        host: id("host", &wire.host)?,
        generation: wire.generation,
        handshake: wire.handshake,
        received_bytes: wire.received_bytes,
        sent_bytes: wire.sent_bytes,
        underlay,
        underlay_changes: wire.underlay_changes,
        silent: wire.silent,
    })
}

fn problem_to_wire(problem: &Problem) -> v1::ProblemState {
    v1::ProblemState {
        code: problem.code.clone(),
        object: problem.object.clone(),
        cause: problem.cause.clone(),
        next_step: problem.next_step.clone(),
    }
}

fn problem_from_wire(wire: v1::ProblemState) -> Problem {
    Problem { code: wire.code, object: wire.object, cause: wire.cause, next_step: wire.next_step }
}
