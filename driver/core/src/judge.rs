//! Judges what stands in etcd: raw entries in, the [`ClusterView`] out.
//!
//! A record counts when its envelope opens ([`wgnet_proto::seal`]), its content keeps the rules, its
//! writer may write there and nothing newer of that writer was seen there. Whatever else stands in
//! the store is refused, counted, and harms no other record: the last valid one stays in force until
//! its key is deleted. The view depends on which valid records there are, not on the order in which
//! they came.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::record::ClusterRecord;
use wgnet_proto::secret::Epoch;
use wgnet_proto::{
    Claim, ClusterId, ClusterSecrets, HostId, NetworkKey, Opener, Path, Record, Refused,
};

use crate::view::ClusterView;

mod admission;
mod picture;
mod place;
mod refusals;
mod scope;

use place::{Held, Place, Valid};
pub use refusals::Refusal;
use refusals::Refusals;

/// Keys with nothing valid that are remembered, so that a store full of rubbish does not fill memory.
const MAX_STRAYS: usize = 10_000;

/// What became of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A key this version does not know.
    Ignored,
    Accepted,
    /// Valid, but this host's record at the same path has precedence: a higher claim on an address,
    /// a higher generation, a network that is freed already.
    Outclaimed {
        by: HostId,
    },
    Refused(Refusal),
}

/// What differs in the view since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The `cluster` record.
    pub cluster: bool,
    /// Hosts, which of them are alive, or which are revoked.
    pub hosts: bool,
    pub networks: BTreeSet<NetworkKey>,
}

/// The record in force at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    pub writer: HostId,
    pub seq: u64,
    /// Of the secret it was sealed with.
    pub epoch: Epoch,
    pub record: Record,
}

/// What the store holds at a path, be it in force or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InStore {
    pub mod_revision: i64,
    /// Who wrote it, if its envelope is genuine.
    pub writer: Option<HostId>,
    /// Why it does not count, if it was refused.
    pub refused: Option<Refused>,
    /// `None` if it was refused, or voided since.
    pub accepted: Option<InForce>,
    /// A backup of the store may have brought it back.
    pub is_weak: bool,
}

/// Keeps every valid record and the view made of them.
#[derive(Debug)]
pub struct Judge {
    opener: Opener,
    own: HostId,
    places: BTreeMap<Path, Place>,
    graves: Graves,
    /// Highest floor seen of each member; stays when the member record is deleted.
    floors: BTreeMap<NetworkKey, BTreeMap<HostId, u64>>,
    claims: BTreeMap<NetworkKey, Claim>,
    own_highest_seq: u64,
    /// How far the store had come when its fall was seen, until somebody announces another history.
    fallen_to: Option<i64>,
    /// Paths where the store holds something else than what is in force.
    clobbered: BTreeSet<Path>,
    /// Paths where the store holds something that this host wrote.
    own_in_store: BTreeSet<Path>,
    /// Places without a valid record.
    strays: usize,
    cluster: Option<ClusterRecord>,
    view: ClusterView,
    changed: Changed,
    refusals: Refusals,
}

impl Judge {
    /// A judge on host `own`. Without a cluster id it accepts a `cluster` record first and nothing
    /// else, and then keeps to that cluster.
    pub fn new(secrets: ClusterSecrets, cluster: Option<ClusterId>, own: HostId) -> Self {
        Self {
            opener: Opener::new(secrets, cluster),
            own,
            places: BTreeMap::new(),
            graves: BTreeMap::new(),
            floors: BTreeMap::new(),
            claims: BTreeMap::new(),
            own_highest_seq: 0,
            fallen_to: None,
            clobbered: BTreeSet::new(),
            own_in_store: BTreeSet::new(),
            strays: 0,
            cluster: None,
            view: ClusterView::default(),
            changed: Changed::default(),
            refusals: Refusals::default(),
        }
    }

    /// A key got this value.
    pub fn put(&mut self, key: &str, value: &[u8], mod_revision: i64) -> Verdict {
        let Some(path) = Path::parse(key) else {
            return Verdict::Ignored;
        };
        let announced_at = self.announced_at();
        let is_old = self.is_old(mod_revision);
        let judged = self.admit(&path, value, is_old);
        if let Ok(writer) = judged
            && !is_old
        {
            self.drop_overwritten(&path, writer);
        }
        let place = self.places.get(&path);
        let is_known = place.is_some_and(|place| place.held.is_refused_at(mod_revision));
        let is_stray = place.is_none() && judged.is_err();
        if !is_stray || self.strays < MAX_STRAYS {
            let place = self.place_mut(&path);
            place.held = Held::Value {
                mod_revision,
                writer: judged.as_ref().map_or_else(|not| not.writer, |writer| Some(*writer)),
                refused: judged.as_ref().err().map(|not| not.reason),
            };
        }
        self.settle(&path);
        if path == Path::Cluster && announced_at != self.announced_at() {
            self.weigh_anew();
        }
        self.verdict(&path, value, judged, is_known)
    }

