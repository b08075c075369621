//! The data plane of Linux with userspace WireGuard, in namespaces of its own. Wants root.

#[path = "dataplane/bench.rs"]
mod bench;
#[path = "dataplane/engine.rs"]
mod engine;
#[path = "dataplane/host.rs"]
mod host;

use wgnet_driver::dataplane::conformance;

use crate::bench::LinuxBench;
use crate::engine::Engine;
use crate::host::Host;

#[test]
fn linux_with_the_engine_is_a_data_plane() {
    let engine = Engine::new();
    let choice = engine.choice();
    let host = Host::start("suite");
    host.run(async move {
        conformance::suite(&mut LinuxBench::new(choice).await).await;
    });
}
