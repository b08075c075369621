//! Network namespaces: made, pinned below `/run/netns`, entered by short-lived threads only.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use tokio::sync::oneshot;
use wgnet_core::Namespace;

pub(crate) const DIRECTORY: &str = "/run/netns";

/// `NSFS_MAGIC` of the kernel's magic.h.
const NSFS: FsType = FsType(0x6e73_6673);

pub(crate) fn pin_path(namespace: &Namespace) -> PathBuf {
    Path::new(DIRECTORY).join(namespace.as_str())
}

/// Runs `work` in a network namespace, on a thread that ends with it: a thread that changed its
/// namespace is never given back to anybody.
pub(crate) async fn within<T: Send + 'static>(
    namespace: &impl AsFd,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let fd = namespace.as_fd().try_clone_to_owned()?;
    on_own_thread(move || {
        setns(&fd, CloneFlags::CLONE_NEWNET)?;
        drop(fd);
        work()
    })
    .await
}

/// Runs `work` in a network namespace that nobody else ever sees.
pub(crate) async fn within_new<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .await
}

/// Makes a namespace that lives as long as its descriptor.
pub(crate) async fn create() -> io::Result<OwnedFd> {
    within_new(|| Ok(File::open("/proc/thread-self/ns/net")?.into())).await
}

/// The namespace of the calling thread, which is that of the process.
pub(crate) fn own() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("wgnet-netns".into()).spawn(move || {
        let _entered = runtime.enter();
        // Whoever asked may have given up waiting.
        let _ = done.send(work());
    })?;
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that entered the namespace panicked")))
}

/// The namespace at a path; `None` if nothing or something else is there.
pub(crate) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_namespace = fstatfs(&file)?.filesystem_type() == NSFS;
    Ok(is_namespace.then(|| file.into()))
}

/// Whether there is not even a file at a path, though there is its directory.
pub(crate) fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false)) && path.parent().is_some_and(Path::is_dir)
}

/// Device and inode, which tell namespaces apart.
pub(crate) fn identity(namespace: &impl AsFd) -> io::Result<(u64, u64)> {
    let file = File::from(namespace.as_fd().try_clone_to_owned()?);
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether this very namespace is pinned at the path.
pub(crate) fn is_pinned(namespace: &impl AsFd, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino()) == identity(namespace)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pins a namespace at a path, in place of whatever is there.
pub(crate) async fn pin(namespace: &impl AsFd, path: &Path) -> io::Result<()> {
    if is_pinned(namespace, path)? {
        return Ok(());
    }
    unpin(path)?;
    share_directory()?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o444).open(path)?;
    let path = path.to_owned();
    // Not from the descriptor: it may have been opened at an earlier pin, and the copy of a mount
    // that is unmounted does not go from every place it is shared with, so that its file is busy.
    within(namespace, move || {
        let source = "/proc/thread-self/ns/net";
        Ok(mount(Some(source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    })
    .await
}

/// Removes a pin; what is gone is gone.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Pins can lie over each other.
            Ok(()) => continue,
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the directory a shared mount of its own, as `ip netns` does: pins made and removed by
/// either are then the same in every mount namespace.
pub(crate) fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIRECTORY, None::<&str>, flags, None::<&str>)
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

/// The pinned namespaces of ours.
pub(crate) fn list() -> io::Result<Vec<Namespace>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut namespaces = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(namespace) = name.to_str().and_then(Namespace::parse)
            && open(&pin_path(&namespace))?.is_some()
        {
            namespaces.push(namespace);
        }
    }
    Ok(namespaces)
}

/// Whether pid 1 sees the same pins as this process; `None` where that cannot be found out.
pub fn directory_is_the_hosts() -> Option<bool> {
    let ours = fs::metadata(DIRECTORY).ok()?;
    match fs::metadata(Path::new("/proc/1/root").join(DIRECTORY.trim_start_matches('/'))) {
        Ok(theirs) => Some((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_missing_only_where_there_may_be_names() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("0123456789ab");
        assert!(is_missing(&name));
        fs::write(&name, "").unwrap();
        assert!(!is_missing(&name));
        assert!(!is_missing(&directory.path().join("netns/0123456789ab")));
    }
}
