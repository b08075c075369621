//! The engine's socket: one engine per path, reachable by its user only.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};

/// Holds the socket until dropped, which removes it.
pub(crate) struct Listening {
    listener: UnixListener,
    socket: PathBuf,
    /// The kernel releases it however the engine ends; the file stays.
    _lock: Flock<File>,
}

impl Listening {
    /// Takes the place of a dead engine; refuses that of a living one.
    pub(crate) fn open(socket: &Path) -> anyhow::Result<Self> {
        if let Some(directory) = socket.parent().filter(|d| !d.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let lock = lock(socket)?;
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot remove {}, left by an engine that died",
                        socket.display()
                    )
                });
            }
            _ => {}
        }
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        std::fs::set_permissions(socket, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot close {} to others", socket.display()))?;
        Ok(Self {
            listener,
            socket: socket.to_owned(),
            _lock: lock,
        })
    }

    /// The next driver; others than root and the engine's own user are turned away.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        let caller = stream.peer_cred()?.uid();
        if caller != 0 && caller != geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("user {caller} may not command the engine"),
            ));
        }
        Ok(stream)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).ok();
    }
}

fn lock(socket: &Path) -> anyhow::Result<Flock<File>> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).ok();
            bail!(
                "another wgnet-engine (pid {}) serves {}; stop it or use another --socket",
                holder.trim(),
                socket.display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
