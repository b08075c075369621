//! Programs run to their end with a deadline, and conditions waited for.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    error::{LabError, Result},
    interrupt,
};

pub(super) const USUAL_DEADLINE: Duration = Duration::from_secs(60);
const AFTER_EXIT: Duration = Duration::from_secs(2);

static PATIENCE: OnceLock<u32> = OnceLock::new();

/// Multiplies every deadline of the lab, for machines that are known to be slow; called first of all.
pub fn be_patient(factor: u32) {
    PATIENCE.get_or_init(|| patience_wanted().unwrap_or(factor));
}

/// On slow machines (emulated ones) `WGNET_LAB_PATIENCE` multiplies every deadline of the lab.
fn patience_wanted() -> Option<u32> {
    env::var("WGNET_LAB_PATIENCE").ok()?.parse().ok()
}

fn patient(deadline: Duration) -> Duration {
    deadline * *PATIENCE.get_or_init(|| patience_wanted().unwrap_or(1))
}

/// What a program that has ended left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The trimmed standard output of a program that must have succeeded.
    pub fn text(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout.trim_end().to_owned());
        }
        Err(LabError::Command {
            outcome: format!("ended with {}", self.status),
            output: said(&self.stdout, &self.stderr),
            command: self.command,
        })
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}{}", self.command, self.status, said(&self.stdout, &self.stderr))
    }
}

fn said(stdout: &str, stderr: &str) -> String {
    let text = [stderr.trim(), stdout.trim()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("\n");
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// A running program; it is killed when this value is dropped.
pub struct Running {
    command: String,
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
}

impl Running {
    pub fn start(mut command: Command, label: String, input: Option<File>) -> Result<Self> {
        command
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(LabError::io("start", &label))?;
        let stdout = drain(child.stdout.take().expect("stdout was piped"));
        let stderr = drain(child.stderr.take().expect("stderr was piped"));
        Ok(Self { command: label, child, stdout, stderr })
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end; a program that is still running at the deadline is killed.
    pub fn finish(mut self, deadline: Duration) -> Result<Output> {
        let deadline = patient(deadline);
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) =
                self.child.try_wait().map_err(LabError::io("wait for", &self.command))?
            {
                break status;
            }
            if started.elapsed() >= deadline || interrupt::pending() {
                self.end();
                return Err(LabError::Command {
                    command: self.command.clone(),
                    outcome: format!("did not end within {} s", deadline.as_secs_f32()),
                    output: said(&collect(&self.stdout), &collect(&self.stderr)),
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        Ok(Output {
            command: self.command.clone(),
            status,
            stdout: collect(&self.stdout),
            stderr: collect(&self.stderr),
        })
    }

    /// Kills the program and returns what it had written.
    pub fn kill(mut self) -> Result<Output> {
        self.end();
        self.finish(AFTER_EXIT)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 16 * 1024];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    if sender.send(chunk[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// All that came through a pipe. A daemon that inherited the pipe must not hold us up, hence the limit.
fn collect(pipe: &mpsc::Receiver<Vec<u8>>) -> String {
    let limit = Instant::now() + AFTER_EXIT;
    let mut bytes = Vec::new();
    while let Ok(chunk) = pipe.recv_timeout(limit.saturating_duration_since(Instant::now())) {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a program of the machine to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<Output> {
    run_within(USUAL_DEADLINE, program, args)
}

pub(crate) fn run_within(deadline: Duration, program: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(args);
    Running::start(command, label(program, args), None)?.finish(deadline)
}

pub(crate) fn label(program: &str, args: &[&str]) -> String {
    let mut text = program.to_owned();
    for arg in args {
        text.push(' ');
        text.push_str(arg);
    }
    text
}

/// Asks again and again until the answer is yes.
pub fn wait_until(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<Duration> {
    wait_for(what, within, || if holds() { Ok(()) } else { Err(String::new()) })
        .map(|(_, elapsed)| elapsed)
}

/// Asks again and again until there is a value; the last refusal becomes part of the error.
pub fn wait_for<T, E: fmt::Display>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> std::result::Result<T, E>,
) -> Result<(T, Duration)> {
    let within = patient(within);
    let started = Instant::now();
    loop {
        let last = match ask() {
            Ok(value) => return Ok((value, started.elapsed())),
            Err(refusal) => refusal.to_string(),
        };
        if started.elapsed() >= within || interrupt::pending() {
            let state = if last.is_empty() { last } else { format!("; at last: {last}") };
            return Err(LabError::Deadline { what: what.to_owned(), within, state });
        }
        thread::sleep(Duration::from_millis(25));
    }
}
