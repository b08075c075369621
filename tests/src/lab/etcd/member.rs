//! One member of the lab's etcd: a server process in a namespace and a control group of its own.

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

use crate::lab::{
    cgroup::Group,
    command::{run, wait_until},
    error::{LabError, Result},
    host::Host,
    underlay::{Station, pin},
};

const STOP: Duration = Duration::from_secs(20);

/// The table in a member's namespace that keeps hosts from it.
const CUTS: &str = "wgnet_lab";

#[derive(Debug)]
pub struct Member {
    pub(crate) name: String,
    pub(crate) station: Station,
    pub(crate) group: Group,
    pub(crate) dir: PathBuf,
    pub(crate) flags: Vec<String>,
}

impl Member {
    /// As the cluster calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        format!("http://{}:2379", self.station.ipv4())
    }

    pub(super) fn peer_url(&self) -> String {
        format!("http://{}:2380", self.station.ipv4())
    }

    pub fn is_up(&self) -> bool {
        !self.group.pids().is_empty()
    }

    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    pub fn freeze(&self) -> Result<()> {
        self.group.freeze(true)
    }

    pub fn thaw(&self) -> Result<()> {
        self.group.freeze(false)
    }

    /// Where the server keeps its data, for backups and restores while it is stopped.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts the process with what its directory holds; [`super::Etcd::start`] also waits for an answer.
    pub(super) fn spawn(&self, cluster: &str) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        self.group.create()?;
        fs::create_dir_all(&self.dir).map_err(LabError::io("make the directory", &self.dir))?;
        let path = self.log_path();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(LabError::io("open", &path))?;
        let errors = log.try_clone().map_err(LabError::io("open", &path))?;
        let data = self.data_dir();
        let mut args: Vec<String> = ["setsid", "etcd"].map(str::to_owned).into();
        let mut flag = |name: &str, value: &str| args.push(format!("--{name}={value}"));
        flag("name", &self.name);
        flag("data-dir", &data.to_string_lossy());
        flag("listen-client-urls", "http://[::]:2379");
        flag("advertise-client-urls", &self.url());
        flag("listen-peer-urls", &self.peer_url());
        flag("initial-advertise-peer-urls", &self.peer_url());
        flag("initial-cluster", cluster);
        flag("logger", "zap");
        flag("log-level", "warn");
        args.extend(self.flags.iter().cloned());
        // The shell leaves and etcd goes on as a child of nobody, so that a lab can outlive the program that started it.
        let mut command = self.enter("exec \"$@\" &", &args);
        command.stdout(Stdio::from(log)).stderr(Stdio::from(errors)).stdin(Stdio::null());
        let status = command.status().map_err(LabError::io("start", "etcd"))?;
        if !status.success() {
            return Err(LabError::Machine(
                "etcd cannot be started: apt-get install etcd-server".into(),
            ));
        }
        Ok(())
    }

    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Refuses what a host sends to this member, and loses what is on its way to the host.
    pub(super) fn refuse(&self, host: &Host) -> Result<()> {
        let address = host.address();
        self.nft(&format!(
            "add table inet {CUTS}; \
             add chain inet {CUTS} in {{ type filter hook input priority 0; }}; \
             add chain inet {CUTS} out {{ type filter hook output priority 0; }}; \
             add rule inet {CUTS} in ip saddr {address} tcp dport 2379 reject with tcp reset; \
             add rule inet {CUTS} out ip daddr {address} tcp flags rst accept; \
             add rule inet {CUTS} out ip daddr {address} tcp sport 2379 drop"
        ))
    }

    /// Ends what [`Member::refuse`] began, for all hosts.
    pub(super) fn admit(&self) -> Result<()> {
        self.nft(&format!("add table inet {CUTS}; delete table inet {CUTS}"))
    }

    pub(super) fn nft(&self, rules: &str) -> Result<()> {
        let netns = format!("--net={}", pin(&self.station.netns).display());
        run("nsenter", &[&netns, "nft", rules])?.text().map(drop)
    }

    fn enter(&self, then: &str, args: &[String]) -> Command {
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
        wait_until(&format!("the end of etcd {}", self.name), STOP, || !self.is_up()).map(drop)
    }
}
