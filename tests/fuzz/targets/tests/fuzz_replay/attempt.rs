//! A target is tried with one input, or with many; what fails, or never ends, stays on the disk.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestError, TestRunner};
use wgnet_fuzz::Target;
use wgnet_fuzz::corpus::{self, Kind};
use wgnet_fuzz::mutation::{Change, mutate};

/// For one input, on a machine that is busy: far above what any takes.
const WITHIN: Duration = Duration::from_secs(10);

/// Of making a failing input smaller, in milliseconds.
const SHRINKING: u32 = 60_000;

pub(crate) fn attempt(target: &Target, input: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    catch_unwind(|| (target.run)(input)).map_err(|_| "it panics, as said above".to_owned())?;
    let took = start.elapsed();
    if took < WITHIN { Ok(()) } else { Err(format!("{took:?} for {} bytes", input.len())) }
}

/// Tries a target with all that is known, and with hostile inputs made of it; the smallest that fails goes to the
/// directory.
pub(crate) fn try_all(target: &Target, directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).expect("a directory of ours can be made");
    let (unfinished, left) = Unfinished::begin(directory);
    let tried = |input: &[u8]| {
        unfinished.note(input);
        attempt(target, input)
    };
    let failed = |input: &[u8], why: &str| Err(kept(target, directory, input, why));

    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let found = [Kind::Reaching, Kind::Cured].map(|kind| corpus::read(target.name, kind)).concat();
    let inputs = [seeds, found].concat();
    for input in left.iter().chain(&inputs) {
        if let Err(why) = tried(input) {
            return failed(input, &why);
        }
    }
    let hostile = |which: Index, changes: Vec<Change>| {
        let input = inputs[which.index(inputs.len())].clone();
        changes.into_iter().fold(input, |input, change| mutate(&input, &inputs, change))
    };
    let mut runner = TestRunner::new(ProptestConfig {
        cases: target.cases,
        max_shrink_time: SHRINKING,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let ended = runner.run(&(any::<Index>(), changes()), |(which, changes)| {
        tried(&hostile(which, changes)).map_err(TestCaseError::fail)
    });
    match ended {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, (which, changes))) => {
            failed(&hostile(which, changes), why.message())
        }
        Err(TestError::Abort(why)) => Err(format!("proptest gave up: {why}")),
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = any::<(u8, u16, u16, u16)>().prop_map(|(kind, a, b, c)| Change { kind, a, b, c });
    prop::collection::vec(change, 1..5)
}

/// Keeps an input that fails; why, and how to have it fail again.
fn kept(target: &Target, directory: &Path, input: &[u8], why: &str) -> String {
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let file = directory.join(format!("replay-{:016x}", hash.finish()));
    fs::write(&file, input).expect("an input can be written");
    let file = file.strip_prefix(crate::root()).unwrap_or(&file).display();
    format!("{why}; again: tests/fuzz/run --replay {file} {}", target.name)
}

/// The input that is being tried, which may end this process, or keep it from its end. Then its file stays, and what is
/// in it is tried first the next time.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    /// And what an earlier process left.
    fn begin(directory: &Path) -> (Self, Option<Vec<u8>>) {
        let path = directory.join("unfinished");
        let left = fs::read(&path).ok();
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        (Self { file: file.expect("a file of ours can be made"), path }, left)
    }

    fn note(&self, input: &[u8]) {
        let noted = self.file.set_len(0).and_then(|()| self.file.write_all_at(input, 0));
        noted.expect("a file of ours can be written");
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;

    use super::*;

    fn planted(run: fn(&[u8])) -> Target {
        Target { name: "planted", run, seeds: || vec![b"well".to_vec()], cases: 100 }
    }

    /// What is in the directory, and nothing else is.
    fn only(directory: &Path) -> (PathBuf, Vec<u8>) {
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let path = files.remove(0).path();
        let input = fs::read(&path).unwrap();
        (path, input)
    }

    #[test]
    fn what_fails_is_kept_and_told_and_fails_again() {
        let directory = tempfile::tempdir().unwrap();
        let target = planted(|input| assert_eq!(input, b"well"));
        let told = try_all(&target, directory.path()).unwrap_err();
        let (path, input) = only(directory.path());
        let command = format!("tests/fuzz/run --replay {} planted", path.display());
        assert!(told.ends_with(&command), "{told}");
        assert!(attempt(&target, &input).is_err());
        assert!(attempt(&target, b"well").is_ok());
    }

    #[test]
    fn what_ended_an_earlier_process_is_tried_first_and_forgotten_once_it_is_well() {
        let directory = tempfile::tempdir().unwrap();
        let (unfinished, left) = Unfinished::begin(directory.path());
        assert_eq!(left, None);
        unfinished.note(b"something longer");
        unfinished.note(b"fatal");
        let _killed = ManuallyDrop::new(unfinished);
        assert_eq!(only(directory.path()).1, b"fatal");
        // Random changes of "well" do not hit it.
        let told = try_all(&planted(|input| assert_ne!(input, b"fatal")), directory.path());
        assert!(told.is_err(), "it was tried");
        assert_eq!(only(directory.path()).1, b"fatal");

        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("unfinished"), b"fatal").unwrap();
        try_all(&planted(|_| ()), directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
