//! Rubbish where the record of the cluster was. Whoever can write to etcd can put it there; so it is put
//! back as it was sealed, by whoever keeps it, and all goes on meanwhile. But the store may also be
//! another cluster's, where nothing of ours belongs: what tells the two apart is a record of this host
//! that stands in it. Until one is seen there, this host writes nothing and withdraws nothing.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};
use wgnet_control_plane::store::{Committed, Condition, Op, Store, Txn, covers};
use wgnet_core::InStore;
use wgnet_proto::status::Problem;
use wgnet_proto::{Path, Refused};

use super::{COMMON, Task};

/// At once, and then after pauses that double from here ...
const FIRST: Duration = Duration::from_secs(1);
/// ... to here: two hosts that cannot read each other's do not fight at the speed of the line.
const LONGEST: Duration = Duration::from_secs(60);
/// After so long without another time it is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

const UNREADABLE: &str = "cluster-unreadable";

/// Whose the store is while its record of the cluster cannot be read, or is another cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// As far as is seen.
    Others,
}

/// When the record of the cluster was put back.
#[derive(Debug, Default)]
pub(super) struct PutBack {
    last: Option<Instant>,
    times: u32,
}

impl PutBack {
    fn is_due(&self, now: Instant) -> bool {
        let pause = FIRST.saturating_mul(1 << self.times.saturating_sub(1).min(10)).min(LONGEST);
        self.last.is_none_or(|last| now >= last + pause)
    }

    fn tried(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now >= last + FORGOTTEN) {
            self.times = 0;
        }
        (self.last, self.times) = (Some(now), self.times.saturating_add(1));
    }
}

impl<S: Store> Task<S> {
    /// What the store holds in the place of the cluster.
    pub(super) fn cluster_in_store(&self) -> Option<InStore> {
        let held = self.judge.in_store(&Path::Cluster)?;
        // A revoked host may have been the first in a wiped store; it founds nothing for others.
        let by_revoked = held.writer.is_some_and(|it| self.judge.view().revoked.contains(&it));
        (held.accepted.is_some() || !by_revoked).then_some(held)
    }

    /// Whose the store is, if it holds something in the place of the cluster that does not count.
    pub(super) fn whose_rubbish(&self) -> Option<Whose> {
        let held = self.cluster_in_store()?;
        if held.accepted.is_some() {
            return None;
        }
        // Who has the secret founded another: people decide which of the two is to stay.
        let is_foreign = held.refused == Some(Refused::ForeignCluster);
        let is_ours = !is_foreign && self.own_record_there().is_some();
        Some(if is_ours { Whose::Ours } else { Whose::Others })
    }

    /// Says what only people can end: nobody here can tell rubbish from another cluster's etcd.
    pub(super) fn tell_of_rubbish(&self) {
        let held = self.cluster_in_store();
        let is_told = held.is_some_and(|held| held.refused == Some(Refused::ForeignCluster))
            || self.has_wrong_secret();
        let is_seen = self.judge.cluster_id().is_none()
            || COMMON.iter().all(|scope| self.seen.contains_key(*scope));
        if is_told || !is_seen || self.whose_rubbish() != Some(Whose::Others) {
            return self.inputs.problems.clear(UNREADABLE, "etcd");
        }
        self.inputs.problems.set(Problem {
            code: UNREADABLE.to_owned(),
            object: "etcd".to_owned(),
            cause: "what etcd holds at /wgnet/v1/cluster (below etcd_prefix) cannot be read, and no record of this host is there: this may be another cluster's etcd, so nothing is written to it".to_owned(),
            next_step: "if it is this cluster's: etcdctl del /wgnet/v1/cluster, and the hosts write all again; else correct `etcd` or `etcd_prefix` in the driver's settings".to_owned(),
        });
    }

    /// Puts the record of the cluster back in the place of rubbish, if the store is ours.
    pub(super) async fn put_cluster_back(&mut self) {
        if self.whose_rubbish() != Some(Whose::Ours) {
            return;
        }
        let now = Instant::now();
        let (Some(held), Some(proof)) = (self.cluster_in_store(), self.own_record_there()) else {
            return;
        };
        let Some(value) = self.judge.sealed(&Path::Cluster).map(<[u8]>::to_vec) else {
            return;
        };
        if !self.put_back.is_due(now) {
            return;
        }
        self.put_back.tried(now);
        let key = Path::Cluster.to_string();
        let there = Condition::Unchanged { key: key.clone(), mod_revision: held.mod_revision };
        let txn = Txn { conditions: vec![proof, there], ops: vec![Op::Put { key, value }] };
        match self.inputs.store.commit(txn).await {
            Ok(Committed::Done { .. }) => {
                info!("Put the record of the cluster back in the place of what cannot be it");
            }
            Ok(Committed::Refused { .. }) => debug!("Another host put the cluster's record back"),
            Err(error) => {
                debug!(error = crate::chain(&error), "Cannot put the cluster's record back");
            }
        }
    }

    /// A condition that only this cluster's store fulfils: a record of this host, unchanged. Another
    /// cluster's in its place does not, even before anybody noticed.
    pub(super) fn own_store_proof(&self) -> Option<Condition> {
        let is_accepted = self.cluster_in_store()?.accepted.is_some();
        if !is_accepted && self.whose_rubbish() != Some(Whose::Ours) {
            return None;
        }
        self.own_record_there()
    }

    /// A genuine record of this host that was seen in this history of the store.
    fn own_record_there(&self) -> Option<Condition> {
        let me = self.inputs.facts.me;
        let own = std::iter::once(Path::Host(me));
        let own = own.chain(self.judge.own_in_store().iter().cloned());
        own.filter(|path| !matches!(path, Path::Cluster | Path::Network(_))).find_map(|path| {
            let held = self.judge.in_store(&path)?;
            let key = path.to_string();
            // Be it one that a backup brought back.
            let is_own = held.writer == Some(me);
            let is_seen = self.seen.keys().any(|scope| covers(scope, &key));
            let stands = Condition::Unchanged { key, mod_revision: held.mod_revision };
            (is_own && is_seen).then_some(stands)
        })
    }
}
