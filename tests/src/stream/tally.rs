//! What a receiver makes of the packets that arrive: lost, doubled, late, and the gaps between them.

use serde::{Deserialize, Serialize};

/// Shorter pauses are the machine's.
const WORTH_TELLING_MS: f64 = 20.0;

/// So many losses are told one by one.
const TOLD_LOSSES: usize = 100;

/// A pause in what arrived, which the sender did not make itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Milliseconds since the epoch.
    pub start_ms: f64,
    pub length_ms: f64,
}

impl Gap {
    pub fn end_ms(&self) -> f64 {
        self.start_ms + self.length_ms
    }
}

/// Packets in a row that never came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub first: u64,
    pub packets: u64,
    /// When the next one came, in milliseconds since the epoch.
    pub before_ms: f64,
}

/// One direction of a stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Flow {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Between two arrivals, or from the last one to the sender's end.
    pub longest_gap_ms: f64,
    /// Those of 20 ms and more.
    pub gaps: Vec<Gap>,
    pub losses: Vec<Loss>,
    /// For how long the sender itself stood still at most; no gap by itself.
    pub longest_stall_ms: f64,
    /// Packets that were sent in a second: what is hardly sent loses nothing.
    pub per_second: f64,
}

/// What the sender says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) packets: u64,
    pub(super) began_ms: f64,
    pub(super) ended_ms: f64,
    pub(super) longest_stall_ms: f64,
}

#[derive(Default)]
pub(super) struct Tally {
    seen: Vec<u64>,
    next: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    last_ms: Option<f64>,
    /// Arrivals that had others left out before them: the first left out, itself, when.
    jumps: Vec<(u64, u64, f64)>,
    longest_ms: f64,
    gaps: Vec<Gap>,
}

impl Tally {
    /// A packet with its number, when it was sent and when it arrived.
    pub(super) fn arrived(&mut self, number: u64, sent_ms: f64, at_ms: f64) {
        if !self.mark(number) {
            self.duplicated += 1;
            return;
        }
        self.received += 1;
        if number < self.next {
            self.reordered += 1;
        } else {
            if number > self.next {
                self.jumps.push((self.next, number, at_ms));
            }
            if let Some(last) = self.last_ms {
                // Nothing was under way before the next one was sent, unless it was lost.
                let since = if number == self.next { last.max(sent_ms) } else { last };
                self.gap(since, at_ms);
            }
            self.next = number + 1;
        }
        self.last_ms = Some(self.last_ms.unwrap_or(at_ms).max(at_ms));
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn close(mut self, sent: Sent) -> Flow {
        if let Some(&(0, _, at_ms)) = self.jumps.first() {
            self.gap(sent.began_ms, at_ms);
        }
        if self.next < sent.packets {
            self.jumps.push((self.next, sent.packets, sent.ended_ms));
            self.gap(self.last_ms.unwrap_or(sent.began_ms), sent.ended_ms);
        }
        self.gaps.sort_by(|one, other| one.start_ms.total_cmp(&other.start_ms));
        Flow {
            sent: sent.packets,
            received: self.received,
            lost: sent.packets.saturating_sub(self.received),
            duplicated: self.duplicated,
            reordered: self.reordered,
            longest_gap_ms: self.longest_ms,
            losses: self.losses(),
            gaps: self.gaps,
            longest_stall_ms: sent.longest_stall_ms,
            per_second: sent.packets as f64 * 1e3 / (sent.ended_ms - sent.began_ms),
        }
    }

    fn gap(&mut self, start_ms: f64, end_ms: f64) {
        let length_ms = end_ms - start_ms;
        self.longest_ms = self.longest_ms.max(length_ms);
        if length_ms >= WORTH_TELLING_MS {
            self.gaps.push(Gap { start_ms, length_ms });
        }
    }

    fn losses(&self) -> Vec<Loss> {
        let missing = self.jumps.iter().filter_map(|&(first, end, before_ms)| {
            let mut absent = (first..end).filter(|number| !self.is_seen(*number));
            let first = absent.next()?;
            Some(Loss { first, packets: 1 + absent.count() as u64, before_ms })
        });
        missing.take(TOLD_LOSSES).collect()
    }

    /// Whether the number is a new one.
    fn mark(&mut self, number: u64) -> bool {
        let (word, bit) = place(number);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn is_seen(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }
}

fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number / 64).expect("a stream's numbers fit the memory");
    (word, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets sent and received at once, at milliseconds of their own number.
    fn tally(numbers: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for number in numbers {
            tally.arrived(number, number as f64, number as f64);
        }
        tally
    }

    fn sent(packets: u64) -> Sent {
        let ended_ms = packets as f64;
        Sent { packets, began_ms: 0.0, ended_ms, longest_stall_ms: 0.0 }
    }

    #[test]
    fn where_all_arrives_nothing_is_counted() {
        let flow = tally(0..1000).close(sent(1000));
        assert_eq!((flow.lost, flow.duplicated, flow.reordered), (0, 0, 0));
        assert!(flow.gaps.is_empty() && flow.losses.is_empty() && flow.longest_gap_ms <= 1.0);
        assert_eq!(flow.per_second, 1000.0);
    }

    #[test]
    fn what_is_missing_is_lost_and_makes_a_gap() {
        let flow = tally((0..100).chain(150..200)).close(sent(200));
        assert_eq!((flow.received, flow.lost), (150, 50));
        assert_eq!(flow.gaps, [Gap { start_ms: 99.0, length_ms: 51.0 }]);
        assert_eq!(flow.losses, [Loss { first: 100, packets: 50, before_ms: 150.0 }]);
    }

    #[test]
    fn what_is_missing_at_both_ends_counts_too() {
        let flow = tally(30..100).close(sent(200));
        assert_eq!((flow.lost, flow.longest_gap_ms), (130, 101.0));
        assert_eq!(flow.gaps.len(), 2);
        assert_eq!(tally([]).close(sent(50)).longest_gap_ms, 50.0);
    }

    #[test]
    fn late_and_double_packets_are_not_lost() {
        let flow = tally([0, 2, 1, 3, 3]).close(sent(4));
        assert_eq!((flow.lost, flow.reordered, flow.duplicated), (0, 1, 1));
        assert!(flow.losses.is_empty());
    }

    #[test]
    fn a_pause_of_the_sender_is_no_gap_but_a_delay_is() {
        let mut tally = tally(0..10);
        tally.arrived(10, 500.0, 500.5);
        tally.arrived(11, 501.0, 561.0);
        let flow = tally.close(sent(12));
        assert_eq!(flow.gaps, [Gap { start_ms: 501.0, length_ms: 60.0 }]);
    }
}
