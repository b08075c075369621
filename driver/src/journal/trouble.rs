//! Tells people of the journal's trouble, and tries again while nothing can be written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;
use wgnet_proto::status::Problem;

use super::Journal;
use crate::problems::Problems;

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// With less room than this there is no use in trying.
const ROOM: u64 = 256 * 1024;

const UNWRITABLE: &str = "journal-unwritable";
const DAMAGED: &str = "journal-damaged";

/// Runs until cancelled.
pub async fn watch_over(journal: Journal, problems: Problems, cancel: CancellationToken) {
    let mut health = journal.health();
    let mut told: Vec<PathBuf> = Vec::new();
    let object = journal.path().display().to_string();
    loop {
        let failure = health.borrow_and_update().clone();
        match &failure {
            Some(error) => problems.set(unwritable(&object, &error.sentence())),
            None => problems.clear(UNWRITABLE, &object),
        }
        let aside = journal.set_aside();
        for gone in told.iter().filter(|file| !aside.contains(file)) {
            problems.clear(DAMAGED, &gone.display().to_string());
        }
        aside.iter().for_each(|file| problems.set(damaged(file)));
        told = aside;
        if failure.is_some() && has_room(journal.path()) {
            // Whoever has something to write may be waiting for a sign that it is of use again.
            let _ = journal.keep_records(Vec::new()).await;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn unwritable(object: &str, sentence: &str) -> Problem {
    let (cause, next_step) = sentence.rsplit_once("; ").unwrap_or((sentence, "check the disk"));
    Problem {
        code: UNWRITABLE.to_owned(),
        object: object.to_owned(),
        cause: format!(
            "{cause}; running containers go on, and no container can start or stop on a wgnet network"
        ),
        next_step: format!("{next_step}; it is tried again by itself"),
    }
}

/// Open until somebody takes the file away.
fn damaged(file: &Path) -> Problem {
    Problem {
        code: DAMAGED.to_owned(),
        object: file.display().to_string(),
        cause: "the journal was damaged and is set aside here; it was written anew from what was known of this boot, and running containers were not touched".to_owned(),
        next_step: format!(
            "check the disk (dmesg, smartctl), then rm {}; on plain engines look whether every network is in `wgnetctl status`, and create again what is not",
            file.display()
        ),
    }
}

fn has_room(path: &Path) -> bool {
    // Root may use what is reserved.
    let free = path.parent().and_then(|dir| statvfs(dir).ok());
    free.is_none_or(|free| free.blocks_free() * free.fragment_size() >= ROOM)
}
