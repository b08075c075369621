//! Starts an engine that does not belong to the process that starts it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::EngineInfo;
use crate::client::{Client, ClientError};

/// So much of what a failed engine says is told.
const LONGEST_SAID: u64 = 4096;

/// How to start an engine.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// The `wgnet-engine` executable.
    pub engine: PathBuf,
    pub socket: PathBuf,
    /// Where its log goes; nowhere if `None`.
    pub log_file: Option<PathBuf>,
    /// Worker threads; its own choice if `None`.
    pub threads: Option<usize>,
    pub deadline: Duration,
}

impl Spawn {
    pub fn new(engine: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self {
            engine: engine.into(),
            socket: socket.into(),
            log_file: None,
            threads: None,
            deadline: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot start {}", .engine.display())]
    Start {
        engine: PathBuf,
        #[source]
        source: io::Error,
    },
    /// `said` is what it wrote before it gave up.
    #[error("{} did not come up: {said}", .engine.display())]
    Failed { engine: PathBuf, said: String },
    #[error("{} did not come up within {deadline:?}", .engine.display())]
    Deadline { engine: PathBuf, deadline: Duration },
    #[error("{} was started but does not answer", .engine.display())]
    NotAnswering {
        engine: PathBuf,
        #[source]
        source: ClientError,
    },
    #[error("cannot read {}", .engine.display())]
    Digest {
        engine: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Returns the engine that answers on the socket, after starting one if none does.
///
/// The engine is nobody's child but init's, leads a session of its own and inherits no descriptor:
/// neither the death nor the terminal of its starter reaches it. (A service manager that kills
/// whole control groups does: the driver's unit needs `KillMode=process`.)
pub async fn spawn_detached(spawn: &Spawn) -> Result<EngineInfo, SpawnError> {
    let until = Instant::now() + spawn.deadline;
    let client = Client::new(&spawn.socket).with_deadline(spawn.deadline);
    if let Ok(running) = client.hello().await {
        return Ok(running);
    }
    let late = |_| SpawnError::Deadline { engine: spawn.engine.clone(), deadline: spawn.deadline };
    let said = timeout_at(until, launch(spawn)).await.map_err(late)??;
    loop {
        let source = match client.hello().await {
            Ok(engine) => return Ok(engine),
            Err(source) => source,
        };
        if !said.is_empty() {
            return Err(SpawnError::Failed { engine: spawn.engine.clone(), said });
        }
        if Instant::now() >= until {
            return Err(SpawnError::NotAnswering { engine: spawn.engine.clone(), source });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the launcher, which leaves the engine behind; returns when the engine has let go of the
/// error output it shares with the launcher: it serves then, or has died.
async fn launch(spawn: &Spawn) -> Result<String, SpawnError> {
    let failed = |source| SpawnError::Start { engine: spawn.engine.clone(), source };
    let mut command = Command::new(&spawn.engine);
    command.arg("--daemon").arg("--socket").arg(&spawn.socket);
    if let Some(log_file) = &spawn.log_file {
        command.arg("--log-file").arg(log_file);
    }
    if let Some(threads) = spawn.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    let mut launcher = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stderr = launcher.stderr.take().expect("it was asked for");
    let mut said = Vec::new();
    (&mut stderr).take(LONGEST_SAID).read_to_end(&mut said).await.map_err(failed)?;
    // Whatever more it says must not keep it from ending.
    tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map_err(failed)?;
    launcher.wait().await.map_err(failed)?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// What [`EngineInfo::binary_digest`] is if this executable is the one that runs. Blocks while it
/// reads the file.
pub fn binary_digest(engine: &Path) -> Result<String, SpawnError> {
    digest(engine).map_err(|source| SpawnError::Digest { engine: engine.to_owned(), source })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_program_that_says_much_and_is_no_engine_is_told_with_the_beginning_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("engine");
        std::fs::write(&program, "#!/bin/sh\nhead -c 20000000 /dev/zero >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let spawn = Spawn::new(program, directory.path().join("engine.sock"));
        let failed = spawn_detached(&spawn).await.unwrap_err();
        let SpawnError::Failed { said, .. } = &failed else { panic!("{failed:?}") };
        assert_eq!(said.len() as u64, LONGEST_SAID);
    }
}
