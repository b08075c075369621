//! The engine's place: one engine per socket path and network namespace, whatever happens to files.
//!
//! It is the name of an abstract socket: binding takes it, nobody can delete it, and the kernel
//! frees it however the engine ends.

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt, socket,
};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// So long a living engine may need to put back its socket (it looks every second), and an ending
/// one to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many who asked are let go of in one go.
const AT_ONCE: usize = 1000;

/// Another engine serves.
#[derive(Debug, thiserror::Error)]
#[error(
    "another wgnet-engine (pid {pid}) serves {}; stop it or use another --socket",
    .socket.display()
)]
pub(crate) struct Taken {
    pub(crate) pid: String,
    pub(crate) socket: PathBuf,
}

pub(crate) struct Place(UnixListener);

impl Place {
    /// Takes the place that belongs to the socket, whose directory exists. `None` if a stranger
    /// sits in it, which must not keep the engine from its work: any user may take any name.
    ///
    /// # Errors
    /// [`Taken`], as soon as the other engine can be reached.
    pub(crate) async fn take(socket: &Path) -> anyhow::Result<Option<Self>> {
        let name = name(socket)?;
        let address = SocketAddr::from_abstract_name(&name).context("cannot name the place")?;
        let until = Instant::now() + PATIENCE;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    listener.set_nonblocking(true).context("cannot hold the place")?;
                    return Ok(Some(Self(listener)));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).context("cannot take the place of an engine"),
            }
            let holder = holder(&name);
            let is_late = Instant::now() >= until;
            match holder {
                Some(holder) if may_be_engine(&holder) => {
                    let pid = holder.pid().to_string();
                    if UnixStream::connect(socket).await.is_ok() {
                        return Err(Taken { pid, socket: socket.to_owned() }.into());
                    }
                    if is_late {
                        bail!(
                            "process {pid} has the place of the engine of {} but does not serve \
                             it; end it: kill {pid}",
                            socket.display()
                        );
                    }
                }
                Some(stranger) => {
                    let (pid, user) = (stranger.pid(), stranger.uid());
                    warn!(pid, user, name, "Another user's process has the engine's place; end it");
                    return Ok(None);
                }
                None if is_late => {
                    warn!(
                        name,
                        "Some process has the engine's place; find it with ss -xlp and end it"
                    );
                    return Ok(None);
                }
                None => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets go of those who asked who is here, so that others can.
    pub(crate) fn clear(&self) {
        // Whoever knocks without end is let go of the next time.
        for _ in 0..AT_ONCE {
            if self.0.accept().is_err() {
                return;
            }
        }
    }
}

/// The same by whatever links the directory is reached, and short enough for the kernel.
fn name(socket: &Path) -> anyhow::Result<String> {
    let parent = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let parent = parent
        .canonicalize()
        .with_context(|| format!("cannot find the directory {}", parent.display()))?;
    let path = parent.join(socket.file_name().context("the socket's path has no file name")?);
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    Ok(format!("wgnet-engine-{}", hex::encode(digest)))
}

/// Who listens there; `None` if that cannot be told now.
fn holder(name: &str) -> Option<UnixCredentials> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).ok()?).ok()?;
    getsockopt(&asking, PeerCredentials).ok()
}

fn may_be_engine(holder: &UnixCredentials) -> bool {
    holder.uid() == 0 || holder.uid() == geteuid().as_raw()
}
