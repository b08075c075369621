//! The Debian package, made of the programs that were built last.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::binaries;

const PROGRAMS: [&str; 4] = ["wgnet-driver", "wgnetctl", "wgnet-engine", "wgnet-shim"];

/// A package of each version, in a directory below this one.
///
/// # Panics
///
/// When one cannot be made.
pub fn packages(dir: &Path, versions: &[&str]) -> PathBuf {
    let (stripped, packages) = (dir.join("programs"), dir.join("packages"));
    fs::create_dir(&stripped).expect("the directory is the caller's");
    let built = binaries().expect("the programs were built");
    for program in PROGRAMS {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(stripped.join(program)).arg(built.join(program));
        finish(strip);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    for version in versions {
        let mut package = Command::new(root.join("deploy/package"));
        package.arg("--programs").arg(&stripped).arg("--output").arg(&packages);
        package.env("WGNET_PACKAGE_VERSION", version).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
        finish(package);
    }
    packages
}

/// What a program prints.
///
/// # Panics
///
/// When it fails.
pub fn finish(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let also = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{also}", output.status);
    said
}
