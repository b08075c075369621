//! The choice of a backend.

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;

use wgnet_driver::dataplane::ErrorKind as Kind;
use wgnet_driver::dataplane::linux::Choice;
use wgnet_driver::dataplane::linux::probe::{Wanted, backend};
use wgnet_engine::Spawn;

use crate::host::Host;

/// The kernel is chosen where it has WireGuard; where it is wanted and has none, that is said.
pub(crate) fn the_choice_follows_the_kernel() {
    let host = Host::start("probe");
    let kernel_has_it = host.try_sh("ip link add wgnett type wireguard && ip link del wgnett");
    let engine = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let socket = engine.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let choose = |wanted| {
        let socket = socket.clone();
        host.run(async move { backend(wanted, Spawn::new("/none", socket)).await })
    };
    let (auto, kernel) = (choose(Wanted::Auto), choose(Wanted::Kernel));
    if kernel_has_it.status.success() {
        assert!(matches!((auto, kernel), (Ok(Choice::Kernel), Ok(Choice::Kernel))));
    } else {
        assert!(matches!(auto, Ok(Choice::Userspace(_))));
        let error = kernel.expect_err("there is no kernel WireGuard to use");
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.source.to_string().contains("modprobe wireguard"), "{}", error.source);
    }
    assert!(matches!(choose(Wanted::Userspace), Ok(Choice::Userspace(_))));
    listener.set_nonblocking(true).unwrap();
    let asked = listener.accept().expect_err("a choice does not concern an engine that runs");
    assert_eq!(asked.kind(), ErrorKind::WouldBlock);
    assert!(!host.sh("ip -o link").contains("wgnet"), "the probe left something");
}
