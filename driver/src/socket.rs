//! A socket that only root may connect to, bound again where its file was removed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

/// How long a socket without a file stays unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is listened on.
pub struct Socket {
    listener: UnixListener,
    /// Where it is to be found; none where somebody else sees to that.
    place: Option<Place>,
}

struct Place {
    path: PathBuf,
    /// The file that leads to the listener.
    file: Option<FileId>,
    looks: Interval,
    /// It was said that it cannot be bound.
    has_failed: bool,
}

/// Device and inode.
pub(crate) type FileId = (u64, u64);

impl From<UnixListener> for Socket {
    fn from(listener: UnixListener) -> Self {
        Self { listener, place: None }
    }
}

impl Socket {
    /// Binds it, in a directory that is made if it is missing. While it is served ([`Self::accept`])
    /// it is bound again whenever its file, or the directory, was removed.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let listener = listen_in_private(&path)?;
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let place = Place { file: file_id(&path), path, looks, has_failed: false };
        Ok(Self { listener, place: Some(place) })
    }

    /// The next connection; nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// As accept(2).
    pub async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let Some(place) = &mut self.place else {
                return self.listener.accept().await.map(|(stream, _)| stream);
            };
            // First what waits: the listener goes once its file has gone and nothing waits in it.
            tokio::select! {
                biased;
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                _ = place.looks.tick() => {}
            }
            if let Some(listener) = place.look().await {
                self.listener = listener;
            }
        }
    }
}

impl Place {
    /// The listener in place of one that is not found any more.
    async fn look(&mut self) -> Option<UnixListener> {
        if is_served(&self.path, self.file).await {
            return None;
        }
        match listen_in_private(&self.path) {
            Ok(listener) => {
                warn!(path = %self.path.display(), "The socket's file was removed; made it again");
                self.file = file_id(&self.path);
                self.has_failed = false;
                Some(listener)
            }
            Err(error) => {
                if !self.has_failed {
                    warn!(%error, path = %self.path.display(), "The socket's file was removed and cannot be made again yet");
                }
                self.has_failed = true;
                None
            }
        }
    }
}

/// Whether the file leads to its listener still, or to another process: two drivers would take the place from each
/// other for ever.
pub(crate) async fn is_served(path: &Path, file: Option<FileId>) -> bool {
    if file.is_some() && file_id(path) == file {
        return true;
    }
    match UnixStream::connect(path).await {
        // Nothing is there, or nobody listens.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            false
        }
        _ => {
            debug!(path = %path.display(), "Another process listens on this socket");
            true
        }
    }
}

pub(crate) fn file_id(path: &Path) -> Option<FileId> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

fn listen_in_private(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        make_private(directory)?;
    }
    listen(path)
}

/// Binds a socket that only root may connect to, in the place of one a killed driver left.
///
/// # Errors
///
/// When the directory cannot be written.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes a directory that only root may look into, if it is missing.
///
/// # Errors
///
/// As mkdir(2).
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{sleep, timeout};

    const WITHIN: Duration = Duration::from_secs(20);

    /// Answers everything that is asked with one letter.
    fn serve(mut socket: Socket, letter: u8) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let mut stream = socket.accept().await.unwrap();
                connections.spawn(async move {
                    while stream.read_u8().await.is_ok() {
                        stream.write_all(&[letter]).await.unwrap();
                    }
                });
            }
        })
    }

    async fn ask(stream: &mut UnixStream) -> io::Result<u8> {
        stream.write_all(b"?").await?;
        stream.read_u8().await
    }

    /// A connection to whom answers so, once there is one.
    async fn answers(path: &Path, letter: u8) -> UnixStream {
        let asked = async {
            loop {
                if let Ok(mut stream) = UnixStream::connect(path).await
                    && ask(&mut stream).await.is_ok_and(|answer| answer == letter)
                {
                    return stream;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(WITHIN, asked).await.expect("it answers in the end")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_whose_directory_was_removed_is_bound_again_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (run, path) = (dir.path().join("run"), dir.path().join("run/admin.sock"));
        let _serving = serve(Socket::bind(path.clone()).unwrap(), b'a');
        let mut old = answers(&path, b'a').await;
        let modes = [mode(&run), mode(&path)];
        assert_eq!(modes, [0o700, 0o600]);
        for _ in 0..2 {
            fs::remove_dir_all(&run).unwrap();
            answers(&path, b'a').await;
            assert_eq!([mode(&run), mode(&path)], modes);
        }
        fs::remove_file(&path).unwrap();
        answers(&path, b'a').await;
        assert_eq!(ask(&mut old).await.unwrap(), b'a', "what was connected still is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_cannot_be_bound_again_is_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let (run, path) = (dir.path().join("run"), dir.path().join("run/admin.sock"));
        let _serving = serve(Socket::bind(path.clone()).unwrap(), b'a');
        fs::remove_dir_all(&run).unwrap();
        fs::write(&run, "").unwrap();
        sleep(LOOK_EVERY * 2).await;
        fs::remove_file(&run).unwrap();
        answers(&path, b'a').await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_another_process_took_is_left_to_it_while_it_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _first = serve(Socket::bind(path.clone()).unwrap(), b'a');
        answers(&path, b'a').await;
        let second = serve(Socket::bind(path.clone()).unwrap(), b'b');
        answers(&path, b'b').await;
        sleep(LOOK_EVERY * 3).await;
        let mut asking = UnixStream::connect(&path).await.unwrap();
        assert_eq!(ask(&mut asking).await.unwrap(), b'b');
        second.abort();
        // Its file stays, as a killed driver's does.
        answers(&path, b'a').await;
    }
}
