//! `wgnet-driver --clean-up`: takes down what this host's networks left in the kernel, for a host
//! that wgnet is removed from. Keys and records stay; those are files and etcd's.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use wgnet_engine::Client;

use crate::app;
use crate::config::Config;
use crate::dataplane::{Claimed, Dataplane as _, Swept};

/// How long the engine has to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Removes it and says what; 0 when nothing of ours is left.
pub async fn run(config: &Config) -> ExitCode {
    match clean_up(config).await {
        Ok(swept) => {
            swept.removed.iter().for_each(|what| println!("removed {what}"));
            for namespace in &swept.in_use {
                eprintln!(
                    "wgnet-driver: namespace {namespace} is left: a container uses its network; stop the container and try again"
                );
            }
            if swept.in_use.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(sentence) => {
            eprintln!("wgnet-driver: {sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn clean_up(config: &Config) -> Result<Swept, String> {
    let socket = config.admin_socket();
    if UnixStream::connect(&socket).await.is_ok() {
        return Err(format!(
            "a driver runs here (it answers at {}); stop it first: systemctl stop wgnet-driver",
            socket.display()
        ));
    }
    let engine = Client::new(config.engine_socket());
    let dataplane = app::dataplane(config).await?;
    let mut swept =
        dataplane.sweep(Claimed::default).await.map_err(|error| crate::chain(&error))?;
    if swept.in_use.is_empty() && end(&engine).await? {
        swept.removed.push("the userspace engine".to_owned());
    }
    Ok(swept)
}

/// Ends the userspace engine; whether there was one.
async fn end(engine: &Client) -> Result<bool, String> {
    let Ok(running) = engine.hello().await else {
        return Ok(false);
    };
    let pid = Pid::from_raw(running.pid.cast_signed());
    kill(pid, Signal::SIGTERM)
        .map_err(|error| format!("cannot end the userspace engine (process {pid}): {error}"))?;
    let until = Instant::now() + END_WITHIN;
    while UnixStream::connect(engine.socket()).await.is_ok() {
        if Instant::now() >= until {
            return Err(format!(
                "the userspace engine (process {pid}) does not end; end it: kill -9 {pid}"
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}
