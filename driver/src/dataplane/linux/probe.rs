//! What this host's kernel and this process's privileges allow.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::{LinkWireguard, sys};
use wgnet_engine::Spawn;

use super::error::{Result, failed, failing, refused};
use super::rtnl::Rtnl;
use super::{Choice, netns};
use crate::dataplane::{DataplaneError, ErrorKind};

/// The setting `backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Auto,
    Kernel,
    Userspace,
}

/// What the engine makes its interfaces from.
const TUN: &str = "/dev/net/tun";

/// Chooses between kernel and engine. Nothing is started or changed, nor an engine asked.
///
/// # Errors
///
/// A sentence, when the kernel is wanted and has no WireGuard, or cannot be asked.
pub async fn backend(wanted: Wanted, engine: Spawn) -> Result<Choice> {
    if wanted == Wanted::Userspace {
        return Ok(Choice::Userspace(engine));
    }
    match kernel_has_wireguard().await {
        Ok(()) => Ok(Choice::Kernel),
        Err(error) if error.kind == ErrorKind::Unsupported && wanted == Wanted::Auto => {
            Ok(Choice::Userspace(engine))
        }
        Err(error) => Err(error),
    }
}

/// Whether a data plane of this choice could start. Like the choice, it leaves everything as it is.
///
/// # Errors
///
/// A sentence that says what is missing.
pub async fn check(choice: &Choice) -> Result<()> {
    privileges().await?;
    let Choice::Userspace(engine) = choice else {
        return Ok(());
    };
    may_run(&engine.engine)
        .map_err(failing("start the userspace WireGuard engine", engine.engine.display()))?;
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::ENOENT | nix::libc::ENODEV | nix::libc::ENXIO)
            ) =>
        {
            let reason = "the kernel has no TUN interfaces, which the userspace engine needs: load the module (modprobe tun)";
            Err(refused("use", TUN, ErrorKind::Unsupported, reason))
        }
        Err(error) => Err(failed("use", TUN, error)),
    }
}

fn may_run(program: &Path) -> io::Result<()> {
    if !fs::metadata(program)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(access(program, AccessFlags::X_OK)?)
}

/// Makes a WireGuard interface, as the only sure way to know, in a namespace that vanishes with it.
async fn kernel_has_wireguard() -> Result<()> {
    const OPERATION: &str = "use the kernel's WireGuard on";
    privileges().await?;
    let made = async {
        let namespace = netns::create().await?;
        let rtnl = Rtnl::open(&namespace).await?;
        rtnl.add_link(LinkWireguard::new("wgnet-probe").build()).await
    };
    match made.await {
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
            let reason = "the kernel has no WireGuard: load the module (modprobe wireguard) or boot a kernel from 5.6 on, \
                          or set backend = \"userspace\"";
            Err(refused(OPERATION, "this host", ErrorKind::Unsupported, reason))
        }
        other => other.map_err(failing(OPERATION, "this host")),
    }
}

/// Whether this process may make namespaces and change links.
///
/// # Errors
///
/// A sentence that says what is missing.
pub async fn privileges() -> Result<()> {
    let tried = netns::within_new(|| sys::Socket::new(NETLINK_GENERIC).map(drop)).await;
    match tried {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(DataplaneError {
            operation: "make network namespaces on",
            object: "this host".to_owned(),
            kind: ErrorKind::Unsupported,
            source: "wgnet-driver must run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN: \
                     start it by its systemd unit, or in a container with --privileged"
                .into(),
        }),
        other => other.map_err(failing("make network namespaces on", "this host")),
    }
}
