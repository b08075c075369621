//! What a host tells of itself, by its status record or its driver's admin socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use wgnet_proto::record::status::{NetworkState, PeerState, StatusRecord};
use wgnet_proto::status::{DriverStatus, MemberStatus, NetworkStatus, Problem};
use wgnet_proto::text::printable;
use wgnet_proto::{Generation, HostId, NetworkKey, PublicKey, Record};

/// A session is renewed every two minutes while there is traffic; beyond three it is dead.
pub const STALE_AFTER: u64 = 180;

/// Times are seconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostReport {
    /// Asked of the driver just now, not read in etcd.
    pub is_direct: bool,
    pub networks: BTreeMap<NetworkKey, NetworkReport>,
    pub problems: Vec<Problem>,
    /// Its records that are not in etcd yet.
    pub unpublished: u64,
    /// The kernel's release, where it is told.
    pub kernel: String,
    /// By the host's own clock; of a direct one there is none.
    pub written: Option<u64>,
    /// It writes again within so many seconds.
    pub next_within: u32,
}

/// One network on the host that reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkReport {
    pub mtu: u16,
    pub in_sync: bool,
    pub error: Option<String>,
    pub key_made: Option<u64>,
    /// For how long the oldest change has been seen that the kernel does not follow yet.
    pub lag_ms: u64,
    /// How often something that somebody else changed was put right.
    pub repairs: u64,
    /// Of all peers, told one by one or not.
    pub peers_total: u32,
    pub peers_silent: u32,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub peers: Vec<PeerReport>,
}

/// What WireGuard knows of one peer there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    pub host: HostId,
    pub slot: PeerSlot,
    pub underlay: Option<SocketAddr>,
    pub last_handshake: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Something was sent to it, and nothing has come back since.
    pub silent: bool,
}

/// Which of the peer's slots it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSlot {
    Key(PublicKey),
    Generation(Generation),
}

impl HostReport {
    /// What a driver answered at a time.
    pub fn direct(status: &DriverStatus, now: u64) -> Self {
        let networks = status.networks.iter();
        Self {
            is_direct: true,
            networks: networks.map(|it| (it.key.clone(), NetworkReport::direct(it, now))).collect(),
            problems: status.problems.clone(),
            unpublished: status.store.unpublished as u64,
            kernel: String::new(),
            written: None,
            next_within: 0,
        }
    }

    /// This one, asked of the driver, with what only the host's record says.
    pub(super) fn with(&self, told: Option<&Self>) -> Self {
        let mut report = self.clone();
        let Some(told) = told else { return report };
        for (key, network) in &mut report.networks {
            let Some(told) = told.networks.get(key) else { continue };
            network.key_made = network.key_made.or(told.key_made);
            for peer in &mut network.peers {
                peer.silent = told.peers.iter().any(|it| it.host == peer.host && it.silent);
            }
        }
        let news = told.problems.iter().filter(|problem| {
            !self
                .problems
                .iter()
                .any(|it| (&it.code, &it.object) == (&problem.code, &problem.object))
        });
        report.problems.extend(news.cloned());
        report.kernel.clone_from(&told.kernel);
        (report.written, report.next_within) = (told.written, told.next_within);
        report
    }

    pub(super) fn of_record(record: &Record) -> Option<Self> {
        let Record::Status(status) = record else {
            return None;
        };
        Some(Self::of(status))
    }

    fn of(status: &StatusRecord) -> Self {
        let problem = |problem: &Problem| Problem {
            code: shown(&problem.code),
            object: shown(&problem.object),
            cause: shown(&problem.cause),
            next_step: shown(&problem.next_step),
        };
        let networks = status.networks.iter();
        Self {
            is_direct: false,
            networks: networks.map(|it| (it.key.clone(), NetworkReport::of(it))).collect(),
            problems: status.problems.iter().map(problem).collect(),
            unpublished: status.store.unpublished,
            kernel: shown(&status.kernel),
            written: Some(status.written),
            next_within: status.next_within,
        }
    }
}

impl NetworkReport {
    fn direct(status: &NetworkStatus, now: u64) -> Self {
        let sum = |bytes: fn(&MemberStatus) -> u64| {
            status.members.iter().map(bytes).fold(0, u64::saturating_add)
        };
        Self {
            mtu: status.mtu,
            in_sync: status.in_sync,
            error: status.error.clone(),
            key_made: status.key_made(),
            lag_ms: 0,
            repairs: status.repairs,
            peers_total: u32::try_from(status.members.len()).unwrap_or(u32::MAX),
            peers_silent: 0,
            received_bytes: sum(|it| it.received_bytes),
            sent_bytes: sum(|it| it.sent_bytes),
            peers: status.members.iter().map(|it| PeerReport::direct(it, now)).collect(),
        }
    }

    fn of(status: &NetworkState) -> Self {
        Self {
            mtu: status.mtu,
            in_sync: status.in_sync,
            error: (!status.error.is_empty()).then(|| shown(&status.error)),
            key_made: status.key_made,
            lag_ms: status.lag_ms,
            repairs: status.repairs,
            peers_total: status.peers_total,
            peers_silent: status.peers_silent,
            received_bytes: status.received_bytes,
            sent_bytes: status.sent_bytes,
            peers: status.peers.iter().map(PeerReport::of).collect(),
        }
    }
}

impl PeerReport {
    fn direct(status: &MemberStatus, now: u64) -> Self {
        Self {
            host: status.host_id,
            slot: PeerSlot::Key(status.public_key),
            underlay: status.underlay,
            last_handshake: status.handshake_age.map(|age| now.saturating_sub(age)),
            received_bytes: status.received_bytes,
            sent_bytes: status.sent_bytes,
            silent: false,
        }
    }

    fn of(status: &PeerState) -> Self {
        Self {
            host: status.host,
            slot: PeerSlot::Generation(status.generation),
            underlay: status.underlay,
            last_handshake: status.handshake,
            received_bytes: status.received_bytes,
            sent_bytes: status.sent_bytes,
            silent: status.silent,
        }
    }
}

fn shown(text: &str) -> String {
    printable(text).into_owned()
}
