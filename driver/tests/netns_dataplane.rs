//! The data plane of Linux with userspace WireGuard, in namespaces of its own. Wants root.

// tests/run: long

#[path = "dataplane/adoption.rs"]
mod adoption;
#[path = "dataplane/bench.rs"]
mod bench;
#[path = "dataplane/engine.rs"]
mod engine;
#[path = "dataplane/guard.rs"]
mod guard;
#[path = "dataplane/host.rs"]
mod host;
#[path = "dataplane/probe.rs"]
mod probe;
#[path = "dataplane/repairs.rs"]
mod repairs;
#[path = "dataplane/strays.rs"]
mod strays;
#[path = "dataplane/traffic.rs"]
mod traffic;

use wgnet_driver::dataplane::conformance;

use crate::bench::LinuxBench;
use crate::engine::Engine;
use crate::host::Host;
use crate::traffic::Underlay;

#[test]
fn linux_with_the_engine_is_a_data_plane() {
    let engine = Engine::new();
    let choice = engine.choice();
    let host = Host::start("suite");
    host.run(async move {
        conformance::suite(&mut LinuxBench::new(choice).await).await;
    });
}

#[test]
fn containers_of_two_hosts_talk_through_engines_over_ipv4() {
    let (a, b) = (Engine::new(), Engine::new());
    traffic::between_two_hosts([a.choice(), b.choice()], Underlay::V4);
}

#[test]
fn containers_of_two_hosts_talk_through_engines_over_ipv6() {
    let (a, b) = (Engine::new(), Engine::new());
    traffic::between_two_hosts([a.choice(), b.choice()], Underlay::V6);
}

#[test]
fn the_backend_is_chosen_by_what_the_kernel_has() {
    probe::the_choice_follows_the_kernel();
}

#[test]
fn a_guarded_subnet_is_not_reached_through_the_bridge() {
    let engine = Engine::new();
    guard::a_guarded_subnet_is_not_reached_through_the_bridge(engine.choice());
}

#[test]
fn a_guarded_subnet_is_not_reached_through_an_uplink_that_is_a_bridge() {
    let engine = Engine::new();
    guard::a_guarded_subnet_is_not_reached_through_an_uplink_that_is_a_bridge(engine.choice());
}

#[test]
fn a_plain_network_with_a_guarded_subnet_goes_on() {
    let engine = Engine::new();
    guard::a_plain_network_with_a_guarded_subnet_goes_on(engine.choice());
}

#[test]
fn a_published_port_answers_a_client_in_a_guarded_subnet() {
    let engine = Engine::new();
    guard::a_published_port_answers_a_client_in_a_guarded_subnet(engine.choice());
}

#[test]
fn a_dead_engine_is_replaced() {
    engine::a_dead_engine_is_replaced();
}

#[test]
fn what_the_engine_made_for_a_killed_driver_is_ours() {
    engine::what_the_engine_made_for_a_killed_driver_is_ours();
}

#[test]
fn a_driver_without_a_journal_removes_only_what_is_marked() {
    let engine = Engine::new();
    strays::only_what_is_marked_goes(engine.choice());
}

#[test]
fn what_a_container_uses_stays_until_it_ends() {
    let engine = Engine::new();
    strays::what_a_container_uses_stays_until_it_ends(engine.choice());
}

#[test]
fn a_start_over_what_is_there_writes_nothing() {
    let engine = Engine::new();
    adoption::a_start_over_what_is_there_writes_nothing(&engine.choice());
}

#[test]
fn every_guard_comes_back_after_a_flush_of_the_ruleset() {
    let engine = Engine::new();
    repairs::every_guard_comes_back_after_a_flush_of_the_ruleset(engine.choice());
}

#[test]
fn every_guard_comes_back_when_the_kernel_could_not_tell_of_it() {
    let engine = Engine::new();
    repairs::every_guard_comes_back_when_the_kernel_could_not_tell_of_it(engine.choice());
}

#[test]
fn forwarding_that_was_turned_off_is_turned_on() {
    let engine = Engine::new();
    repairs::forwarding_that_was_turned_off_is_turned_on(engine.choice());
}
