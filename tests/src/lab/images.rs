//! Images made from the programs of an engine's tree, so that no registry is needed.

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

/// `bb` is busybox with all its applets, `perf` the same with iperf3; `root` is a suite's tree.
pub(crate) fn make(root: &Path, dir: &Path) -> Result<Vec<Image>> {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        make_dir(&tree.join(sub))?;
    }
    let busybox = tree.join("bin/busybox");
    copy(&root.join("bin/busybox"), &busybox)?;
    let applets = run(&busybox.to_string_lossy(), &["--list"])?.text()?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let at = tree.join("bin").join(applet);
        symlink("busybox", &at).map_err(LabError::io("make the link", &at))?;
    }
    let bb = pack(&tree, "bb", dir)?;

    let iperf3 = "/usr/bin/iperf3";
    // What ldd does, but among the tree's libraries, not the machine's.
    let list = ["env", "LD_TRACE_LOADED_OBJECTS=1", iperf3];
    let libraries = run("chroot", &[&[&*root.to_string_lossy()][..], &list].concat())?.text()?;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([iperf3]) {
        // The C library loads this one by itself when a thread is cancelled.
        let companion = file.strip_suffix("libc.so.6").map(|dir| format!("{dir}libgcc_s.so.1"));
        for file in [Some(file), companion.as_deref()].into_iter().flatten() {
            let inside = file.trim_start_matches('/');
            let at = tree.join(inside);
            make_dir(at.parent().expect("a file has a directory"))?;
            copy(&root.join(inside), &at)?;
        }
    }
    Ok(vec![bb, pack(&tree, "perf", dir)?])
}

fn pack(tree: &Path, name: &'static str, dir: &Path) -> Result<Image> {
    let archive = dir.join(format!("{name}.tar"));
    run("tar", &["-C", &tree.to_string_lossy(), "-cf", &archive.to_string_lossy(), "."])?.text()?;
    Ok(Image { name, archive })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(LabError::io("copy", from))
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(LabError::io("make the directory", dir))
}
