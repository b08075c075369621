//! Tells people of the journal's trouble, and tries again while nothing can be written.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use wgnet_proto::status::Problem;

use super::Journal;
use crate::problems::Problems;

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// It is asked so seldom whether it is at work: records that were kept are synced when nobody asks
/// for anything else for a while.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// A disk that works answers within milliseconds, one under load within a second or two.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// With less room than this there is no use in trying.
const ROOM: u64 = 256 * 1024;

const UNWRITABLE: &str = "journal-unwritable";
const DAMAGED: &str = "journal-damaged";

/// Runs until cancelled.
pub async fn watch_over(journal: Journal, problems: Problems, cancel: CancellationToken) {
    let mut health = journal.health();
    let mut told: Vec<PathBuf> = Vec::new();
    let object = journal.path().display().to_string();
    let (mut asked, mut hangs) = (Instant::now(), false);
    // A disk that does not answer keeps the thread that asks it: one, not another each time.
    let mut probe: Option<JoinHandle<bool>> = None;
    loop {
        let failure = health.borrow_and_update().clone();
        match &failure {
            Some(error) => problems.set(unwritable(&object, &error.sentence())),
            None if hangs => problems.set(unwritable(&object, &hanging(&object))),
            None => problems.clear(UNWRITABLE, &object),
        }
        let aside = journal.set_aside();
        for gone in told.iter().filter(|file| !aside.contains(file)) {
            problems.clear(DAMAGED, &gone.display().to_string());
        }
        aside.iter().for_each(|file| problems.set(damaged(file)));
        told = aside;
        let is_due = hangs || asked.elapsed() >= ASK_EVERY;
        let answer = async {
            match &failure {
                Some(_) => {
                    let path = journal.path().to_owned();
                    let ask = || spawn_blocking(move || has_room(&path));
                    let has_room = probe.get_or_insert_with(ask).await;
                    probe = None;
                    match has_room {
                        // Whoever has something to write may be waiting for a sign that it is of use
                        // again.
                        Ok(true) => journal.keep_records(Vec::new()).await,
                        _ => Ok(()),
                    }
                }
                None if is_due => journal.update(|_| ()).await.map(drop),
                None => Ok(()),
            }
        };
        let answer = cancel.run_until_cancelled(timeout(ANSWERS_WITHIN, answer)).await;
        let Some(answer) = answer else { return };
        hangs = answer.is_err();
        if is_due {
            asked = Instant::now();
        }
        if hangs {
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn hanging(object: &str) -> String {
    let seconds = ANSWERS_WITHIN.as_secs();
    format!(
        "cannot write journal {object}: its disk has not answered for {seconds} s; check the disk and its file system"
    )
}

fn unwritable(object: &str, sentence: &str) -> Problem {
    let (cause, next_step) = sentence.rsplit_once("; ").unwrap_or((sentence, "check the disk"));
    Problem {
        code: UNWRITABLE.to_owned(),
        object: object.to_owned(),
        cause: format!(
            "{cause}; running containers go on, and containers on wgnet networks fail to start or stop"
        ),
        next_step: format!("{next_step}; it is tried again by itself"),
    }
}

/// Open until somebody takes the file away.
fn damaged(file: &Path) -> Problem {
    Problem {
        code: DAMAGED.to_owned(),
        object: file.display().to_string(),
        cause: "the journal was damaged and is set aside here; it was written anew from its mirror of this boot; where there was none, as after a boot, with the host's key and what networks.json beside it has, the networks of a plain engine; running containers were not touched".to_owned(),
        next_step: format!(
            "check the disk (dmesg, smartctl), then rm {}; on plain engines look whether every network of docker network ls is in `wgnetctl status`; one that is not: docker network rm, then create it again",
            file.display()
        ),
    }
}

/// Whether the file at the path can grow. A file system keeps room back that it counts as free (ext4:
/// mostly up to 16 MiB, which not even root gets), and a quota is not the disk's: so it is tried.
pub(super) fn has_room(path: &Path) -> bool {
    let Some(dir) = path.parent() else {
        return true;
    };
    match file_without_name(dir).and_then(|file| take(&file)) {
        Ok(has_room) => has_room,
        // It cannot be tried there. Root may use what is reserved.
        Err(_) => statvfs(dir).ok().is_none_or(|disk| {
            disk.blocks() == 0 || disk.blocks_free() * disk.fragment_size() >= ROOM
        }),
    }
}

/// The kernel gives back what it has once it is closed.
fn file_without_name(dir: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR)
}

fn take(file: &OwnedFd) -> nix::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), 0, ROOM.try_into().unwrap_or(i64::MAX)) {
        Err(Errno::ENOSPC | Errno::EDQUOT) => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;
    use tokio::time::sleep;

    use super::*;
    use crate::journal::{Gate, MemoryDisk, Random};

    const A_WHILE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_told_as_long_as_it_does() {
        let (hang, hangs) = watch::channel(false);
        let gate: Gate = Arc::new(move || {
            let mut hangs = hangs.clone();
            Box::pin(async move { drop(hangs.wait_for(|is_so| !is_so).await) })
        });
        let random: Random = Arc::new(|bytes| bytes.fill(1));
        let journal =
            Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
        let (problems, stop) = (Problems::default(), CancellationToken::new());
        let watching = tokio::spawn(watch_over(journal, problems.clone(), stop.clone()));
        for hanging in [false, true, false, true] {
            hang.send_replace(hanging);
            sleep(A_WHILE).await;
            let told = problems.list();
            assert_eq!(told.len(), usize::from(hanging), "{told:?}");
            assert!(told.iter().all(|problem| problem.cause.contains("not answered")), "{told:?}");
        }
        stop.cancel();
        watching.await.unwrap();
    }
}
