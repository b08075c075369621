//! Meets the shim: wherever Docker runs one (`<plugins dir>/<plugin id>/wgnet.sock`), the driver
//! binds `driver.sock` beside it, and again whenever the directory was made anew.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wgnet_proto::status::Problem;

use crate::problems::Problems;
use crate::socket::{self, FileId, Socket};

const SHIM_SOCKET: &str = "wgnet.sock";
/// Where Docker looks for the driver itself, on plain engines.
pub const LEGACY_SOCKET: &str = "wgnet.sock";
const DRIVER_SOCKET: &str = "driver.sock";
const BESIDE_PLUGIN: &str = "legacy-beside-plugin";

/// How long a change nobody told us of stays unseen.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A socket the driver listens on, of one incarnation of a plugin's directory.
pub struct Bound {
    pub socket: Socket,
    /// Cancelled when the directory is gone or was made anew.
    pub gone: CancellationToken,
}

/// Watches the directory and hands out a socket for each shim, until cancelled. With the legacy
/// socket in the same directory, a shim is a problem.
pub async fn meet(
    directory: PathBuf,
    bound: mpsc::Sender<Bound>,
    beside_legacy: Option<Problems>,
    cancel: CancellationToken,
) {
    let mut inotify = None;
    let mut shims = BTreeMap::new();
    loop {
        if inotify.is_none() {
            inotify = watch(&directory)
                .inspect_err(|error| debug!(%error, "Cannot watch the plugins directory yet"))
                .ok();
        }
        forget_lost(&directory, &mut shims).await;
        for listener in look(&directory, &mut shims, inotify.as_ref(), &cancel) {
            if bound.send(listener).await.is_err() {
                return;
            }
        }
        if let Some(problems) = &beside_legacy {
            tell(problems, &directory, shims.keys().next());
        }
        // All arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            alive = changed(inotify.as_ref()) => if !alive { inotify = None },
        }
    }
    for served in shims.into_values() {
        served.gone.cancel();
    }
}

/// What makes one incarnation of a socket differ from the next: the directory's and the shim's inode.
type Identity = (u64, u64, i64);

/// A shim whose driver's socket is ours.
struct Served {
    identity: Identity,
    file: Option<FileId>,
    gone: CancellationToken,
}

/// By directory.
type Shims = BTreeMap<PathBuf, Served>;

/// Lets go of shims that ended, and of sockets to which the file in the directory does not lead.
async fn forget_lost(directory: &Path, shims: &mut Shims) {
    let found = shim_directories(directory);
    let mut lost = Vec::new();
    for (path, served) in &*shims {
        let is_the_same = found.get(path) == Some(&served.identity);
        if !is_the_same || !socket::is_served(&path.join(DRIVER_SOCKET), served.file).await {
            info!(directory = %path.display(), "The shim's directory is gone or new, or the driver's socket in it");
            served.gone.cancel();
            lost.push(path.clone());
        }
    }
    for path in lost {
        shims.remove(&path);
    }
}

fn look(
    directory: &Path,
    shims: &mut Shims,
    inotify: Option<&AsyncFd<Watch>>,
    cancel: &CancellationToken,
) -> Vec<Bound> {
    let found = shim_directories(directory);
    let mut listeners = Vec::new();
    for (path, identity) in found {
        if let Some(inotify) = inotify {
            // The directory's own: the shim's socket appears in it, and it is emptied at each start.
            let flags =
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF;
            if let Err(error) = inotify.get_ref().0.add_watch(&path, flags) {
                debug!(%error, directory = %path.display(), "Cannot watch the shim's directory");
            }
        }
        if shims.contains_key(&path) || !path.join(SHIM_SOCKET).exists() {
            continue;
        }
        let socket = path.join(DRIVER_SOCKET);
        match socket::listen(&socket) {
            Ok(listener) => {
                info!(directory = %path.display(), "Serving the shim");
                let gone = cancel.child_token();
                let file = socket::file_id(&socket);
                shims.insert(path, Served { identity, file, gone: gone.clone() });
                listeners.push(Bound { socket: listener.into(), gone });
            }
            Err(error) => {
                warn!(%error, directory = %path.display(), "Cannot bind the driver's socket beside the shim")
            }
        }
    }
    listeners
}

/// Docker, asked for `wgnet`, finds the plugin and not the legacy socket any more, and of the plugin it
/// knows only a driver `wgnet:latest`.
fn tell(problems: &Problems, directory: &Path, shim: Option<&PathBuf>) {
    let object = directory.join(LEGACY_SOCKET).display().to_string();
    let Some(shim) = shim else { return problems.clear(BESIDE_PLUGIN, &object) };
    problems.set(Problem {
        code: BESIDE_PLUGIN.to_owned(),
        object,
        cause: format!(
            "the plugin wgnet:latest ({}) is here, too, and Docker prefers it to this socket: from Docker's next start on, networks made with `-d wgnet` cannot be used and their containers do not start",
            shim.display()
        ),
        next_step: "keep one of both; without swarm: docker plugin rm -f wgnet:latest; in a swarm: make those networks anew with -d wgnet:latest, and take `legacy_socket` out of /etc/wgnet/driver.toml".to_owned(),
    });
}

