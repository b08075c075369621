//! The seam to etcd. Keys are relative to the cluster's prefix, values are opaque bytes.
//!
//! # Scopes
//!
//! What is listed, watched and counted is a scope: `networks/blue` is that key and everything below
//! `networks/blue/`, but not `networks/blue-2`; a text that ends with `/` is only what is below it;
//! the empty text is everything ([`covers`]).
//!
//! # Guarantees
//!
//! - A [`Listing`] is one consistent picture at its revision, sorted by key.
//! - A [`Watch`] that starts at `listing.revision + 1` gives every later change, in order, once;
//!   when it cannot (compaction, a lost connection, no leader) it ends and says why, never silently.
//! - A [`Txn`] happens wholly or not at all, and never has more than [`MAX_OPS`] operations.
//! - Every call ends within [`CALL_DEADLINE`].

use std::future::Future;
use std::time::Duration;

pub mod conformance;
pub mod etcd;
pub mod memory;

pub use memory::MemoryStore;

/// What etcd takes in one transaction (`--max-txn-ops`).
pub const MAX_OPS: usize = 128;

pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// A point in the store's history.
pub type Revision = i64;

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub mod_revision: Revision,
}

/// Everything in a scope at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// What a scope holds at one revision, as far as it changed of late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub revision: Revision,
    /// How many keys there are, changed or not.
    pub keys: u64,
    /// The keys that were changed since, and when.
    pub changed: Vec<(String, Revision)>,
}

/// One thing that happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String, mod_revision: Revision },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything that happened up to and including this revision since the last event.
    Changes { revision: Revision, changes: Vec<Change> },
    /// Nothing more happened up to this revision.
    Progress { revision: Revision },
    /// The wanted revision is gone: list again and delete what is missing. The watch is over.
    Compacted { compact_revision: Revision },
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Absent(String),
    /// The key was last changed at exactly this revision.
    Unchanged {
        key: String,
        mod_revision: Revision,
    },
    /// No key has this prefix.
    NonePrefixed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Vec<u8>,
    },
    /// Vanishes with the store's lease for this client.
    PutLeased {
        key: String,
        value: Vec<u8>,
        lease: LeaseId,
    },
    Delete {
        key: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub conditions: Vec<Condition>,
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    Done {
        revision: Revision,
    },
    /// A condition did not hold; nothing was changed.
    Refused {
        revision: Revision,
    },
}

pub type LeaseId = i64;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("etcd at {endpoints} cannot be reached while doing {operation}")]
    Unreachable {
        operation: &'static str,
        endpoints: String,
        #[source]
        source: Source,
    },
    /// Readings would be stale: hold what is, change nothing.
    #[error("etcd at {endpoints} has no leader")]
    NoLeader { endpoints: String },
    #[error("etcd did not finish {operation} within {}s", CALL_DEADLINE.as_secs())]
    Deadline { operation: &'static str },
    #[error("etcd refused {operation}")]
    Refused {
        operation: &'static str,
        #[source]
        source: Source,
    },
    /// Its quota is used up (NOSPACE). It still answers readers and watches.
    #[error(
        "etcd at {endpoints} is full and takes no changes: compact and defragment it, then `etcdctl alarm disarm`"
    )]
    Full { endpoints: String },
    #[error("etcd has no lease {0:x} any more")]
    LeaseLost(LeaseId),
    #[error("a transaction of {0} operations is more than {MAX_OPS}")]
    TooManyOps(usize),
    #[error("the watch ended")]
    WatchEnded {
        #[source]
        source: Source,
    },
    #[error("cannot set up the connection to etcd: {what}")]
    Config {
        what: String,
        #[source]
        source: Source,
    },
}

impl StoreError {
    /// Nothing was said about the request itself: it may succeed as soon as the store can be reached.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoLeader { .. }
            | Self::Deadline { .. }
            | Self::WatchEnded { .. } => true,
            Self::Refused { .. }
            | Self::Full { .. }
            | Self::LeaseLost(_)
            | Self::TooManyOps(_)
            | Self::Config { .. } => false,
        }
    }
}

/// Whether `key` belongs to `scope`.
pub fn covers(scope: &str, key: &str) -> bool {
    match key.strip_prefix(scope) {
        None => false,
        Some(rest) => {
            scope.is_empty() || scope.ends_with('/') || rest.is_empty() || rest.starts_with('/')
        }
    }
}

pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// The store.
pub trait Store: Clone + Send + Sync + 'static {
    type Watch: Watch;

    /// Everything in `scope`. The revision is never below one that an answer showed before the
    /// call, except after another history began.
    fn list(&self, scope: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Changes in `scope` from revision `from` on. A revision that the store has not reached yet
    /// gives a silent watch, in another history perhaps for ever: compare [`Store::revision`] first.
    fn watch(
        &self,
        scope: &str,
        from: Revision,
    ) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// Changes no key twice.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// How many keys `scope` has, and which of them were changed after revision `since`. No values
    /// are sent, and nothing of what stayed as it was.
    fn audit(
        &self,
        scope: &str,
        since: Revision,
    ) -> impl Future<Output = Result<Audit, StoreError>> + Send;

    /// The current revision, to notice another history.
    fn revision(&self) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// A new lease; the store may make its time longer.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Keeps a lease alive once; [`StoreError::LeaseLost`] when it is gone.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends a lease and deletes what hangs on it.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A running watch; dropping it ends it.
pub trait Watch: Send + 'static {
    /// The next event, never one without changes. After `Compacted` or an error the watch is over.
    /// Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<WatchEvent, StoreError>> + Send;
}

/// Opens the error up to its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_scope_is_a_key_and_what_is_below_it() {
        assert!(covers("networks/blue", "networks/blue"));
        assert!(covers("networks/blue", "networks/blue/members/1"));
        assert!(!covers("networks/blue", "networks/blue-2"));
        assert!(!covers("networks/blue", "networks"));
        assert!(covers("hosts/", "hosts/1"));
        assert!(!covers("hosts/", "hosts"));
        assert!(covers("", "anything"));
    }
}