    /// The store fell to this revision, and nobody has announced another history yet: endpoints that
    /// stand there since then or before take an address from nobody. The announcement says the same of
    /// the revision that it names.
    pub fn set_fallen(&mut self, fallen_to: Option<i64>) {
        self.fallen_to = fallen_to;
    }

    fn announced_at(&self) -> Option<i64> {
        self.cluster.as_ref().map(|cluster| cluster.announced_at)
    }

    fn is_old(&self, mod_revision: i64) -> bool {
        self.fallen_to.or(self.announced_at()).is_some_and(|it| mod_revision <= it)
    }

    /// A key is gone. Its record leaves the view; a tombstone does not: revocation is for good.
    pub fn delete(&mut self, key: &str) {
        if let Some(path) = Path::parse(key) {
            self.remove(&path);
        }
    }

    /// A key is gone, but its record is to stay in force: the store was wiped or restored, and the
    /// record's owner has not spoken since. Ends with the next `put` or `delete`.
    pub fn keep_without_store(&mut self, path: &Path) {
        if let Some(place) = self.places.get_mut(path) {
            place.held = Held::Absent;
            self.settle(path);
        }
    }

    /// The record in force at a path gives way to the one that the store holds: its owner, who would
    /// have put it back, took it back instead, and this judge missed that. It cannot be replayed.
    /// Whether there was such a record.
    pub fn yield_to_store(&mut self, path: &Path) -> bool {
        let Some(place) = self.places.get_mut(path).filter(|_| self.clobbered.contains(path))
        else {
            return false;
        };
        let Some(holder) = place.held_record().map(|held| held.writer) else {
            return false;
        };
        let (held, gone) = place.records.drain(..).partition(|valid| valid.writer == holder);
        place.records = held;
        let gone: Vec<Valid> = gone;
        for valid in gone {
            bury(&mut self.graves, path, &valid);
        }
        self.settle(path);
        true
    }

