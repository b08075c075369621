//! Judges what stands in etcd: raw entries in, the [`ClusterView`] out.
//!
//! A record counts when its envelope opens ([`wgnet_proto::seal`]), its content keeps the rules, its
//! writer may write there and nothing newer of that writer was seen there. Whatever else stands in
//! the store is refused, counted, and harms no other record: the last valid one stays in force until
//! its key is deleted. The view depends on which valid records there are, not on the order in which
//! they came.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::record::{ClusterRecord, NetworkRecord};
use wgnet_proto::secret::Epoch;
use wgnet_proto::{
    Claim, ClusterId, ClusterSecrets, HostId, NetworkKey, Opened, Opener, Path, Record, Refused,
    seal,
};

use crate::view::{ClusterView, NetworkView};

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
    /// `None` if it was refused, or voided since.
    pub accepted: Option<InForce>,
}

/// Keeps every valid record and the view made of them.
#[derive(Debug)]
pub struct Judge {
    opener: Opener,
    own: HostId,
    places: BTreeMap<Path, Place>,
    /// Highest seq of records that are gone, by writer: what is deleted cannot be replayed.
    graves: BTreeMap<Path, BTreeMap<HostId, u64>>,
    /// Highest floor seen of each member; stays when the member record is deleted.
    floors: BTreeMap<NetworkKey, BTreeMap<HostId, u64>>,
    claims: BTreeMap<NetworkKey, Claim>,
    own_highest_seq: u64,
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
        let judged = self.admit(&path, value);
        let place = self.places.get(&path);
        let is_known = place.is_some_and(|place| place.held.is_refused_at(mod_revision));
        let is_stray = place.is_none() && judged.is_err();
        if !is_stray || self.strays < MAX_STRAYS {
            let place = self.place_mut(&path);
            place.held = Held::Value {
                mod_revision,
                writer: judged
                    .as_ref()
                    .map_or_else(|not| not.writer, |writer| Some(*writer)),
                valid: judged.is_ok(),
            };
        }
        self.settle(&path);
        self.verdict(&path, value, judged, is_known)
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
        places
            .filter(|(path, place)| is_gone(path, place))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Forgets a network this host follows no longer.
    pub fn forget(&mut self, network: &NetworkKey) {
        for path in keys_of(scope::of_network(&self.places, network)) {
            self.take(&path);
            self.settle(&path);
        }
        for path in keys_of(scope::of_network(&self.graves, network)) {
            self.graves.remove(&path);
        }
        self.floors.remove(network);
        self.claims.remove(network);
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
        let Held::Value {
            mod_revision,
            writer,
            ..
        } = place.held
        else {
            return None;
        };
        let accepted = place.held_record().map(|valid| in_force(path, valid));
        Some(InStore {
            mod_revision,
            writer,
            accepted,
        })
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

    /// The most recent refusals, the newest last; a path and reason is there once.
    pub fn last_refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.last()
    }

