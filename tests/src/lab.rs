//! The lab: several hosts with real Docker engines, and an etcd, on one machine.
//!
//! A host is a set of namespaces (network, mount, pid, uts, ipc, cgroup) with its own root and disk; its engine is Debian's.
//! It needs root. Everything synchronous; every wait has a deadline.
//!
//! ```no_run
//! use wgnet_tests::lab::{Lab, LabOptions};
//! # fn main() -> wgnet_tests::lab::Result<()> {
//! let lab = Lab::start(LabOptions { name: "example".into(), ..LabOptions::default() })?; // 3 hosts, engines, etcd
//! lab.load_images()?; // `bb` (busybox) and `perf` (with iperf3)
//! lab.swarm_init()?; // h1 manages; plugins come before this line
//! lab.host(1).docker(&["network", "create", "-d", "overlay", "--attachable", "blue"])?;
//! lab.host(2).docker(&["run", "-d", "--name", "c2", "--network", "blue", "bb", "sleep", "1000"])?;
//! lab.host(3).docker(&["run", "--rm", "--network", "blue", "bb", "ping", "-c1", "c2"])?;
//! let capture = lab.capture()?; // stop()?.frames_with(b"pattern")? counts frames that crossed the underlay with it
//! let before = lab.host(1).inventory()?; // compare with changes_since
//! lab.make_secret()?; // then per host: driver_start(&lab.driver_config())?, plugin_install()?, driver_kill("KILL")?, driver_stop()?
//! lab.host(2).power_off()?; // and boot(), engine_start(); unplug(), drop_silently(), freeze() and their opposites
//! # Ok(()) }
//! ```
//!
//! Dropping the lab takes everything down, unless `WGNET_LAB_KEEP` is set (to look at what failed with `wgnet-lab`). What a killed run left is cleared when a lab of the same name starts; labs of
//! different names run side by side. Hosts are `h1`, `h2`, ... at 192.0.2.11, .12, ... and 2001:db8::11, ...; etcd is at 192.0.2.2 (.3, .4 with three members).
//! The project's programs are seen at /opt/wgnet in each host, from `WGNET_BIN_DIR` or beside the running program.

mod capture;
mod cgroup;
pub mod checks;
mod command;
pub mod demo;
mod driver;
mod engine;
mod error;
mod etcd;
mod host;
mod images;
pub mod init;
pub(crate) mod interrupt;
mod inventory;
mod owner;
mod roots;
pub mod supervise;
mod underlay;
mod wireguard;

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::Flock,
    sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs},
    unistd::Uid,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::underlay::pin;
pub use self::{
    capture::{Capture, Captured},
    command::{Output, Running, be_patient, wait_for, wait_until},
    driver::{CONFIG, DRIVER_LOG, SECRET},
    error::{LabError, Result},
    etcd::{Etcd, Member as EtcdMember, Slow},
    host::{Host, binaries},
    inventory::Inventory,
    owner::{down, down_of_run},
    roots::{Suite, is_prepared, prepare},
    wireguard::{PeerAddresses, WireGuard},
};
use self::{
    cgroup::Cgroups,
    host::group_of,
    init::HostSpec,
    underlay::{Station, Underlay},
};

#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Lower-case letters, digits and dashes; the mark on everything the lab makes.
    pub name: String,
    pub suite: Suite,
    pub hosts: u8,
    pub etcd: bool,
    /// How many members etcd has: 1 or 3.
    pub etcd_members: u8,
    /// More flags for every member.
    pub etcd_flags: Vec<String>,
    /// Whether `start` starts the engines; else the caller does.
    pub engines: bool,
    /// Where the project's programs are, if not at [`binaries`].
    pub binaries: Option<PathBuf>,
    /// More flags for every dockerd.
    pub engine_flags: Vec<String>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            name: "lab".into(),
            suite: Suite::default(),
            hosts: 3,
            etcd: true,
            etcd_members: 1,
            etcd_flags: Vec::new(),
            engines: true,
            binaries: None,
            engine_flags: Vec::new(),
        }
    }
}

/// What a lab writes down so that another process can find it again.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    suite: String,
    hosts: u8,
    etcd_members: u8,
    etcd_flags: Vec<String>,
    binaries: Option<PathBuf>,
    engine_flags: Vec<String>,
    /// The test run that it belongs to, as tests/run names it.
    #[serde(default)]
    run: Option<String>,
}

/// A running lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<Host>,
    etcd: Etcd,
    cgroups: Cgroups,
    root: PathBuf,
    owner: Option<Flock<fs::File>>,
}

