//! Which of our answers to handshakes were confirmed by the other side. Pure.
//!
//! The WireGuard implementation counts a handshake it answers as done. It is done when the first
//! packet under it arrives: with a wrong pre-shared key, or when the answer is lost, never. So the
//! datagrams are watched: an answer names the index under which packets are then to arrive, a
//! number that only the two sides know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// No session lasts longer.
const SESSION: Duration = Duration::from_secs(180);

const ANSWER: u8 = 2;
const DATA: u8 = 4;

#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// By index.
    open: BTreeMap<[u8; 4], Answer>,
    /// When the other side last confirmed an answer.
    confirmed: BTreeMap<SocketAddr, Instant>,
}

#[derive(Debug)]
struct Answer {
    to: SocketAddr,
    at: Instant,
}

impl Answers {
    pub(crate) fn is_answer(datagram: &[u8]) -> bool {
        datagram.first() == Some(&ANSWER)
    }

    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// An answer is sent.
    pub(crate) fn sent(&mut self, answer: &[u8], to: SocketAddr, now: Instant) {
        let Some(index) = index(answer) else { return };
        let recent = |at: Instant| now.saturating_duration_since(at) < SESSION;
        self.open.retain(|_, open| recent(open.at));
        self.confirmed.retain(|_, at| recent(*at));
        self.open.insert(index, Answer { to, at: now });
    }

    /// Something arrived.
    pub(crate) fn received(&mut self, datagram: &[u8], now: Instant) {
        if datagram.first() == Some(&DATA)
            && let Some(index) = index(datagram)
            && let Some(answer) = self.open.remove(&index)
        {
            self.confirmed.insert(answer.to, now);
        }
    }

    /// The age of a peer's last handshake that both sides know of, given the age of its last one
    /// at all. `asked`: before that age was told; later, the answer to the very handshake would
    /// seem older than it.
    pub(crate) fn confirmed_age(
        &self,
        peer: SocketAddr,
        age: Duration,
        asked: Instant,
    ) -> Option<Duration> {
        let Some(done) = asked.checked_sub(age) else {
            return Some(age);
        };
        // An answer is sent right after its session was made; one that is older than the session
        // belongs to another.
        let mut answers = self.open.values();
        if !answers.any(|answer| answer.to == peer && answer.at >= done) {
            return Some(age);
        }
        let before = asked.saturating_duration_since(*self.confirmed.get(&peer)?);
        (before < SESSION).then_some(before)
    }
}

/// A handshake's answer has the sender's index where data has the receiver's.
fn index(datagram: &[u8]) -> Option<[u8; 4]> {
    datagram.get(4..8)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer() -> SocketAddr {
        "192.0.2.1:51820".parse().unwrap()
    }

    fn datagram(kind: u8, index: u8) -> [u8; 32] {
        let mut datagram = [0; 32];
        (datagram[0], datagram[4]) = (kind, index);
        datagram
    }

    #[test]
    fn an_answer_counts_when_it_is_confirmed() {
        let (mut answers, start) = (Answers::default(), Instant::now());
        let now = start + SECOND;
        answers.sent(&datagram(ANSWER, 7), peer(), start);
        assert_eq!(answers.confirmed_age(peer(), SECOND, now), None);
        answers.received(&datagram(DATA, 8), now);
        assert_eq!(answers.confirmed_age(peer(), SECOND, now), None);
        answers.received(&datagram(DATA, 7), now);
        assert_eq!(answers.confirmed_age(peer(), SECOND, now), Some(SECOND));
    }

    #[test]
    fn an_age_that_took_time_to_tell_confirms_nothing() {
        let (mut answers, session) = (Answers::default(), Instant::now());
        let (sent, asked) = (session + SECOND / 100, session + SECOND);
        answers.sent(&datagram(ANSWER, 7), peer(), sent);
        for delay in [Duration::ZERO, SECOND / 1000, SECOND] {
            let age = asked + delay - session;
            assert_eq!(answers.confirmed_age(peer(), age, asked), None, "told after {delay:?}");
        }
    }

    #[test]
    fn until_a_renewal_is_confirmed_the_session_before_counts() {
        let (mut answers, start) = (Answers::default(), Instant::now());
        answers.sent(&datagram(ANSWER, 7), peer(), start);
        answers.received(&datagram(DATA, 7), start);
        let renewal = start + 120 * SECOND;
        answers.sent(&datagram(ANSWER, 8), peer(), renewal);
        let age = answers.confirmed_age(peer(), Duration::ZERO, renewal);
        assert_eq!(age, Some(120 * SECOND));
        let late = start + 200 * SECOND;
        assert_eq!(answers.confirmed_age(peer(), 80 * SECOND, late), None);
    }

    #[test]
    fn our_own_later_handshake_needs_no_confirmation() {
        let (mut answers, start) = (Answers::default(), Instant::now());
        answers.sent(&datagram(ANSWER, 7), peer(), start);
        let now = start + 2 * SECOND;
        assert_eq!(answers.confirmed_age(peer(), SECOND, now), Some(SECOND));
    }

    #[test]
    fn other_peers_answers_do_not_matter() {
        let (mut answers, start) = (Answers::default(), Instant::now());
        answers.sent(&datagram(ANSWER, 7), peer(), start);
        let other = "192.0.2.2:51820".parse().unwrap();
        let age = answers.confirmed_age(other, SECOND, start + SECOND);
        assert_eq!(age, Some(SECOND));
    }

    #[test]
    fn what_is_no_datagram_of_ours_is_passed_over() {
        let mut answers = Answers::default();
        answers.sent(&[ANSWER], peer(), Instant::now());
        answers.received(&[], Instant::now());
        assert!(!answers.has_open());
    }
}
