//! What was refused: counted for good, and told once.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::{HostId, Refused};

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
        refusal
    }

    pub(super) fn counts(&self) -> &BTreeMap<Refused, u64> {
        &self.counts
    }
}
