//! One key: the valid records seen there, and what the store holds.

use wgnet_proto::secret::Epoch;
use wgnet_proto::{HostId, Path, Record, Refused, seal};

/// A record that was admitted, as it was sealed; its content is decoded when needed, so that a
/// hundred thousand of them stay small.
#[derive(Debug, Clone)]
pub(super) struct Valid {
    pub(super) writer: HostId,
    pub(super) seq: u64,
    pub(super) epoch: Epoch,
    /// The store held it since before its present history when it was last seen there: a backup
    /// brought it back, and it may have ended since.
    pub(super) is_weak: bool,
    pub(super) sealed: Box<[u8]>,
    /// This host's own, the cluster's and networks': they are few, and asked for at every turn.
    pub(super) decoded: Option<Box<Record>>,
}

impl Valid {
    pub(super) fn record(&self, path: &Path) -> Record {
        if let Some(record) = &self.decoded {
            return Record::clone(record);
        }
        let payload = seal::payload_of(&self.sealed).expect("was opened when it was admitted");
        Record::decode(path, &payload).expect("was decoded when it was admitted")
    }
}

/// What the store holds at a key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Held {
    /// The records came from the snapshot on disk.
    #[default]
    Unknown,
    Absent,
    Value {
        mod_revision: i64,
        /// If its envelope is genuine.
        writer: Option<HostId>,
        /// Why it is not among the valid records, if it is not.
        refused: Option<Refused>,
    },
}

impl Held {
    pub(super) fn writer(&self) -> Option<HostId> {
        match self {
            Self::Value { writer, .. } => *writer,
            Self::Unknown | Self::Absent => None,
        }
    }

    /// Whether the same refused value was there before.
    pub(super) fn is_refused_at(&self, revision: i64) -> bool {
        matches!(self, Self::Value { mod_revision, refused: Some(_), .. }
            if *mod_revision == revision && revision != 0)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The latest of each writer since the key was last deleted, in order of arrival. Nearly always
    /// one, for which a vector takes the least memory.
    pub(super) records: Vec<Valid>,
    pub(super) held: Held,
}

impl Place {
    pub(super) fn is_stray(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn of(&self, writer: HostId) -> Option<&Valid> {
        self.records.iter().find(|valid| valid.writer == writer)
    }

    /// The writer of the record that these very bytes are: listings repeat what is known, and opening
    /// is dear.
    pub(super) fn meet(&mut self, sealed: &[u8], is_weak: bool) -> Option<HostId> {
        let writer = self.records.iter().find(|valid| *valid.sealed == *sealed)?.writer;
        self.weigh(writer, is_weak);
        Some(writer)
    }

    /// The store holds this writer's known record.
    pub(super) fn weigh(&mut self, writer: HostId, is_weak: bool) {
        let Some(known) = self.records.iter_mut().find(|valid| valid.writer == writer) else {
            return;
        };
        let was_weak = std::mem::replace(&mut known.is_weak, is_weak);
        // Then all that is known here was written before, and what it is to each other stays.
        if is_weak && !was_weak {
            self.records.iter_mut().for_each(|valid| valid.is_weak = true);
        }
    }

    pub(super) fn keep(&mut self, valid: Valid) {
        self.records.retain(|known| known.writer != valid.writer);
        self.records.reserve_exact(1);
        self.records.push(valid);
    }

    pub(super) fn drop_of(&mut self, host: HostId) {
        self.records.retain(|known| known.writer != host);
        if let Held::Value { writer, refused, .. } = &mut self.held
            && *writer == Some(host)
        {
            *refused = Some(Refused::RevokedWriter);
        }
    }

    /// The valid record that the store holds.
    pub(super) fn held_record(&self) -> Option<&Valid> {
        match self.held {
            Held::Value { writer: Some(writer), refused: None, .. } => self.of(writer),
            _ => None,
        }
    }

    /// The record that counts.
    pub(super) fn in_force(&self, path: &Path) -> Option<&Valid> {
        match self.records.as_slice() {
            [] => None,
            [only] => Some(only),
            // Whoever replaces the incarnation compares and puts: the store's order decides.
            [.., last] if *path == Path::Cluster => Some(last),
            several => several
                .iter()
                .max_by_key(|valid| (!valid.is_weak, rank(&valid.record(path)), valid.writer)),
        }
    }

    /// Whether the store holds something else than what counts.
    pub(super) fn is_clobbered(&self, path: &Path) -> bool {
        match (&self.held, self.in_force(path)) {
            (Held::Unknown, _) => false,
            (Held::Absent, in_force) => in_force.is_some(),
            (Held::Value { .. }, None) => true,
            (Held::Value { .. }, Some(in_force)) => match self.held_record() {
                Some(held) if held.writer == in_force.writer => false,
                Some(held) => held.record(path) != in_force.record(path),
                None => true,
            },
        }
    }
}

/// Which of several writers' records at one path has precedence, before the higher host id does.
fn rank(record: &Record) -> u64 {
    match record {
        Record::Endpoint(record) => record.claim,
        Record::Generation(generation) => (*generation).into(),
        Record::Network(record) => record.freed.into(),
        Record::Cluster(_)
        | Record::Host(_)
        | Record::Alive(_)
        | Record::Status(_)
        | Record::Tombstone(_)
        | Record::Member(_) => 0,
    }
}
