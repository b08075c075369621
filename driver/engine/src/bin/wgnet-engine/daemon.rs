//! Leaving the process that started the engine: no shared session, descriptor or parent.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::unistd::{close, dup2_stderr, dup2_stdout, setsid};

use crate::Cli;

/// Starts the engine and returns at once, which makes it init's child.
///
/// The engine keeps this process's error output until it serves, so that whoever reads it sees
/// why a start failed, and its end when one did not.
pub(crate) fn launch(cli: &Cli) -> anyhow::Result<()> {
    let absolute = |path: &Path| {
        std::path::absolute(path).with_context(|| format!("{} is not a path", path.display()))
    };
    let executable = std::env::current_exe().context("cannot find the running executable")?;
    let mut engine = Command::new(&executable);
    engine.arg("--detached").arg("--log").arg(&cli.log);
    engine.arg("--socket").arg(absolute(&cli.socket)?);
    if let Some(threads) = cli.threads {
        engine.arg("--threads").arg(threads.to_string());
    }
    if let Some(log_file) = &cli.log_file {
        engine.arg("--log-file").arg(absolute(log_file)?);
    }
    engine
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", executable.display()))?;
    Ok(())
}

/// Makes this process leader of its own session and closes what it inherited but standard streams.
/// To be called before anything is opened.
pub(crate) fn detach() -> io::Result<()> {
    setsid()?;
    let listing = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<RawFd> = listing
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The descriptor of the listing itself is among them and already closed.
        close(fd).ok();
    }
    Ok(())
}

/// Sends what is logged from now on to the file, or nowhere.
pub(crate) fn redirect_output(log_file: Option<&Path>) -> io::Result<()> {
    let output: File = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log_file.unwrap_or(Path::new("/dev/null")))?;
    dup2_stdout(&output)?;
    dup2_stderr(&output)?;
    Ok(())
}
