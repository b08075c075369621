//! What a driver leaves that dies while it makes an interface.

use wgnet_driver::dataplane::Dataplane;
use wgnet_driver::dataplane::linux::Choice;

use crate::bench::start;
use crate::host::Host;

pub(crate) fn an_interface_that_was_never_moved_is_swept_and_a_strangers_is_not() {
    let host = Host::start("leftover");
    let mark = u32::from_be_bytes(*b"wgne");
    host.sh(&format!("ip link add wgnetdeadbeef group {mark} type wireguard"));
    host.sh("ip link add wgnetadmin type wireguard");
    let plane = host.run(async { start(&Choice::Kernel).await });
    let namespaces = host.run(async move { plane.namespaces().await });
    assert!(namespaces.is_ok_and(|namespaces| namespaces.is_empty()));
    let left = host.sh("ip -o link");
    assert!(!left.contains("wgnetdeadbeef") && left.contains("wgnetadmin"), "{left}");
}
