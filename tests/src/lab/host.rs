//! One host: booting it, cutting its power and cables, freezing it, running programs in it.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    cgroup::{Cgroups, Group},
    command::{Output, Running, USUAL_DEADLINE, label, run, wait_until},
    error::{LabError, Result},
    init::HostSpec,
    underlay::{Station, Underlay},
};

pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A set of namespaces with a root, a disk, an engine: as near to a machine as one kernel allows.
#[derive(Debug)]
pub struct Host {
    name: String,
    pub(crate) station: Station,
    underlay: Underlay,
    pub(crate) spec: HostSpec,
    pub(crate) engine_flags: Vec<String>,
}

impl Host {
    pub(crate) fn new(
        name: String,
        station: Station,
        underlay: Underlay,
        spec: HostSpec,
        engine_flags: Vec<String>,
    ) -> Self {
        Self { name, station, underlay, spec, engine_flags }
    }

    /// h1, h2, ...: the host name, and the node's name in the swarm.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address on the underlay.
    pub fn address(&self) -> String {
        self.station.ipv4()
    }

    pub fn address_v6(&self) -> String {
        self.station.ipv6()
    }

    /// The host's end of the cable is always `eth0`; this is the bridge's.
    pub fn port(&self) -> &str {
        &self.station.port
    }

    /// The host's network namespace, as `ip netns` on the machine knows it.
    pub fn netns(&self) -> &str {
        &self.station.netns
    }

    /// Power on: disks as they were, `/run` empty, no process but pid 1. Engine and driver are started by their own calls.
    pub fn boot(&self) -> Result<()> {
        if self.pid().is_ok() {
            return Ok(());
        }
        let disk = &self.spec.disk;
        for dir in ["upper", "work", "mnt", "docker", "containerd"] {
            let dir = disk.join(dir);
            fs::create_dir_all(&dir).map_err(LabError::io("make the directory", &dir))?;
        }
        self.spec.group.clear()?;
        self.underlay.detach(&self.station)?;
        self.underlay.attach(&self.station)?;
        self.spec.group.create()?;
        let spec = serde_json::to_string(&self.spec).expect("a host's description is plain data");
        let lab_program = self.spec.binaries.join("wgnet-lab");
        let pid = run(&lab_program.to_string_lossy(), &["host-init", &spec])?.text()?;
        let file = disk.join("pid");
        fs::write(&file, format!("{pid} {}", started(&pid)?)).map_err(LabError::io("write", &file))
    }

    /// Power cut: nothing in the host gets a chance to say goodbye, and no interface, route or rule survives.
    pub fn power_off(&self) -> Result<()> {
        let _ = fs::remove_file(self.spec.disk.join("pid"));
        self.spec.group.clear()?;
        self.underlay.detach(&self.station)
    }

    pub fn is_up(&self) -> bool {
        self.pid().is_ok()
    }

    /// Pid 1 of the host, as the machine numbers it.
    pub fn pid(&self) -> Result<u32> {
        let off = || LabError::PoweredOff { host: self.name.clone() };
        let record = fs::read_to_string(self.spec.disk.join("pid")).map_err(|_| off())?;
        let (pid, start) = record.trim().split_once(' ').ok_or_else(off)?;
        if started(pid).is_ok_and(|now| now == start) {
            pid.parse().map_err(|_| off())
        } else {
            Err(off())
        }
    }

    /// Cable out: carrier is lost on both ends.
    pub fn unplug(&self) -> Result<()> {
        self.underlay.plug(&self.station, false)
    }

    pub fn plug(&self) -> Result<()> {
        self.underlay.plug(&self.station, true)
    }

    /// Every frame from and to the host is lost, and nobody is told.
    pub fn drop_silently(&self) -> Result<()> {
        self.underlay.drop_silently(&self.station)
    }

    pub fn undrop(&self) -> Result<()> {
        self.underlay.undrop(&self.station)
    }

    /// The whole host stands still. Programs run through `exec` stand still with it.
    pub fn freeze(&self) -> Result<()> {
        self.spec.group.freeze(true)
    }

    pub fn thaw(&self) -> Result<()> {
        self.spec.group.freeze(false)
    }

