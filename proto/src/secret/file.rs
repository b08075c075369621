//! The file a secret is kept in.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::O_NONBLOCK;
use zeroize::Zeroizing;

/// Far above what two epochs and some comments need.
const MAX_SIZE: usize = 4096;

/// Why there is no usable secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "cluster secret {0} does not exist; make one with `wgnetctl secret new {0}` on one host \
         and copy it to every other"
    )]
    Missing(String),
    #[error("cluster secret {path} cannot be read; the driver reads it as root")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "cluster secret {0} is not a regular file; name the file that `wgnetctl secret new` made"
    )]
    NotAFile(String),
    #[error(
        "cluster secret {path} is open to others (mode {mode:04o}); run `chmod 0600 {path}`, and \
         replace the secret on every host if somebody may have read it"
    )]
    OpenToOthers { path: String, mode: u32 },
    #[error("cluster secret {path} belongs to user id {owner}; run `chown root {path}`")]
    ForeignOwner { path: String, owner: u32 },
    #[error(
        "cluster secret {} is malformed: line {line} should be {what}; copy the file again from a \
         host that works", path.display()
    )]
    Malformed { path: PathBuf, line: usize, what: &'static str },
    #[error(
        "cluster secret {0} exists already and was left as it is; use it, or name another file"
    )]
    Exists(String),
    #[error(
        "cluster secret {path} cannot be written; name a file in a directory where you can make one, \
         as in /etc/wgnet/secret"
    )]
    Unwritable {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// The kernel gives `/proc/self` to the effective user of the process (proc(5)).
fn effective_user() -> Result<u32, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: "/proc/self".to_owned(), source };
    Ok(fs::metadata("/proc/self").map_err(unreadable)?.uid())
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let name = || path.display().to_string();
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SecretError::Missing(name()),
        _ => SecretError::Unreadable { path: name(), source },
    };
    // Opening a FIFO would otherwise wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = file.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile(name()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::OpenToOthers { path: name(), mode });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != effective_user()? {
        return Err(SecretError::ForeignOwner { path: name(), owner });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SIZE + 1));
    file.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let malformed = |what| SecretError::Malformed { path: path.to_owned(), line: 1, what };
    if bytes.len() > MAX_SIZE {
        return Err(malformed("the start of at most 4096 bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed("text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<(), SecretError> {
    let name = || path.display().to_string();
    let unwritable = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretError::Exists(name()),
        _ => SecretError::Unwritable { path: name(), source },
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(unwritable)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|source| {
        // Half a secret would look like one that exists; the failure to report is the first one.
        let _ = fs::remove_file(path);
        unwritable(source)
    })
}
