//! Whose a lab is: one process owns it at a time, and one that a killed test run left names that run.

use std::fs;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::command::wait_for;
use super::error::{LabError, Result};
use super::{Record, base_dir, clear, lab_dir};

/// Two runs of the same name would clear each other's hosts.
pub(super) fn own(name: &str) -> Result<Flock<fs::File>> {
    fs::create_dir_all(base_dir()).map_err(LabError::io("make the directory", base_dir()))?;
    let path = base_dir().join(format!("{name}.lock"));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(LabError::io("open", &path))?;
    // A process that was killed a moment ago may still be ending.
    let mut unlocked = Some(file);
    let locked = wait_for("the lab's lock", Duration::from_secs(3), || {
        let file = unlocked.take().expect("the file comes back with each refusal");
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| {
            unlocked = Some(file);
            errno
        })
    });
    let Ok((lock, _)) = locked else {
        let pid = fs::read_to_string(&path).unwrap_or_default();
        return Err(LabError::InUse { lab: name.to_owned(), pid });
    };
    fs::write(&path, std::process::id().to_string()).map_err(LabError::io("write", &path))?;
    Ok(lock)
}

/// Ends a lab that no running process owns.
pub fn down(name: &str) -> Result<()> {
    let _owner = own(name)?;
    clear(name)
}

/// Ends every lab that belongs to a test run, if no running process owns it; their names.
pub fn down_of_run(run: &str) -> Result<Vec<String>> {
    let (mut ended, mut first_failure) = (Vec::new(), Ok(()));
    for entry in fs::read_dir(base_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let record = fs::read(lab_dir(&name).join("lab.json")).ok();
        let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        if record.is_some_and(|record| record.run.as_deref() == Some(run)) {
            match down(&name) {
                Ok(()) => ended.push(name),
                Err(error) => first_failure = first_failure.and(Err(error)),
            }
        }
    }
    first_failure.map(|()| ended)
}
