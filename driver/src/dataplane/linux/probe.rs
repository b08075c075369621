//! What this host's kernel and this process's privileges allow.

use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::{LinkWireguard, sys};
use wgnet_engine::{Client, Spawn};

use super::error::{Result, failing, refused};
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

/// Chooses between kernel and engine.
///
/// # Errors
///
/// A sentence, when the kernel is wanted and has no WireGuard, or cannot be asked.
pub async fn backend(wanted: Wanted, engine: Spawn) -> Result<Choice> {
    if wanted == Wanted::Userspace {
        return Ok(Choice::Userspace(engine));
    }
    match kernel_has_wireguard().await {
        Ok(()) => {
            end_devices(&engine).await?;
            Ok(Choice::Kernel)
        }
        Err(error) if error.kind == ErrorKind::Unsupported && wanted == Wanted::Auto => {
            Ok(Choice::Userspace(engine))
        }
        Err(error) => Err(error),
    }
}

/// Ends the devices of an engine that an earlier driver used: they hold the ports.
async fn end_devices(engine: &Spawn) -> Result<()> {
    let client = Client::new(&engine.socket);
    let Ok(devices) = client.list_devices().await else {
        return Ok(());
    };
    for id in devices {
        if let Err(source) = client.delete_device(&id).await {
            return Err(DataplaneError {
                operation: "end the userspace engine's",
                object: id.to_string(),
                kind: ErrorKind::Other,
                source: source.into(),
            });
        }
    }
    Ok(())
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
