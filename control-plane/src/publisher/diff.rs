//! What has to be done to the store so that it holds what is wanted. Pure.

use std::collections::BTreeMap;

use wgnet_proto::{Path, Record};

use super::{Present, WantedRecords};
use crate::store::{Condition, LeaseId};

/// One key to be changed, if it still is as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub path: Path,
    pub condition: Condition,
    pub deed: Deed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Put { record: Record, leased: bool },
    Delete,
}

/// Puts first, in the order of their paths, then withdrawals.
pub(super) fn diff(
    wanted: &WantedRecords,
    present: &BTreeMap<Path, Present>,
    lease: Option<LeaseId>,
    leases: &BTreeMap<Path, LeaseId>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (path, want) in wanted {
        // A leased record waits for a lease, and is put again with each new one.
        let is_leased_as_wanted =
            !want.leased || (lease.is_some() && leases.get(path) == lease.as_ref());
        if want.leased && lease.is_none() {
            continue;
        }
        let there = present.get(path);
        if there.is_some_and(|there| satisfies(path, there, &want.record)) && is_leased_as_wanted {
            continue;
        }
        let deed = Deed::Put { record: want.record.clone(), leased: want.leased };
        changes.push(Change { path: path.clone(), condition: unchanged(path, there), deed });
    }
    for (path, there) in present {
        if there.mine && !wanted.contains_key(path) && is_withdrawn(path) {
            changes.push(Change {
                path: path.clone(),
                condition: unchanged(path, Some(there)),
                deed: Deed::Delete,
            });
        }
    }
    changes
}

/// Whether what is there is as good as what is wanted.
pub(super) fn satisfies(path: &Path, there: &Present, wanted: &Record) -> bool {
    let Some(record) = &there.record else {
        return false;
    };
    match (path, record, wanted) {
        (Path::Cluster, ..) => true,
        // The same from every host, whoever wrote it; only that it is freed is still to be said.
        (Path::Network(_), Record::Network(there), Record::Network(wanted)) => {
            there.freed || !wanted.freed
        }
        _ => there.mine && record == wanted,
    }
}

/// Whether this host takes a record of its own back that it does not want any more. What all
/// members share is deleted by whoever leaves last; and without its own record a host would be cut off.
pub(super) fn is_withdrawn(path: &Path) -> bool {
    match path {
        Path::Alive(_) | Path::Status(_) | Path::Member(..) | Path::Endpoint(..) => true,
        Path::Host(_)
        | Path::Cluster
        | Path::Tombstone(_)
        | Path::Network(_)
        | Path::Generation(_) => false,
    }
}

fn unchanged(path: &Path, there: Option<&Present>) -> Condition {
    let key = path.to_string();
    match there {
        Some(there) => Condition::Unchanged { key, mod_revision: there.mod_revision },
        None => Condition::Absent(key),
    }
}
