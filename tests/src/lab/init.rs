//! From a process of the machine to pid 1 of a host: run as `wgnet-lab host-init`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::{pivot_root, sethostname, setsid},
};
use serde::{Deserialize, Serialize};

use super::{
    cgroup::{Cgroups, Group},
    error::{LabError, Result},
    underlay::pin,
};

/// Everything the inside of a host is made from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostSpec {
    pub name: String,
    pub netns: String,
    /// The tree all hosts of a suite share, read-only.
    pub root: PathBuf,
    /// What this host keeps over a power cut.
    pub disk: PathBuf,
    pub binaries: PathBuf,
    pub cgroups: Cgroups,
    pub group: Group,
}

/// Moves into the host's namespaces, starts its pid 1 and prints that one's process id once the host is complete.
pub fn host_init(spec_json: &str) -> Result<()> {
    let spec = parse(spec_json)?;
    spec.group.enter_root()?;
    let netns = fs::File::open(pin(&spec.netns)).map_err(LabError::io("open", pin(&spec.netns)))?;
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(LabError::errno("enter the namespace", &spec.netns))?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).map_err(LabError::errno("make namespaces for", &spec.name))?;
    spec.group.enter_leaf()?;

    let mut init = Command::new("/proc/self/exe")
        .args(["host-init", "--inside", spec_json])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(LabError::io("start pid 1 of", &spec.name))?;
    let mut said = String::new();
    let stdout = init.stdout.take().expect("stdout was piped");
    BufReader::new(stdout)
        .read_line(&mut said)
        .map_err(LabError::io("hear from pid 1 of", &spec.name))?;
    if said.trim() != "ready" {
        let _ = init.wait();
        return Err(LabError::Machine(format!(
            "pid 1 of {} ended before the host was complete",
            spec.name
        )));
    }
    println!("{}", init.id());
    Ok(())
}

/// Pid 1: mounts the host's own file systems, then becomes tini.
pub fn inside(spec_json: &str) -> Result<()> {
    let spec = parse(spec_json)?;
    mount_all(&spec)?;
    name_host(&spec.name)?;
    setsid().map_err(LabError::errno("leave the session of", &spec.name))?;
    println!("ready");
    std::io::stdout().flush().map_err(LabError::io("report from", &spec.name))?;
    let error = Command::new("/usr/bin/tini-static")
        .args(["-s", "--", "sleep", "infinity"])
        .env_clear()
        .env("PATH", super::host::PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .exec();
    Err(LabError::io("run", "/usr/bin/tini-static")(error))
}

fn parse(spec_json: &str) -> Result<HostSpec> {
    serde_json::from_str(spec_json)
        .map_err(|error| LabError::io("read", "the host's description")(error.into()))
}

fn mount_all(spec: &HostSpec) -> Result<()> {
    let none = MsFlags::empty();
    let new = spec.disk.join("mnt");
    attach(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        spec.root.display(),
        spec.disk.join("upper").display(),
        spec.disk.join("work").display()
    );
    attach(Some("overlay"), &new, Some("overlay"), none, Some(&layers))?;
    attach(Some("proc"), &new.join("proc"), Some("proc"), none, None)?;
    attach(Some("sysfs"), &new.join("sys"), Some("sysfs"), none, None)?;
    attach(Some("/dev"), &new.join("dev"), None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    attach(Some("tmpfs"), &new.join("run"), Some("tmpfs"), none, Some("mode=755"))?;
    attach(Some("tmpfs"), &new.join("tmp"), Some("tmpfs"), none, None)?;
    mount_cgroups(&spec.cgroups, &new.join("sys/fs/cgroup"))?;

    // The engine's layers are overlays themselves and need a real file system below.
    for dir in ["docker", "containerd"] {
        bind(&spec.disk.join(dir), &new.join("var/lib").join(dir), false)?;
    }
    bind(&spec.binaries, &new.join("opt/wgnet"), true)?;
    if Path::new("/lib/modules").exists() {
        bind(Path::new("/lib/modules"), &new.join("usr/lib/modules"), true)?;
    }

    std::env::set_current_dir(&new).map_err(LabError::io("enter", &new))?;
    pivot_root(".", ".").map_err(LabError::errno("make the root of the host", &new))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(LabError::errno("leave", "the machine's root"))?;
    std::env::set_current_dir("/").map_err(LabError::io("enter", "/"))?;
    // As systemd leaves it; Docker's propagated mounts depend on it.
    attach(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)
}

fn mount_cgroups(cgroups: &Cgroups, at: &Path) -> Result<()> {
    match cgroups {
        Cgroups::V2(_) => attach(Some("cgroup2"), at, Some("cgroup2"), MsFlags::empty(), None),
        Cgroups::V1(hierarchies) => {
            attach(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
            for hierarchy in hierarchies {
                let dir = at.join(
                    hierarchy.mount.file_name().expect("a hierarchy has a mount point of its own"),
                );
                make_dir(&dir)?;
                attach(
                    Some("cgroup"),
                    &dir,
                    Some("cgroup"),
                    MsFlags::empty(),
                    Some(&hierarchy.options),
                )?;
            }
            Ok(())
        }
    }
}

fn name_host(name: &str) -> Result<()> {
    sethostname(name).map_err(LabError::errno("name the host", name))?;
    write("/etc/hostname", &format!("{name}\n"))?;
    write("/etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    for dir in ["/run/netns", "/run/lock", "/run/docker/plugins", "/run/wgnet-lab", "/var/log"] {
        make_dir(Path::new(dir))?;
    }
    // The kernel is the machine's and does not boot when the host does, so the host gets a boot id of its own each time.
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(LabError::io("read", "/proc/sys/kernel/random/uuid"))?;
    write("/run/wgnet-lab/boot_id", &id)?;
    bind(Path::new("/run/wgnet-lab/boot_id"), Path::new("/proc/sys/kernel/random/boot_id"), true)
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, data).map_err(LabError::errno("mount", target))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(LabError::errno("mount", target))?;
    if read_only {
        attach(
            None,
            target,
            None,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            None,
        )?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(LabError::io("make the directory", dir))
}

fn write(file: &str, text: &str) -> Result<()> {
    fs::write(file, text).map_err(LabError::io("write", file))
}