    /// Every valid record as it was sealed, for a snapshot on disk: keys and values. What is leased
    /// is left out.
    pub fn export(&self) -> impl Iterator<Item = (String, &[u8])> {
        let lasting = self.places.iter().filter(|(path, _)| !is_leased(path));
        lasting.flat_map(|(path, place)| {
            place
                .records
                .iter()
                .map(|valid| (path.to_string(), &*valid.sealed))
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
            let judged = self.admit(&path, value);
            self.settle(&path);
            match self.verdict(&path, value, judged, false) {
                Verdict::Accepted | Verdict::Ignored => {}
                verdict => verdicts.push((key.to_owned(), verdict)),
            }
        }
        verdicts
    }

    fn verdict(
        &mut self,
        path: &Path,
        value: &[u8],
        judged: Result<HostId, NotAdmitted>,
        is_known: bool,
    ) -> Verdict {
        match judged {
            Ok(writer) => {
                let place = self.places.get(path);
                match place
                    .and_then(|place| place.in_force(path))
                    .map(|valid| valid.writer)
                {
                    Some(by) if by != writer && self.clobbered.contains(path) => {
                        Verdict::Outclaimed { by }
                    }
                    _ => Verdict::Accepted,
                }
            }
            Err(NotAdmitted {
                writer,
                reason,
                detail,
            }) => {
                let refusal = Refusal {
                    path: path.to_string(),
                    writer: writer.or_else(|| seal::claimed_writer(value)),
                    reason,
                    detail,
                    first_time: false,
                };
                Verdict::Refused(self.refusals.add(refusal, is_known))
            }
        }
    }
}

/// Why an entry does not count.
struct NotAdmitted {
    /// If the envelope is genuine.
    writer: Option<HostId>,
    reason: Refused,
    detail: String,
}

impl NotAdmitted {
    fn by(opened: &Opened, reason: Refused) -> Self {
        Self {
            writer: Some(opened.writer),
            reason,
            detail: reason.to_string(),
        }
    }
}

/// How a value gets in.
impl Judge {
    /// Checks a value, and keeps it as its writer's record at this path if it counts.
    fn admit(&mut self, path: &Path, sealed: &[u8]) -> Result<HostId, NotAdmitted> {
        let opened = self
            .opener
            .open(path, sealed)
            .map_err(|reason| NotAdmitted {
                writer: None,
                reason,
                detail: reason.to_string(),
            })?;
        if opened.writer == self.own {
            self.own_highest_seq = self.own_highest_seq.max(opened.seq);
        }
        let record = Record::decode(path, &opened.payload).map_err(|bad| NotAdmitted {
            detail: bad.to_string(),
            ..NotAdmitted::by(&opened, Refused::BadRecord)
        })?;
        self.check(path, &opened, &record)
            .map_err(|not| NotAdmitted::by(&opened, not))?;
        let writer = opened.writer;
        self.keep(path, opened, sealed);
        self.follow_up(path, writer, record);
        Ok(writer)
    }

