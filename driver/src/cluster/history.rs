//! Histories of the store: whether it is the one this host knows, or another cluster's altogether,
//! and what of the old one stands until its owner has spoken in the new one. Also the brake on
//! listings that lose most hosts or members.

mod brake;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use wgnet_control_plane::store::{Revision, covers};
use wgnet_core::Judge;
use wgnet_proto::record::ClusterRecord;
use wgnet_proto::{ClusterId, HostId, Incarnation, NetworkKey, Path, Record};

/// What a `cluster` record means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Same,
    /// Somebody announced another history.
    Another,
    /// The revision fell and the record still names the old history, or one before it, as a backup
    /// does: announce another.
    Announce,
    /// Another cluster's store stood in its place, and it is back as it was left.
    Returned,
}

/// Whose the store is, by its `cluster` record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Us,
    /// Another cluster, or nobody can tell.
    Others,
    /// There is no such record.
    Nobody,
}

pub(super) struct History {
    incarnation: Option<Incarnation>,
    /// What the store's record said of it: counts the histories of the cluster.
    ordinal: u64,
    /// Records of this host with a lower seq are of an earlier history, whatever they say.
    written_from: u64,
    /// Counts the histories of this process.
    number: u64,
    /// The revision fell, to this one, and no new incarnation was met since.
    fell: Option<Revision>,
    /// The same when the store was last seen to be ours, and how far it had come then.
    fell_as_ours: Option<Revision>,
    highest_as_ours: Revision,
    owner: Owner,
    /// Ours again after it was others'; not told yet.
    returned: bool,
    /// Records that are missing from the new history, by path, with their owner.
    kept: BTreeMap<Path, HostId>,
    /// Owners of kept records that have spoken, as far as a new listing was asked for.
    heard: BTreeSet<HostId>,
    /// What this host would found the cluster with; the same as long as it tries.
    founding: Option<ClusterRecord>,
    braked: BTreeMap<String, brake::Braked>,
    /// When another listing was asked for to decide about those.
    asked: Option<Instant>,
    /// Scopes whose next listing is believed whatever it lacks.
    released: BTreeSet<String>,
    /// Owners that are gone for good: what is kept of theirs is kept no longer.
    given_up: BTreeSet<HostId>,
}

