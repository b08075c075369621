//! The journal once more, in memory of the host (`/run`), as long as this boot lasts: what a damaged
//! file is written anew from. Without it nobody could say which network and container a running
//! interface belongs to.

use std::path::PathBuf;

use super::*;

pub(super) struct Mirror {
    path: PathBuf,
    database: Database,
}

/// What a mirror held.
pub(super) struct Mirrored {
    pub(super) key: HostKey,
    pub(super) state: State,
    pub(super) records: Vec<(String, Vec<u8>)>,
}

impl Mirror {
    /// What an earlier driver of this boot left; `None` if that cannot be relied on.
    pub(super) fn read(spare: &Spare) -> Option<Mirrored> {
        let path = &spare.path;
        if !path.exists() {
            return None;
        }
        let read = open::whole(path, |_| Ok(())).and_then(|(database, _)| {
            let (key, state) = guarded(path, || load(&database, path))?;
            let records = guarded(path, || records(&database))?;
            Ok(Mirrored { key, state, records })
        });
        match read {
            Ok(mirrored) => Some(mirrored).filter(|mirrored| mirrored.state.boot == spare.boot),
            Err(error) => {
                warn!("{}", error.sentence());
                None
            }
        }
    }

    /// Begins anew with this content.
    pub(super) fn make(
        spare: &Spare,
        key: &HostKey,
        state: &State,
        records: &[(String, Vec<u8>)],
    ) -> Result<Self, JournalError> {
        let path = &spare.path;
        let new = new_beside(path);
        // The old one is in force until the new one is whole.
        let made = (|| {
            let _ = std::fs::remove_file(&new);
            let mirror = Self { path: path.clone(), database: open::create(&new, key)? };
            mirror.transact(|transaction| fill(transaction, &State::default(), state, records))?;
            std::fs::rename(&new, path)
                .map_err(|error| JournalError::file("mirror journal to", path, error))?;
            Ok(mirror)
        })();
        // What an earlier one left is behind from now on.
        made.inspect_err(|_| remove(path))
    }

    /// Nobody is to find it any more.
    pub(super) fn remove(&self) {
        remove(&self.path);
    }

    pub(super) fn write(&self, old: &State, new: &State) -> Result<(), JournalError> {
        self.transact(|transaction| rows::write_changes(transaction, old, new))
    }

    pub(super) fn keep(&self, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), JournalError> {
        self.transact(|transaction| keep(transaction, changes))
    }

    pub(super) fn records(&self) -> Option<Vec<(String, Vec<u8>)>> {
        guarded(&self.path, || records(&self.database)).ok()
    }

    fn transact(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), JournalError> {
        guarded(&self.path, || {
            let transaction = self.database.begin_write().map_err(redb::Error::from)?;
            change(&transaction)?;
            Ok(transaction.commit().map_err(redb::Error::from)?)
        })
    }
}

fn new_beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// With no mirror a start knows that it knows nothing; one that is behind would be believed.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(new_beside(path));
    let file = path.display();
    match std::fs::remove_file(path) {
        Ok(()) => warn!(%file, "Removed the journal's mirror; it is made again when it can be"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            error!(%file, %error, "Cannot remove the journal's mirror, which is behind; remove it");
        }
    }
}
