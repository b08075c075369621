//! Keeps a host's own records in the store: publishes what is wanted, withdraws what is not, puts
//! back what others changed or deleted. Level-triggered: compares two pictures, remembers no events.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_proto::{Path, Record};

use crate::session::Session;
use crate::store::{Revision, Source, Store};

/// What this host wants in the store. `networks/<key>` and `cluster` records are created, never
/// overwritten or deleted, except that a network record which is `freed` replaces one that is not.
pub type WantedRecords = BTreeMap<Path, Wanted>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub record: Record,
    /// Vanishes with this host's lease.
    pub leased: bool,
}

/// What the store holds, as the driver's judge sees it. It needs to contain only what this host
/// wrote and what stands at wanted paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Counts histories: with another number everything known before is forgotten.
    pub history: u64,
    /// Of each followed scope that was listed in this history: the revision of its last event.
    /// A path outside of them is unknown, which is not absent: it is neither put nor deleted.
    pub seen: BTreeMap<String, Revision>,
    pub present: BTreeMap<Path, Present>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Written by this host.
    pub mine: bool,
    /// What it says; `None` if it is not valid, void or sealed with an old secret, so that it is
    /// to be written again.
    pub record: Option<Record>,
    pub mod_revision: Revision,
}

/// How publishing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publishing {
    /// Records that the store does not hold as wanted yet, and ones of this host that it still holds.
    pub unpublished: usize,
    /// Why, as far as it is known; `None` when all is well.
    pub error: Option<String>,
}

/// Makes the sealed bytes of a record for its path.
pub type Seal = Arc<dyn Fn(&Path, &Record) -> Result<Vec<u8>, Source> + Send + Sync>;

/// A running publisher; dropping it ends it, and leaves what is published.
pub struct Publisher {
    publishing: watch::Receiver<Publishing>,
    _stop: DropGuard,
}

impl Publisher {
    pub fn start<S: Store>(
        store: S,
        session: Session,
        seal: Seal,
        wanted: watch::Receiver<Arc<WantedRecords>>,
        picture: watch::Receiver<Arc<Picture>>,
        cancel: &CancellationToken,
    ) -> Self {
        let cancel = cancel.child_token();
        let (_, publishing) = watch::channel(Publishing::default());
        let _ = (store, session, seal, wanted, picture);
        Self {
            publishing,
            _stop: cancel.drop_guard(),
        }
    }

    pub fn publishing(&self) -> watch::Receiver<Publishing> {
        self.publishing.clone()
    }
}
