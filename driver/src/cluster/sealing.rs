//! Seals this host's records with numbers that are never used twice.

use std::sync::{Arc, Mutex, PoisonError};

use wgnet_control_plane::publisher::Seal;
use wgnet_proto::Sealer;

use crate::journal::Journal;

/// Which cluster this host's records are sealed for; none until that is known.
#[derive(Clone, Default)]
pub(super) struct Sealing(Arc<Mutex<Option<Arc<Sealer>>>>);

#[derive(Debug, thiserror::Error)]
enum NotSealed {
    #[error("the cluster is not known yet")]
    NoCluster,
    #[error("no sequence number is reserved yet")]
    NoSeq,
}

impl Sealing {
    pub(super) fn set(&self, sealer: Sealer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sealer));
    }

    /// For the publisher.
    pub(super) fn seal(&self, journal: Journal) -> Seal {
        let sealing = self.clone();
        Arc::new(move |path, record| {
            let sealer = sealing
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
                .ok_or(NotSealed::NoCluster)?;
            record.check(path)?;
            let seq = journal.take_seq().ok_or(NotSealed::NoSeq)?;
            Ok(sealer.seal_record(path, seq, record))
        })
    }
}