    /// A complete listing of a scope: what is missing from it is gone. Returns the verdicts that
    /// are not plain acceptance, by key.
    pub fn listed<'e>(
        &mut self,
        scope: &str,
        entries: impl IntoIterator<Item = (&'e str, &'e [u8], i64)>,
    ) -> Vec<(String, Verdict)> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|(key, ..)| is_endpoint(key));
        let keys = entries.iter().map(|(key, ..)| *key).collect();
        let mut verdicts = Vec::new();
        for (key, value, mod_revision) in entries {
            match self.put(key, value, mod_revision) {
                Verdict::Accepted | Verdict::Ignored => {}
                verdict => verdicts.push((key.to_owned(), verdict)),
            }
        }
        for path in self.missing(scope, &keys) {
            self.remove(&path);
        }
        verdicts
    }

    /// What a complete listing with these keys would remove: for whoever must decide first whether
    /// to believe it.
    pub fn missing(&self, scope: &str, keys: &BTreeSet<&str>) -> Vec<Path> {
        let is_gone = |path: &Path, place: &Place| {
            let key = path.to_string();
            let is_listed = keys.contains(key.as_str());
            !matches!(place.held, Held::Absent) && scope::covers(scope, &key) && !is_listed
        };
        let places = scope::within(&self.places, scope);
        places.filter(|(path, place)| is_gone(path, place)).map(|(path, _)| path.clone()).collect()
    }

    /// Forgets a network this host follows no longer; what was known there.
    pub fn forget(&mut self, network: &NetworkKey) -> Vec<Path> {
        let known = keys_of(scope::of_network(&self.places, network));
        for path in &known {
            self.take(path);
            self.settle(path);
        }
        for path in keys_of(scope::of_network(&self.graves, network)) {
            self.graves.remove(&path);
        }
        self.floors.remove(network);
        self.claims.remove(network);
        known
    }

    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// What changed in the view since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// The cluster this judge keeps to, once known.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.opener.cluster()
    }

    /// The `cluster` record in force.
    pub fn cluster(&self) -> Option<ClusterRecord> {
        self.cluster.clone()
    }

    /// The record in force at a path.
    pub fn entry(&self, path: &Path) -> Option<InForce> {
        let valid = self.places.get(path)?.in_force(path)?;
        Some(in_force(path, valid))
    }

    /// The sealed bytes of the record in force: anybody may put them back where they were deleted
    /// or overwritten.
    pub fn sealed(&self, path: &Path) -> Option<&[u8]> {
        Some(&self.places.get(path)?.in_force(path)?.sealed)
    }

    /// What the store holds at a path, as far as this judge was told.
    pub fn in_store(&self, path: &Path) -> Option<InStore> {
        let place = self.places.get(path)?;
        let Held::Value { mod_revision, writer, refused } = place.held else {
            return None;
        };
        let held = place.held_record();
        let is_weak = held.is_some_and(|valid| valid.is_weak);
        let accepted = held.map(|valid| in_force(path, valid));
        Some(InStore { mod_revision, writer, refused, accepted, is_weak })
    }

    /// Since which revision the store holds what it does at a path.
    pub fn revision_in_store(&self, path: &Path) -> Option<i64> {
        match self.places.get(path)?.held {
            Held::Value { mod_revision, .. } => Some(mod_revision),
            Held::Unknown | Held::Absent => None,
        }
    }

    /// Where the store holds something that this host wrote, valid or not.
    pub fn own_in_store(&self) -> &BTreeSet<Path> {
        &self.own_in_store
    }

    /// Where the store holds something else than what is in force: rubbish, a lower claim, or
    /// nothing where a record stays in force without it. Their owners put theirs back.
    pub fn clobbered(&self) -> &BTreeSet<Path> {
        &self.clobbered
    }

    /// The highest claim seen in a network, be it in force or not; 0 for none.
    pub fn highest_claim(&self, network: &NetworkKey) -> Claim {
        self.claims.get(network).copied().unwrap_or(0)
    }

    /// The highest seq of a genuine record of this host, in force or not; 0 for none.
    pub fn own_highest_seq(&self) -> u64 {
        self.own_highest_seq
    }

    /// How many entries were refused, by reason.
    pub fn refused(&self) -> &BTreeMap<Refused, u64> {
        self.refusals.counts()
    }

    /// Every valid record as it was sealed, for a snapshot on disk: keys and values. What is leased
    /// is left out.
    pub fn export(&self) -> impl Iterator<Item = (String, &[u8])> {
        let lasting = self.places.iter().filter(|(path, _)| !is_leased(path));
        lasting.flat_map(|(path, place)| {
            place.records.iter().map(|valid| (path.to_string(), &*valid.sealed))
        })
    }

    /// Takes a snapshot in, judged like everything else. What the store holds stays unknown.
    pub fn import<'e>(
        &mut self,
        entries: impl IntoIterator<Item = (&'e str, &'e [u8])>,
    ) -> Vec<(String, Verdict)> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|(key, _)| is_endpoint(key));
        let mut verdicts = Vec::new();
        for (key, value) in entries {
            let Some(path) = Path::parse(key) else {
                continue;
            };
            let judged = self.admit(&path, value, false);
            self.settle(&path);
            match self.verdict(&path, value, judged, false) {
                Verdict::Accepted | Verdict::Ignored => {}
                verdict => verdicts.push((key.to_owned(), verdict)),
            }
        }
        verdicts
    }
}

/// Highest seq of records that are gone, by writer.
type Graves = BTreeMap<Path, BTreeMap<HostId, u64>>;

/// What is gone cannot be replayed.
fn bury(graves: &mut Graves, path: &Path, gone: &Valid) {
    let seq = graves.entry(path.clone()).or_default().entry(gone.writer).or_default();
    *seq = gone.seq.max(*seq);
}

fn in_force(path: &Path, valid: &Valid) -> InForce {
    let Valid { writer, seq, epoch, .. } = *valid;
    InForce { writer, seq, epoch, record: valid.record(path) }
}

/// Endpoints are judged last: the floors of their writers are known then.
fn is_endpoint(key: &str) -> bool {
    key.contains("/endpoints/")
}

fn is_leased(path: &Path) -> bool {
    matches!(path, Path::Alive(_) | Path::Status(_))
}

fn keys_of<'p, T: 'p>(places: impl Iterator<Item = (&'p Path, &'p T)>) -> Vec<Path> {
    places.map(|(path, _)| path.clone()).collect()
}

#[cfg(test)]
mod tests;
