//! What was asked to be kept and is not durable yet: tried again until it is.

use std::collections::BTreeMap;

use tracing::warn;

use super::JournalError;
use super::writer::Storage;

/// Sealed records by path; `None` for those to be forgotten.
#[derive(Default)]
pub(super) struct Kept {
    unsynced: BTreeMap<String, Option<Vec<u8>>>,
    /// Some are not in the file, or may not be: writing them failed, or the file was closed unsynced.
    is_lost: bool,
    /// Said once.
    has_failed: bool,
}

impl Kept {
    /// Whether there is something to sync.
    pub(super) fn is_due(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Puts these into the file, if it is open, with all that failed before.
    pub(super) fn put(
        &mut self,
        changes: Vec<(String, Option<Vec<u8>>)>,
        disk: Result<&mut impl Storage, JournalError>,
    ) -> Result<(), JournalError> {
        let was_lost = std::mem::replace(&mut self.is_lost, true);
        self.unsynced.extend(changes.iter().cloned());
        let disk = disk?;
        if was_lost {
            return self.put_again(disk);
        }
        disk.keep(&changes)?;
        self.is_lost = false;
        Ok(())
    }

    /// Puts into the file what is lost, if anything is.
    pub(super) fn put_again(&mut self, disk: &mut impl Storage) -> Result<(), JournalError> {
        if self.is_lost {
            let all: Vec<_> = self.unsynced.clone().into_iter().collect();
            disk.keep(&all)?;
            self.is_lost = false;
        }
        Ok(())
    }

    /// Everything that was put is durable.
    pub(super) fn synced(&mut self) {
        if !self.is_lost {
            *self = Self::default();
        }
    }

    /// The file was opened anew: what was not durable is not in it.
    pub(super) fn lost(&mut self) {
        self.is_lost = true;
    }

    pub(super) fn failed(&mut self, error: &JournalError) {
        self.is_lost = true;
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!("{}", error.sentence());
        }
    }
}
