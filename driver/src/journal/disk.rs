//! The journal's file: tables of an embedded store, and what an update changes in them.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};
use wgnet_core::{LocalNetwork, LocalSlot};
use wgnet_proto::seal::HostKey;
use wgnet_proto::{DockerNetworkId, PrivateKey};
use zeroize::Zeroizing;

use super::trouble::has_room;
use super::{JournalError, Origin, Spare, State, aside, sweep};

mod mirror;
mod open;
mod plain;
mod rows;

use mirror::Mirror;
use plain::Plain;

const SCHEMA: u32 = 1;
/// Pages kept in memory. The state itself is in memory anyway.
const CACHE: usize = 4 << 20;
/// Between tries to make a mirror that failed.
const MIRROR_AGAIN: Duration = Duration::from_secs(1);

type Table<K, V> = TableDefinition<'static, K, V>;

const META: Table<&str, &[u8]> = Table::new("meta");
const NETWORKS: Table<&str, &[u8]> = Table::new("networks");
const SLOTS: Table<(&str, u32), u16> = Table::new("slots");
const KEYS: Table<(&str, u32), &[u8]> = Table::new("keys");
const ENDPOINTS: Table<(&str, &str), &[u8]> = Table::new("endpoints");
const FREED: Table<&str, ()> = Table::new("freed");
const CLAIMS: Table<&str, u64> = Table::new("claims");
const FLOORS: Table<(&str, &str), u64> = Table::new("floors");
const DELETED: Table<&str, ()> = Table::new("deleted");
const RECORDS: Table<&str, &[u8]> = Table::new("records");

/// The open file. After a failed write it is closed, and read anew before the next one: only the
/// file knows how far that write came.
pub(super) struct Disk {
    path: PathBuf,
    open: Option<Database>,
    /// What is wrong with a file that was closed for it. It is not opened again: whatever broke down on
    /// it may still hold its lock.
    damage: Option<String>,
    key: HostKey,
    /// What the file held when it was last read or written: all there is if it turns out damaged.
    known: State,
    /// The same once more, where the file's disk does no harm.
    mirror: Option<Mirror>,
    /// Where that is, if it is to be.
    spare: Option<Spare>,
    /// When it was made last, or failed.
    mirror_tried: Instant,
    /// The networks that Docker tells of only once, where a boot does no harm.
    plain: Plain,
    health: watch::Sender<Option<JournalError>>,
}

/// What a file holds.
pub(super) struct Loaded {
    pub(super) key: HostKey,
    pub(super) state: State,
    pub(super) origin: Origin,
}

impl Disk {
    /// The file's content, if the file had to be opened again.
    pub(super) fn reopen_if_closed(&mut self) -> Result<Option<State>, JournalError> {
        if self.open.is_some() {
            return Ok(None);
        }
        let read = match self.damage.clone() {
            Some(what) => Err(JournalError::Damaged { path: self.path.clone(), what }),
            None => open::whole(&self.path, |_| Ok(())).and_then(|(database, _)| {
                let (_, state) = guarded(&self.path, || load(&database, &self.path))?;
                Ok((database, state))
            }),
        };
        let found = match read {
            Ok((database, state)) => {
                self.open = Some(database);
                let before = std::mem::replace(&mut self.known, state);
                self.mirror_write(|mirror, known| mirror.write(&before, known));
                self.plain.follow(&self.known);
                Ok(())
            }
            Err(JournalError::Damaged { what, .. }) => self.replace(&what),
            Err(error) => Err(error),
        };
        if let Err(error) = found {
            self.tell(Some(error.clone()));
            return Err(error);
        }
        Ok(Some(self.known.clone()))
    }

    /// Why something could not be written, until it can be; on a full disk, until there is room.
    pub(super) fn health(&self) -> watch::Receiver<Option<JournalError>> {
        self.health.subscribe()
    }

    /// Sets a file aside that turned out damaged, and writes what is known into a new one.
    fn replace(&mut self, why: &str) -> Result<(), JournalError> {
        let aside = aside::set_aside(&self.path)?;
        self.damage = None;
        error!(aside = %aside.display(), why, "The journal is damaged; writing it anew");
        let records = self.mirror.as_ref().and_then(Mirror::records).unwrap_or_default();
        self.open = Some(open::create(&self.path, &self.key)?);
        let known = self.known.clone();
        self.transact(Durability::Immediate, |transaction| {
            fill(transaction, &State::default(), &known, &records)
        })
    }

