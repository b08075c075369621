//! A journal whose file is damaged or gone: nothing of this boot is lost, and it is the same host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgnet_driver::journal::{Journal, JournalError, Origin, Spare, State};

use crate::{SWARM_NETWORK, add_endpoint, add_network, block_on, durable, random};

const BOOT: &str = "boot-1";

/// A state directory and the memory of the host, as at one time.
pub(crate) struct Host {
    dir: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { dir: TempDir::new().unwrap() };
        fs::create_dir(host.dir.path().join("run")).unwrap();
        host
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("lib")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.state_dir().join("journal.redb")
    }

    pub(crate) fn mirror(&self) -> PathBuf {
        self.dir.path().join("run/journal.redb")
    }

    pub(crate) fn open(&self, boot: &str, is_running: bool) -> Result<Journal, JournalError> {
        let spare = Spare { path: self.mirror(), boot: boot.to_owned(), is_running };
        Journal::open_mirrored(&self.state_dir(), boot, &random(), Some(&spare))
    }

    fn aside(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.state_dir()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.to_str().unwrap().contains("journal.redb.damaged-")).collect()
    }

    /// A host whose driver was killed just now.
    pub(crate) fn killed(&self) -> Self {
        let killed = Self::new();
        fs::create_dir(killed.state_dir()).unwrap();
        for (from, to) in [(self.file(), killed.file()), (self.mirror(), killed.mirror())] {
            fs::copy(from, to).unwrap();
        }
        for name in ["host.key", "networks.json"] {
            let (from, to) = (self.state_dir().join(name), killed.state_dir().join(name));
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
        killed
    }
}

fn fill(journal: &Journal) {
    block_on(async {
        let change = |state: &mut State| {
            add_network(state, SWARM_NETWORK);
            (1..=300).for_each(|n| add_endpoint(state, n));
            state.reserved_seq = 5000;
        };
        journal.update(change).await.unwrap();
        let record = |n: u8| (format!("hosts/{n}"), Some(vec![n; 300]));
        journal.keep_records((0..100).map(record).collect()).await.unwrap();
        journal.update(|state| add_endpoint(state, 301)).await.unwrap();
    });
}

fn records(journal: &Journal) -> Vec<(String, Vec<u8>)> {
    block_on(journal.records()).unwrap()
}

pub(crate) type Damage = fn(&mut Vec<u8>);

/// What can be wrong with a file.
pub(crate) const DAMAGES: [(&str, Damage); 7] = [
    ("truncated to half", |file| file.truncate(file.len() / 2)),
    ("cut in a page", |file| file.truncate(file.len() - 1000)),
    ("zeroed", |file| file.fill(0)),
    ("zeroed but for its head", |file| file[4096..].fill(0)),
    ("another file", |file| *file = b"not a journal at all".repeat(1000)),
    ("garbage at its head", |file| file[16..320].fill(0xa5)),
    ("garbage all over", |file| {
        let mut at = 5000;
        while at + 100 < file.len() {
            file[at..at + 100].fill(0x5a);
            at += 4096;
        }
    }),
];

