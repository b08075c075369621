//! Tells systemd that the driver serves, or is stopping (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Sends one state (`READY=1`, `STOPPING=1`, `STATUS=...`) to the supervisor, if there is one.
pub fn notify(socket: Option<&std::ffi::OsStr>, state: &str) {
    let Some(name) = socket else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        debug!(%error, "Cannot tell the supervisor");
    }
}
