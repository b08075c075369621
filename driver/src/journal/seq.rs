//! Sequence numbers of sealed records, reserved in durable blocks: a crash skips some, none is used twice.

use std::sync::Mutex;
use std::time::Duration;

use super::State;

const BLOCK: u64 = 1000;

/// A host that finds a higher number in the store than its own has forgotten what it used (its journal
/// was lost under a clock that went back, or is an old copy), and the record with the highest number of
/// all may be deleted: others remember it. So many have never been used after one that still stands.
const FORGOTTEN: u64 = 1 << 20;

/// Above every number that was used before, though nobody remembers them: no host seals a million
/// records a second. Where its clock is wrong, what the store holds of this host still counts.
pub(super) fn above_all(clock: Duration) -> u64 {
    clock.as_secs() << 20
}

/// The numbers `next..end` are this process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    next: u64,
    end: u64,
}

pub(super) struct Seqs {
    block: Mutex<Block>,
}

impl Seqs {
    pub(super) fn starting_at(reserved: u64) -> Self {
        // Zero is the floor of members that never raised theirs.
        let next = reserved.max(1);
        Self { block: Mutex::new(Block { next, end: next }) }
    }

    pub(super) fn take(&self) -> Option<u64> {
        let mut block = self.block.lock().expect("no holder panics");
        let seq = block.next;
        (seq < block.end).then(|| {
            block.next += 1;
            seq
        })
    }

    pub(super) fn peek(&self) -> u64 {
        self.block.lock().expect("no holder panics").next
    }

    pub(super) fn reserve(state: &mut State) -> Block {
        let next = state.reserved_seq.max(1);
        state.reserved_seq = next + BLOCK;
        Block { next, end: state.reserved_seq }
    }

    pub(super) fn reserve_above(state: &mut State, seen: u64) -> Block {
        state.reserved_seq = state.reserved_seq.max(seen.saturating_add(FORGOTTEN));
        Self::reserve(state)
    }

    pub(super) fn is_low(&self) -> bool {
        let block = self.block.lock().expect("no holder panics");
        block.end - block.next < BLOCK / 4
    }

    /// Continues with a reserved block; of two that were reserved at once the later one is used.
    pub(super) fn refill(&self, reserved: Block) {
        let mut block = self.block.lock().expect("no holder panics");
        if reserved.next >= block.end {
            *block = reserved;
        }
    }
}
