//! Opens the file: made where there is none, checked through and through, set aside where it is damaged.

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::rc::Rc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::super::{Random, identity, seq};
use super::mirror::Mirrored;
use super::*;
use crate::clock;

/// How far the store's own repair says it is when it goes back to the commit before the last one.
const WENT_BACK: std::ops::Range<f64> = 0.2..0.5;

impl Disk {
    /// Opens the file; makes it where there is none or a damaged one, which is set aside, with what
    /// the mirror of this boot holds and the identity that was kept.
    pub(in super::super) fn open(
        path: &Path,
        random: &Random,
        spare: Option<&Spare>,
    ) -> Result<(Self, Loaded), JournalError> {
        let dir = path.parent().expect("the path was joined from a directory");
        make_private_directory(dir)?;
        let kept = match identity::read(dir) {
            Err(JournalError::Damaged { path, what }) => {
                let aside = aside::set_aside(&path)?;
                warn!(aside = %aside.display(), what, "The file of the host's key is damaged");
                None
            }
            kept => kept?,
        };
        let mirrored = spare.and_then(Mirror::read);
        let known = kept.as_ref().or(mirrored.as_ref().map(|mirrored| &mirrored.key));
        let (database, mut loaded) = match Self::read_or_make(path, known, random) {
            Err(JournalError::Damaged { path, what }) => {
                if mirrored.is_none() && spare.is_some_and(|spare| spare.is_running) {
                    // Containers run that nothing is known of: better no driver than one that ends them.
                    return Err(JournalError::Unknown { path, what });
                }
                let aside = aside::set_aside(&path)?;
                let (database, loaded) = Self::read_or_make(&path, known, random)?;
                (database, Loaded { origin: Origin::Damaged { aside, what }, ..loaded })
            }
            opened => opened?,
        };
        let mut disk = Self {
            path: path.to_owned(),
            open: Some(database),
            damage: None,
            key: loaded.key.clone(),
            known: loaded.state.clone(),
            mirror: None,
            spare: spare.cloned(),
            mirror_tried: Instant::now(),
            plain: Plain::read(dir, loaded.key.id()),
            health: watch::Sender::default(),
        };
        if loaded.origin != Origin::Kept {
            disk.restore(&mut loaded, mirrored)?;
        }
        disk.plain.follow(&disk.known);
        keep_identity(dir, kept.as_ref(), &loaded.key);
        sync_directory(dir)?;
        if let Some(spare) = spare {
            let records = disk.records()?;
            let made = Mirror::make(spare, &disk.key, &disk.known, &records);
            disk.mirror = made.map_err(|error| warn!("{}", error.sentence())).ok();
        }
        Ok((disk, loaded))
    }

    /// Brings the file up to what is known of this boot, or else of the networks that outlive boots.
    fn restore(
        &mut self,
        loaded: &mut Loaded,
        mirrored: Option<Mirrored>,
    ) -> Result<(), JournalError> {
        let mirrored = mirrored.filter(|it| it.key.expose() == loaded.key.expose());
        let from_mirror = mirrored.is_some();
        let (mut state, records) = match mirrored {
            Some(mirrored) => (mirrored.state, mirrored.records),
            None => (loaded.state.clone(), Vec::new()),
        };
        if loaded.origin != Origin::New {
            let unused = seq::above_all(clock::of_host()());
            state.reserved_seq = state.reserved_seq.max(unused);
            let plain = if from_mirror { 0 } else { self.plain.restore(&mut state) };
            error!(origin = ?loaded.origin, from_mirror, plain, host = %loaded.key.id(), "The journal is not as it was left");
        }
        let before = loaded.state.clone();
        self.transact(Durability::Immediate, |transaction| {
            fill(transaction, &before, &state, &records)
        })?;
        self.known = state.clone();
        loaded.state = state;
        Ok(())
    }