    /// What cannot be mirrored is not worth a failure: the file has it. The mirror ends, since the next
    /// start would take for the truth what it holds.
    fn mirror_write(&mut self, write: impl FnOnce(&Mirror, &State) -> Result<(), JournalError>) {
        let Some(mirror) = &self.mirror else {
            return;
        };
        if let Err(error) = write(mirror, &self.known) {
            warn!("{}", error.sentence());
            mirror.remove();
            let mirror = self.mirror.take();
            self.mirror_tried = Instant::now();
            if matches!(error, JournalError::Damaged { .. }) {
                // What panicked on its own data would do so again while it is closed.
                let _never_closed = mirror.map(std::mem::ManuallyDrop::new);
            }
        }
    }

    /// Makes the mirror again that failed.
    fn mirror_again(&mut self) {
        if self.mirror.is_some() || self.mirror_tried.elapsed() < MIRROR_AGAIN {
            return;
        }
        let Some(spare) = self.spare.clone() else {
            return;
        };
        self.mirror_tried = Instant::now();
        let made = self
            .records_of_file()
            .and_then(|records| Mirror::make(&spare, &self.key, &self.known, &records));
        match made {
            Ok(mirror) => {
                info!(mirror = %spare.path.display(), "The journal is mirrored again");
                self.mirror = Some(mirror);
            }
            Err(error) => debug!("{}", error.sentence()),
        }
    }

    /// Makes durable what differs between the two.
    pub(super) fn write(&mut self, old: &State, new: &State) -> Result<(), JournalError> {
        let change = |transaction: &WriteTransaction| rows::write_changes(transaction, old, new);
        let mut written = self.transact(Durability::Immediate, change);
        if let Err(JournalError::Damaged { what, .. }) = &written {
            let what = what.clone();
            self.known = old.clone();
            written = self.replace(&what);
            written = written.and_then(|()| self.transact(Durability::Immediate, change));
        }
        if written.is_ok() {
            self.known = new.clone();
            self.mirror_write(|mirror, new| mirror.write(old, new));
            self.mirror_again();
            self.plain.follow(&self.known);
        }
        written
    }

    /// Keeps sealed records; durable with the next write or [`Disk::flush`].
    pub(super) fn keep(
        &mut self,
        changes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), JournalError> {
        // While writing fails, every attempt is to find out whether it still does.
        let broken = self.health.borrow().is_some();
        let durability = if broken { Durability::Immediate } else { Durability::None };
        self.transact(durability, |transaction| keep(transaction, changes))?;
        self.mirror_write(|mirror, _| mirror.keep(changes));
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), JournalError> {
        self.transact(Durability::Immediate, |_| Ok(()))?;
        self.mirror_again();
        self.plain.follow(&self.known);
        Ok(())
    }

    /// From the mirror while the file cannot be read.
    pub(super) fn records(&mut self) -> Result<Vec<(String, Vec<u8>)>, JournalError> {
        self.records_of_file().or_else(|error| {
            let mirrored = self.mirror.as_ref().and_then(Mirror::records);
            mirrored.inspect(|_| warn!("{}", error.sentence())).ok_or(error)
        })
    }

    fn records_of_file(&mut self) -> Result<Vec<(String, Vec<u8>)>, JournalError> {
        let database = self.open.as_ref().ok_or_else(|| self.closed())?;
        let read = guarded(&self.path, || records(database));
        if let Err(JournalError::File { .. }) = &read {
            // Nothing more comes out of it before it is opened again.
            self.open = None;
        }
        read
    }

    fn transact(
        &mut self,
        durability: Durability,
        fill: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), JournalError> {
        let database = self.open.as_ref().ok_or_else(|| self.closed())?;
        let outcome = guarded(&self.path, || {
            let mut transaction = database.begin_write().map_err(redb::Error::from)?;
            transaction.set_durability(durability).map_err(redb::Error::from)?;
            fill(&transaction)?;
            Ok(transaction.commit().map_err(redb::Error::from)?)
        });
        if let Err(error) = &outcome {
            let database = self.open.take();
            if let JournalError::Damaged { what, .. } = error {
                self.damage = Some(what.clone());
                // What panicked on its own data would do so again while it is closed.
                let _never_closed = database.map(std::mem::ManuallyDrop::new);
            }
        }
        let health = outcome.as_ref().err().cloned();
        // A batch that is not synced may not have needed the disk at all.
        if health.is_some() || !matches!(durability, Durability::None) {
            self.tell(health);
        }
        outcome
    }

