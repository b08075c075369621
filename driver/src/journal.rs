//! Durable local intent and state: what Docker asked of this host, its keys and its identity.
//!
//! # Guarantees
//!
//! - An update that was acknowledged survives the end of the process and of the host.
//! - Memory never runs ahead of the disk: [`Journal::state`] shows only what is durable.
//! - Updates run one after the other; those that arrive while the disk is busy share its next sync.
//! - One process at a time: a second one is refused when it opens.
//!
//! Updates run on a thread of the journal's own, since a commit blocks.

mod aside;
mod disk;
mod error;
mod identity;
mod kept;
mod memory;
mod private;
mod seq;
mod state;
mod sweep;
mod trouble;
mod writer;

pub use error::JournalError;
pub use memory::{Gate, MemoryDisk};
pub use state::{State, Uptime};
pub use sweep::{DELETED_KEPT, FREED_LINGER, LINGER, sweep};
pub use trouble::watch_over;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use wgnet_proto::seal::HostKey;
use wgnet_proto::{DockerNetworkId, Generation, HostId};

use disk::Disk;
use seq::Seqs;
use writer::{Job, Writer};

/// Where keys come from: fills the bytes with what nobody can guess.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Where else the journal is kept, in memory of the host.
#[derive(Debug, Clone)]
pub struct Spare {
    pub path: PathBuf,
    /// The boot that it must be of.
    pub boot: String,
    /// Whether the kernel has networks of this driver's.
    pub is_running: bool,
}

/// How the journal was found when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As it was left.
    Kept,
    /// The first one of this host.
    New,
    /// There was none, though this host had one before.
    Lost,
    /// It could not be read; a new one was made.
    Damaged { aside: PathBuf, what: String },
    /// Its newest update could not be read; the one before counts.
    WentBack,
}

/// The journal of this host. Clones share it; the file is closed when the last one goes.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    key: HostKey,
    origin: Origin,
    health: watch::Receiver<Option<JournalError>>,
    started: Instant,
    state: watch::Receiver<Arc<State>>,
    seqs: Seqs,
    writer: Writer,
}

impl Journal {
    /// Opens or makes `dir/journal.redb`. What belonged to another boot than `boot` is dropped:
    /// endpoints (their kernel objects are gone) and the namespaces of swarm networks, which Docker
    /// asks for again. Keys, ports and the networks of plain engines stay.
    ///
    /// # Errors
    ///
    /// When the directory or the file cannot be made, read or written, or another process has it.
    pub fn open(dir: &Path, boot: &str, random: &Random) -> Result<Self, JournalError> {
        Self::open_mirrored(dir, boot, random, None)
    }