    fn read_or_make(
        path: &Path,
        kept: Option<&HostKey>,
        random: &Random,
    ) -> Result<(Database, Loaded), JournalError> {
        let is_there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        if is_there {
            let (database, went_back) = whole(path, has_identity)?;
            let (key, state) = guarded(path, || load(&database, path))?;
            let origin = match went_back {
                true => Origin::WentBack,
                // It was made, and its start ended before anything was brought over.
                false if state.boot.is_empty() => Origin::Lost,
                false => Origin::Kept,
            };
            return Ok((database, Loaded { key, state, origin }));
        }
        let (key, origin) = match kept {
            Some(key) => (key.clone(), Origin::Lost),
            None => {
                let mut bytes = Zeroizing::new([0; 32]);
                random(bytes.as_mut());
                let key = HostKey::from_random(*bytes);
                // First, so that there is never a journal whose key is in no other place.
                identity::write(path.parent().unwrap_or(Path::new("/")), &key)?;
                (key, Origin::New)
            }
        };
        let database = create(path, &key)?;
        Ok((database, Loaded { key, state: State::default(), origin }))
    }
}

/// Opens the file and reads every page of it; whether its last commit had to be given up.
pub(super) fn whole(
    path: &Path,
    check: impl FnOnce(&Database) -> Result<(), Failure>,
) -> Result<(Database, bool), JournalError> {
    let opened = open_private_file(path).and_then(|file| Ok((file.try_clone()?, file)));
    let (same, file) = opened.map_err(|source| JournalError::file("open journal", path, source))?;
    let went_back = Rc::new(Cell::new(false));
    let seen = Rc::clone(&went_back);
    let database = guarded(path, || {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_repair_callback(move |repair| {
            seen.set(seen.get() || WENT_BACK.contains(&repair.progress()));
        });
        let database = builder.create_file(file).map_err(redb::Error::from)?;
        // What panics on its own data would panic again while it is closed.
        let mut database = ManuallyDrop::new(database);
        if !database.check_integrity().map_err(redb::Error::from)? {
            went_back.set(true);
        }
        check(&database)?;
        Ok(ManuallyDrop::into_inner(database))
    });
    if database.is_err() {
        // What is never closed keeps its lock, and the next try would take it for another driver's.
        let _ = same.unlock();
    }
    Ok((database?, went_back.get()))
}

/// Makes the file with its tables and the identity.
pub(super) fn create(path: &Path, key: &HostKey) -> Result<Database, JournalError> {
    let file = open_private_file(path)
        .map_err(|source| JournalError::file("open journal", path, source))?;
    let made = guarded(path, || {
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_file(file)
            .map_err(redb::Error::from)?;
        make_tables(&database, key)?;
        Ok(database)
    });
    if made.is_err() {
        // Half of a new file would look like a damaged one.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn make_tables(database: &Database, key: &HostKey) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("host_key", key.expose().as_slice())?;
        meta.insert("schema", rows::json(&SCHEMA).as_slice())?;
    }
    for table in [NETWORKS, RECORDS] {
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
    Ok(transaction.commit()?)
}

/// A file that was made and not filled (an end between the two) has nothing to lose.
fn has_identity(database: &Database) -> Result<(), Failure> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => {
            Err(Failure::Redb(redb::Error::Corrupted("it was made and never filled".to_owned())))
        }
        table => table.map(drop).map_err(|error| Failure::Redb(error.into())),
    }
}

/// The key that this host goes by, in its own file too. The journal's counts: it is what was in use.
fn keep_identity(dir: &Path, kept: Option<&HostKey>, key: &HostKey) {
    if kept.is_some_and(|kept| kept.expose() == key.expose()) {
        return;
    }
    let path = identity::path(dir);
    if kept.is_some() {
        warn!(file = %path.display(), host = %key.id(), "The file holds another host's key than the journal; the journal counts");
    }
    match identity::write(dir, key) {
        Ok(()) => info!(file = %path.display(), "Wrote the host's key"),
        // The journal has it, and the next start tries again.
        Err(error) => warn!("{}", error.sentence()),
    }
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