    /// Wakes only those whom it is news for: whoever is told of a failure tries again.
    fn tell(&self, health: Option<JournalError>) {
        let was_full = self.health.borrow().as_ref().is_some_and(JournalError::is_full);
        // What is small may fit into the room the file has, where the next change does not.
        if health.is_none() && was_full && !has_room(&self.path) {
            return;
        }
        self.health.send_if_modified(|old| {
            let changed = old.is_some() != health.is_some();
            *old = health;
            changed
        });
    }

    fn closed(&self) -> JournalError {
        JournalError::Aborted { path: self.path.clone() }
    }
}

/// Changes the state and keeps records, all at once.
fn fill(
    transaction: &WriteTransaction,
    old: &State,
    new: &State,
    records: &[(String, Vec<u8>)],
) -> Result<(), redb::Error> {
    rows::write_changes(transaction, old, new)?;
    let mut table = transaction.open_table(RECORDS)?;
    for (path, record) in records {
        table.insert(path.as_str(), record.as_slice())?;
    }
    Ok(())
}

fn keep(
    transaction: &WriteTransaction,
    changes: &[(String, Option<Vec<u8>>)],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(RECORDS)?;
    for (path, record) in changes {
        match record {
            Some(record) => drop(table.insert(path.as_str(), record.as_slice())?),
            None => drop(table.remove(path.as_str())?),
        }
    }
    Ok(())
}

fn records(database: &Database) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let read = || {
        let table = database.begin_read()?.open_table(RECORDS)?;
        let rows = table.range::<&str>(..)?;
        rows.map(|row| row.map(|(path, record)| (path.value().to_owned(), record.value().to_vec())))
            .collect::<Result<_, _>>()
            .map_err(redb::Error::from)
    };
    read().map_err(Failure::Redb)
}

fn load(database: &Database, path: &Path) -> Result<(HostKey, State), Failure> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    rows::load(&transaction).map_err(|problem| match problem {
        rows::Unreadable::Storage(source) => Failure::Redb(source),
        rows::Unreadable::Newer(found) => {
            Failure::Journal(JournalError::Newer { path: path.to_owned(), found })
        }
        rows::Unreadable::Damaged(what) => {
            Failure::Journal(JournalError::Damaged { path: path.to_owned(), what })
        }
    })
}

/// What a piece of work on the file can end with.
enum Failure {
    Redb(redb::Error),
    Journal(JournalError),
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        Self::Redb(error)
    }
}

/// Does something to the file whose content may be anything: what the embedded store finds wrong
/// with it, or panics at, is damage.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, JournalError> {
    let damaged = |what: String| JournalError::Damaged { path: path.to_owned(), what };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::Journal(error))) => Err(error),
        Ok(Err(Failure::Redb(error))) => Err(match error {
            redb::Error::Io(io)
                if !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                JournalError::file("write journal", path, io)
            }
            redb::Error::DatabaseAlreadyOpen => JournalError::Busy { path: path.to_owned() },
            error @ (redb::Error::PreviousIo | redb::Error::LockPoisoned(_)) => {
                JournalError::file("write journal", path, error)
            }
            error => damaged(error.to_string()),
        }),
        Err(panic) => Err(damaged(text_of(panic.as_ref()))),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let line = text.as_deref().and_then(|text| text.lines().next()).unwrap_or("it is inconsistent");
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Random;

    #[test]
    fn a_file_that_turns_out_damaged_while_records_are_kept_is_written_anew() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("journal.redb");
        let random: Random = Arc::new(|bytes| bytes.fill(1));
        let (mut disk, loaded) = Disk::open(&path, &random, None).unwrap();
        let state = State { boot: "boot".to_owned(), ..State::default() };
        disk.write(&loaded.state, &state).unwrap();
        let met = disk.transact(Durability::None, |_| panic!("as it was told to"));
        assert!(matches!(met, Err(JournalError::Damaged { .. })), "{met:?}");
        assert_eq!(disk.reopen_if_closed().unwrap(), Some(state.clone()));
        assert_eq!(aside::list(&path).len(), 1);
        // It is a journal like any other.
        let record = ("hosts/a".to_owned(), vec![1]);
        disk.keep(&[(record.0.clone(), Some(record.1.clone()))]).unwrap();
        disk.flush().unwrap();
        assert!(disk.health().borrow().is_none());
        drop(disk);
        let (mut disk, loaded) = Disk::open(&path, &random, None).unwrap();
        assert_eq!((loaded.origin, loaded.state), (Origin::Kept, state));
        assert_eq!(disk.records().unwrap(), [record]);
    }
}
