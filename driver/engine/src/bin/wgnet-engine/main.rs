//! The userspace WireGuard engine of a host: serves a driver, outlives it.
//!
//! It does what it is told over its socket and keeps nothing on disk. Interfaces are in the
//! namespaces it is given; their UDP sockets are in the namespace the engine was started in.

mod answers;
mod daemon;
mod device;
mod devices;
mod link;
mod listen;
mod peers;
mod place;
mod server;
mod udp;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::devices::Devices;
use crate::listen::Listening;

/// Userspace WireGuard for wgnet-driver, which starts it where the kernel has no WireGuard.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Where drivers reach it; the directory is made if missing.
    #[arg(long, env = "WGNET_ENGINE_SOCKET", default_value = "/run/wgnet/engine.sock")]
    socket: PathBuf,

    /// Worker threads; one per CPU if not given.
    #[arg(long, env = "WGNET_ENGINE_THREADS")]
    threads: Option<usize>,

    /// What is logged, e.g. `debug` or `info,gotatun=debug`.
    #[arg(long, env = "WGNET_ENGINE_LOG", default_value = "info,gotatun=warn")]
    log: String,

    /// Append the log to this file instead of the error output.
    #[arg(long)]
    log_file: Option<PathBuf>,

    /// Start in the background, independent of the starter, and return.
    #[arg(long)]
    daemon: bool,

    /// The background half of --daemon.
    #[arg(long, hide = true)]
    detached: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Nothing this process makes is anybody else's to read.
    umask(Mode::from_bits_truncate(0o077));
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wgnet-engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.daemon {
        return daemon::launch(cli);
    }
    if cli.detached {
        daemon::detach().context("cannot leave the starter's session")?;
    }
    let filter = EnvFilter::try_new(&cli.log)
        .with_context(|| format!("--log {:?} is not a log filter", cli.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();

    // Before there are threads, which get it from this one.
    if let Err(error) = go_first() {
        warn!(%error, "Cannot take precedence over other processes");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.threads {
        runtime.worker_threads(threads.max(1));
    }
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(serve(cli));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The kernel's WireGuard need not wait until other processes have used up their share of the CPU;
/// this one has a queue of half a second at most where packets wait for it.
fn go_first() -> std::io::Result<()> {
    const NICE: i32 = -10;
    // SAFETY: takes numbers and touches no memory of ours; 0 is the calling thread.
    let outcome = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, NICE) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

async fn serve(cli: &Cli) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut listening = Listening::open(&cli.socket).await?;
    if cli.detached || cli.log_file.is_some() {
        daemon::redirect_output(cli.log_file.as_deref()).context("cannot redirect the output")?;
    }
    info!(socket = %cli.socket.display(), pid = std::process::id(), "Serving");

    let devices = Devices::default();
    // All arms are cancel-safe; nothing is awaited inside an arm.
    tokio::select! {
        () = server::serve(&mut listening, &devices) => {}
        _ = terminate.recv() => info!("Asked to stop"),
        _ = interrupt.recv() => info!("Asked to stop"),
    }
    drop(listening);
    if let Err(stuck) = devices.close().await {
        error!(stuck, "Left devices to the kernel");
    }
    Ok(())
}
