//! Finds the peers that are sent to and do not answer, so that they are removed and added again.
//!
//! WireGuard gives up on a peer whose handshakes fail, and one whose clock went back refuses every
//! one: a peer made anew starts afresh. Time arrives as seconds of any clock that only goes forward;
//! the kernel's time of a handshake is compared with itself only, never with a clock.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::{IfName, PublicKey};

use crate::{Observed, ObservedPeer};

/// Seconds of sending without an answer after which a peer is made anew.
pub const PATIENCE: u64 = 15;
/// Seconds after its handshake at which WireGuard stops using a session (REJECT_AFTER_TIME).
pub const SESSION: u64 = 180;
/// The longest time between two cures of one peer.
pub const LONGEST_BACK_OFF: u64 = 300;

/// A peer on an interface.
pub type PeerKey = (IfName, PublicKey);

/// What was seen of one network's peers.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    peers: BTreeMap<PeerKey, Track>,
}

#[derive(Debug, Clone)]
struct Track {
    last_handshake: Option<u64>,
    handshake_seen: u64,
    sent_bytes: u64,
    /// Since when it is sent to without a session.
    unanswered: Option<u64>,
    last_growth: u64,
    /// 0 until the first cure.
    back_off: u64,
    not_before: u64,
}

impl Watchdog {
    /// Takes in an observation; returns the peers to make anew. Peers that are gone are forgotten.
    pub fn feed(&mut self, now: u64, observed: &Observed) -> BTreeSet<PeerKey> {
        let mut tracks = BTreeMap::new();
        let mut remake = BTreeSet::new();
        for (name, wireguard) in &observed.wireguards {
            for (key, peer) in &wireguard.peers {
                let id = (name.clone(), *key);
                let mut track = self
                    .peers
                    .remove(&id)
                    .unwrap_or_else(|| Track::new(now, peer));
                if track.feed(now, peer) {
                    remake.insert(id.clone());
                }
                tracks.insert(id, track);
            }
        }
        self.peers = tracks;
        remake
    }

    /// When the next peer under suspicion wants to be looked at; `None` when all answer.
    pub fn due(&self) -> Option<u64> {
        self.peers.values().filter_map(Track::due).min()
    }
}

impl Track {
    /// Of a session that was there before us the age is not known: it is taken for new.
    fn new(now: u64, peer: &ObservedPeer) -> Self {
        Self {
            last_handshake: peer.last_handshake,
            handshake_seen: now,
            sent_bytes: if peer.last_handshake.is_some() {
                peer.sent_bytes
            } else {
                0
            },
            unanswered: None,
            last_growth: now,
            back_off: 0,
            not_before: 0,
        }
    }

    /// Whether the peer should be made anew now.
    fn feed(&mut self, now: u64, peer: &ObservedPeer) -> bool {
        if peer.last_handshake.is_some() && peer.last_handshake != self.last_handshake {
            self.handshake_seen = now;
            self.back_off = 0;
            self.not_before = 0;
        }
        let grown = peer.sent_bytes > self.sent_bytes;
        self.last_handshake = peer.last_handshake;
        self.sent_bytes = peer.sent_bytes;

        let age = now.saturating_sub(self.handshake_seen);
        if self.last_handshake.is_some() && age <= SESSION + PATIENCE {
            self.unanswered = None;
        } else if grown {
            self.last_growth = now;
            self.unanswered.get_or_insert(now);
        } else if now.saturating_sub(self.last_growth) > PATIENCE {
            self.unanswered = None;
        }
        if self.due().is_none_or(|due| now < due) {
            return false;
        }
        self.unanswered = None;
        self.back_off = (self.back_off * 2).clamp(PATIENCE, LONGEST_BACK_OFF);
        self.not_before = now + self.back_off;
        true
    }

    fn due(&self) -> Option<u64> {
        self.unanswered
            .map(|since| (since + PATIENCE).max(self.not_before))
    }
}
