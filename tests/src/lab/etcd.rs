//! The lab's etcd: the machine's own program, in a namespace of its own on the underlay.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroup::Group,
    command::{Output, Running, USUAL_DEADLINE, label, wait_for, wait_until},
    error::{LabError, Result},
    underlay::{Station, pin},
};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Etcd {
    pub(crate) station: Station,
    pub(crate) group: Group,
    pub(crate) dir: PathBuf,
}

impl Etcd {
    pub fn url(&self) -> String {
        format!("http://{}:2379", self.station.ipv4())
    }

    /// Starts the server on what its directory holds and waits until it answers.
    pub fn start(&self) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        self.group.create()?;
        fs::create_dir_all(&self.dir).map_err(LabError::io("make the directory", &self.dir))?;
        let log_path = self.dir.join("log");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(LabError::io("open", &log_path))?;
        let errors = log.try_clone().map_err(LabError::io("open", &log_path))?;
        let data = self.dir.join("data");
        let data = data.to_string_lossy();
        let url = self.url();
        let args = [
            "setsid",
            "etcd",
            "--name",
            "lab",
            "--data-dir",
            &data,
            "--listen-client-urls",
            "http://[::]:2379",
            "--advertise-client-urls",
            &url,
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:2380",
            "--initial-cluster",
            "lab=http://127.0.0.1:2380",
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ];
        // The shell leaves and etcd goes on as a child of nobody, so that a lab can outlive the program that started it.
        let mut command = self.enter("exec setsid \"$@\" &", &args[1..]);
        command.stdout(Stdio::from(log)).stderr(Stdio::from(errors)).stdin(Stdio::null());
        let status = command.status().map_err(LabError::io("start", "etcd"))?;
        if !status.success() {
            return Err(LabError::Machine(
                "etcd cannot be started: apt-get install etcd-server".into(),
            ));
        }
        wait_for("an answer of etcd", START, || {
            self.etcdctl(&["get", "--limit=1", "x"]).map_err(|error| {
                let log = fs::read_to_string(&log_path).unwrap_or_default();
                format!("{error}; log: {}", log.lines().last().unwrap_or_default())
            })
        })
        .map(drop)
    }

    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Forgets everything: the next start is another history.
    pub fn wipe(&self) -> Result<()> {
        if self.is_up() {
            return Err(LabError::Machine("etcd runs: stop it before wiping its data".into()));
        }
        let data = self.dir.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).map_err(LabError::io("remove", &data))?;
        }
        Ok(())
    }

    pub fn freeze(&self) -> Result<()> {
        self.group.freeze(true)
    }

    pub fn thaw(&self) -> Result<()> {
        self.group.freeze(false)
    }

    pub fn is_up(&self) -> bool {
        !self.group.pids().is_empty()
    }

    /// Where the server keeps its data, for backups and restores while it is stopped.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Debian's client against this server; its trimmed output.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.try_etcdctl(args)?.text()
    }

    pub fn try_etcdctl(&self, args: &[&str]) -> Result<Output> {
        Running::start(self.client(args), label("etcdctl", args), None)?.finish(USUAL_DEADLINE)
    }

    fn client(&self, args: &[&str]) -> Command {
        let netns = format!("--net={}", pin(&self.station.netns).display());
        let mut command = Command::new("nsenter");
        command
            .args([&netns, "etcdctl", "--endpoints", "http://127.0.0.1:2379"])
            .args(args)
            .env("ETCDCTL_API", "3");
        command
    }

    /// Writes any bytes, as a client that knows nothing of wgnet could.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let file = self.dir.join("value");
        fs::write(&file, value).map_err(LabError::io("write", &file))?;
        let input = fs::File::open(&file).map_err(LabError::io("open", &file))?;
        let args = ["put", key];
        Running::start(self.client(&args), label("etcdctl", &args), Some(input))?
            .finish(USUAL_DEADLINE)?
            .text()
            .map(drop)
    }

    /// The bytes of a key; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let listed = self.etcdctl(&["get", key, "--print-value-only", "--hex"])?;
        let hex: String = listed.chars().filter(char::is_ascii_hexdigit).collect();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
        let bytes: Vec<u8> = (0..hex.len() / 2).filter_map(|n| digit(2 * n)).collect();
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// The paths of all keys, sorted.
    pub fn keys(&self) -> Result<Vec<String>> {
        let listed = self.etcdctl(&["get", "", "--prefix", "--keys-only"])?;
        Ok(listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn enter(&self, then: &str, args: &[&str]) -> Command {
        let mut script = String::from("set -e; command -v etcd >/dev/null; ");
        for file in self.group.entrances() {
            script.push_str(&format!("echo 0 > {}; ", file.display()));
        }
        script.push_str(then);
        let netns = format!("--net={}", pin(&self.station.netns).display());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "sh", "nsenter", &netns]).args(args);
        command
    }

    fn end(&self, signal: Signal) -> Result<()> {
        for pid in self.group.pids() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        wait_until("the end of etcd", STOP, || !self.is_up()).map(drop)
    }
}
