//! The engine's socket: one engine per path, reachable by its user only.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};

use crate::place::{Place, Taken};

/// Holds the socket until dropped, which removes it.
pub(crate) struct Listening {
    listener: UnixListener,
    socket: PathBuf,
    place: Option<Place>,
    /// For engines that know no place. The kernel releases it however the engine ends; the file
    /// stays.
    lock: Flock<File>,
    /// Of the socket's file, to notice that it was deleted.
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

impl Listening {
    /// Takes the place of a dead engine; refuses that of a living one.
    pub(crate) async fn open(socket: &Path) -> anyhow::Result<Self> {
        make_directory(socket)?;
        let place = Place::take(socket).await?;
        let lock = lock(socket)?;
        let listener = listen(socket)?;
        Ok(Self {
            listener,
            socket: socket.to_owned(),
            place,
            lock,
            identity: identity(socket).context("the socket vanished")?,
        })
    }

    /// Puts back what was deleted by hand: an engine that nobody can reach would keep its devices
    /// from whoever should manage them. `false` if nothing was.
    ///
    /// # Errors
    /// [`Taken`] if another engine serves by now.
    pub(crate) fn restore(&mut self) -> anyhow::Result<bool> {
        if let Some(place) = &self.place {
            place.clear();
        }
        if identity(&self.socket) == Some(self.identity) {
            return Ok(false);
        }
        make_directory(&self.socket)?;
        let held = self.lock.metadata().map(|held| (held.dev(), held.ino()));
        if identity(&lock_path(&self.socket)) != held.ok() {
            self.lock = lock(&self.socket)?;
        }
        self.listener = listen(&self.socket)?;
        self.identity = identity(&self.socket).context("the socket vanished")?;
        Ok(true)
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
        // Another engine's stays.
        if identity(&self.socket) == Some(self.identity) {
            std::fs::remove_file(&self.socket).ok();
        }
    }
}

fn make_directory(socket: &Path) -> anyhow::Result<()> {
    let Some(directory) = socket.parent().filter(|d| !d.as_os_str().is_empty()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))
}

/// To be called with the lock held: what is in the way was left by an engine that died.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove stale {}", socket.display()));
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot close {} to others", socket.display()))?;
    Ok(listener)
}

fn identity(path: &Path) -> Option<Identity> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    PathBuf::from(path)
}

fn lock(socket: &Path) -> anyhow::Result<Flock<File>> {
    let path = lock_path(socket);
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
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.take(20).read_to_string(&mut holder).ok();
            let pid = holder.trim().to_owned();
            Err(Taken { pid, socket: socket.to_owned() }.into())
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
