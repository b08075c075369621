//! `wgnetctl secret new`, `secret next` and `secret drop-old`.
//!
//! A file that is changed is written anew beside itself, read back, and only then put in its place:
//! whatever fails before leaves the old one as it was.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wgnet_proto::ClusterSecrets;
use wgnet_proto::secret::Epoch;
use zeroize::Zeroizing;

pub(crate) const EXAMPLES_NEXT: &str = "\
Examples:
  cp -p /etc/wgnet/secret /root/secret.next
  wgnetctl secret next /root/secret.next     a copy with the next epoch, to be taken to every host
  systemctl restart wgnet-driver             on every host, when all have it, within a minute
  wgnetctl problems                          shows secret-epochs-differ while some are behind
  wgnetctl secret drop-old /etc/wgnet/secret
                                             on every host, when none is; restart the drivers again";

pub(crate) fn new(path: &Path) -> anyhow::Result<()> {
    ClusterSecrets::generate(*random()?).write_new(path)?;
    println!("Wrote {} (mode 0600).", path.display());
    println!(
        "Copy it to the same place on every other host, keep it secret, and start wgnet-driver there."
    );
    Ok(())
}

pub(crate) fn next(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let draft = Draft::begin(path)?;
    let (secrets, text) = draft.old()?;
    let epochs: Vec<Epoch> = secrets.epochs().collect();
    let [old] = epochs[..] else {
        bail!(
            "{shown} has {} already, and was left as it is; first finish that replacement: when every host has the file and its driver \
             was restarted, wgnetctl secret drop-old {shown}, on each",
            named(&epochs)
        );
    };
    let new = old.checked_add(1).with_context(|| format!("{shown} has the last epoch there is"))?;
    draft.put(&with_epoch(&text, new, &*random()?), &[old, new])?;
    println!("Wrote epoch {new} beside epoch {old} into {shown} (mode 0600).");
    println!(
        "Copy it to /etc/wgnet/secret on every host (mode 0600), which changes nothing yet. Then restart all drivers within a minute: \
         systemctl restart wgnet-driver"
    );
    println!(
        "When `wgnetctl problems` shows no secret-epochs-differ any more, on every host: wgnetctl secret drop-old /etc/wgnet/secret"
    );
    Ok(())
}

pub(crate) fn drop_old(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let draft = Draft::begin(path)?;
    let (secrets, text) = draft.old()?;
    let kept = secrets.current_epoch();
    let old: Vec<Epoch> = secrets.epochs().filter(|epoch| *epoch != kept).collect();
    if old.is_empty() {
        println!("{shown} has only epoch {kept}; nothing to do.");
        return Ok(());
    }
    draft.put(&with_only(&text, kept), &[kept])?;
    println!("{shown} has only epoch {kept} now, and {} no more.", named(&old));
    println!(
        "Do the same on every host, and restart each driver: systemctl restart wgnet-driver. Then who has only the old secret is out."
    );
    Ok(())
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).context("the kernel gives no random bytes")?;
    Ok(random)
}

fn named(epochs: &[Epoch]) -> String {
    let epochs: Vec<String> = epochs.iter().map(|epoch| format!("epoch {epoch}")).collect();
    epochs.join(" and ")
}

/// The text of a secret file and a line for one more epoch.
fn with_epoch(text: &str, epoch: Epoch, bytes: &[u8; 32]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(bytes));
    // With room for all of it: a text that grows leaves copies behind.
    let mut edited = Zeroizing::new(String::with_capacity(text.len() + encoded.len() + 32));
    edited.push_str(text);
    if !text.ends_with('\n') {
        edited.push('\n');
    }
    edited.push_str(&format!("epoch {epoch} "));
    edited.push_str(&encoded);
    edited.push('\n');
    edited
}

/// The text of a secret file without the lines of all epochs but one.
fn with_only(text: &str, epoch: Epoch) -> Zeroizing<String> {
    let mut edited = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let mut words = line.split_ascii_whitespace();
        let is_epoch = words.next() == Some("epoch");
        if !is_epoch || words.next().and_then(|number| number.parse().ok()) == Some(epoch) {
            edited.push_str(line);
        }
    }
    edited
}

