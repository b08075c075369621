//! What the disk can do to the journal: in a mount namespace of the test's own thread.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;
use wgnet_driver::journal::{Journal, JournalError, Origin, Spare, State, watch_over};
use wgnet_driver::problems::Problems;

use crate::support::{self, Driver, create_endpoint, create_network, join};
use crate::{SWARM_NETWORK, add_endpoint, add_network, block_on, durable, id, open, random};

/// Runs with a small file system of its own at the path.
pub(crate) fn with_small_disk(size: &str, run: impl FnOnce(&Path) + Send + 'static) {
    let options = format!("size={size},mode=700");
    let small = move |path: &Path| {
        mount(Some("wgnett"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
    };
    with_disk(small, run);
}

/// Runs with one that keeps room back from everybody.
fn with_small_ext4(run: impl FnOnce(&Path) + Send + 'static) {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(64 << 20).unwrap();
    let small = move |path: &Path| {
        succeeds(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image.path()));
        succeeds(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(path));
    };
    with_disk(small, run);
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn with_disk(
    mount_at: impl FnOnce(&Path) + Send + 'static,
    run: impl FnOnce(&Path) + Send + 'static,
) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_owned();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount_at(&path);
        run(&path);
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
    });
    thread.join().unwrap();
}

#[test]
fn a_full_disk_refuses_updates_in_words_and_memory_and_disk_agree() {
    with_small_disk("8m", |dir| {
        let journal = open(dir);
        let ballast = dir.join("ballast");
        let fill = |size: u64| {
            let bytes = vec![1; size as usize];
            let _ = std::fs::write(&ballast, bytes);
        };
        block_on(async {
            journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
            fill(8 << 20);
            let mut acknowledged = 0;
            let error = loop {
                let first = acknowledged * 100;
                let more = move |state: &mut State| {
                    (first..first + 100).for_each(|n| add_endpoint(state, n))
                };
                match journal.update(more).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => break error,
                }
                assert!(acknowledged < 1000, "the disk never fills");
            };
            let sentence = error.sentence();
            println!("{sentence}");
            assert!(
                sentence.contains("journal.redb")
                    && sentence.contains("No space left")
                    && sentence.contains("free some space"),
                "{sentence}"
            );
            let count = || journal.state().networks[&id(SWARM_NETWORK)].endpoints.len() as u64;
            assert_eq!(count(), acknowledged * 100);
            // It goes on refusing, and goes on answering what it knows.
            let more = |state: &mut State| (900_000..900_100).for_each(|n| add_endpoint(state, n));
            assert!(journal.update(more).await.is_err());
            assert_eq!(count(), acknowledged * 100);
            std::fs::remove_file(&ballast).unwrap();
            journal.update(|state| add_endpoint(state, 999_999)).await.unwrap();
            assert_eq!(count(), acknowledged * 100 + 1);
        });
        let before = durable(&journal.state());
        drop(journal);
        assert_eq!(durable(&open(dir).state()), before);
    });
}

#[test]
fn docker_is_told_of_a_full_disk_and_served_again_when_it_has_room() {
    with_small_disk("8m", |dir| {
        let dir = dir.to_owned();
        block_on(async {
            let driver = Driver::start(&dir);
            let network = create_network(SWARM_NETWORK, &serde_json::json!({}));
            driver.call("CreateNetwork", &network).await.succeeds();
            let _ = std::fs::write(dir.join("ballast"), vec![1; 8 << 20]);
            let mut next = 0;
            // Until not even one more fits into the room the file has.
            for size in [100, 10, 1] {
                let more = |first| {
                    move |state: &mut State| {
                        (first..first + size).for_each(|n| add_endpoint(state, n))
                    }
                };
                while driver.journal.update(more(next)).await.is_ok() {
                    next += size;
                }
            }
            let create = create_endpoint(SWARM_NETWORK, &support::endpoint(1), "10.0.9.5/24");
            let reply = driver.call("CreateEndpoint", &create).await;
            for part in ["journal.redb", "No space left", "free some space"] {
                reply.fails_with(part);
            }
            driver.connect().await.post_empty("GetCapabilities").await.succeeds();
            std::fs::remove_file(dir.join("ballast")).unwrap();
            driver.call("CreateEndpoint", &create).await.succeeds();
            driver.call("Join", &join(SWARM_NETWORK, &support::endpoint(1))).await.succeeds();
            driver.stop().await;
        });
    });
}

#[test]
fn a_full_disk_at_the_first_start_is_named() {
    with_small_disk("64k", |dir| {
        let _ = std::fs::write(dir.join("ballast"), vec![1; 64 << 10]);
        let sentence = Journal::open(dir, "boot-1", &random()).err().unwrap().sentence();
        assert!(
            sentence.contains("host.key") && sentence.contains("free some space"),
            "{sentence}"
        );
    });
}