impl Lab {
    /// Clears what an earlier lab of this name left, and builds a new one.
    pub fn start(options: LabOptions) -> Result<Self> {
        check_machine(&options)?;
        let owner = owner::own(&options.name)?;
        clear(&options.name)?;
        let root = roots::root(options.suite)?;
        let lab = Self::describe(&options, &root, Some(owner))?;
        lab.record(&options)?;
        lab.underlay().create()?;
        if options.etcd {
            for member in lab.etcd.members() {
                lab.underlay().attach(&member.station)?;
            }
            lab.etcd.start()?;
        }
        lab.on_all_hosts(Host::boot)?;
        if options.engines {
            lab.on_all_hosts(Host::engine_start)?;
        }
        Ok(lab)
    }

    /// A lab that another process left running; it stays when this value is dropped.
    pub fn attach(name: &str) -> Result<Self> {
        let file = lab_dir(name).join("lab.json");
        let text = fs::read_to_string(&file).map_err(|_| {
            LabError::Machine(format!("there is no lab \"{name}\" (looked for {})", file.display()))
        })?;
        let record: Record = serde_json::from_str(&text)
            .map_err(|error| LabError::io("read", &file)(error.into()))?;
        let suite = record.suite.parse().map_err(LabError::Machine)?;
        let options = LabOptions {
            name: name.to_owned(),
            suite,
            hosts: record.hosts,
            etcd_members: record.etcd_members,
            etcd_flags: record.etcd_flags,
            binaries: record.binaries,
            engine_flags: record.engine_flags,
            ..LabOptions::default()
        };
        Self::describe(&options, &roots::root(suite)?, None)
    }

    /// Lets the lab live on after this process.
    pub fn detach(mut self) {
        self.owner = None;
    }

