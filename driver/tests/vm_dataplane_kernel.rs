//! The data plane of Linux with the kernel's WireGuard. Wants root and a kernel that has it (the
//! virtual machine of tests/vm), and fails without.

#[path = "dataplane/adoption.rs"]
mod adoption;
#[path = "dataplane/bench.rs"]
mod bench;
#[path = "dataplane/guard.rs"]
mod guard;
#[path = "dataplane/host.rs"]
mod host;
#[path = "dataplane/leftovers.rs"]
mod leftovers;
#[path = "dataplane/probe.rs"]
mod probe;
#[path = "dataplane/strays.rs"]
mod strays;
#[path = "dataplane/traffic.rs"]
mod traffic;

use wgnet_driver::dataplane::conformance;
use wgnet_driver::dataplane::linux::Choice;

use crate::bench::LinuxBench;
use crate::host::Host;
use crate::traffic::Underlay;

#[test]
fn linux_with_the_kernel_is_a_data_plane() {
    let host = Host::start("suite");
    host.run(async {
        conformance::suite(&mut LinuxBench::new(Choice::Kernel).await).await;
    });
}

#[test]
fn containers_of_two_hosts_talk_through_the_kernel_over_ipv4() {
    traffic::between_two_hosts([Choice::Kernel, Choice::Kernel], Underlay::V4);
}

#[test]
fn containers_of_two_hosts_talk_through_the_kernel_over_ipv6() {
    traffic::between_two_hosts([Choice::Kernel, Choice::Kernel], Underlay::V6);
}

#[test]
fn the_backend_is_chosen_by_what_the_kernel_has() {
    probe::the_choice_follows_the_kernel();
}

#[test]
fn a_guarded_subnet_is_not_reached_through_the_bridge() {
    guard::a_guarded_subnet_is_not_reached_through_the_bridge(Choice::Kernel);
}

#[test]
fn a_guarded_subnet_is_not_reached_through_an_uplink_that_is_a_bridge() {
    guard::a_guarded_subnet_is_not_reached_through_an_uplink_that_is_a_bridge(Choice::Kernel);
}

#[test]
fn a_plain_network_with_a_guarded_subnet_goes_on() {
    guard::a_plain_network_with_a_guarded_subnet_goes_on(Choice::Kernel);
}

#[test]
fn a_published_port_answers_a_client_in_a_guarded_subnet() {
    guard::a_published_port_answers_a_client_in_a_guarded_subnet(Choice::Kernel);
}

#[test]
fn an_interface_that_was_never_moved_is_swept_and_a_strangers_is_not() {
    leftovers::an_interface_that_was_never_moved_is_swept_and_a_strangers_is_not();
}

#[test]
fn a_driver_without_a_journal_removes_only_what_is_marked() {
    strays::only_what_is_marked_goes(Choice::Kernel);
}

#[test]
fn what_a_container_uses_stays_until_it_ends() {
    strays::what_a_container_uses_stays_until_it_ends(Choice::Kernel);
}

#[test]
fn a_start_over_what_is_there_writes_nothing() {
    adoption::a_start_over_what_is_there_writes_nothing(&Choice::Kernel);
}
