//! What only shows over time: whose underlay address changed, and who does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use wgnet_proto::status::{DriverStatus, MemberStatus, NetworkStatus};
use wgnet_proto::{DockerNetworkId, HostId, PublicKey};

/// After a look that saw something unanswered. WireGuard answers what carries anything within 10 s, if
/// only with an empty packet.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// Two empty packets, which nobody answers.
const NOT_ANSWERED: u64 = 64;

/// All peers, from look to look.
#[derive(Debug, Default)]
pub(crate) struct Peers(BTreeMap<(DockerNetworkId, PublicKey), Peer>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    received: u64,
    sent: u64,
    underlay: Option<SocketAddr>,
    /// How often the underlay address changed.
    pub(crate) underlay_changes: u64,
    /// Since when something was sent that is to be answered, and nothing came back.
    unanswered_since: Option<Instant>,
}

impl Peer {
    /// Whether nothing has come back for so long that nothing will.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.unanswered_since.is_some_and(|since| now.duration_since(since) >= SILENT_AFTER)
    }
}

impl Peers {
    /// Takes a look in.
    pub(crate) fn look(&mut self, status: &DriverStatus, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for network in &status.networks {
            let answering = answering(network);
            for member in &network.members {
                let key = (network.docker_id.clone(), member.public_key);
                let peer = before.remove(&key);
                let answers = answering.contains(&member.host_id);
                self.0.insert(key, next(peer, member, answers, now));
            }
        }
    }

    pub(crate) fn get(&self, network: &DockerNetworkId, key: PublicKey) -> Peer {
        self.0.get(&(network.clone(), key)).copied().unwrap_or_default()
    }
}

/// The other hosts with containers in the network, which are to answer. One that its last container
/// left takes the network down at once and stays a member for minutes, so that its keys are kept.
fn answering(network: &NetworkStatus) -> BTreeSet<HostId> {
    let others = network.endpoints.iter().filter(|endpoint| !endpoint.local);
    others.map(|endpoint| endpoint.host_id).collect()
}

fn next(before: Option<Peer>, member: &MemberStatus, answers: bool, now: Instant) -> Peer {
    let (received, sent) = (member.received_bytes, member.sent_bytes);
    let Some(before) = before else {
        return Peer { received, sent, underlay: member.underlay, ..Peer::default() };
    };
    // Counters that fell are those of a peer that was made anew.
    let is_new = sent < before.sent || received < before.received;
    let was = if is_new { Peer { received: 0, sent: 0, ..before } } else { before };
    let unanswered_since = if !answers || received > was.received {
        None
    } else if sent > was.sent + NOT_ANSWERED {
        before.unanswered_since.or(Some(now))
    } else {
        before.unanswered_since
    };
    let changed = matches!((before.underlay, member.underlay), (Some(was), Some(is)) if was != is);
    Peer {
        received,
        sent,
        underlay: member.underlay.or(before.underlay),
        underlay_changes: before.underlay_changes + u64::from(changed),
        unanswered_since,
    }
}

#[cfg(test)]
mod tests {
    use wgnet_proto::HostId;

    use super::*;

    fn member(received_bytes: u64, sent_bytes: u64, last: u8) -> MemberStatus {
        MemberStatus {
            host_id: HostId([1; 16]),
            name: "h1".to_owned(),
            public_key: PublicKey([1; 32]),
            underlay: Some(([192, 0, 2, last], 51820).into()),
            handshake_age: None,
            received_bytes,
            sent_bytes,
        }
    }

    /// Looks five seconds apart; whether the peer, which has containers, is silent after each.
    fn silent(looks: &[(u64, u64)]) -> Vec<bool> {
        let looks: Vec<_> = looks.iter().map(|(received, sent)| (*received, *sent, true)).collect();
        silent_if(&looks)
    }

    fn silent_if(looks: &[(u64, u64, bool)]) -> Vec<bool> {
        let mut now = Instant::now();
        let mut peer = None;
        let look = |(received, sent, answers): &(u64, u64, bool)| {
            now += Duration::from_secs(5);
            let next = next(peer, &member(*received, *sent, 1), *answers, now);
            peer = Some(next);
            next.is_silent(now)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_peer_is_silent_when_nothing_came_back_for_15_seconds() {
        let looks = [(0, 0), (0, 148), (0, 148), (0, 296), (0, 296), (0, 444), (92, 444)];
        assert_eq!(silent(&looks), [false, false, false, false, true, true, false]);
    }

    #[test]
    fn an_idle_peer_and_one_that_only_gets_empty_packets_are_not_silent() {
        assert!(!silent(&[(9, 9); 9]).contains(&true));
        let keepalives: Vec<_> = (0..9).map(|n| (9, 100 + 32 * n)).collect();
        assert!(!silent(&keepalives).contains(&true));
    }

    #[test]
    fn a_silent_peer_that_is_made_anew_is_silent_until_it_answers() {
        let looks = [(900, 0), (900, 148), (900, 148), (900, 296), (0, 148), (0, 148), (92, 148)];
        assert_eq!(silent(&looks), [false, false, false, false, true, true, false]);
    }

    #[test]
    fn a_peer_without_containers_owes_no_answer_and_one_that_gets_some_has_its_full_time() {
        let looks = |answers: fn(u64) -> bool| {
            let looks: Vec<_> = (0..9).map(|n| (9, 100 + 148 * n, answers(n))).collect();
            silent_if(&looks)
        };
        assert!(!looks(|_| false).contains(&true));
        let since = |silent: Vec<bool>| silent.iter().position(|silent| *silent);
        assert_eq!(since(looks(|_| true)), Some(4));
        assert_eq!(since(looks(|n| n >= 4)), Some(4 + 3));
        assert_eq!(looks(|n| n < 6), [false, false, false, false, true, true, false, false, false]);
    }

    #[test]
    fn changes_of_the_underlay_address_are_counted() {
        let now = Instant::now();
        let mut peer = next(None, &member(0, 0, 1), true, now);
        for (last, count) in [(1, 0), (2, 1), (2, 1), (1, 2)] {
            peer = next(Some(peer), &member(0, 0, last), true, now);
            assert_eq!(peer.underlay_changes, count);
        }
        let unknown = MemberStatus { underlay: None, ..member(0, 0, 1) };
        let after = next(Some(peer), &unknown, true, now);
        peer = next(Some(after), &member(0, 0, 1), true, now);
        assert_eq!(peer.underlay_changes, 2);
    }
}