    /// Takes everything down and says what could not be.
    pub fn stop(mut self) -> Result<()> {
        let _owner = self.owner.take();
        clear(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host 1 is the first.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number.checked_sub(1).expect("hosts are counted from 1")]
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The lab's own directory, for whatever a test wants to keep as long as the lab lives.
    pub fn dir(&self) -> PathBuf {
        lab_dir(&self.name)
    }

    /// One swarm of all hosts; the first manages. A plugin enabled later takes 20 s to be seen by it.
    pub fn swarm_init(&self) -> Result<()> {
        let Some((manager, workers)) = self.hosts.split_first() else {
            return Ok(());
        };
        manager.docker(&["swarm", "init", "--advertise-addr", &manager.address()])?;
        let token = manager.docker(&["swarm", "join-token", "-q", "worker"])?;
        let join = |host: &Host| {
            let meeting = format!("{}:2377", manager.address());
            host.docker(&[
                "swarm",
                "join",
                "--token",
                &token,
                "--advertise-addr",
                &host.address(),
                &meeting,
            ])
            .map(drop)
        };
        in_parallel(workers, join)
    }

    /// Puts the images `bb` and `perf` on every host.
    pub fn load_images(&self) -> Result<()> {
        let images = images::make(&self.root, &self.dir().join("images"))?;
        self.on_all_hosts(|host| {
            images.iter().try_for_each(|image| {
                host.exec_reading(&image.archive, &["docker", "import", "-", image.name]).map(drop)
            })
        })
    }

    /// The same on every host at once; all are tried, the first failure is returned.
    pub fn on_all_hosts(&self, work: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
        in_parallel(&self.hosts, work)
    }

    fn describe(options: &LabOptions, root: &Path, owner: Option<Flock<fs::File>>) -> Result<Self> {
        let name = &options.name;
        let cgroups = Cgroups::detect()?;
        let binaries = match &options.binaries {
            Some(dir) => dir.clone(),
            None => binaries()?,
        };
        let underlay = Underlay { netns: format!("wgnl-{name}-ul") };
        let hosts = (1..=options.hosts)
            .map(|number| {
                let host = format!("h{number}");
                let netns = format!("wgnl-{name}-{host}");
                let station = Station {
                    netns: netns.clone(),
                    port: format!("u{number}"),
                    number: 10 + number,
                };
                let spec = HostSpec {
                    name: host.clone(),
                    netns,
                    root: root.to_owned(),
                    disk: lab_dir(name).join("hosts").join(&host),
                    binaries: binaries.clone(),
                    cgroups: cgroups.clone(),
                    group: group_of(&cgroups, name, &host),
                };
                Host::new(host, station, underlay.clone(), spec, options.engine_flags.clone())
            })
            .collect();
        let members = (1..=options.etcd_members).map(|number| {
            let member = if number == 1 { "etcd".to_owned() } else { format!("etcd{number}") };
            let netns = format!("wgnl-{name}-{member}");
            EtcdMember {
                station: Station { netns, port: member.clone(), number: 1 + number },
                group: group_of(&cgroups, name, &member),
                dir: lab_dir(name).join(&member),
                flags: options.etcd_flags.clone(),
                name: member,
            }
        });
        let etcd = Etcd { members: members.collect(), dir: lab_dir(name).join("etcd") };
        Ok(Self { name: name.clone(), hosts, etcd, cgroups, root: root.to_owned(), owner })
    }

    fn record(&self, options: &LabOptions) -> Result<()> {
        let record = Record {
            suite: options.suite.name().into(),
            hosts: options.hosts,
            etcd_members: options.etcd_members,
            etcd_flags: options.etcd_flags.clone(),
            binaries: options.binaries.clone(),
            engine_flags: options.engine_flags.clone(),
            run: env::var("WGNET_TEST_RUN").ok(),
        };
        let file = self.dir().join("lab.json");
        fs::create_dir_all(self.dir()).map_err(LabError::io("make the directory", self.dir()))?;
        let text = serde_json::to_string(&record).expect("a lab's record is plain data");
        fs::write(&file, text).map_err(LabError::io("write", &file))
    }

    fn underlay(&self) -> Underlay {
        Underlay { netns: format!("wgnl-{}-ul", self.name) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owner.is_some() && env::var_os("WGNET_LAB_KEEP").is_some() {
            eprintln!(
                "lab {} is kept: wgnet-lab --name {0} exec 1 bash; at the end: wgnet-lab --name {0} down",
                self.name
            );
        } else if self.owner.is_some()
            && let Err(error) = clear(&self.name)
        {
            eprintln!("lab {}: {error}", self.name);
        }
    }
}

fn in_parallel(hosts: &[Host], work: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let runs: Vec<_> = hosts.iter().map(|host| scope.spawn(|| work(host))).collect();
        let results: Vec<Result<()>> = runs
            .into_iter()
            .map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

fn base_dir() -> PathBuf {
    env::var_os("WGNET_LAB_DIR").map_or_else(usual_dir, PathBuf::from)
}

/// Hosts' disks are overlays, which cannot lie on one: where the machine's root is one, they are kept in memory.
fn usual_dir() -> PathBuf {
    let overlay = statfs("/var/tmp").is_ok_and(|fs| fs.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    PathBuf::from(if overlay { "/dev/shm/wgnet-lab" } else { "/var/tmp/wgnet-lab" })
}

fn lab_dir(name: &str) -> PathBuf {
    base_dir().join(name)
}

fn check_machine(options: &LabOptions) -> Result<()> {
    let name = &options.name;
    let fits =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty() || !name.chars().all(fits) {
        return Err(LabError::Machine(format!(
            "\"{name}\" cannot name a lab: lower-case letters, digits and dashes"
        )));
    }
    if options.hosts > 200 {
        return Err(LabError::Machine(format!(
            "{} hosts do not fit the underlay's addresses: at most 200",
            options.hosts
        )));
    }
    if !(1..=9).contains(&options.etcd_members) {
        return Err(LabError::Machine(format!(
            "etcd cannot have {} members here: 1 to 9",
            options.etcd_members
        )));
    }
    if !Uid::effective().is_root() {
        return Err(LabError::Machine(
            "the lab makes namespaces and mounts: run it as root".into(),
        ));
    }
    Ok(())
}

/// Ends and removes everything with this lab's mark: processes by control group, then namespaces, then files.
fn clear(name: &str) -> Result<()> {
    interrupt::settle();
    let processes = Cgroups::detect()?.group(&format!("wgnl-{name}")).clear();
    let prefix = format!("wgnl-{name}-");
    let members = |rest: &str| {
        rest == "ul"
            || rest.strip_prefix("etcd").is_some_and(|n| n.is_empty() || n.parse::<u8>().is_ok())
            || rest.strip_prefix('h').is_some_and(|n| n.parse::<u8>().is_ok())
    };
    let mut first_failure = processes;
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let netns = entry.file_name().to_string_lossy().into_owned();
        if netns.strip_prefix(&prefix).is_some_and(members) {
            first_failure = first_failure.and(underlay::remove(&netns));
        }
    }
    let dir = lab_dir(name);
    if dir.exists() {
        first_failure =
            first_failure.and(fs::remove_dir_all(&dir).map_err(LabError::io("remove", &dir)));
    }
    first_failure
}
