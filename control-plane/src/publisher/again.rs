//! Holds back what is put again and again: a record that others keep changing, or that this host
//! itself finds invalid once it is there, is not fought over at the speed of the line. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wgnet_proto::{Path, Record};

use super::diff::{Change, Deed};

/// The second time at once, then after pauses that double from here ...
const FIRST: Duration = Duration::from_millis(100);
/// ... to here.
const LONGEST: Duration = Duration::from_secs(10);

/// After so long without another time it is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Again(BTreeMap<Path, Put>);

struct Put {
    record: Record,
    at: Instant,
    /// How often the same record had been put before.
    times: u32,
}

impl Again {
    pub(super) fn was_put(&mut self, path: &Path, record: &Record, now: Instant) {
        let before = self.0.get(path).filter(|put| put.record == *record);
        let times = before.map_or(0, |put| put.times + 1);
        self.0.insert(path.clone(), Put { record: record.clone(), at: now, times });
    }

    /// Leaves out what has to wait; when the first of it may go.
    pub(super) fn hold_back(&mut self, changes: &mut Vec<Change>, now: Instant) -> Option<Instant> {
        self.0.retain(|_, put| now < put.at + FORGOTTEN);
        let mut first: Option<Instant> = None;
        changes.retain(|change| {
            let due = self.due(change).filter(|due| *due > now);
            first = [first, due].into_iter().flatten().min();
            due.is_none()
        });
        first
    }

    fn due(&self, change: &Change) -> Option<Instant> {
        let put = self.0.get(&change.path)?;
        let is_same = matches!(&change.deed, Deed::Put { record, .. } if *record == put.record);
        let doublings = put.times.checked_sub(1).filter(|_| is_same)?;
        Some(put.at + FIRST.saturating_mul(1 << doublings.min(10)).min(LONGEST))
    }
}
