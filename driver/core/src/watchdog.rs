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

/// By more seconds the times of a peer's handshakes differ: WireGuard does not complete two that
/// close (REKEY_TIMEOUT), and a time made of an age is rounded. The later one's is the earlier time if
/// the clock was set back in between.
const ROUNDING: u64 = 1;

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
                let mut track = self.peers.remove(&id).unwrap_or_else(|| Track::new(now, peer));
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
            sent_bytes: if peer.last_handshake.is_some() { peer.sent_bytes } else { 0 },
            unanswered: None,
            last_growth: now,
            back_off: 0,
            not_before: 0,
        }
    }

    /// Whether the peer should be made anew now.
    fn feed(&mut self, now: u64, peer: &ObservedPeer) -> bool {
        // A peer made anew counts from 0 again, and its first handshake is one at whatever time.
        let is_same = peer.sent_bytes >= self.sent_bytes;
        let known = self.last_handshake.filter(|_| is_same);
        let is_another = |at: u64| known.is_none_or(|known| at.abs_diff(known) > ROUNDING);
        if peer.last_handshake.is_some_and(is_another) {
            self.handshake_seen = now;
            self.back_off = 0;
            self.not_before = 0;
        }
        let grown = peer.sent_bytes > 0 && peer.sent_bytes != self.sent_bytes;
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
        self.unanswered.map(|since| (since + PATIENCE).max(self.not_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObservedWireguard;

    const HANDSHAKE: Option<u64> = Some(1_700_000_000);
    const LATER: Option<u64> = Some(1_700_000_120);

    fn seen(last_handshake: Option<u64>, sent_bytes: u64) -> Observed {
        let peer = ObservedPeer { last_handshake, sent_bytes, ..ObservedPeer::default() };
        let wireguard = ObservedWireguard {
            public_key: None,
            port: 51820,
            mtu: 1420,
            up: true,
            peers: BTreeMap::from([(PublicKey([1; 32]), peer)]),
        };
        let mut observed = Observed::default();
        observed.wireguards.insert("wg0".parse().unwrap(), wireguard);
        observed
    }

    /// Feeds an observation every 5 s; returns the times at which the peer was to be made anew.
    fn cures(
        watchdog: &mut Watchdog,
        times: std::ops::Range<u64>,
        seen_at: impl Fn(u64) -> Observed,
    ) -> Vec<u64> {
        let times = times.step_by(5);
        times.filter(|now| !watchdog.feed(*now, &seen_at(*now)).is_empty()).collect()
    }

    #[test]
    fn a_peer_that_never_answers_is_made_anew_after_15_s_then_ever_more_seldom() {
        let cures = cures(&mut Watchdog::default(), 0..1500, |now| seen(None, 148 + now));
        assert_eq!(cures[..6], [15, 35, 65, 125, 245, 485]);
        let gaps: Vec<u64> = cures.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= LONGEST_BACK_OFF), "{gaps:?}");
        assert!(gaps.ends_with(&[LONGEST_BACK_OFF, LONGEST_BACK_OFF]), "{gaps:?}");
    }

    #[test]
    fn a_peer_that_answers_is_left_alone() {
        let fresh = |now: u64| seen(Some(now - now % 120), now * 1000);
        assert!(cures(&mut Watchdog::default(), 0..3600, fresh).is_empty());
    }

    #[test]
    fn a_silent_peer_that_nobody_sends_to_is_left_alone() {
        assert!(cures(&mut Watchdog::default(), 0..3600, |_| seen(None, 0)).is_empty());
        assert!(cures(&mut Watchdog::default(), 0..3600, |_| seen(HANDSHAKE, 5000)).is_empty());
    }

    #[test]
    fn a_session_too_old_to_be_used_is_no_answer() {
        let cures = cures(&mut Watchdog::default(), 0..300, |now| seen(HANDSHAKE, now));
        assert_eq!(cures.first(), Some(&(SESSION + PATIENCE + 5 + PATIENCE)));
    }

    #[test]
    fn a_late_handshake_ends_the_suspicion_and_the_back_off() {
        let mut watchdog = Watchdog::default();
        assert_eq!(cures(&mut watchdog, 0..100, |now| seen(None, 148 + now)), [15, 35, 65]);
        assert!(cures(&mut watchdog, 100..120, |now| seen(LATER, 148 + now)).is_empty());
        assert_eq!(watchdog.due(), None);
        let again = cures(&mut watchdog, 120..400, |now| seen(LATER, 148 + now));
        assert_eq!(again[..2], [315, 335]);
    }

    #[test]
    fn the_pauses_between_wireguards_own_tries_are_no_silence() {
        let tries = |now: u64| seen(None, 148 * (now / 10));
        assert_eq!(cures(&mut Watchdog::default(), 0..40, tries).first(), Some(&25));
    }

    #[test]
    fn a_handshake_that_only_seems_to_move_is_no_answer() {
        let still = |now: u64| seen(HANDSHAKE, now);
        let due = cures(&mut Watchdog::default(), 0..300, still).first().copied();
        let base = HANDSHAKE.unwrap();
        let rounded = |now: u64| seen(Some(base + (now / 5) % 2), now);
        assert_eq!(cures(&mut Watchdog::default(), 0..300, rounded).first().copied(), due);
        let drifting = |now: u64| seen(Some(base + now / 30), now);
        assert_eq!(cures(&mut Watchdog::default(), 0..300, drifting).first().copied(), due);
        let drifting_back = |now: u64| seen(Some(base - now / 30), now);
        assert_eq!(cures(&mut Watchdog::default(), 0..300, drifting_back).first().copied(), due);
    }

    #[test]
    fn a_handshake_after_the_clock_was_set_back_is_compared_with_what_it_was_set_back_to() {
        let base = HANDSHAKE.unwrap();
        let every_120_s = |now: u64| {
            let set_back = if now < 60 { 0 } else { 3600 };
            seen(Some(base + now - now % 120 - set_back), now)
        };
        assert!(cures(&mut Watchdog::default(), 0..1200, every_120_s).is_empty());
    }

    #[test]
    fn the_first_handshake_after_the_clock_was_set_back_is_one() {
        let base = HANDSHAKE.unwrap();
        let set_back = |now: u64| {
            let at = if now < 120 { base } else { base - 3600 };
            seen(Some(at), now)
        };
        let cures = cures(&mut Watchdog::default(), 0..400, set_back);
        assert_eq!(cures.first(), Some(&(120 + SESSION + PATIENCE + 5 + PATIENCE)));
    }

    #[test]
    fn the_first_handshake_of_a_peer_made_anew_is_one_at_whatever_time() {
        let mut watchdog = Watchdog::default();
        let cured = cures(&mut watchdog, 0..220, |now| seen(HANDSHAKE, 5000 + now));
        assert_eq!(cured, [215]);
        // It was made and has shaken hands since, both of it unseen, and the clock was set back.
        let earlier = HANDSHAKE.map(|at| at - 3600);
        assert!(cures(&mut watchdog, 220..400, |now| seen(earlier, 148 + now)).is_empty());
    }

    #[test]
    fn it_says_when_to_look_again() {
        let mut watchdog = Watchdog::default();
        watchdog.feed(100, &seen(None, 148));
        assert_eq!(watchdog.due(), Some(100 + PATIENCE));
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let mut watchdog = Watchdog::default();
        watchdog.feed(0, &seen(None, 148));
        watchdog.feed(5, &Observed::default());
        assert_eq!(watchdog.due(), None);
    }
}