#[test]
fn a_full_disk_is_told_as_long_as_it_is_full_and_no_longer() {
    with_small_disk("8m", |dir| {
        let dir = dir.to_owned();
        block_on(async {
            let journal = open(&dir);
            let problems = Problems::default();
            let stop = tokio_util::sync::CancellationToken::new();
            let watch = tokio::spawn(watch_over(journal.clone(), problems.clone(), stop.clone()));
            let codes = || problems.list().into_iter().map(|p| p.code).collect::<Vec<_>>();
            journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
            let _ = std::fs::write(dir.join("ballast"), vec![1; 8 << 20]);
            let mut next = 0;
            let more = |first| {
                move |state: &mut State| (first..first + 100).for_each(|n| add_endpoint(state, n))
            };
            while journal.update(more(next)).await.is_ok() {
                next += 100;
            }
            until(|| codes() == ["journal-unwritable"]).await;
            let problem = problems.list().remove(0);
            assert!(problem.cause.contains("No space left"), "{problem:?}");
            assert!(problem.next_step.contains("free some space"), "{problem:?}");
            std::fs::remove_file(dir.join("ballast")).unwrap();
            // Nobody writes anything: it is found out all the same.
            until(|| codes().is_empty()).await;
            stop.cancel();
            watch.await.unwrap();
        });
    });
}

#[test]
fn what_fits_into_a_full_disk_does_not_make_it_well() {
    with_small_disk("8m", small_changes_do_not_make_it_well);
}

#[test]
fn a_file_that_still_cannot_be_opened_wakes_nobody() {
    with_small_disk("8m", |dir| {
        let dir = dir.to_owned();
        block_on(async {
            let journal = open(&dir);
            journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
            fill_up(&dir, "ballast");
            let mut next = 0;
            // The failure closes the file.
            while add_more(&journal, &mut next).await.is_ok() {}
            let none = None::<&str>;
            mount(none, &dir, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
            let mut health = journal.health();
            assert!(health.borrow_and_update().is_some());
            for _ in 0..3 {
                journal.update(|state| state.reserved_seq += 1).await.map(drop).unwrap_err();
                assert!(!health.has_changed().unwrap(), "whoever is told tries again");
            }
            mount(none, &dir, none, MsFlags::MS_REMOUNT, none).unwrap();
            std::fs::remove_file(dir.join("ballast")).unwrap();
            journal.update(|state| state.reserved_seq += 1).await.unwrap();
            assert!(health.borrow_and_update().is_none());
        });
    });
}

#[test]
fn room_that_a_file_system_counts_and_gives_nobody_is_none() {
    with_small_ext4(|dir| {
        small_changes_do_not_make_it_well(dir);
        fill_up(dir, "again");
        let counted = statvfs(dir).unwrap();
        let bytes = counted.blocks_free() * counted.fragment_size();
        assert!(bytes > 512 * 1024, "it counts as free what nobody gets: {bytes}");
    });
}

fn small_changes_do_not_make_it_well(dir: &Path) {
    let dir = dir.to_owned();
    block_on(async {
        let journal = open(&dir);
        journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
        // Pages that the file has already, and may use again.
        for number in 0..100 {
            journal.update(move |state| add_endpoint(state, number)).await.unwrap();
        }
        fill_up(&dir, "ballast");
        let many = |state: &mut State| (1000..20_000).for_each(|n| add_endpoint(state, n));
        journal.update(many).await.map(drop).unwrap_err();
        journal.update(|state| state.reserved_seq += 1).await.expect("there is room for this");
        assert!(journal.health().borrow().is_some(), "the next container would not start");
        std::fs::remove_file(dir.join("ballast")).unwrap();
        journal.update(|state| state.reserved_seq += 1).await.unwrap();
        assert!(journal.health().borrow().is_none());
    });
}

#[test]
fn records_that_a_full_disk_refused_are_in_the_file_once_it_has_room() {
    with_small_disk("8m", |dir| {
        let dir = dir.to_owned();
        block_on(async {
            let journal = open(&dir);
            let _ = std::fs::write(dir.join("ballast"), vec![1; 8 << 20]);
            let record = |n: u32| (format!("hosts/{n:05}"), Some(vec![1; 4000]));
            let mut kept = 0;
            while journal.keep_records(vec![record(kept)]).await.is_ok() {
                kept += 1;
            }
            // Of those that were kept the last were not durable.
            journal.keep_records(vec![record(kept + 1)]).await.unwrap_err();
            std::fs::remove_file(dir.join("ballast")).unwrap();
            let mut health = journal.health();
            until(|| health.borrow_and_update().is_none()).await;
            drop(journal);
            assert_eq!(open(&dir).records().await.unwrap().len(), kept as usize + 2);
        });
    });
}

/// Takes all the room there is.
fn fill_up(dir: &Path, name: &str) {
    let mut file = File::create(dir.join(name)).unwrap();
    // What was held back for the blocks of what was written may be free when they are on the disk.
    for _ in 0..3 {
        while file.write_all(&[1; 4096]).is_ok() {}
        let _ = file.sync_all();
    }
}

async fn add_more(journal: &Journal, next: &mut u64) -> Result<(), JournalError> {
    let first = *next;
    *next += 100;
    assert!(*next < 100_000, "the disk never fills");
    let more = move |state: &mut State| (first..first + 100).for_each(|n| add_endpoint(state, n));
    journal.update(more).await.map(drop)
}

#[test]
fn records_are_read_from_a_full_disk_and_from_the_mirror_while_the_file_does_not_open() {
    with_small_disk("8m", |dir| {
        let dir = dir.to_owned();
        let run = TempDir::new().unwrap();
        let path = run.path().join("journal.redb");
        let spare = Spare { path, boot: "boot-1".to_owned(), is_running: true };
        block_on(async {
            let journal = Journal::open_mirrored(&dir, "boot-1", &random(), Some(&spare)).unwrap();
            let records = (0..10).map(|n| (format!("hosts/{n}"), Some(vec![n; 300]))).collect();
            journal.keep_records(records).await.unwrap();
            journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
            fill_up(&dir, "ballast");
            let mut next = 0;
            while add_more(&journal, &mut next).await.is_ok() {}
            assert_eq!(journal.records().await.unwrap().len(), 10);
            // The failure closes the file.
            add_more(&journal, &mut next).await.unwrap_err();
            let none = None::<&str>;
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, &dir, none, read_only, none).unwrap();
            assert_eq!(journal.records().await.unwrap().len(), 10);
            mount(none, &dir, none, MsFlags::MS_REMOUNT, none).unwrap();
            std::fs::remove_file(dir.join("ballast")).unwrap();
            add_more(&journal, &mut next).await.unwrap();
        });
    });
}

