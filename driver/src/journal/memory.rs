//! A journal's disk in memory, for simulations: it outlives the process that writes it, and forgets
//! what was not synced when that process ends.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wgnet_proto::{HostId, HostKey};

use super::sweep::{DELETED_KEPT, LINGER};
use super::writer::Storage;
use super::{JournalError, Random, State, seq};

/// Awaited before and after whatever reaches the disk: how long it takes, and where a process that
/// is killed stops.
pub type Gate = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    key: Option<HostKey>,
    state: Arc<State>,
    records: BTreeMap<String, Vec<u8>>,
    synced: BTreeMap<String, Vec<u8>>,
    full: bool,
    unreadable: bool,
    /// Whether the next write, which fails, is on the disk all the same.
    failing: Option<bool>,
}

/// What one process has of the disk.
pub(super) struct MemoryStorage {
    disk: MemoryDisk,
    closed: bool,
    health: watch::Sender<Option<JournalError>>,
}

pub(super) fn path() -> PathBuf {
    PathBuf::from("memory")
}

impl MemoryDisk {
    /// While it is full every write fails.
    pub fn fill(&self, full: bool) {
        self.content().full = full;
    }

    /// The next write fails, `written` or not.
    pub fn fail_next(&self, written: bool) {
        self.content().failing = Some(written);
    }

    /// While it is unreadable no records can be read.
    pub fn hide(&self, unreadable: bool) {
        self.content().unreadable = unreadable;
    }

    /// The journal is lost, and the host's key, which has a file of its own, is not. Which numbers
    /// were used tells nothing but what the host's clock says when the next one is made.
    pub fn lose_journal(&self, clock: Duration) {
        let mut content = self.content();
        let state = State { reserved_seq: seq::above_all(clock), ..State::default() };
        let (key, full) = (content.key.take(), content.full);
        *content = Content { key, state: Arc::new(state), full, ..Content::default() };
    }

    /// What is durable.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.content().state)
    }

    /// Who was made with this disk, if anybody was.
    pub fn host_id(&self) -> Option<HostId> {
        self.content().key.as_ref().map(HostKey::id)
    }

    pub(super) fn open(&self, random: &Random) -> (MemoryStorage, HostKey, State) {
        let mut content = self.content();
        content.records = content.synced.clone();
        let key = content.key.get_or_insert_with(|| {
            let mut bytes = [0; 32];
            random(&mut bytes);
            HostKey::from_random(bytes)
        });
        let key = key.clone();
        let health = watch::Sender::default();
        (MemoryStorage { disk: self.clone(), closed: false, health }, key, loaded(&content.state))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state as it is read from a file: without what is not durable.
fn loaded(state: &State) -> State {
    let lingering = state.networks.iter().filter(|(_, network)| network.lingering);
    State {
        revision: 0,
        changed: BTreeMap::new(),
        lingers_until: lingering.map(|(id, _)| (id.clone(), LINGER)).collect(),
        deleted: Arc::new(state.deleted.keys().map(|id| (id.clone(), DELETED_KEPT)).collect()),
        ..state.clone()
    }
}

fn full() -> JournalError {
    let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
    JournalError::file("write journal", path(), cause)
}

impl Content {
    fn write(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), JournalError> {
        let failing = self.failing.take();
        if !self.full && failing != Some(false) {
            change(self);
        }
        if self.full || failing.is_some() {
            return Err(full());
        }
        Ok(())
    }
}

impl MemoryStorage {
    /// Never changes.
    pub(super) fn health(&self) -> watch::Receiver<Option<JournalError>> {
        self.health.subscribe()
    }
}

impl Storage for MemoryStorage {
    fn reopen_if_closed(&mut self) -> Result<Option<State>, JournalError> {
        let closed = std::mem::take(&mut self.closed);
        let mut content = self.disk.content();
        if closed {
            content.records = content.synced.clone();
        }
        Ok(closed.then(|| loaded(&content.state)))
    }

    fn write(&mut self, _: &State, new: &State) -> Result<(), JournalError> {
        let written = self.disk.content().write(|content| {
            content.state = Arc::new(new.clone());
            content.synced = content.records.clone();
        });
        self.closed |= written.is_err();
        written
    }

    fn keep(&mut self, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), JournalError> {
        let mut content = self.disk.content();
        if content.full {
            self.closed = true;
            return Err(full());
        }
        for (path, record) in changes {
            match record {
                Some(record) => drop(content.records.insert(path.clone(), record.clone())),
                None => drop(content.records.remove(path)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        let synced = self.disk.content().write(|content| content.synced = content.records.clone());
        self.closed |= synced.is_err();
        synced
    }

    fn records(&mut self) -> Result<Vec<(String, Vec<u8>)>, JournalError> {
        let content = self.disk.content();
        if content.unreadable {
            let cause = std::io::Error::other("a sector cannot be read");
            return Err(JournalError::file("read journal", path(), cause));
        }
        Ok(content.records.iter().map(|(path, record)| (path.clone(), record.clone())).collect())
    }
}
