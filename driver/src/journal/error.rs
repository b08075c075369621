//! Why the journal could not do its work, in words for people.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What failed on which file. [`JournalError::sentence`] adds the cause and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    #[error("cannot open journal {}: another wgnet-driver has it open", path.display())]
    Busy { path: PathBuf },
    #[error("cannot read journal {}: it was written by a newer wgnet-driver (schema {found})", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot {operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("cannot read journal {}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("cannot read journal {}: {what}; and nothing else tells which networks and containers run here", path.display())]
    Unknown { path: PathBuf, what: String },
    #[error("cannot update journal {}: the update was aborted", path.display())]
    Aborted { path: PathBuf },
}

impl JournalError {
    /// Object, cause and next step.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        if let Self::File { source, .. } = self {
            text.push_str(": ");
            text.push_str(&root_cause(source.as_ref()));
        }
        format!("{text}; {}", self.next_step())
    }

    fn next_step(&self) -> &'static str {
        match self {
            Self::Busy { .. } => {
                "stop the other one first, `systemctl status wgnet-driver` shows it"
            }
            Self::Newer { .. } => "install that version again",
            Self::Damaged { .. } => "check the disk and its file system",
            Self::Unknown { .. } => {
                "running containers go on and are left alone; restart the host, or move the file away, stop all containers on wgnet networks here and start them again, as no other host reaches them until then, and on a plain engine no other container, either; its networks come back from networks.json beside the file, remove those that do not and create them again"
            }
            Self::Aborted { .. } => "see wgnet-driver's log",
            Self::File { .. } if self.is_full() => "free some space on its disk",
            Self::File { source, .. } => match io_kind(source.as_ref()) {
                Some(io::ErrorKind::ReadOnlyFilesystem) => {
                    "mount its file system writable, or set another state directory"
                }
                Some(io::ErrorKind::PermissionDenied) => {
                    "run wgnet-driver as root, or set another state directory"
                }
                _ => "check the disk and its file system",
            },
        }
    }

    /// Whether its disk has no more room.
    pub(super) fn is_full(&self) -> bool {
        let Self::File { source, .. } = self else {
            return false;
        };
        let kind = io_kind(source.as_ref());
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::File { operation, path: path.into(), source: Arc::new(source) }
    }
}

/// The innermost cause: what the kernel said, without the layers between.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    if let Some(io) = find_io(error) {
        return io.to_string();
    }
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    find_io(error).map(io::Error::kind)
}

/// redb wraps input/output errors in variants of its own that name no source.
fn find_io<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return Some(io);
    }
    if let Some(redb::Error::Io(io)) = error.downcast_ref::<redb::Error>() {
        return Some(io);
    }
    find_io(error.source()?)
}