impl History {
    /// As the journal knows it.
    pub(super) fn new(
        incarnation: Option<Incarnation>,
        ordinal: u64,
        written_from: u64,
        come_to: Revision,
    ) -> Self {
        Self {
            incarnation,
            ordinal,
            written_from,
            number: 0,
            fell: None,
            fell_as_ours: None,
            highest_as_ours: come_to,
            owner: Owner::Nobody,
            returned: false,
            kept: BTreeMap::new(),
            heard: BTreeSet::new(),
            founding: None,
            braked: BTreeMap::new(),
            asked: None,
            released: BTreeSet::new(),
            given_up: BTreeSet::new(),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The store's revision fell. Returns whether that says anything about our store's history.
    pub(super) fn fell(&mut self, to: Revision) -> bool {
        self.number += 1;
        if self.owner == Owner::Others {
            return false;
        }
        self.fell = Some(to);
        true
    }

    pub(super) fn has_fallen(&self) -> bool {
        self.fell.is_some()
    }

    /// How far the store had come when its fall was seen, until another history is announced.
    pub(super) fn fallen_to(&self) -> Option<Revision> {
        self.fell
    }

    /// Whose the store was seen to be at a revision. Returns whether others' took the place of ours.
    pub(super) fn seen_to_be(&mut self, owner: Owner, revision: Revision) -> bool {
        let before = std::mem::replace(&mut self.owner, owner);
        match owner {
            Owner::Us if before == Owner::Others => {
                self.number += 1;
                self.returned = true;
                if revision < self.highest_as_ours {
                    self.fell = Some(revision);
                }
            }
            Owner::Others if before != Owner::Others => {
                // It was not ours that fell.
                self.fell = self.fell_as_ours;
                return true;
            }
            Owner::Us | Owner::Others | Owner::Nobody => {}
        }
        if owner == Owner::Us {
            self.fell_as_ours = self.fell;
            self.highest_as_ours = revision;
        }
        false
    }

    /// The store has come so far.
    pub(super) fn reached(&mut self, revision: Revision) {
        if self.is_ours() {
            self.highest_as_ours = self.highest_as_ours.max(revision);
        }
    }

    /// Whether the store is this cluster's.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == Owner::Us
    }

    /// The record that the store holds names this incarnation; this host's next record will have
    /// this seq.
    pub(super) fn meet(&mut self, record: &ClusterRecord, next_seq: u64) -> Turn {
        self.founding = None;
        let returned = std::mem::take(&mut self.returned);
        match self.incarnation {
            Some(known) if known == record.incarnation && self.has_fallen() => Turn::Announce,
            Some(known) if known == record.incarnation && returned => Turn::Returned,
            Some(known) if known == record.incarnation => Turn::Same,
            None => {
                (self.incarnation, self.ordinal) = (Some(record.incarnation), record.history);
                self.fell = None;
                Turn::Same
            }
            Some(_) if record.history < self.ordinal => {
                if self.fell.replace(self.highest_as_ours).is_none() {
                    self.number += 1;
                }
                Turn::Announce
            }
            Some(_) => {
                (self.incarnation, self.ordinal) = (Some(record.incarnation), record.history);
                self.written_from = next_seq;
                if self.fell.take().is_none() {
                    self.number += 1;
                }
                Turn::Another
            }
        }
    }

    /// The record that announces another history of a store that has come so far.
    pub(super) fn announcing(
        &self,
        stood: &ClusterRecord,
        incarnation: Incarnation,
        announced_at: Revision,
    ) -> ClusterRecord {
        let history = self.ordinal.max(stood.history) + 1;
        ClusterRecord { incarnation, history, announced_at, ..stood.clone() }
    }

    /// The newest history met, and its number.
    pub(super) fn met(&self) -> (Option<Incarnation>, u64) {
        (self.incarnation, self.ordinal)
    }

    /// How far it was seen to have come.
    pub(super) fn come_to(&self) -> Revision {
        self.highest_as_ours
    }

    pub(super) fn written_from(&self) -> u64 {
        self.written_from
    }

    /// The record to found the cluster with in a store that has come so far: under the id this host
    /// is pinned to, if it is. `last`: where the last history was announced.
    pub(super) fn founding(
        &mut self,
        pinned: Option<ClusterId>,
        cluster: ClusterId,
        incarnation: Incarnation,
        revision: Revision,
        last: Revision,
    ) -> ClusterRecord {
        let (cluster, history) = (pinned.unwrap_or(cluster), self.ordinal + 1);
        // Where the record was only deleted, all else in the store is as old or new as it was.
        let announced_at = if self.has_fallen() { revision } else { last.min(revision) };
        let record = ClusterRecord { cluster, incarnation, schema: 1, history, announced_at };
        // Somebody else's cluster was met meanwhile, and is gone again; or the store was restored.
        self.founding.take_if(|tried| {
            pinned.is_some_and(|id| id != tried.cluster) || tried.announced_at > revision
        });
        self.founding.get_or_insert(record).clone()
    }

    /// Parts what a listing lacks into what is gone and what stands: in another history a host's
    /// former records stand until its `hosts/` record names that history, which a listing of an
    /// earlier revision knows nothing of.
    ///
    /// What was kept before and is missing again is judged anew.
    pub(super) fn split_missing(
        &mut self,
        missing: Vec<Path>,
        revision: Revision,
        judge: &Judge,
        me: HostId,
    ) -> (Vec<Path>, Vec<Path>) {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for path in missing {
            let owner = judge.entry(&path).map(|entry| entry.writer);
            match owner {
                Some(owner)
                    if (owner != me || self.owner == Owner::Others)
                        && !is_leased(&path)
                        && !self.has_spoken(owner, revision, judge) =>
                {
                    self.kept.insert(path.clone(), owner);
                    kept.push(path);
                }
                _ => {
                    self.kept.remove(&path);
                    gone.push(path);
                }
            }
        }
        (gone, kept)
    }

    /// Whether a record stands though its key is deleted: what was there was another host's, as a
    /// backup brings it back, and the record's owner has not spoken in this history yet.
    pub(super) fn outlives(
        &mut self,
        path: &Path,
        revision: Revision,
        judge: &Judge,
        me: HostId,
    ) -> bool {
        let (entry, held) = (judge.entry(path), judge.in_store(path));
        let is_others = entry.zip(held).is_some_and(|(it, held)| held.writer != Some(it.writer));
        is_others && !self.split_missing(vec![path.clone()], revision, judge, me).1.is_empty()
    }

    /// A listing without these is not believed yet: they stay missing until it is.
    pub(super) fn hold(&mut self, missing: impl Iterator<Item = (Path, HostId)>) {
        self.kept.extend(missing);
    }

    /// A network is not followed any more: no listing will tell of it.
    pub(super) fn forget(&mut self, network: &NetworkKey, scope: &str) {
        self.kept.retain(|path, _| path.network() != Some(network));
        self.braked.remove(scope);
        self.released.remove(scope);
    }

    /// A record stands in the store again.
    pub(super) fn is_back(&mut self, key: &str) {
        if let Some(path) = Path::parse(key) {
            if let Some(host) = path.owner() {
                self.given_up.remove(&host);
            }
            self.kept.remove(&path);
        }
    }

    /// Kept records of a scope that a listing still lacks.
    pub(super) fn still_missing(&self, scope: &str, keys: &BTreeSet<&str>) -> Vec<Path> {
        let kept = self.kept.keys().map(|path| (path, path.to_string()));
        let missing = kept.filter(|(_, key)| covers(scope, key) && !keys.contains(key.as_str()));
        missing.map(|(path, _)| path.clone()).collect()
    }

    /// Whether an owner of kept records has spoken since this was last asked: what it has not
    /// repeated by now is gone, and a new listing will tell.
    pub(super) fn has_news(&mut self, judge: &Judge) -> bool {
        let owners: BTreeSet<HostId> = self.kept.values().copied().collect();
        let has_spoken = |owner: &HostId| self.has_spoken(*owner, Revision::MAX, judge);
        let spoken = owners.into_iter().filter(has_spoken).collect();
        // Those who have not spoken in another history since are news once they do.
        let heard = std::mem::replace(&mut self.heard, spoken);
        !self.heard.is_subset(&heard)
    }

    /// Whether nothing speaks against taking what the store lacks for gone.
    pub(super) fn is_certain(&self) -> bool {
        self.is_ours() && !self.has_fallen() && self.incarnation.is_some() && self.braked.is_empty()
    }

    /// The owners of what is kept without the store.
    pub(super) fn keeps(&self) -> BTreeSet<HostId> {
        self.kept.values().copied().collect()
    }

    /// A host will never speak again; returns whether anything of it is kept, so that the next
    /// listing will end it.
    pub(super) fn give_up(&mut self, host: HostId) -> bool {
        let keeps = self.kept.values().any(|owner| *owner == host);
        if keeps {
            self.given_up.insert(host);
        }
        keeps
    }

    /// Whether a host had spoken in this history by that revision.
    fn has_spoken(&self, host: HostId, by: Revision, judge: &Judge) -> bool {
        // What a store lacks that is not ours says nothing.
        if self.has_fallen() || !self.is_ours() {
            return false;
        }
        if self.given_up.contains(&host) {
            return true;
        }
        let path = Path::Host(host);
        match judge.entry(&path).map(|entry| entry.record) {
            Some(Record::Host(record)) => {
                Some(record.incarnation) == self.incarnation
                    && judge.revision_in_store(&path).is_none_or(|said| said <= by)
            }
            _ => true,
        }
    }
}

fn is_leased(path: &Path) -> bool {
    matches!(path, Path::Alive(_) | Path::Status(_))
}

#[cfg(test)]
mod tests;
