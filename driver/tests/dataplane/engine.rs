//! A userspace engine for a test, ended with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use wgnet_core::{Seen, Step};
use wgnet_driver::dataplane::linux::Choice;
use wgnet_driver::dataplane::{Dataplane, Events, Joined};
use wgnet_engine::{Client, Spawn};
use wgnet_proto::IfName;

use crate::traffic::{Side, namespace};

pub(crate) struct Engine {
    directory: TempDir,
}

impl Engine {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap() }
    }

    pub(crate) fn choice(&self) -> Choice {
        let mut spawn = Spawn::new(program(), self.socket());
        spawn.log_file = Some(self.directory.path().join("log"));
        Choice::Userspace(spawn)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let Some(pid) = runtime.block_on(self.pid()) else {
            return;
        };
        let _ = kill(pid, Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(5);
        while kill(pid, None).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    async fn pid(&self) -> Option<Pid> {
        let engine = Client::new(self.socket()).hello().await.ok()?;
        Some(Pid::from_raw(engine.pid.cast_signed()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log =
                std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("The engine's log:\n{log}");
        }
    }
}

/// Cargo builds only this package's own programs for a test.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_wgnet-driver")).with_file_name("wgnet-engine");
    assert!(
        program.exists(),
        "there is no {}: run cargo build --workspace --bins before",
        program.display()
    );
    program
}

/// An engine that died is started again by the repair of what died with it.
pub(crate) fn a_dead_engine_is_replaced() {
    let engine = Engine::new();
    let side = Side::start(1, &engine.choice());
    side.make_network();
    let mut events = side.plane.events();
    engine.kill();
    let reported = side.host.run(async move {
        let next = async { while events.next().await != Some(namespace()) {} };
        tokio::time::timeout(Duration::from_secs(2), next).await
    });
    assert!(reported.is_ok(), "nobody said that the interface is gone");
    let plane = side.plane.clone();
    let look = async move { plane.observe(&namespace(), &Joined::new()).await };
    let Seen::Present(seen) = side.host.run(look) else {
        panic!("the namespace can be read without the engine");
    };
    assert!(seen.wireguards.is_empty());
    side.make_wireguard();
    side.apply(Step::DeleteNamespace);
}

/// A driver was killed after the engine had made the interface and before it was marked. Another's
/// interface of the same name is left alone.
pub(crate) fn what_the_engine_made_for_a_killed_driver_is_ours() {
    let engine = Engine::new();
    let side = Side::start(1, &engine.choice());
    side.make_network();
    let wg0 = |words: &str| side.host.sh(&format!("ip -netns {} {words}", namespace()));
    wg0("link set wg0 alias '' group default down");
    side.make_wireguard();
    let link = wg0("-d link show wg0");
    assert!(link.contains("alias wgnet") && link.contains("UP"), "{link}");
    wg0("link set wg0 alias '' group default");
    let name: IfName = "wg0".parse().unwrap();
    side.apply(Step::RemoveWireguard { name: name.clone() });
    let links = wg0("-o link");
    assert!(!links.contains("wg0"), "{links}");

    wg0("tuntap add mode tun name wg0");
    let plane = side.plane.clone();
    let refused = side.host.run(async move {
        plane.apply(&namespace(), &Step::RemoveWireguard { name }).await.is_err()
    });
    assert!(refused && wg0("-o link").contains("wg0"));
}