/// Directories below the plugins directory that can be a managed plugin's (named by its 64-digit id).
fn shim_directories(directory: &Path) -> BTreeMap<PathBuf, Identity> {
    let Ok(entries) = fs::read_dir(directory) else {
        return BTreeMap::new();
    };
    let plugins = entries.flatten().filter(|entry| entry.file_name().len() == 64);
    plugins.filter_map(|entry| Some((entry.path(), identity(&entry.path())?))).collect()
}

fn identity(path: &Path) -> Option<Identity> {
    let directory = fs::metadata(path).ok()?;
    let socket = fs::metadata(path.join(SHIM_SOCKET)).ok();
    let (inode, changed) = socket.map_or((0, 0), |s| {
        (s.ino(), s.ctime_nsec().wrapping_add(s.ctime().wrapping_mul(1_000_000_000)))
    });
    Some((directory.ino(), inode, changed))
}

/// tokio asks for the raw descriptor, which nix does not offer.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn watch(directory: &Path) -> io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(
        directory,
        AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF,
    )?;
    // SAFETY: `Watch` owns its descriptor, which therefore stays open and the same while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) }?)
}

/// Waits until something happened; `false` when the watch is of no more use.
async fn changed(inotify: Option<&AsyncFd<Watch>>) -> bool {
    let Some(inotify) = inotify else {
        return std::future::pending().await;
    };
    let Ok(mut ready) = inotify.readable().await else {
        return false;
    };
    match ready.try_io(|inotify| inotify.get_ref().0.read_events().map_err(io::Error::from)) {
        Ok(Ok(events)) => {
            !events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
        }
        Ok(Err(_)) => false,
        Err(_would_block) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until problems are told of, or none is.
    async fn problems_are(problems: &Problems, wanted: &[&str]) {
        let mut changes = problems.watch();
        let change = async {
            let codes = || problems.list().into_iter().map(|p| p.code).collect::<Vec<_>>();
            while codes() != wanted {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LOOK_EVERY * 4, change).await.expect("it is seen");
    }

    #[tokio::test]
    async fn a_file_that_leads_nowhere_in_the_place_of_the_socket_is_bound_again() {
        let plugins = tempfile::tempdir_in("/tmp").unwrap();
        let plugin = plugins.path().join("ab".repeat(32));
        fs::create_dir(&plugin).unwrap();
        let _shim = socket::listen(&plugin.join(SHIM_SOCKET)).unwrap();
        let (bound, mut shims) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let meeting = tokio::spawn(meet(plugins.path().to_owned(), bound, None, cancel.clone()));
        let first = shims.recv().await.expect("the shim is served");
        // As a driver leaves it that took the place and was killed.
        drop(socket::listen(&plugin.join(DRIVER_SOCKET)).unwrap());
        let again = tokio::time::timeout(LOOK_EVERY * 4, shims.recv()).await.expect("it is seen");
        assert!(again.is_some() && first.gone.is_cancelled());
        assert!(tokio::net::UnixStream::connect(plugin.join(DRIVER_SOCKET)).await.is_ok());
        cancel.cancel();
        meeting.await.unwrap();
    }

    #[tokio::test]
    async fn a_plugin_beside_the_legacy_socket_is_a_problem_while_it_is_there() {
        // A plugin's name is long, and a socket's path must be short.
        let plugins = tempfile::tempdir_in("/tmp").unwrap();
        let legacy = Socket::bind(plugins.path().join(LEGACY_SOCKET)).unwrap();
        let (bound, mut shims) = mpsc::channel(16);
        let (problems, cancel) = (Problems::default(), CancellationToken::new());
        let beside = Some(problems.clone());
        let meeting = tokio::spawn(meet(plugins.path().to_owned(), bound, beside, cancel.clone()));
        let plugin = plugins.path().join("ab".repeat(32));
        fs::create_dir(&plugin).unwrap();
        let shim = socket::listen(&plugin.join(SHIM_SOCKET)).unwrap();
        shims.recv().await.expect("the shim is served");
        problems_are(&problems, &[BESIDE_PLUGIN]).await;
        let told = problems.list().remove(0);
        assert!(told.object.ends_with("/wgnet.sock") && told.cause.contains(&"ab".repeat(32)));
        drop(shim);
        fs::remove_dir_all(&plugin).unwrap();
        problems_are(&problems, &[]).await;
        cancel.cancel();
        meeting.await.unwrap();
        drop(legacy);
    }
}
