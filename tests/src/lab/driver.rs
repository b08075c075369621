//! A host's wgnet-driver as a service, and what it needs before it starts.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::{
    Lab,
    command::{Output, wait_until},
    error::{LabError, Result},
    host::Host,
};

pub const CONFIG: &str = "/etc/wgnet/driver.toml";
pub const SECRET: &str = "/etc/wgnet/secret";
pub const DRIVER_LOG: &str = "/var/log/wgnet-driver.log";

const PID: &str = "/run/wgnet-lab/driver.pid";
const STOP: &str = "/run/wgnet-lab/driver.stop";
const SUPERVISOR_PID: &str = "/run/wgnet-lab/driver-supervisor.pid";
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(20);

impl Lab {
    /// Makes the cluster's secret on the first host and copies it to the others.
    pub fn make_secret(&self) -> Result<()> {
        let first = self.host(1);
        first.wgnetctl(&["secret", "new", SECRET])?;
        let secret = first.path(SECRET);
        let bytes = fs::read(&secret).map_err(LabError::io("read", &secret))?;
        self.hosts().iter().skip(1).try_for_each(|host| {
            host.write(SECRET, &bytes)?;
            let path = host.path(SECRET);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .map_err(LabError::io("close to others", &path))
        })
    }

    /// The configuration every driver of this lab works with; more lines may be appended. Userspace WireGuard, so
    /// that a test is the same on every kernel.
    pub fn driver_config(&self) -> String {
        self.driver_config_with("userspace")
    }

    /// The same with another backend: `auto` or `kernel`.
    pub fn driver_config_with(&self, backend: &str) -> String {
        format!(
            "etcd = {:?}\netcd_insecure = true\nsecret = \"{SECRET}\"\nstate_dir = \"/var/lib/wgnet\"\nbackend = \"{backend}\"\nengine = \"/opt/wgnet/wgnet-engine\"\n",
            self.etcd().urls()
        )
    }
}

impl Host {
    /// Writes the configuration and starts the driver; from now on it is started again whenever it ends.
    pub fn driver_start(&self, config_toml: &str) -> Result<()> {
        self.write(CONFIG, config_toml)?;
        self.driver_resume()
    }

    /// Starts the driver with the configuration it has, as after a boot.
    pub fn driver_resume(&self) -> Result<()> {
        self.driver_run(&["/opt/wgnet/wgnet-driver", "--config", CONFIG])
    }

    /// The same with another command line, as a unit's.
    pub fn driver_run(&self, command: &[&str]) -> Result<()> {
        if self.service_pid(SUPERVISOR_PID).is_some() {
            return Ok(());
        }
        let _ = fs::remove_file(self.path(STOP));
        let supervise = [
            "/opt/wgnet/wgnet-lab",
            "supervise",
            "--pid-file",
            PID,
            "--stop-file",
            STOP,
            "--log-file",
            DRIVER_LOG,
        ];
        self.start_service("driver-supervisor", &[&supervise[..], &["--"], command].concat())?;
        wait_until(&format!("a driver process on {}", self.name()), START, || {
            self.driver_pid().is_some()
        })
        .map(drop)
        .map_err(|error| self.with_log(error, "wgnet-driver"))
    }

    /// The driver's process id inside the host, while it runs.
    pub fn driver_pid(&self) -> Option<u32> {
        self.service_pid(PID)
    }

    /// Sends the driver a signal and returns at once; if it ends, it is started again within a second.
    pub fn driver_kill(&self, signal: &str) -> Result<()> {
        let pid = self
            .driver_pid()
            .ok_or_else(|| LabError::Machine(format!("no driver runs on {}", self.name())))?;
        self.signal(pid, signal)
    }

    /// Kills the driver and waits until its successor runs.
    pub fn driver_crash(&self) -> Result<()> {
        let old = self.driver_pid();
        self.driver_kill("KILL")?;
        wait_until(&format!("the driver's restart on {}", self.name()), START, || {
            self.driver_pid().is_some_and(|pid| Some(pid) != old)
        })
        .map(drop)
        .map_err(|error| self.with_log(error, "wgnet-driver"))
    }

    /// Ends the driver for good (SIGTERM, as the unit's stop).
    pub fn driver_stop(&self) -> Result<()> {
        let Some(supervisor) = self.service_pid(SUPERVISOR_PID) else {
            return Ok(());
        };
        self.write(STOP, "")?;
        if let Some(pid) = self.driver_pid() {
            // It may have ended by itself since we looked.
            let _ = self.signal(pid, "TERM");
        }
        self.wait_gone(supervisor, "wgnet-driver", END)
            .map_err(|error| self.with_log(error, "wgnet-driver"))
    }

    pub fn driver_log(&self) -> String {
        self.read(DRIVER_LOG).unwrap_or_default()
    }

    /// The operator's command, inside the host; its trimmed output.
    pub fn wgnetctl(&self, args: &[&str]) -> Result<String> {
        self.try_wgnetctl(args)?.text()
    }

    pub fn try_wgnetctl(&self, args: &[&str]) -> Result<Output> {
        self.try_exec(&[&["/opt/wgnet/wgnetctl"][..], args].concat())
    }

    /// Builds and enables the managed plugin on this host's engine.
    pub fn plugin_install(&self) -> Result<()> {
        self.wgnetctl(&["plugin", "install", "--shim", "/opt/wgnet/wgnet-shim"]).map(drop)
    }
}
