//! What was refused: counts for good, the last ones for status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wgnet_proto::{HostId, Refused};

/// Shown in status.
const MAX_LAST: usize = 32;

/// Remembered as told; beyond that, telling starts over.
const MAX_TOLD: usize = 4096;

/// An entry that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Relative to the prefix.
    pub path: String,
    /// Who wrote it; only claimed where the reason says that the envelope is not genuine.
    pub writer: Option<HostId>,
    pub reason: Refused,
    /// The rule that was broken, as a clause.
    pub detail: String,
    /// Whether this path was not refused for this reason before: log it then, and only then.
    pub first_time: bool,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: BTreeMap<Refused, u64>,
    last: VecDeque<Refusal>,
    told: BTreeSet<(String, Refused)>,
}

impl Refusals {
    /// Takes a refusal in, and says whether it is the first of its path and reason. One that is
    /// known, because the same revision was listed again, is not counted.
    pub(super) fn add(&mut self, mut refusal: Refusal, is_known: bool) -> Refusal {
        if !is_known {
            *self.counts.entry(refusal.reason).or_default() += 1;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        refusal.first_time = self.told.insert((refusal.path.clone(), refusal.reason));
        self.last.retain(|old| old.path != refusal.path || old.reason != refusal.reason);
        if self.last.len() == MAX_LAST {
            self.last.pop_front();
        }
        self.last.push_back(refusal.clone());
        refusal
    }

    pub(super) fn counts(&self) -> &BTreeMap<Refused, u64> {
        &self.counts
    }

    pub(super) fn last(&self) -> impl Iterator<Item = &Refusal> {
        self.last.iter()
    }
}