/// What is to take a secret file's place. While it exists nobody else changes that file; it goes if
/// it is not put there.
struct Draft {
    old: PathBuf,
    new: PathBuf,
    file: File,
    is_placed: bool,
}

impl Draft {
    fn begin(path: &Path) -> anyhow::Result<Self> {
        // What is missing, malformed or open to others is refused before anything is made.
        ClusterSecrets::load(path)?;
        // A link stays one: what it leads to is replaced.
        let old = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        let mut new = OsString::from(&old);
        new.push(".new");
        let new = PathBuf::from(new);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new) {
            Ok(file) => Ok(Self { old, new, file, is_placed: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "{} exists: another wgnetctl is changing {}, or one was interrupted; if none runs, remove it and try again",
                new.display(),
                old.display()
            ),
            Err(error) => Err(error).with_context(|| format!("cannot make {}", new.display())),
        }
    }

    /// What the file holds, now that nobody else changes it.
    fn old(&self) -> anyhow::Result<(ClusterSecrets, Zeroizing<String>)> {
        let secrets = ClusterSecrets::load(&self.old)?;
        let text = fs::read_to_string(&self.old);
        let text = text.with_context(|| format!("cannot read {}", self.old.display()))?;
        Ok((secrets, Zeroizing::new(text)))
    }

