//! The choice of a backend.

use wgnet_driver::dataplane::ErrorKind;
use wgnet_driver::dataplane::linux::Choice;
use wgnet_driver::dataplane::linux::probe::{Wanted, backend};
use wgnet_engine::Spawn;

use crate::host::Host;

/// The kernel is chosen where it has WireGuard; where it is wanted and has none, that is said.
pub(crate) fn the_choice_follows_the_kernel() {
    let host = Host::start("probe");
    let kernel_has_it = host.try_sh("ip link add wgnett type wireguard && ip link del wgnett");
    let choose =
        |wanted| host.run(async move { backend(wanted, Spawn::new("/none", "/none")).await });
    let (auto, kernel) = (choose(Wanted::Auto), choose(Wanted::Kernel));
    if kernel_has_it.status.success() {
        assert!(matches!((auto, kernel), (Ok(Choice::Kernel), Ok(Choice::Kernel))));
    } else {
        assert!(matches!(auto, Ok(Choice::Userspace(_))));
        let error = kernel.expect_err("there is no kernel WireGuard to use");
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.source.to_string().contains("modprobe wireguard"), "{}", error.source);
    }
    assert!(matches!(choose(Wanted::Userspace), Ok(Choice::Userspace(_))));
    assert!(!host.sh("ip -o link").contains("wgnet"), "the probe left something");
}
