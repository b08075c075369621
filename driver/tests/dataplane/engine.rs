//! A userspace engine for a test, ended with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use wgnet_driver::dataplane::linux::Choice;
use wgnet_engine::{Client, Spawn};

pub(crate) struct Engine {
    directory: TempDir,
}

impl Engine {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("wgnett-")
                .tempdir()
                .unwrap(),
        }
    }

    pub(crate) fn choice(&self) -> Choice {
        let mut spawn = Spawn::new(program(), self.socket());
        spawn.log_file = Some(self.directory.path().join("log"));
        Choice::Userspace(spawn)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    async fn pid(&self) -> Option<Pid> {
        let engine = Client::new(self.socket()).hello().await.ok()?;
        Some(Pid::from_raw(engine.pid.cast_signed()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let Some(pid) = std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(self.pid())).join().unwrap()
        }) else {
            return;
        };
        let _ = kill(pid, Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(5);
        while kill(pid, None).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
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
