//! The journal's file: tables of an embedded store, and what an update changes in them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use wgnet_core::{LocalNetwork, LocalSlot};
use wgnet_proto::seal::HostKey;
use wgnet_proto::{DockerNetworkId, PrivateKey};
use zeroize::Zeroizing;

use super::{JournalError, Random, State, sweep};

mod rows;

const SCHEMA: u32 = 1;
/// Pages kept in memory. The state itself is in memory anyway.
const CACHE: usize = 4 << 20;

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
}

/// What a file holds.
pub(super) struct Loaded {
    pub(super) key: HostKey,
    pub(super) state: State,
}

impl Disk {
    /// Opens the file, makes it with a new identity if there is none.
    pub(super) fn open(path: &Path, random: &Random) -> Result<(Self, Loaded), JournalError> {
        let dir = path.parent().expect("the path was joined from a directory");
        make_private_directory(dir)?;
        let database = open_database(path)?;
        let disk = Self { path: path.to_owned(), open: Some(database) };
        disk.initialise(random)?;
        sync_directory(dir)?;
        let loaded = disk.load()?;
        Ok((disk, loaded))
    }

    /// The file's content, if the file had to be opened again.
    pub(super) fn reopen_if_closed(&mut self) -> Result<Option<State>, JournalError> {
        if self.open.is_some() {
            return Ok(None);
        }
        self.open = Some(open_database(&self.path)?);
        let loaded = self.load();
        if loaded.is_err() {
            self.open = None;
        }
        Ok(Some(loaded?.state))
    }

    /// Makes durable what differs between the two.
    pub(super) fn write(&mut self, old: &State, new: &State) -> Result<(), JournalError> {
        self.transact(Durability::Immediate, |transaction| {
            rows::write_changes(transaction, old, new)
        })
    }

    /// Keeps sealed records; durable with the next write or [`Disk::flush`].
    pub(super) fn keep(
        &mut self,
        changes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), JournalError> {
        self.transact(Durability::None, |transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            for (path, record) in changes {
                match record {
                    Some(record) => drop(table.insert(path.as_str(), record.as_slice())?),
                    None => drop(table.remove(path.as_str())?),
                }
            }
            Ok(())
        })
    }

    pub(super) fn flush(&mut self) -> Result<(), JournalError> {
        self.transact(Durability::Immediate, |_| Ok(()))
    }

    pub(super) fn records(&self) -> Result<Vec<(String, Vec<u8>)>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(RECORDS)?;
            let rows = table.range::<&str>(..)?;
            rows.map(|row| {
                row.map(|(path, record)| (path.value().to_owned(), record.value().to_vec()))
            })
            .collect::<Result<_, _>>()
            .map_err(redb::Error::from)
        })
    }

    fn transact(
        &mut self,
        durability: Durability,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), JournalError> {
        let database = self.open.as_ref().ok_or_else(|| self.closed())?;
        let outcome = (|| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability)?;
            fill(&transaction)?;
            transaction.commit()?;
            Ok(())
        })();
        outcome.map_err(|source: redb::Error| {
            self.open = None;
            JournalError::file("write journal", &self.path, source)
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, JournalError> {
        let database = self.open.as_ref().ok_or_else(|| self.closed())?;
        let outcome = (|| read(&database.begin_read()?))();
        outcome.map_err(|source| JournalError::file("read journal", &self.path, source))
    }

    fn closed(&self) -> JournalError {
        JournalError::Aborted { path: self.path.clone() }
    }

    /// Makes the tables and the identity where they are missing.
    fn initialise(&self, random: &Random) -> Result<(), JournalError> {
        let database = self.open.as_ref().expect("just opened");
        let outcome = (|| {
            let transaction = database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                if meta.get("host_key")?.is_some() {
                    drop(meta);
                    transaction.abort()?;
                    return Ok(());
                }
                let mut key = Zeroizing::new([0; 32]);
                random(key.as_mut());
                meta.insert("host_key", key.as_slice())?;
                meta.insert("schema", rows::json(&SCHEMA).as_slice())?;
            }
            for table in [META, NETWORKS, RECORDS] {
                transaction.open_table(table)?;
            }
            for table in [FREED, DELETED] {
                transaction.open_table(table)?;
            }
            transaction.open_table(SLOTS)?;
            transaction.open_table(KEYS)?;
            transaction.open_table(ENDPOINTS)?;
            transaction.open_table(CLAIMS)?;
            transaction.open_table(FLOORS)?;
            transaction.commit()?;
            Ok(())
        })();
        outcome
            .map_err(|source: redb::Error| JournalError::file("write journal", &self.path, source))
    }

    fn load(&self) -> Result<Loaded, JournalError> {
        let loaded = self.read(|transaction| Ok(rows::load(transaction)))?;
        loaded.map_err(|problem| match problem {
            rows::Unreadable::Storage(source) => {
                JournalError::file("read journal", &self.path, source)
            }
            rows::Unreadable::Newer(found) => {
                JournalError::Newer { path: self.path.clone(), found }
            }
            rows::Unreadable::Damaged(what) => {
                JournalError::Damaged { path: self.path.clone(), what }
            }
        })
    }
}

fn open_database(path: &Path) -> Result<Database, JournalError> {
    let file = open_private_file(path)
        .map_err(|source| JournalError::file("open journal", path, source))?;
    Database::builder().set_cache_size(CACHE).create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => JournalError::Busy { path: path.to_owned() },
        error => JournalError::file("open journal", path, redb::Error::from(error)),
    })
}

fn open_private_file(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn make_private_directory(dir: &Path) -> Result<(), JournalError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if std::fs::metadata(dir)?.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    make().map_err(|source: std::io::Error| JournalError::file("make state directory", dir, source))
}

/// So that a new file's name survives a power cut too.
fn sync_directory(dir: &Path) -> Result<(), JournalError> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|source| JournalError::file("sync state directory", dir, source))
}
