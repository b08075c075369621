//! What the publisher is told: the records this host wants in the store, and what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use wgnet_control_plane::publisher::{Picture, Present, WantedRecords};
use wgnet_control_plane::store::{Revision, Store, covers};
use wgnet_core::InForce;
use wgnet_proto::{Path, Record};

use super::rubbish::Whose;
use super::{CLUSTER, HOSTS, HostFacts, Task, wanted};

impl<S: Store> Task<S> {
    /// Tells the publisher what is wanted and what is there.
    pub(super) async fn want(&mut self) {
        // What is written with a number that was used before, or may be again, others refuse.
        if !self.noting.raise_seq_above(self.judge.own_highest_seq()).await {
            return;
        }
        self.noting.top_up_seqs().await;
        self.put_cluster_back().await;
        self.tell_of_rubbish();
        let wanted = self.wanted_now();
        let picture = self.picture_of(&wanted);
        // In this order: what was not known to be in the store is not wanted yet either, and would be
        // taken back by a publisher that sees only the picture of it.
        self.wanted.send_if_modified(|old| {
            **old != wanted && {
                *old = Arc::new(wanted);
                true
            }
        });
        self.picture.send_if_modified(|old| {
            **old != picture && {
                *old = Arc::new(picture);
                true
            }
        });
    }

    pub(super) fn wanted_now(&mut self) -> WantedRecords {
        let Some(come_to) = self.seen.get(CLUSTER).copied() else {
            return WantedRecords::clone(&self.wanted.borrow());
        };
        let Some(held) = self.cluster_in_store() else {
            let (cluster, incarnation) = (self.random_id(), self.random_id());
            // By the judge, not the journal, whose disk may have been full: no other would be accepted.
            let pinned = self.judge.cluster_id();
            let last = self.judge.cluster().map_or(0, |record| record.announced_at);
            let record = self.history.founding(pinned, cluster, incarnation, come_to, last);
            self.sealing.set(self.sealer(record.cluster));
            // What stands is not taken back because somebody deleted this one.
            let mut wanted = WantedRecords::clone(&self.wanted.borrow());
            wanted.extend(wanted::cluster_record(record));
            return wanted;
        };
        if self.whose_rubbish() == Some(Whose::Others) {
            return WantedRecords::clone(&self.wanted.borrow());
        }
        let Some(record) = self.judge.cluster() else {
            return WantedRecords::new();
        };
        self.sealing.set(self.sealer(record.cluster));
        let mut wanted = self.records();
        let facts = self.facts();
        let me = Path::Host(facts.me);
        let said =
            self.judge.in_store(&me).and_then(|held| held.accepted).map(|accepted| accepted.record);
        let said_here =
            matches!(&said, Some(Record::Host(host)) if host.incarnation == record.incarnation);
        let host = if said_here || self.is_complete(&wanted) {
            Some(wanted::host_record(&facts, record.incarnation))
        } else {
            said
        };
        if let Some(host) = host {
            wanted
                .insert(me, wgnet_control_plane::publisher::Wanted { record: host, leased: false });
        }
        let is_older = |there: InForce| there.epoch != self.inputs.secrets.current_epoch();
        if held.accepted.is_some_and(is_older) && self.all_use_the_newest_secret() {
            wanted.extend(wanted::cluster_record(record));
        }
        wanted
    }

    /// Whether every living host seals with the epoch that this one does. The record of the cluster
    /// is sealed anew not before: a host that cannot open it takes the store for another cluster's.
    fn all_use_the_newest_secret(&self) -> bool {
        let newest = self.inputs.secrets.current_epoch();
        self.judge.view().alive.iter().all(|host| {
            let held = self.judge.in_store(&Path::Host(*host)).and_then(|held| held.accepted);
            held.is_some_and(|held| held.epoch == newest)
        })
    }

    /// Whether this history of the store holds every wanted record. What a scope held that was not
    /// listed in this one yet says nothing.
    fn is_complete(&self, wanted: &WantedRecords) -> bool {
        let is_listed = |path: &Path| {
            let key = path.to_string();
            self.seen.keys().any(|scope| covers(scope, &key))
        };
        let is_anew = |path: &Path| {
            let held = self.judge.in_store(path).and_then(|held| held.accepted);
            held.is_some_and(|held| self.is_of_this_history(path, &held))
        };
        wanted.keys().all(|path| is_listed(path) && is_anew(path))
            && wanted::is_complete(wanted, &self.judge)
    }

    /// Whether a record was not brought back by a backup: others may know a newer one, which this
    /// host has forgotten, and would refuse the older.
    fn is_of_this_history(&self, path: &Path, held: &InForce) -> bool {
        let is_own = held.writer == self.inputs.facts.me
            && !matches!(path, Path::Cluster | Path::Network(_));
        !is_own || held.seq >= self.history.written_from()
    }

    pub(super) fn facts(&self) -> HostFacts {
        let underlay = self.inputs.underlay.borrow().addresses.clone();
        HostFacts { underlay, ..self.inputs.facts.clone() }
    }

    pub(super) fn records(&self) -> WantedRecords {
        wanted::records(&self.facts(), &self.inputs.journal.state(), self.judge.view())
    }

    pub(super) fn picture_of(&self, wanted: &WantedRecords) -> Picture {
        let mut present = BTreeMap::new();
        for path in wanted.keys().chain(self.judge.own_in_store()) {
            if let Some(held) = self.judge.in_store(path) {
                let mine = held.writer == Some(self.inputs.facts.me);
                let current = held.accepted.filter(|accepted| {
                    accepted.epoch == self.inputs.secrets.current_epoch()
                        && self.is_of_this_history(path, accepted)
                });
                let record = current.map(|accepted| accepted.record);
                present.insert(
                    path.clone(),
                    Present { mine, record, mod_revision: held.mod_revision },
                );
            }
        }
        Picture { history: self.history.number(), seen: self.seen_to_publish(), present }
    }
    /// The scopes in which the publisher may write and take back.
    fn seen_to_publish(&self) -> BTreeMap<String, Revision> {
        let Some(cluster) = self.seen.get(CLUSTER) else {
            // Before the cluster's own record is seen, nothing is wanted yet: it is no reason to take
            // back what an earlier process of this host published.
            return BTreeMap::new();
        };
        if self.cluster_in_store().is_none() {
            // First of all the record that says whose the others are.
            return BTreeMap::from([(CLUSTER.to_owned(), *cluster)]);
        }
        // What the store has of this host tells which numbers were used: all else waits for it.
        if self.whose_rubbish() == Some(Whose::Others) || !self.seen.contains_key(HOSTS) {
            return BTreeMap::new();
        }
        self.seen.clone()
    }
}