#[test]
fn a_mirror_that_could_not_follow_is_believed_by_nobody_and_made_again() {
    with_small_disk("8m", |run| {
        let lib = TempDir::new().unwrap();
        let file = lib.path().join("journal.redb");
        let spare =
            Spare { path: run.join("journal.redb"), boot: "boot-1".to_owned(), is_running: true };
        let open = || Journal::open_mirrored(lib.path(), "boot-1", &random(), Some(&spare));
        let mut next = 0;
        let journal = open().unwrap();
        block_on(async {
            journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
            fill_up(run, "ballast");
            while let Ok(before) = std::fs::read(&spare.path) {
                add_more(&journal, &mut next).await.unwrap();
                let after = std::fs::read(&spare.path);
                assert!(after.is_err() || after.unwrap() != before, "it is behind");
            }
        });
        drop(journal);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, vec![0; whole.len()]).unwrap();
        let error = open().err().unwrap();
        assert!(matches!(error, JournalError::Unknown { .. }), "{error}");
        std::fs::write(&file, whole).unwrap();
        // Nor is there half of one if there is no room at the start.
        fill_up(run, "more");
        let journal = open().unwrap();
        assert_eq!(*journal.origin(), Origin::Kept);
        assert_eq!(journal.state().networks[&id(SWARM_NETWORK)].endpoints.len() as u64, next);
        assert!(!spare.path.exists());
        std::fs::remove_file(run.join("ballast")).unwrap();
        std::fs::remove_file(run.join("more")).unwrap();
        block_on(async {
            let made = async {
                while !spare.path.exists() {
                    journal.update(|state| state.reserved_seq += 1).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), made).await.expect("a mirror is made");
            add_more(&journal, &mut next).await.unwrap();
        });
        let before = durable(&journal.state());
        drop(journal);
        std::fs::write(&file, b"not a journal at all").unwrap();
        let journal = open().unwrap();
        assert!(matches!(journal.origin(), Origin::Damaged { .. }), "{:?}", journal.origin());
        assert_eq!(journal.state().networks, before.networks);
    });
}

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

#[test]
fn a_read_only_directory_is_named() {
    with_small_disk("8m", |dir| {
        let none = None::<&str>;
        mount(none, dir, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
        let sentence = Journal::open(dir, "boot-1", &random()).err().unwrap().sentence();
        println!("{sentence}");
        assert!(
            sentence.contains("Read-only file system") && sentence.contains("writable"),
            "{sentence}"
        );
    });
}
