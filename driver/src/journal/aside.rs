//! Damaged journals: set aside under a numbered name, never deleted at once, and at most a few.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::JournalError;

/// The newest ones that are kept.
const KEPT: usize = 3;

/// Gives the file another name; the name.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let before = list(path);
    let number = before.last().and_then(|last| number(path, last)).unwrap_or(0) + 1;
    let aside = PathBuf::from(format!("{}{number}", prefix(path)));
    let renamed = || {
        std::fs::rename(path, &aside)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    renamed().map_err(|error| JournalError::file("set aside the damaged", path, error))?;
    let too_many = (before.len() + 1).saturating_sub(KEPT);
    for oldest in before.iter().take(too_many) {
        if let Err(error) = std::fs::remove_file(oldest) {
            tracing::warn!(%error, file = %oldest.display(), "Cannot remove what was set aside long ago");
        }
    }
    Ok(aside)
}

/// The journals set aside at some time and not removed since, the newest last.
pub(super) fn list(path: &Path) -> Vec<PathBuf> {
    let entries = path.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let found = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(u64, PathBuf)> =
        found.filter_map(|file| Some((number(path, &file)?, file))).collect();
    found.sort();
    found.into_iter().map(|(_, file)| file).collect()
}

fn prefix(path: &Path) -> String {
    format!("{}.damaged-", path.display())
}

fn number(path: &Path, file: &Path) -> Option<u64> {
    file.to_str()?.strip_prefix(&prefix(path))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_few_are_kept_under_rising_numbers() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("journal.redb");
        for round in 1..=12 {
            std::fs::write(&path, round.to_string()).unwrap();
            let aside = set_aside(&path).unwrap();
            assert!(
                !path.exists() && std::fs::read_to_string(&aside).unwrap() == round.to_string()
            );
        }
        let names: Vec<_> =
            list(&path).into_iter().filter_map(|file| number(&path, &file)).collect();
        assert_eq!(names, [10, 11, 12]);
    }
}