pub(crate) fn damage(file: &Path, how: fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    how(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn whatever_happens_to_the_file_nothing_of_this_boot_is_lost() {
    let first = Host::new();
    let journal = first.open(BOOT, false).unwrap();
    assert_eq!(*journal.origin(), Origin::New);
    fill(&journal);
    let (before, kept, me) = (durable(&journal.state()), records(&journal), journal.host_id());
    assert_eq!(kept.len(), 100);
    let killed: Vec<Host> = DAMAGES.iter().map(|_| first.killed()).collect();
    drop(journal);
    let stopped: Vec<Host> = DAMAGES.iter().map(|_| first.killed()).collect();
    for (state, hosts) in [("killed", killed), ("stopped", stopped)] {
        for ((what, how), host) in DAMAGES.iter().zip(hosts) {
            damage(&host.file(), *how);
            let journal = host.open(BOOT, true).unwrap();
            let said = format!("{what}, {state}: {:?}", journal.origin());
            let now = journal.state();
            assert_eq!((journal.host_id(), &now.networks), (me, &before.networks), "{said}");
            assert_eq!(records(&journal), kept, "{said}");
            assert!(matches!(journal.origin(), Origin::Damaged { .. }), "{said}");
            assert!(journal.next_unused_seq() > before.reserved_seq + 1_000_000, "{said}");
            let aside = host.aside();
            assert_eq!(journal.set_aside(), aside, "{said}");
            let mode = fs::metadata(&aside[0]).unwrap().permissions().mode() & 0o777;
            assert_eq!((aside.len(), mode), (1, 0o600), "{said}");
            // It is a journal like any other.
            block_on(journal.update(|state| add_endpoint(state, 302))).unwrap();
            drop(journal);
            let journal = host.open(BOOT, true).unwrap();
            assert_eq!(*journal.origin(), Origin::Kept, "{said}");
            assert_eq!(journal.state().networks.values().next().unwrap().endpoints.len(), 302);
        }
    }
}

#[test]
fn garbage_in_any_page_is_seen_or_harmless() {
    let first = Host::new();
    let journal = first.open(BOOT, false).unwrap();
    fill(&journal);
    let before = durable(&journal.state());
    drop(journal);
    let pages = fs::metadata(first.file()).unwrap().len() / 4096;
    for page in (1..pages).step_by((pages as usize / 40).max(1)) {
        let host = first.killed();
        let mut bytes = fs::read(host.file()).unwrap();
        let at = page as usize * 4096;
        bytes[at + 10..at + 200].fill(0x77);
        fs::write(host.file(), bytes).unwrap();
        let journal = host.open(BOOT, true).unwrap();
        assert_eq!(
            journal.state().networks,
            before.networks,
            "page {page}: {:?}",
            journal.origin()
        );
    }
}

#[test]
fn a_lost_file_is_written_anew_and_even_a_lost_directory_is() {
    for whole in [false, true] {
        let host = Host::new();
        let journal = host.open(BOOT, false).unwrap();
        fill(&journal);
        let (before, me) = (durable(&journal.state()), journal.host_id());
        drop(journal);
        if whole {
            fs::remove_dir_all(host.state_dir()).unwrap();
        } else {
            fs::remove_file(host.file()).unwrap();
        }
        let journal = host.open(BOOT, true).unwrap();
        assert_eq!((*journal.origin() == Origin::Lost, journal.host_id()), (true, me));
        assert_eq!(journal.state().networks, before.networks);
    }
}

#[test]
fn after_another_boot_it_is_the_same_host_with_nothing_running() {
    let host = Host::new();
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    let (me, used) = (journal.host_id(), journal.next_unused_seq());
    drop(journal);
    // The memory of the host is empty, or another boot's: neither tells anything of this one.
    damage(&host.file(), |file| file.fill(0));
    let journal = host.open("boot-2", false).unwrap();
    assert_eq!((journal.host_id(), journal.state().networks.len()), (me, 0));
    assert!(journal.next_unused_seq() > used + 1_000_000);
    assert!(matches!(journal.origin(), Origin::Damaged { .. }) && host.aside().len() == 1);
}

#[test]
fn with_containers_that_nothing_is_known_of_the_file_is_left_alone_and_named() {
    let host = Host::new();
    drop(host.open(BOOT, false).unwrap());
    damage(&host.file(), |file| file.fill(0));
    fs::remove_file(host.mirror()).unwrap();
    let sentence = host.open(BOOT, true).err().unwrap().sentence();
    println!("{sentence}");
    for part in [
        "journal.redb",
        "running containers go on",
        "restart the host, or move the file away, stop all containers",
        "on a plain engine",
        "create them again",
    ] {
        assert!(sentence.contains(part), "{part:?} is missing in {sentence}");
    }
    assert!(host.aside().is_empty() && host.file().exists());
}

#[test]
fn a_file_that_is_left_alone_is_found_damaged_at_every_try() {
    let first = Host::new();
    let journal = first.open(BOOT, false).unwrap();
    fill(&journal);
    drop(journal);
    for (what, how) in DAMAGES {
        let host = first.killed();
        damage(&host.file(), how);
        fs::remove_file(host.mirror()).unwrap();
        for _ in 0..3 {
            let error = host.open(BOOT, true).err().expect(what);
            assert!(matches!(error, JournalError::Unknown { .. }), "{what}: {error}");
        }
        assert!(host.aside().is_empty(), "{what}");
    }
}

#[test]
fn a_damaged_mirror_harms_nothing() {
    let host = Host::new();
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    let before = durable(&journal.state());
    drop(journal);
    damage(&host.mirror(), |file| file.fill(0x33));
    let journal = host.open(BOOT, true).unwrap();
    assert_eq!((journal.origin(), durable(&journal.state())), (&Origin::Kept, before));
}

#[test]
fn the_key_of_a_journal_of_an_earlier_version_is_written_out_and_the_journals_counts() {
    let host = Host::new();
    let me = host.open(BOOT, false).unwrap().host_id();
    let key = host.state_dir().join("host.key");
    let text = fs::read_to_string(&key).unwrap();
    let mode = fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for change in ["gone", "damaged", "another"] {
        match change {
            "gone" => fs::remove_file(&key).unwrap(),
            "damaged" => fs::write(&key, &text[..40]).unwrap(),
            _ => fs::write(&key, text.replace('0', "1")).unwrap(),
        }
        assert_eq!(host.open(BOOT, false).unwrap().host_id(), me, "{change}");
        assert_eq!(fs::read_to_string(&key).unwrap(), text, "{change}");
    }
}
