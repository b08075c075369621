//! How a value gets in, and what that means for others.

use std::collections::BTreeSet;

use ipnet::IpNet;
use wgnet_proto::record::NetworkRecord;
use wgnet_proto::{HostId, NetworkKey, Opened, Path, Record, Refused, seal};

use super::place::{Held, Place, Valid};
use super::{InForce, Judge, Refusal, Verdict, bury, keys_of, scope};

/// Why an entry does not count.
pub(super) struct NotAdmitted {
    /// If the envelope is genuine.
    pub(super) writer: Option<HostId>,
    pub(super) reason: Refused,
    detail: String,
}

impl NotAdmitted {
    fn by(opened: &Opened, reason: Refused) -> Self {
        Self { writer: Some(opened.writer), reason, detail: reason.to_string() }
    }
}

impl Judge {
    /// Checks a value, and keeps it as its writer's record at this path if it counts. `is_old`: the
    /// store holds it since before its present history.
    pub(super) fn admit(
        &mut self,
        path: &Path,
        sealed: &[u8],
        is_old: bool,
    ) -> Result<HostId, NotAdmitted> {
        let is_weak = is_old && matches!(path, Path::Endpoint(..));
        if *path != Path::Cluster
            && let Some(writer) = self.places.get_mut(path).and_then(|it| it.meet(sealed, is_weak))
        {
            return Ok(writer);
        }
        let opened = self.opener.open(path, sealed).map_err(|reason| NotAdmitted {
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
        self.check(path, &opened, &record).map_err(|not| NotAdmitted::by(&opened, not))?;
        let writer = opened.writer;
        self.keep(path, opened, &record, sealed, is_weak);
        self.follow_up(path, writer, record);
        Ok(writer)
    }

    /// The verdict on a value that was checked. `is_known` if the same was refused there before.
    pub(super) fn verdict(
        &mut self,
        path: &Path,
        value: &[u8],
        judged: Result<HostId, NotAdmitted>,
        is_known: bool,
    ) -> Verdict {
        match judged {
            Ok(writer) => {
                let place = self.places.get(path);
                match place.and_then(|place| place.in_force(path)).map(|valid| valid.writer) {
                    Some(by) if by != writer && self.clobbered.contains(path) => {
                        Verdict::Outclaimed { by }
                    }
                    _ => Verdict::Accepted,
                }
            }
            Err(NotAdmitted { writer, reason, detail }) => {
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
            (Path::Network(_), Record::Network(record)) => self.check_network(path, writer, record),
            _ => Ok(()),
        }
    }

    /// Whether a network's record says something else than the one in force may become. Another
    /// writer's that is not freed yet does no harm: the freed one has precedence.
    fn check_network(
        &self,
        path: &Path,
        writer: HostId,
        record: &NetworkRecord,
    ) -> Result<(), Refused> {
        let Some(InForce { writer: by, record: Record::Network(known), .. }) = self.entry(path)
        else {
            return Ok(());
        };
        let is_unfreed = by == writer && known.freed && !record.freed;
        if subnets(&known) != subnets(record) || is_unfreed {
            return Err(Refused::Conflicting);
        }
        Ok(())
    }

    /// Whether nothing newer of this writer was seen here.
    fn check_seq(&self, path: &Path, opened: &Opened) -> Result<(), Refused> {
        // The cluster record follows the store: in one that was restored, the old incarnation must
        // be seen to be replaced. An old one can only make hosts publish again.
        if *path == Path::Cluster {
            return Ok(());
        }
        let known = self.places.get(path).and_then(|place| place.of(opened.writer));
        if let Some(known) = known {
            let is_same = opened.seq == known.seq
                && seal::payload_of(&known.sealed).is_some_and(|known| known == opened.payload);
            return if opened.seq > known.seq || is_same {
                Ok(())
            } else {
                Err(Refused::RolledBack)
            };
        }
        let grave = self.graves.get(path).and_then(|graves| graves.get(&opened.writer));
        match grave {
            Some(grave) if opened.seq <= *grave => Err(Refused::RolledBack),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, path: &Path, opened: Opened, record: &Record, sealed: &[u8], is_weak: bool) {
        if let Some(graves) = self.graves.get_mut(path) {
            graves.remove(&opened.writer);
            if graves.is_empty() {
                self.graves.remove(path);
            }
        }
        let Opened { writer, seq, epoch, .. } = opened;
        let is_few = writer == self.own || matches!(path, Path::Cluster | Path::Network(_));
        let decoded = is_few.then(|| Box::new(record.clone()));
        let place = self.place_mut(path);
        let was_stray = place.is_stray();
        place.keep(Valid { writer, seq, epoch, is_weak, sealed: sealed.into(), decoded });
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
        self.floors.get(network).and_then(|floors| floors.get(&host)).copied().unwrap_or(0)
    }

    fn raise_floor(&mut self, network: &NetworkKey, host: HostId, floor: u64) {
        if floor <= self.floor(network, host) {
            return;
        }
        self.floors.entry(network.clone()).or_default().insert(host, floor);
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
        if !self.view.revoked.contains(&host) {
            self.view.revoked.insert(host);
            self.changed.hosts = true;
            let is_tombstone = |path: &Path| matches!(path, Path::Tombstone(_));
            let paths = self.places.keys().filter(|path| !is_tombstone(path)).cloned().collect();
            self.void(host, paths, |_| true);
        }
    }

    /// Another history was announced: what the store holds is older than that, or not.
    pub(super) fn weigh_anew(&mut self) {
        let held = |(path, place): (&Path, &Place)| match place.held {
            Held::Value { mod_revision, writer: Some(writer), refused: None } => {
                matches!(path, Path::Endpoint(..)).then(|| (path.clone(), writer, mod_revision))
            }
            _ => None,
        };
        for (path, writer, mod_revision) in self.places.iter().filter_map(held).collect::<Vec<_>>()
        {
            let is_weak = self.is_old(mod_revision);
            self.place_mut(&path).weigh(writer, is_weak);
            self.settle(&path);
        }
    }

    /// What only a backup brought back, and another host wrote over: its owner will put it back as a
    /// new one, or it has ended. It cannot be replayed.
    pub(super) fn drop_overwritten(&mut self, path: &Path, writer: HostId) {
        let Some(place) = self.places.get_mut(path) else {
            return;
        };
        let is_gone = |valid: &Valid| valid.is_weak && valid.writer != writer;
        for valid in place.records.extract_if(.., |valid| is_gone(valid)) {
            bury(&mut self.graves, path, &valid);
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

fn subnets(record: &NetworkRecord) -> BTreeSet<IpNet> {
    record.subnets.iter().copied().collect()
}
