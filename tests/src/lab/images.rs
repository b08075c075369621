//! Images made from the machine's own programs, so that no registry is needed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    command::run,
    error::{LabError, Result},
};

/// An image archive: its name, and the file that `docker import` reads.
pub(crate) struct Image {
    pub name: &'static str,
    pub archive: PathBuf,
}

/// `bb` is busybox with all its applets, `perf` the same with iperf3.
pub(crate) fn make(dir: &Path) -> Result<Vec<Image>> {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        make_dir(&tree.join(sub))?;
    }
    let busybox = program("busybox", "busybox-static")?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    for applet in run("busybox", &["--list"])?
        .text()?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        let at = tree.join("bin").join(applet);
        symlink("busybox", &at).map_err(LabError::io("make the link", &at))?;
    }
    let bb = pack(&tree, "bb", dir)?;

    let iperf3 = program("iperf3", "iperf3")?;
    let libraries = run("ldd", &[&iperf3.to_string_lossy()])?.text()?;
    for file in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(Path::new)
        .chain([iperf3.as_path()])
    {
        let at = tree.join(
            file.strip_prefix("/")
                .expect("libraries have absolute paths"),
        );
        make_dir(at.parent().expect("a file has a directory"))?;
        copy(file, &at)?;
    }
    Ok(vec![bb, pack(&tree, "perf", dir)?])
}

fn program(name: &str, package: &str) -> Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| {
            LabError::Machine(format!(
                "{name} is missing on this machine: apt-get install {package}"
            ))
        })
}

fn pack(tree: &Path, name: &'static str, dir: &Path) -> Result<Image> {
    let archive = dir.join(format!("{name}.tar"));
    run(
        "tar",
        &[
            "-C",
            &tree.to_string_lossy(),
            "-cf",
            &archive.to_string_lossy(),
            ".",
        ],
    )?
    .text()?;
    Ok(Image { name, archive })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .map_err(LabError::io("copy", from))
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(LabError::io("make the directory", dir))
}