    /// Puts the text in the file's place, wholly or not at all, if these epochs are read from it.
    fn put(mut self, text: &str, epochs: &[Epoch]) -> anyhow::Result<()> {
        let (old, new) = (self.old.clone(), self.new.clone());
        let untouched =
            || format!("cannot write {}; {} is as it was", new.display(), old.display());
        self.file.write_all(text.as_bytes()).with_context(untouched)?;
        self.file.sync_all().with_context(untouched)?;
        let written = ClusterSecrets::load(&new).with_context(untouched)?;
        if !written.epochs().eq(epochs.iter().copied()) {
            bail!("{}: it does not hold {}", untouched(), named(epochs));
        }
        fs::rename(&new, &old).with_context(untouched)?;
        self.is_placed = true;
        let directory = old.parent().unwrap_or(Path::new("/"));
        File::open(directory).and_then(|directory| directory.sync_all()).with_context(|| {
            format!("{} is changed, and a power failure now may undo that", old.display())
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_placed {
            // The failure to report is the first one.
            let _ = fs::remove_file(&self.new);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    const OLD: &str =
        "# mine\nwgnet-cluster-secret v1\nepoch 7 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

    fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    fn epochs(path: &Path) -> Vec<Epoch> {
        ClusterSecrets::load(path).unwrap().epochs().collect()
    }

    /// What stands beside the file.
    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_next_epoch_is_added_and_nothing_else_changes() {
        let (directory, path) = file(OLD, 0o600);
        next(&path).unwrap();
        assert_eq!(epochs(&path), [7, 8]);
        let text = fs::read_to_string(&path).unwrap();
        let added = text.strip_prefix(OLD).unwrap();
        assert!(added.starts_with("epoch 8 ") && added.ends_with("=\n"));
        assert!(!added.contains("AQEB"), "it is another secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(&directory), ["secret"]);
    }

    #[test]
    fn two_next_secrets_differ() {
        let (_one, one) = file(OLD, 0o600);
        let (_two, two) = file(OLD, 0o600);
        next(&one).unwrap();
        next(&two).unwrap();
        assert_ne!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
    }

    #[test]
    fn a_last_line_without_an_end_is_ended_first() {
        let (_directory, path) = file(OLD.trim_end(), 0o600);
        next(&path).unwrap();
        assert_eq!(epochs(&path), [7, 8]);
        assert!(fs::read_to_string(&path).unwrap().starts_with(OLD));
    }

    #[test]
    fn the_old_epoch_is_dropped_and_the_rest_stays_as_it_was() {
        let (directory, path) = file(OLD, 0o600);
        next(&path).unwrap();
        let line = fs::read_to_string(&path).unwrap().strip_prefix(OLD).unwrap().to_owned();
        drop_old(&path).unwrap();
        assert_eq!(epochs(&path), [8]);
        let expected = format!("# mine\nwgnet-cluster-secret v1\n{line}");
        assert!(fs::read_to_string(&path).unwrap() == expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        // Once more there is nothing to do, and that is no failure.
        drop_old(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap() == expected);
        assert_eq!(names(&directory), ["secret"]);
    }

    #[test]
    fn the_newest_stays_wherever_it_stands() {
        let zeros = STANDARD.encode([0; 32]);
        let (_directory, path) =
            file(&OLD.replace("epoch 7", &format!("epoch 9 {zeros}\nepoch 7")), 0o600);
        drop_old(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text == format!("# mine\nwgnet-cluster-secret v1\nepoch 9 {zeros}\n"));
    }

    #[test]
    fn a_third_epoch_is_refused_and_the_file_left_as_it_was() {
        let (directory, path) = file(OLD, 0o600);
        next(&path).unwrap();
        let before = fs::read(&path).unwrap();
        let error = format!("{:#}", next(&path).unwrap_err());
        assert!(error.contains("epoch 7 and epoch 8") && error.contains("drop-old"), "{error}");
        assert!(fs::read(&path).unwrap() == before);
        assert_eq!(names(&directory), ["secret"]);
    }

    #[test]
    fn what_drivers_would_refuse_is_refused_and_never_quoted() {
        let last = OLD.replace("epoch 7", "epoch 4294967295");
        let cases = [
            (OLD, 0o644, "chmod 0600"),
            (OLD, 0o640, "chmod 0600"),
            ("epoch 1 AQEB\n", 0o600, "malformed"),
            ("", 0o600, "malformed"),
            (last.as_str(), 0o600, "the last epoch"),
        ];
        for (text, mode, told) in cases {
            let (directory, path) = file(text, mode);
            let error = format!("{:#}", next(&path).unwrap_err());
            assert!(error.contains(told) && !error.contains("AQEB"), "{error}");
            if told != "the last epoch" {
                let error = format!("{:#}", drop_old(&path).unwrap_err());
                assert!(error.contains(told) && !error.contains("AQEB"), "{error}");
            }
            assert!(fs::read_to_string(&path).unwrap() == text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
            assert_eq!(names(&directory), ["secret"]);
        }
        let directory = tempfile::tempdir().unwrap();
        let error = format!("{:#}", next(&directory.path().join("none")).unwrap_err());
        assert!(error.contains("does not exist"), "{error}");
        assert_eq!(names(&directory), Vec::<String>::new());
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let (directory, path) = file(OLD, 0o600);
        // More than a secret file may have.
        let draft = Draft::begin(&path).unwrap();
        let too_much = format!("{OLD}#{}\n", "x".repeat(5000));
        let error = format!("{:#}", draft.put(&too_much, &[7]).unwrap_err());
        assert!(error.contains("is as it was"), "{error}");
        // Other epochs than there should be.
        let draft = Draft::begin(&path).unwrap();
        let error = format!("{:#}", draft.put(OLD, &[7, 8]).unwrap_err());
        assert!(error.contains("does not hold epoch 7 and epoch 8"), "{error}");
        assert!(fs::read_to_string(&path).unwrap() == OLD);
        assert_eq!(names(&directory), ["secret"]);
    }

    #[test]
    fn two_do_not_change_one_file_at_a_time() {
        let (directory, path) = file(OLD, 0o600);
        let first = Draft::begin(&path).unwrap();
        let error = format!("{:#}", next(&path).unwrap_err());
        assert!(error.contains("secret.new exists") && error.contains("remove it"), "{error}");
        assert!(fs::read_to_string(&path).unwrap() == OLD);
        assert_eq!(names(&directory), ["secret", "secret.new"], "the first one's stays");
        drop(first);
        next(&path).unwrap();
        assert_eq!(epochs(&path), [7, 8]);
    }

    #[test]
    fn a_link_stays_one() {
        let (directory, path) = file(OLD, 0o600);
        let link = directory.path().join("link");
        symlink("secret", &link).unwrap();
        next(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(epochs(&path), [7, 8]);
    }
}