    /// Opens it with a mirror, from which it is written anew if it is damaged. A damaged file is set
    /// aside; with no mirror of this boot, but networks in the kernel, it is left alone.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`]; and when nothing tells what runs on this host.
    pub fn open_mirrored(
        dir: &Path,
        boot: &str,
        random: &Random,
        spare: Option<&Spare>,
    ) -> Result<Self, JournalError> {
        let path = dir.join("journal.redb");
        let (mut disk, loaded) = Disk::open(&path, random, spare)?;
        let mut state = loaded.state.clone();
        if state.boot != boot {
            state.enter_boot(boot, loaded.key.id());
            disk.write(&loaded.state, &state)?;
        }
        let seqs = Seqs::starting_at(state.reserved_seq);
        let (sender, receiver) = watch::channel(Arc::new(state));
        let inner = Inner {
            path,
            key: loaded.key,
            origin: loaded.origin,
            health: disk.health(),
            started: Instant::now(),
            state: receiver,
            seqs,
            writer: Writer::start(disk, sender),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a journal that lives in memory: no thread and no file, for simulations. `gate` is
    /// awaited before and after whatever reaches the disk.
    ///
    /// # Errors
    ///
    /// When the disk is full and another boot is to be noted.
    pub fn open_in_memory(
        disk: &MemoryDisk,
        boot: &str,
        random: &Random,
        gate: Gate,
    ) -> Result<Self, JournalError> {
        let (mut storage, key, loaded) = disk.open(random);
        let mut state = loaded.clone();
        if state.boot != boot {
            state.enter_boot(boot, key.id());
            writer::Storage::write(&mut storage, &loaded, &state)?;
        }
        let seqs = Seqs::starting_at(state.reserved_seq);
        let (sender, receiver) = watch::channel(Arc::new(state));
        let inner = Inner {
            path: memory::path(),
            key,
            origin: Origin::Kept,
            health: storage.health(),
            started: Instant::now(),
            state: receiver,
            seqs,
            writer: Writer::start_on_runtime(storage, sender, gate),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How it was found.
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Damaged journals that were set aside and not removed since.
    pub fn set_aside(&self) -> Vec<PathBuf> {
        aside::list(&self.inner.path)
    }

    /// Why something could not be written, until it can be; on a full disk, until there is room.
    pub fn health(&self) -> watch::Receiver<Option<JournalError>> {
        self.inner.health.clone()
    }

    /// This host's identity; survives the journal.
    pub fn host_key(&self) -> &HostKey {
        &self.inner.key
    }

    pub fn host_id(&self) -> HostId {
        self.inner.key.id()
    }

    /// How long this journal has been open: the clock of everything that lingers.
    pub fn uptime(&self) -> Uptime {
        self.inner.started.elapsed()
    }

    /// What is durable now.
    pub fn state(&self) -> Arc<State> {
        self.inner.state.borrow().clone()
    }

    /// Follows the state; [`State::revision`] counts its changes.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state.clone()
    }

    /// Changes the state and returns what `change` returned with the revision that holds it.
    ///
    /// # Errors
    ///
    /// When the change could not be made durable; then it did not happen.
    pub async fn update<T, F>(&self, change: F) -> Result<(T, u64), JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> T + Send + 'static,
    {
        self.try_update(|state| Ok::<T, JournalError>(change(state))).await
    }

    /// Like [`Journal::update`] for a change that may refuse: then nothing of it happens.
    ///
    /// # Errors
    ///
    /// What `change` refused with, or the journal's own error.
    pub async fn try_update<T, E, F>(&self, change: F) -> Result<(T, u64), E>
    where
        T: Send + 'static,
        E: From<JournalError> + Send + 'static,
        F: FnOnce(&mut State) -> Result<T, E> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.inner.writer.send(Job::update(change, sender));
        match receiver.await {
            Ok(outcome) => outcome,
            Err(_) => Err(JournalError::Aborted { path: self.inner.path.clone() }.into()),
        }
    }

    /// Notes that a slot has another UDP port than the one picked at first.
    ///
    /// # Errors
    ///
    /// When the change could not be made durable.
    pub async fn set_port(
        &self,
        network: &DockerNetworkId,
        generation: Generation,
        port: u16,
    ) -> Result<(), JournalError> {
        let network = network.clone();
        let change = move |state: &mut State| {
            let slots = state.network_mut(&network).map(|network| network.slots.iter_mut());
            slots
                .into_iter()
                .flatten()
                .filter(|slot| slot.generation == generation)
                .for_each(|slot| slot.port = port);
        };
        self.update(change).await.map(drop)
    }

    /// A number no record of this host was ever sealed with.
    ///
    /// # Errors
    ///
    /// When no further block of numbers could be reserved.
    pub async fn next_seq(&self) -> Result<u64, JournalError> {
        loop {
            if let Some(seq) = self.inner.seqs.take() {
                return Ok(seq);
            }
            let (block, _) = self.update(Seqs::reserve).await?;
            self.inner.seqs.refill(block);
        }
    }

    /// The same without waiting; `None` when the reserved numbers are used up.
    pub fn take_seq(&self) -> Option<u64> {
        self.inner.seqs.take()
    }

    /// Whether few of the reserved numbers are left.
    pub fn is_low_on_seqs(&self) -> bool {
        self.inner.seqs.is_low()
    }

    /// Reserves numbers for [`Journal::take_seq`] when few are left.
    ///
    /// # Errors
    ///
    /// When no further block of numbers could be reserved.
    pub async fn top_up_seqs(&self) -> Result<(), JournalError> {
        if self.is_low_on_seqs() {
            let (block, _) = self.update(Seqs::reserve).await?;
            self.inner.seqs.refill(block);
        }
        Ok(())
    }

    /// Continues above `seen`, the highest number found under this host's name in the store.
    ///
    /// # Errors
    ///
    /// When the jump could not be made durable.
    pub async fn raise_seq_above(&self, seen: u64) -> Result<(), JournalError> {
        if self.next_unused_seq() > seen {
            return Ok(());
        }
        let (block, _) = self.update(move |state| Seqs::reserve_above(state, seen)).await?;
        self.inner.seqs.refill(block);
        Ok(())
    }

    /// Every number used so far is below this one: a floor that voids what was published before.
    pub fn next_unused_seq(&self) -> u64 {
        self.inner.seqs.peek()
    }

    /// Keeps or (with `None`) forgets sealed records by path, as last known from the store. Cheap:
    /// they become durable with the next update, or within seconds.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn keep_records(
        &self,
        changes: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<(), JournalError> {
        let (sender, receiver) = oneshot::channel();
        self.inner.writer.send(Job::Keep(changes, sender));
        receiver
            .await
            .unwrap_or_else(|_| Err(JournalError::Aborted { path: self.inner.path.clone() }))
    }

    /// The sealed records that were kept.
    ///
    /// # Errors
    ///
    /// When neither file nor mirror can be read.
    pub async fn records(&self) -> Result<Vec<(String, Vec<u8>)>, JournalError> {
        let (sender, receiver) = oneshot::channel();
        self.inner.writer.send(Job::Records(sender));
        receiver
            .await
            .unwrap_or_else(|_| Err(JournalError::Aborted { path: self.inner.path.clone() }))
    }
}
