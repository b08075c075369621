//! The contents and history of a store in memory: what etcd's server does, with the time given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{
    Audit, Change, Committed, Condition, Entry, LeaseId, Listing, Op, Revision, StoreError, Txn,
    WatchEvent, covers,
};

pub(super) struct State {
    revision: Revision,
    /// Changes below this revision are forgotten.
    compacted: Revision,
    records: BTreeMap<String, Stored>,
    log: BTreeMap<Revision, Vec<Change>>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
    lose_next_change: bool,
    pub(super) is_full: bool,
    pub(super) witness: Option<Witness>,
}

/// Sees every change that is made, told or not.
pub(super) type Witness = Arc<dyn Fn(&[Change]) + Send + Sync>;

#[derive(Clone)]
struct Stored {
    value: Vec<u8>,
    mod_revision: Revision,
    lease: Option<LeaseId>,
}

struct Lease {
    ttl: Duration,
    expires: Instant,
}

/// What a store held at one moment, to be restored later.
#[derive(Clone)]
pub struct Backup {
    revision: Revision,
    records: BTreeMap<String, Stored>,
    leases: BTreeMap<LeaseId, Duration>,
}

impl Backup {
    /// A store that it is restored to is there.
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl State {
    /// Empty, as a new etcd: at revision 1.
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            records: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            lose_next_change: false,
            is_full: false,
            witness: None,
        }
    }

    pub(super) fn backup(&self) -> Backup {
        let leases = self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
        Backup { revision: self.revision, records: self.records.clone(), leases }
    }

    /// As etcd's leases, those of a backup have their full time again.
    pub(super) fn restored(backup: &Backup, now: Instant) -> Self {
        let leases = backup.leases.iter();
        let leases = leases.map(|(id, ttl)| (*id, Lease { ttl: *ttl, expires: now + *ttl }));
        Self {
            revision: backup.revision,
            compacted: backup.revision,
            records: backup.records.clone(),
            leases: leases.collect(),
            ..Self::new()
        }
    }

    /// Takes the place of another history. No lease gets the id of one that there was: etcd's are
    /// random.
    pub(super) fn succeed(&mut self, former: &mut Self) {
        self.witness = former.witness.take();
        self.last_lease = former.last_lease;
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Forgets every change before the current revision.
    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log = self.log.split_off(&self.compacted);
    }

    pub(super) fn lose_next_change(&mut self, lose: bool) {
        self.lose_next_change = lose;
    }

    pub(super) fn list(&self, scope: &str) -> Listing {
        let entries = self.within(scope).map(|(key, stored)| entry(key, stored)).collect();
        Listing { revision: self.revision, entries }
    }

    pub(super) fn audit(&self, scope: &str, since: Revision) -> Audit {
        let changed = self.within(scope).filter(|(_, stored)| stored.mod_revision > since);
        Audit {
            revision: self.revision,
            keys: self.within(scope).count() as u64,
            changed: changed.map(|(key, stored)| (key.clone(), stored.mod_revision)).collect(),
        }
    }

    fn within<'a>(&'a self, scope: &'a str) -> impl Iterator<Item = (&'a String, &'a Stored)> {
        self.records
            .range(scope.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(scope))
            .filter(move |(key, _)| covers(scope, key))
    }

    /// What a watch of `scope` that wants everything from `from` on is told now, and from where it
    /// goes on.
    pub(super) fn changes(&self, scope: &str, from: Revision) -> (Option<WatchEvent>, Revision) {
        if from < self.compacted {
            let compact_revision = self.compacted;
            return (Some(WatchEvent::Compacted { compact_revision }), from);
        }
        let mut last = 0;
        let mut changes = Vec::new();
        for (revision, happened) in self.log.range(from..) {
            let before = changes.len();
            changes.extend(happened.iter().filter(|change| covers(scope, change.key())).cloned());
            if changes.len() > before {
                last = *revision;
            }
        }
        let event = (last > 0).then_some(WatchEvent::Changes { revision: last, changes });
        (event, from.max(self.revision + 1))
    }

    pub(super) fn commit(&mut self, txn: Txn) -> Result<Committed, StoreError> {
        // Whatever the conditions are.
        if txn.ops.iter().any(|op| !matches!(op, Op::Delete { .. })) {
            self.has_room()?;
        }
        if !txn.conditions.iter().all(|condition| self.holds(condition)) {
            return Ok(Committed::Refused { revision: self.revision });
        }
        self.check(&txn.ops)?;
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for op in txn.ops {
            match op {
                Op::Put { key, value } => changes.push(self.put(key, value, None, revision)),
                Op::PutLeased { key, value, lease } => {
                    changes.push(self.put(key, value, Some(lease), revision));
                }
                Op::Delete { key } => changes.extend(self.delete(key, revision)),
            }
        }
        self.record(revision, changes);
        Ok(Committed::Done { revision: self.revision })
    }

    fn has_room(&self) -> Result<(), StoreError> {
        if self.is_full {
            return Err(StoreError::Full { endpoints: "memory".to_owned() });
        }
        Ok(())
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => !self.records.contains_key(key),
            Condition::Unchanged { key, mod_revision } => {
                self.records.get(key).map_or(0, |stored| stored.mod_revision) == *mod_revision
            }
            Condition::NonePrefixed(prefix) => {
                let first = self.records.range(prefix.clone()..).next();
                first.is_none_or(|(key, _)| !key.starts_with(prefix))
            }
        }
    }

    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut keys = BTreeSet::new();
        for op in ops {
            let key = match op {
                Op::Put { key, .. } | Op::Delete { key } => key,
                Op::PutLeased { key, lease, .. } => {
                    if !self.leases.contains_key(lease) {
                        return Err(StoreError::LeaseLost(*lease));
                    }
                    key
                }
            };
            if key.is_empty() || !keys.insert(key) {
                let source = format!("{key:?} is no key, or changed twice").into();
                return Err(StoreError::Refused { operation: "commit", source });
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
        mod_revision: Revision,
    ) -> Change {
        let stored = Stored { value, mod_revision, lease };
        let change = Change::Put(entry(&key, &stored));
        self.records.insert(key, stored);
        change
    }

    fn delete(&mut self, key: String, mod_revision: Revision) -> Option<Change> {
        self.records.remove(&key)?;
        Some(Change::Delete { key, mod_revision })
    }

    fn record(&mut self, revision: Revision, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision = revision;
            if let Some(witness) = &self.witness {
                witness(&changes);
            }
            if !std::mem::take(&mut self.lose_next_change) {
                self.log.insert(revision, changes);
            }
        }
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> Result<LeaseId, StoreError> {
        self.has_room()?;
        self.last_lease += 1;
        self.leases.insert(self.last_lease, Lease { ttl, expires: now + ttl });
        Ok(self.last_lease)
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn granted(&self) -> LeaseId {
        self.last_lease
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<(), StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseLost(id))?;
        lease.expires = now + lease.ttl;
        Ok(())
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        self.leases.remove(&id).ok_or(StoreError::LeaseLost(id))?;
        let held = |stored: &Stored| stored.lease == Some(id);
        let keys: Vec<_> =
            self.records.iter().filter(|(_, s)| held(s)).map(|(key, _)| key.clone()).collect();
        let revision = self.revision + 1;
        let changes = keys.into_iter().filter_map(|key| self.delete(key, revision)).collect();
        self.record(revision, changes);
        Ok(())
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    /// Ends the leases whose time is over; whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let over = |(id, lease): (&LeaseId, &Lease)| (lease.expires <= now).then_some(*id);
        let expired: Vec<_> = self.leases.iter().filter_map(over).collect();
        for id in &expired {
            self.revoke(*id).expect("it was just found");
        }
        !expired.is_empty()
    }

    /// A new leader gives every lease its full time again.
    pub(super) fn renew_leases(&mut self, now: Instant) {
        self.leases.values_mut().for_each(|lease| lease.expires = now + lease.ttl);
    }
}

fn entry(key: &str, stored: &Stored) -> Entry {
    Entry { key: key.to_owned(), value: stored.value.clone(), mod_revision: stored.mod_revision }
}
