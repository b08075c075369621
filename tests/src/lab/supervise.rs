//! A service manager of a few lines: a program that ends is started again, as systemd's `Restart=always` does.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::error::{LabError, Result};

/// systemd's own default.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps `program` running until `stop_file` exists. Its current process id is in `pid_file`, its output in `log_file`.
pub fn supervise(
    program: &[String],
    pid_file: &Path,
    stop_file: &Path,
    log_file: &Path,
) -> Result<()> {
    let (name, args) =
        program.split_first().ok_or_else(|| LabError::Machine("no program to supervise".into()))?;
    while !stop_file.exists() {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_file)
            .map_err(LabError::io("open", log_file))?;
        let errors = log.try_clone().map_err(LabError::io("open", log_file))?;
        let started =
            Command::new(name).args(args).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let ended = match started {
            Ok(mut child) => {
                put(pid_file, &child.id().to_string())?;
                let status = child.wait().map_err(LabError::io("wait for", name))?;
                let _ = fs::remove_file(pid_file);
                status.to_string()
            }
            Err(error) => format!("not started: {error}"),
        };
        eprintln!("{name} {ended}");
        if !stop_file.exists() {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// A reader never sees half a number.
fn put(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).map_err(LabError::io("write", &new))?;
    fs::rename(&new, file).map_err(LabError::io("put in place", file))
}