    /// Where the machine sees a file of the host: the live one, or the disk's when the host is off.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        match self.pid() {
            Ok(pid) => Path::new("/proc").join(pid.to_string()).join("root").join(inside),
            Err(_) => self.spec.disk.join("upper").join(inside),
        }
    }

    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(LabError::io("make the directory", parent))?;
        }
        fs::write(&path, content).map_err(LabError::io("write", &path))
    }

    pub fn read(&self, inside: &str) -> Result<String> {
        let path = self.path(inside);
        fs::read_to_string(&path).map_err(LabError::io("read", &path))
    }

    /// A command that runs inside, for callers who want its standard streams. Killing it kills what runs inside.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Command> {
        let pid = self.pid()?;
        let mut enter = String::new();
        for file in self.spec.group.entrances() {
            enter.push_str(&format!("echo 0 > {}; ", file.display()));
        }
        enter.push_str("exec nsenter \"$@\"");
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            &enter,
            "sh",
            "-t",
            &pid.to_string(),
            "-m",
            "-n",
            "-p",
            "-u",
            "-i",
            "-C",
            "-r",
            "--",
        ]);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).args(args);
        command.env_clear().env("PATH", PATH).env("HOME", "/root");
        for kept in ["TERM", "RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Ok(command)
    }

    /// Starts a program inside and goes on; it is killed when the returned value is dropped.
    pub fn spawn(&self, args: &[&str]) -> Result<Running> {
        Running::start(self.command(args)?, self.label(args), None)
    }

    /// Runs a program inside, whatever its exit status.
    pub fn try_exec(&self, args: &[&str]) -> Result<Output> {
        self.spawn(args)?.finish(USUAL_DEADLINE)
    }

    /// Runs a program inside that has to succeed; its trimmed output.
    pub fn exec(&self, args: &[&str]) -> Result<String> {
        self.try_exec(args)?.text()
    }

    pub fn exec_within(&self, deadline: Duration, args: &[&str]) -> Result<String> {
        self.spawn(args)?.finish(deadline)?.text()
    }

    /// Runs a shell script inside that has to succeed.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-ec", script])
    }

    /// Runs a program inside with a file of the machine as its input.
    pub(crate) fn exec_reading(&self, file: &Path, args: &[&str]) -> Result<String> {
        let input = fs::File::open(file).map_err(LabError::io("open", file))?;
        Running::start(self.command(args)?, self.label(args), Some(input))?
            .finish(USUAL_DEADLINE)?
            .text()
    }

    /// Starts a service of the host: detached, output appended to a log, process id in a file.
    pub(crate) fn start_service(&self, name: &str, args: &[&str]) -> Result<()> {
        let script = format!(
            "setsid \"$@\" >>/var/log/{name}.log 2>&1 </dev/null & echo $! >/run/wgnet-lab/{name}.pid"
        );
        let shell = ["sh", "-ec", &script, "sh"];
        let mut command = self.command(&[&shell[..], args].concat())?;
        command.stdin(Stdio::null());
        Running::start(command, self.label(args), None)?.finish(USUAL_DEADLINE)?.text().map(drop)
    }

    /// The process id, inside the host, that a pid file names, if that process lives.
    pub(crate) fn service_pid(&self, pid_file: &str) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.path(pid_file)).ok()?.trim().parse().ok()?;
        let state = fs::read_to_string(self.path(format!("/proc/{pid}/stat"))).ok()?;
        (!state.rsplit(") ").next()?.starts_with('Z')).then_some(pid)
    }

    pub(crate) fn wait_gone(&self, pid: u32, what: &str, within: Duration) -> Result<()> {
        let stat = self.path(format!("/proc/{pid}/stat"));
        wait_until(&format!("the end of {what} on {}", self.name), within, || {
            fs::read_to_string(&stat).map_or(true, |state| {
                state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
            })
        })
        .map(drop)
    }

    pub(crate) fn signal(&self, pid: u32, signal: &str) -> Result<()> {
        self.exec(&["kill", "-s", signal, &pid.to_string()]).map(drop)
    }

    fn label(&self, args: &[&str]) -> String {
        label(&format!("{}:", self.name), args)
    }
}

/// A process's start time: with it, a process id names one process for ever.
fn started(pid: &str) -> Result<String> {
    let file = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&file).map_err(LabError::io("read", &file))?;
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let state = fields.next().unwrap_or_default();
    let start = fields.nth(18).unwrap_or_default();
    if state == "Z" || start.is_empty() {
        return Err(LabError::Machine(format!("process {pid} has ended")));
    }
    Ok(start.to_owned())
}

/// Where the project's programs are: `WGNET_BIN_DIR`, else beside the running program.
pub fn binaries() -> Result<PathBuf> {
    let dir = match env::var_os("WGNET_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = env::current_exe().map_err(LabError::io("find", "the running program"))?;
            let dir = exe.parent().unwrap_or(Path::new("/"));
            // Cargo puts test programs one level deeper than the binaries they test.
            if dir.ends_with("deps") {
                dir.parent().unwrap_or(dir).to_owned()
            } else {
                dir.to_owned()
            }
        }
    };
    let dir = dir.canonicalize().map_err(LabError::io("find", &dir))?;
    if !dir.join("wgnet-lab").exists() {
        return Err(LabError::Machine(format!(
            "{} holds no wgnet-lab: build it (cargo build -p wgnet-tests) or set WGNET_BIN_DIR",
            dir.display()
        )));
    }
    Ok(dir)
}

/// The machine's control groups, found once for a lab.
pub(crate) fn group_of(cgroups: &Cgroups, lab: &str, member: &str) -> Group {
    cgroups.group(&format!("wgnl-{lab}/{member}"))
}
