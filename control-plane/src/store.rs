//! The seam to etcd. Keys are relative to the cluster's prefix, values are opaque bytes.
//!
//! # Guarantees
//!
//! - A [`Listing`] is one consistent picture at its revision.
//! - A [`Watch`] that starts at `listing.revision + 1` gives every later change, in order, once;
//!   when it cannot (compaction, a lost connection, no leader) it ends and says why, never silently.
//! - A [`Txn`] happens wholly or not at all, and never has more than [`MAX_OPS`] operations.
//! - Every call ends within [`CALL_DEADLINE`].

use std::future::Future;
use std::time::Duration;

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

/// Everything below a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// One thing that happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String, mod_revision: Revision },
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
    Unchanged { key: String, mod_revision: Revision },
    /// No key has this prefix.
    NonePrefixed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8> },
    /// Vanishes with the store's lease for this client.
    PutLeased { key: String, value: Vec<u8>, lease: LeaseId },
    Delete { key: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub conditions: Vec<Condition>,
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    Done { revision: Revision },
    /// A condition did not hold; nothing was changed.
    Refused { revision: Revision },
}

pub type LeaseId = i64;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("etcd at {endpoints} cannot be reached while doing {operation}")]
    Unreachable { operation: &'static str, endpoints: String, #[source] source: Source },
    /// Readings would be stale: hold what is, change nothing.
    #[error("etcd at {endpoints} has no leader")]
    NoLeader { endpoints: String },
    #[error("etcd did not finish {operation} within {}s", CALL_DEADLINE.as_secs())]
    Deadline { operation: &'static str },
    #[error("etcd refused {operation}")]
    Refused { operation: &'static str, #[source] source: Source },
    #[error("etcd has no lease {0:x} any more")]
    LeaseLost(LeaseId),
    #[error("a transaction of {0} operations is more than {MAX_OPS}")]
    TooManyOps(usize),
    #[error("the watch ended")]
    WatchEnded { #[source] source: Source },
    #[error("cannot set up the connection to etcd: {what}")]
    Config { what: String, #[source] source: Source },
}

pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// The store.
pub trait Store: Clone + Send + Sync + 'static {
    type Watch: Watch;

    /// Everything below `prefix` (paged inside, one revision).
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Changes below `prefix` from revision `from` on.
    fn watch(&self, prefix: &str, from: Revision) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Number of keys below `prefix` and the newest mod_revision among them (0 for none), for the audit.
    fn count(&self, prefix: &str) -> impl Future<Output = Result<(u64, Revision), StoreError>> + Send;

    /// The current revision, to notice another history.
    fn revision(&self) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Keeps a lease alive once; [`StoreError::LeaseLost`] when it is gone (etcd answers ttl 0).
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A running watch; dropping it ends it.
pub trait Watch: Send + 'static {
    /// The next event. After `Compacted` or an error the watch is over.
    fn next(&mut self) -> impl Future<Output = Result<WatchEvent, StoreError>> + Send;
}