    fn check(&mut self, path: &Path, opened: &Opened, record: &Record) -> Result<(), Refused> {
        let writer = opened.writer;
        let is_tombstone = matches!(path, Path::Tombstone(_));
        // A tombstone stays in force even if its writer is revoked later: two hosts that revoke
        // each other must look the same to everybody.
        if self.view.revoked.contains(&writer) && !is_tombstone {
            return Err(Refused::RevokedWriter);
        }
        if let Record::Endpoint(endpoint) = record
            && endpoint.host != writer
        {
            return Err(Refused::WrongWriter);
        }
        if let Record::Cluster(cluster) = record
            && cluster.cluster != opened.cluster
        {
            return Err(Refused::BadRecord);
        }
        if let (Some(network), Record::Endpoint(endpoint)) = (path.network(), record) {
            let highest = self.claims.entry(network.clone()).or_default();
            *highest = endpoint.claim.max(*highest);
        }
        self.check_seq(path, opened)?;
        match (path, record) {
            (Path::Endpoint(network, _), _) if opened.seq < self.floor(network, writer) => {
                Err(Refused::VoidByFloor)
            }
            (Path::Network(_), Record::Network(record)) => {
                match self.entry(path).map(|entry| entry.record) {
                    Some(Record::Network(known)) if contradicts(&known, record) => {
                        Err(Refused::Conflicting)
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether nothing newer of this writer was seen here.
    fn check_seq(&self, path: &Path, opened: &Opened) -> Result<(), Refused> {
        // The cluster record follows the store: in one that was restored, the old incarnation must
        // be seen to be replaced. An old one can only make hosts publish again.
        if *path == Path::Cluster {
            return Ok(());
        }
        let known = self
            .places
            .get(path)
            .and_then(|place| place.of(opened.writer));
        if let Some(known) = known {
            let is_same = opened.seq == known.seq
                && seal::payload_of(&known.sealed).is_some_and(|known| known == opened.payload);
            return if opened.seq > known.seq || is_same {
                Ok(())
            } else {
                Err(Refused::RolledBack)
            };
        }
        let grave = self
            .graves
            .get(path)
            .and_then(|graves| graves.get(&opened.writer));
        match grave {
            // A lease that is made again may carry the same bytes.
            Some(grave) if is_leased(path) && opened.seq >= *grave => Ok(()),
            Some(grave) if opened.seq <= *grave => Err(Refused::RolledBack),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, path: &Path, opened: Opened, sealed: &[u8]) {
        if let Some(graves) = self.graves.get_mut(path) {
            graves.remove(&opened.writer);
            if graves.is_empty() {
                self.graves.remove(path);
            }
        }
        let Opened {
            writer, seq, epoch, ..
        } = opened;
        let place = self.place_mut(path);
        let was_stray = place.is_stray();
        place.keep(Valid {
            writer,
            seq,
            epoch,
            sealed: sealed.into(),
        });
        if was_stray {
            self.strays -= 1;
        }
    }

    /// What an accepted record means for others.
    fn follow_up(&mut self, path: &Path, writer: HostId, record: Record) {
        match (path, record) {
            (Path::Cluster, Record::Cluster(record)) => self.opener.pin(record.cluster),
            (Path::Member(network, _), Record::Member(record)) => {
                self.raise_floor(network, writer, record.floor);
            }
            (Path::Tombstone(host), _) => self.revoke(*host),
            _ => {}
        }
    }

    fn floor(&self, network: &NetworkKey, host: HostId) -> u64 {
        self.floors
            .get(network)
            .and_then(|floors| floors.get(&host))
            .copied()
            .unwrap_or(0)
    }

    fn raise_floor(&mut self, network: &NetworkKey, host: HostId, floor: u64) {
        if floor <= self.floor(network, host) {
            return;
        }
        self.floors
            .entry(network.clone())
            .or_default()
            .insert(host, floor);
        let endpoints = keys_of(scope::endpoints(&self.places, network));
        self.void(host, endpoints, |valid| valid.seq < floor);
        for path in keys_of(scope::endpoints(&self.graves, network)) {
            if let Some(graves) = self.graves.get_mut(&path) {
                graves.retain(|writer, seq| *writer != host || *seq >= floor);
                if graves.is_empty() {
                    self.graves.remove(&path);
                }
            }
        }
    }

    fn revoke(&mut self, host: HostId) {
        if self.view.revoked.insert(host) {
            self.changed.hosts = true;
            let is_tombstone = |path: &Path| matches!(path, Path::Tombstone(_));
            let paths = self
                .places
                .keys()
                .filter(|path| !is_tombstone(path))
                .cloned()
                .collect();
            self.void(host, paths, |_| true);
        }
    }

    /// Takes a host's accepted records out of force.
    fn void(&mut self, host: HostId, paths: Vec<Path>, is_void: impl Fn(&Valid) -> bool) {
        for path in paths {
            let Some(place) = self.places.get_mut(&path) else {
                continue;
            };
            if !place.of(host).is_some_and(&is_void) {
                continue;
            }
            place.drop_of(host);
            if place.is_stray() {
                self.strays += 1;
                if matches!(place.held, Held::Unknown) {
                    self.take(&path);
                }
            }
            self.settle(&path);
        }
    }
}

/// How the picture is kept.
impl Judge {
    fn place_mut(&mut self, path: &Path) -> &mut Place {
        self.places.entry(path.clone()).or_insert_with(|| {
            self.strays += 1;
            Place::default()
        })
    }

    fn remove(&mut self, path: &Path) {
        let Some(place) = self.places.get_mut(path) else {
            return;
        };
        if matches!(path, Path::Tombstone(_)) && !place.is_stray() {
            place.held = Held::Absent;
        } else {
            for valid in self.take(path).records {
                let graves = self.graves.entry(path.clone()).or_default();
                let seq = graves.entry(valid.writer).or_default();
                *seq = valid.seq.max(*seq);
            }
        }
        self.settle(path);
    }

    fn take(&mut self, path: &Path) -> Place {
        let place = self.places.remove(path).unwrap_or_default();
        if place.is_stray() {
            self.strays = self.strays.saturating_sub(1);
        }
        place
    }

    /// Brings what follows from a place in line with it.
    fn settle(&mut self, path: &Path) {
        let place = self.places.get(path);
        set(
            &mut self.clobbered,
            path,
            place.is_some_and(|place| place.is_clobbered(path)),
        );
        let writer = place.and_then(|place| place.held.writer());
        set(&mut self.own_in_store, path, writer == Some(self.own));
        let valid = place.and_then(|place| place.in_force(path));
        let record = valid.map(|valid| valid.record(path));
        self.show(path, record);
    }

    /// Puts the record in force into the view.
    fn show(&mut self, path: &Path, record: Option<Record>) {
        let view = &mut self.view;
        match (path, record) {
            (Path::Cluster, record) => {
                let cluster = match record {
                    Some(Record::Cluster(record)) => Some(record),
                    _ => None,
                };
                self.changed.cluster |= cluster != self.cluster;
                self.cluster = cluster;
            }
            (Path::Host(host), Some(Record::Host(record))) => {
                self.changed.hosts |= replace(&mut view.hosts, *host, record);
            }
            (Path::Host(host), _) => self.changed.hosts |= view.hosts.remove(host).is_some(),
            (Path::Alive(host), record) => {
                self.changed.hosts |= set(&mut view.alive, host, record.is_some());
            }
            (Path::Status(_) | Path::Tombstone(_), _) => {}
            (Path::Network(key) | Path::Generation(key), record) => {
                self.show_in(key, |network| match (path, record) {
                    (Path::Generation(_), Some(Record::Generation(generation))) => {
                        std::mem::replace(&mut network.generation, generation) != generation
                    }
                    (Path::Generation(_), _) => std::mem::take(&mut network.generation) != 0,
                    (_, Some(Record::Network(record))) => {
                        network.record.replace(record.clone()) != Some(record)
                    }
                    _ => network.record.take().is_some(),
                });
            }
            (Path::Member(key, host), record) => self.show_in(key, |network| {
                let Some(Record::Member(record)) = record else {
                    return network.members.remove(host).is_some();
                };
                replace(&mut network.members, *host, record)
            }),
            (Path::Endpoint(key, ip), record) => self.show_in(key, |network| {
                let Some(Record::Endpoint(record)) = record else {
                    return network.endpoints.remove(ip).is_some();
                };
                replace(&mut network.endpoints, *ip, record)
            }),
        }
    }

    fn show_in(&mut self, key: &NetworkKey, edit: impl FnOnce(&mut NetworkView) -> bool) {
        let network = self.view.networks.entry(key.clone()).or_default();
        if edit(network) {
            self.changed.networks.insert(key.clone());
        }
        if *network == NetworkView::default() {
            self.view.networks.remove(key);
        }
    }
}

fn in_force(path: &Path, valid: &Valid) -> InForce {
    let Valid {
        writer, seq, epoch, ..
    } = *valid;
    InForce {
        writer,
        seq,
        epoch,
        record: valid.record(path),
    }
}

/// Whether a network's record says something else than the one in force may become.
fn contradicts(known: &NetworkRecord, new: &NetworkRecord) -> bool {
    let subnets = |record: &NetworkRecord| record.subnets.iter().copied().collect::<BTreeSet<_>>();
    subnets(known) != subnets(new) || known.freed && !new.freed
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

/// Adds or removes an element; whether that changed the set.
fn set<T: Ord + Clone>(elements: &mut BTreeSet<T>, element: &T, is_in: bool) -> bool {
    if is_in {
        elements.insert(element.clone())
    } else {
        elements.remove(element)
    }
}

/// Sets a value; whether that changed the map.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    match map.entry(key) {
        Entry::Occupied(entry) if *entry.get() == value => false,
        Entry::Occupied(mut entry) => {
            entry.insert(value);
            true
        }
        Entry::Vacant(entry) => {
            entry.insert(value);
            true
        }
    }
}

#[cfg(test)]
mod tests;
