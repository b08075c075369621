//! A host's Docker Engine: containerd and dockerd as two services, as Debian's units run them.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{
    command::{Output, wait_for, wait_until},
    error::{LabError, Result},
    host::Host,
};

const DOCKERD_PID: &str = "/run/docker.pid";
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// A restarting dockerd waits 10 s for old containers and up to 54 s for plugins.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(60);

impl Host {
    /// Starts the engine (and containerd, where it does not run) and waits for its API.
    pub fn engine_start(&self) -> Result<()> {
        self.engine_launch()?;
        self.engine_wait(START)
    }

    /// Starts the engine without waiting.
    pub fn engine_launch(&self) -> Result<()> {
        if self.service_pid("/run/wgnet-lab/containerd.pid").is_none() {
            self.start_service("containerd", &["containerd"])?;
            let socket = self.path(CONTAINERD_SOCKET);
            wait_until(
                &format!("containerd's socket on {}", self.name()),
                Duration::from_secs(30),
                || UnixStream::connect(&socket).is_ok(),
            )
            .map_err(|error| self.with_log(error, "containerd"))?;
        }
        let mut args = vec![
            "dockerd",
            "--host=unix:///run/docker.sock",
            "--containerd=/run/containerd/containerd.sock",
            // There is no systemd in the host to ask for groups.
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ];
        args.extend(self.engine_flags.iter().map(String::as_str));
        self.start_service("dockerd", &args)
    }

    pub fn engine_wait(&self, within: Duration) -> Result<()> {
        wait_for(&format!("the engine's API on {}", self.name()), within, || self.ping_engine())
            .map(drop)
            .map_err(|error| self.with_log(error, "dockerd"))
    }

    pub fn engine_is_up(&self) -> bool {
        self.ping_engine().is_ok()
    }

    /// Ends the engine as its unit's stop does: containers and plugin stop, containerd stays.
    pub fn engine_stop(&self) -> Result<()> {
        self.engine_kill("TERM")
    }

    /// Sends dockerd a signal that ends it, and waits for the end.
    pub fn engine_kill(&self, signal: &str) -> Result<()> {
        let pid = self.engine_pid()?;
        self.signal(pid, signal)?;
        self.engine_ended(pid)
    }

    /// Kills dockerd at the moment when a script, run inside, has come to its end; what that said.
    pub fn engine_kill_after(&self, script: &str) -> Result<String> {
        let pid = self.engine_pid()?;
        let said = self.sh(&format!("{script}\nkill -s KILL {pid}"))?;
        self.engine_ended(pid)?;
        Ok(said)
    }

    fn engine_pid(&self) -> Result<u32> {
        self.service_pid(DOCKERD_PID).ok_or_else(|| {
            LabError::Machine(format!("no dockerd runs on {}: start it first", self.name()))
        })
    }

    fn engine_ended(&self, pid: u32) -> Result<()> {
        self.wait_gone(pid, "dockerd", STOP)?;
        // A killed dockerd leaves its pid file, and another process may have that number at the next start.
        let _ = std::fs::remove_file(self.path(DOCKERD_PID));
        Ok(())
    }

    /// Halts dockerd where it is, be it in the middle of its start, for so long.
    pub fn engine_halt(&self, length: Duration) -> Result<()> {
        let what = format!("a dockerd on {}", self.name());
        let runs = || self.service_pid(DOCKERD_PID).ok_or_else(|| "none runs".to_owned());
        let (pid, _) = wait_for(&what, START, runs)?;
        self.signal(pid, "STOP")?;
        std::thread::sleep(length);
        self.signal(pid, "CONT")
    }

    /// The engine's own client, inside the host; its trimmed output.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        self.try_docker(args)?.text()
    }

    pub fn try_docker(&self, args: &[&str]) -> Result<Output> {
        self.try_exec(&[&["docker"][..], args].concat())
    }

    pub fn docker_within(&self, deadline: Duration, args: &[&str]) -> Result<String> {
        self.exec_within(deadline, &[&["docker"][..], args].concat())
    }

    fn ping_engine(&self) -> Result<(), String> {
        let ask = || -> std::io::Result<String> {
            let mut socket = UnixStream::connect(self.path("/run/docker.sock"))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match ask() {
            Ok(answer) if answer.contains(" 200 ") => Ok(()),
            Ok(answer) => {
                Err(format!("it answers {:?}", answer.lines().next().unwrap_or_default()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The end of a service's log says why it is not there.
    pub(crate) fn with_log(&self, error: LabError, service: &str) -> LabError {
        let log = self.read(&format!("/var/log/{service}.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        match error {
            LabError::Deadline { what, within, state } => LabError::Deadline {
                what,
                within,
                state: format!("{state}\nthe end of its log:\n{tail}"),
            },
            other => other,
        }
    }
}
