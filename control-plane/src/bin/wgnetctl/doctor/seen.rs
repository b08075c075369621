//! Looks at this host: files, processes, namespaces. Judges nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

/// What the kernel can do.
pub(super) struct Kernel {
    pub(super) release: String,
    /// Loaded, or there to be loaded.
    pub(super) has_wireguard: bool,
    pub(super) has_tun: bool,
    pub(super) has_nft: bool,
}

pub(super) struct State {
    pub(super) path: PathBuf,
    /// Why it cannot be written.
    pub(super) unwritable: Option<String>,
    pub(super) free: Option<u64>,
    /// Damaged files that were set aside.
    pub(super) aside: Vec<String>,
}

pub(super) fn kernel() -> Kernel {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let modules = fs::read_to_string(format!("/lib/modules/{release}/modules.dep"));
    let built_in = fs::read_to_string(format!("/lib/modules/{release}/modules.builtin"));
    let is_listed = |list: &std::io::Result<String>| {
        list.as_ref().is_ok_and(|list| list.contains("/wireguard.ko"))
    };
    Kernel {
        has_wireguard: Path::new("/sys/module/wireguard").exists()
            || is_listed(&modules)
            || is_listed(&built_in),
        has_tun: Path::new("/dev/net/tun").exists(),
        has_nft: program("nft").is_some(),
        release,
    }
}

/// Where a program is: in the path, or where administrators' programs are.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|it| it.is_file())
}

/// What a program prints; none if it cannot run, or fails.
pub(super) fn output(name: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program(name)?).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn state(directory: &Path) -> State {
    // A driver that never ran has made none yet.
    let exists = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let unwritable = access(exists, AccessFlags::W_OK).err();
    let free = statvfs(exists).ok().map(|it| it.blocks_available() * it.fragment_size());
    let names = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    State {
        path: exists.to_owned(),
        unwritable: unwritable.map(|error| error.to_string()),
        free,
        aside: names.filter(|name| name.contains(".damaged-")).collect(),
    }
}

/// Drivers in this network namespace, by process id: there must be one.
pub(super) fn drivers() -> Vec<u32> {
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = space("self");
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_driver = |pid: &u32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.trim_end_matches(" (deleted)") == "wgnet-driver")
            && space(&pid.to_string()) == here
    };
    ids.filter(is_driver).collect()
}

/// Namespaces with the driver's mark in their names.
pub(super) fn namespaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("wgnet-")).collect()
}
