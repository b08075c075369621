//! How hosts reach each other, over all networks together: for the matrix, and for sums.

use std::collections::BTreeMap;

use wgnet_proto::HostId;

use crate::fleet::Fleet;
use crate::fleet::report::{PeerReport, STALE_AFTER};
use crate::fleet::rows::{HostState, PeerState};

/// One direction between two hosts, as the worst of its tunnels; worse ones come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// They share no network.
    Apart,
    /// They share one, and nothing is told of the tunnel: a host tells of its worst and busiest only.
    Untold,
    Up,
    Idle,
    /// One of both hosts is gone, revoked or unknown.
    Gone,
    NoHandshake,
    Silent,
}

impl Standing {
    pub const ALL: [Self; 7] = [
        Self::Up,
        Self::Idle,
        Self::Silent,
        Self::NoHandshake,
        Self::Gone,
        Self::Untold,
        Self::Apart,
    ];

    /// What it is called in pages, and a letter for the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apart => "no shared network",
            Self::Untold => "not told",
            Self::Up => "up",
            Self::Idle => "idle",
            Self::Gone => "host gone",
            Self::NoHandshake => "no handshake",
            Self::Silent => "silent",
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Untold => "untold",
            Self::Up => "up",
            Self::Idle => "idle",
            Self::Gone => "gone",
            Self::NoHandshake => "never",
            Self::Silent => "silent",
        }
    }

    /// Whether somebody should look.
    pub fn is_bad(self) -> bool {
        match self {
            Self::NoHandshake | Self::Silent => true,
            Self::Apart | Self::Untold | Self::Up | Self::Idle | Self::Gone => false,
        }
    }
}

impl From<PeerState> for Standing {
    fn from(state: PeerState) -> Self {
        match state {
            PeerState::Up => Self::Up,
            PeerState::Idle => Self::Idle,
            PeerState::Silent => Self::Silent,
            PeerState::NoHandshake => Self::NoHandshake,
        }
    }
}

/// How a peer stands that is told of; `now` is in seconds since the epoch.
pub fn standing(peer: &PeerReport, now: u64) -> Standing {
    match peer.last_handshake {
        None => Standing::NoHandshake,
        Some(_) if peer.silent => Standing::Silent,
        Some(at) if now.saturating_sub(at) <= STALE_AFTER => Standing::Up,
        Some(_) => Standing::Idle,
    }
}

/// All tunnels that hosts tell of.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    /// From the host that tells to its peer: the worst, and how many there are.
    pub pairs: BTreeMap<(HostId, HostId), (Standing, u32)>,
    pub up: usize,
    pub idle: usize,
    pub silent: usize,
    pub no_handshake: usize,
}

impl Tunnels {
    /// Hosts that are not alive tell of a time that is over.
    pub fn of(fleet: &Fleet, now: u64) -> Self {
        let mut tunnels = Self::default();
        for (host, report) in fleet.reports() {
            if fleet.state_of(*host) != HostState::Alive {
                continue;
            }
            for peer in report.networks.values().flat_map(|network| &network.peers) {
                let standing = if fleet.state_of(peer.host) == HostState::Alive {
                    standing(peer, now)
                } else {
                    Standing::Gone
                };
                match standing {
                    Standing::Up => tunnels.up += 1,
                    Standing::Idle => tunnels.idle += 1,
                    Standing::Silent => tunnels.silent += 1,
                    Standing::NoHandshake => tunnels.no_handshake += 1,
                    Standing::Apart | Standing::Untold | Standing::Gone => {}
                }
                let pair = tunnels.pairs.entry((*host, peer.host)).or_insert((standing, 0));
                pair.0 = pair.0.max(standing);
                pair.1 += 1;
            }
        }
        tunnels
    }

    /// Every direction between hosts that somebody should look at, the worst first.
    pub fn bad(&self) -> Vec<(HostId, HostId, Standing)> {
        let bad = self.pairs.iter().filter(|(_, (standing, _))| standing.is_bad());
        let mut bad: Vec<_> =
            bad.map(|((from, to), (standing, _))| (*from, *to, *standing)).collect();
        bad.sort_by_key(|(.., standing)| std::cmp::Reverse(*standing));
        bad
    }
}

/// All directions between some hosts.
pub struct Matrix {
    pub hosts: Vec<HostId>,
    /// Row by row; the diagonal is [`Standing::Apart`].
    pub cells: Vec<Standing>,
}

impl Matrix {
    pub fn of(fleet: &Fleet, tunnels: &Tunnels, hosts: Vec<HostId>) -> Self {
        let networks = &fleet.view().networks;
        // A bit for each network.
        let words = networks.len().div_ceil(64);
        let mut shared: BTreeMap<HostId, Vec<u64>> = BTreeMap::new();
        for (index, network) in networks.values().enumerate() {
            for host in network.members.keys() {
                shared.entry(*host).or_insert_with(|| vec![0; words])[index / 64] |=
                    1 << (index % 64);
            }
        }
        let share = |a: HostId, b: HostId| match (shared.get(&a), shared.get(&b)) {
            (Some(a), Some(b)) => a.iter().zip(b).any(|(a, b)| a & b != 0),
            _ => false,
        };
        let is_alive: Vec<bool> =
            hosts.iter().map(|host| fleet.state_of(*host) == HostState::Alive).collect();
        let mut cells = Vec::with_capacity(hosts.len() * hosts.len());
        for (row, from) in hosts.iter().enumerate() {
            for (column, to) in hosts.iter().enumerate() {
                cells.push(if row == column || !share(*from, *to) {
                    Standing::Apart
                } else if !is_alive[row] || !is_alive[column] {
                    Standing::Gone
                } else {
                    tunnels.pairs.get(&(*from, *to)).map_or(Standing::Untold, |pair| pair.0)
                });
            }
        }
        Self { hosts, cells }
    }
}
