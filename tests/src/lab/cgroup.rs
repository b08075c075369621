//! Control groups, version 1 and 2: what belongs to a lab, its freezing and its end.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::error::{LabError, Result};

/// How this machine has its control groups mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Cgroups {
    /// One hierarchy per controller (or set of controllers).
    V1(Vec<Hierarchy>),
    V2(PathBuf),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    pub mount: PathBuf,
    /// What to give `mount -o` to see the same hierarchy elsewhere.
    pub options: String,
}

impl Cgroups {
    pub(crate) fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(LabError::io("read", "/proc/self/mountinfo"))?;
        let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let controllers: Vec<&str> =
            controllers.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let mut hierarchies = Vec::new();
        let mut unified = None;
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = place.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut kind = kind.split(' ');
            match (kind.next(), kind.nth(1)) {
                (Some("cgroup2"), _) => unified = Some(mount),
                (Some("cgroup"), Some(options)) => {
                    let mut options: Vec<&str> = options
                        .split(',')
                        .filter(|option| {
                            option.starts_with("name=") || controllers.contains(option)
                        })
                        .collect();
                    if options.iter().any(|option| option.starts_with("name=")) {
                        options.insert(0, "none");
                    }
                    hierarchies.push(Hierarchy { mount, options: options.join(",") });
                }
                _ => {}
            }
        }
        match unified {
            Some(mount) if hierarchies.is_empty() => Ok(Self::V2(mount)),
            _ if hierarchies.iter().any(|hierarchy| hierarchy.options == "freezer") => Ok(Self::V1(hierarchies)),
            _ => Err(LabError::Machine(
                "no usable control groups are mounted below /sys/fs/cgroup: the lab needs cgroup2, or cgroup v1 with the freezer".into(),
            )),
        }
    }

    pub(crate) fn group(&self, name: &str) -> Group {
        let v2 = matches!(self, Self::V2(_));
        let mounts: Vec<&Path> = match self {
            Self::V1(hierarchies) => {
                hierarchies.iter().map(|hierarchy| hierarchy.mount.as_path()).collect()
            }
            Self::V2(mount) => vec![mount],
        };
        let freezer = match self {
            Self::V1(hierarchies) => hierarchies
                .iter()
                .find(|hierarchy| hierarchy.options == "freezer")
                .map_or(mounts[0], |hierarchy| hierarchy.mount.as_path()),
            Self::V2(mount) => mount,
        };
        Group {
            v2,
            freezer: freezer.join(name),
            dirs: mounts.iter().map(|mount| mount.join(name)).collect(),
        }
    }
}

/// One named group in every hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    v2: bool,
    freezer: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Makes the group, its parent included.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in &self.dirs {
            let parent = dir.parent().expect("a group lies below a mount point");
            if self.v2 {
                enable_controllers(
                    parent.parent().expect("a lab's group lies below the mount point"),
                );
                make_dir(parent)?;
                enable_controllers(parent);
                make_dir(dir)?;
                make_dir(&dir.join("init"))?;
            } else {
                for level in [parent, dir] {
                    make_dir(level)?;
                    fill_cpuset(level);
                }
            }
        }
        Ok(())
    }

    /// The files a process writes its id to in order to enter. Version 2 allows no process beside child groups, hence the leaf.
    pub(crate) fn entrances(&self) -> Vec<PathBuf> {
        let leaf = if self.v2 { "init/cgroup.procs" } else { "cgroup.procs" };
        self.dirs.iter().map(|dir| dir.join(leaf)).collect()
    }

    /// Enters the group itself: what a cgroup namespace made afterwards takes as its root.
    pub(crate) fn enter_root(&self) -> Result<()> {
        self.dirs.iter().try_for_each(|dir| write(&dir.join("cgroup.procs"), "0"))
    }

    /// Leaves the root of the group for its leaf and hands the controllers down to what will be made beside it.
    pub(crate) fn enter_leaf(&self) -> Result<()> {
        if self.v2 {
            self.entrances().iter().try_for_each(|file| write(file, "0"))?;
            self.dirs.iter().for_each(|dir| enable_controllers(dir));
        }
        Ok(())
    }

    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, order, state_file) = if self.v2 {
            ("cgroup.freeze", if frozen { "1" } else { "0" }, "cgroup.events")
        } else {
            ("freezer.state", if frozen { "FROZEN" } else { "THAWED" }, "freezer.state")
        };
        write(&self.freezer.join(file), order)?;
        let reached = if self.v2 { format!("frozen {order}") } else { order.to_owned() };
        let state = self.freezer.join(state_file);
        super::command::wait_until(
            &format!(
                "{} of {}",
                if frozen { "freezing" } else { "thawing" },
                self.freezer.display()
            ),
            Duration::from_secs(10),
            || {
                fs::read_to_string(&state)
                    .is_ok_and(|text| text.lines().any(|line| line == reached))
            },
        )?;
        Ok(())
    }

    /// The processes in the group and below it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        visit(&self.freezer, &mut |dir| {
            let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(
                listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0),
            );
        });
        pids
    }

    /// Kills whatever is in the group, then removes it. A group that does not exist is already as wished.
    pub(crate) fn clear(&self) -> Result<()> {
        if !self.dirs.iter().any(|dir| dir.exists()) {
            return Ok(());
        }
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            visit(&self.freezer, &mut |dir| {
                // Only what is thawed can die.
                let _ = fs::write(
                    dir.join(if self.v2 { "cgroup.freeze" } else { "freezer.state" }),
                    if self.v2 { "0" } else { "THAWED" },
                );
            });
            for pid in self.pids() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            for dir in &self.dirs {
                visit(dir, &mut |dir| {
                    let _ = fs::remove_dir(dir);
                });
            }
            let Some(left) = self.dirs.iter().find(|dir| dir.exists()) else {
                return Ok(());
            };
            if Instant::now() >= limit {
                return Err(LabError::Machine(format!(
                    "the control group {} cannot be removed; processes left in it: {:?}",
                    left.display(),
                    self.pids()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Children first, so that a visitor may remove what it is shown.
fn visit(dir: &Path, visitor: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), visitor);
        }
    }
    visitor(dir);
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(LabError::io("make the control group", dir)(error))
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(LabError::io("write to", file))
}

/// Which controllers there are differs between machines; the engine works with those it finds.
fn enable_controllers(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A fresh cpuset is empty and takes no process until it has processors and memory.
fn fill_cpuset(dir: &Path) {
    let parent = dir.parent().expect("a group lies below a mount point");
    if dir.join("cpuset.cpus").exists() {
        let _ = fs::write(dir.join("cgroup.clone_children"), "1");
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim().is_empty())
            && let Ok(inherited) = fs::read_to_string(parent.join(file))
        {
            let _ = fs::write(dir.join(file), inherited.trim());
        }
    }
}
