//! Trees with a Debian suite's Docker Engine: unpacked from its packages, not installed, kept in a cache.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    command::{run, run_within},
    error::{LabError, Result},
};

/// Goes up with every change of what a tree contains, so that no old one is taken for a new one.
const EDITION: u32 = 3;
const DOWNLOAD: Duration = Duration::from_secs(900);

const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "busybox-static",
    "ca-certificates",
    "coreutils",
    "dash",
    "docker.io",
    "dpkg",
    "findutils",
    "grep",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "mount",
    "nftables",
    "perl-base",
    "procps",
    "sed",
    "tar",
    "tini",
    "util-linux",
    "wireguard-tools",
];

/// The Debian release that an engine is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Engine 20.10
    Bookworm,
    /// Engine 26.1
    Trixie,
    /// Engine 28
    Sid,
}

/// Names the suite whose engine every lab gets that asks for no other.
const WANTED: &str = "WGNET_TEST_SUITE";

impl Default for Suite {
    /// `WGNET_TEST_SUITE`, else the oldest.
    ///
    /// # Panics
    ///
    /// When it names no suite: tests would prove something else than they were asked to.
    fn default() -> Self {
        match env::var(WANTED) {
            Ok(name) => name.parse().unwrap_or_else(|error| panic!("{WANTED}: {error}")),
            Err(_) => Self::Bookworm,
        }
    }
}

impl Suite {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// Since trixie the client is a package of its own.
    fn more_packages(self) -> &'static [&'static str] {
        if self == Self::Bookworm { &[] } else { &["docker-cli"] }
    }
}

impl std::str::FromStr for Suite {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Bookworm, Self::Trixie, Self::Sid]
            .into_iter()
            .find(|suite| suite.name() == name)
            .ok_or_else(|| format!("no suite \"{name}\": bookworm, trixie or sid"))
    }
}

/// Puts a suite's tree into the cache, for a lab where nothing can be fetched.
pub fn prepare(suite: Suite) -> Result<PathBuf> {
    root(suite)
}

pub fn is_prepared(suite: Suite) -> Result<bool> {
    Ok(place(suite)?.exists())
}

fn place(suite: Suite) -> Result<PathBuf> {
    let name = format!("{}-{EDITION}", suite.name());
    Ok(cache_dir()?.join("roots").join(name))
}

/// The tree of a suite, made first if the cache lacks it.
pub(super) fn root(suite: Suite) -> Result<PathBuf> {
    let tree = place(suite)?;
    if tree.exists() {
        return Ok(tree);
    }
    let roots = cache_dir()?.join("roots");
    fs::create_dir_all(&roots).map_err(LabError::io("make the directory", &roots))?;
    let lock_path = roots.join(format!(".{}.lock", suite.name()));
    let lock = fs::File::create(&lock_path).map_err(LabError::io("make the lock", &lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| LabError::errno("lock", &lock_path)(errno))?;
    if !tree.exists() {
        let work = roots.join(format!(".{}.new", suite.name()));
        let _ = fs::remove_dir_all(&work);
        let fresh = make(suite, &work)?;
        fs::rename(&fresh, &tree).map_err(LabError::io("put in place", &tree))?;
        let _ = fs::remove_dir_all(&work);
    }
    Ok(tree)
}

fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("WGNET_CACHE") {
        return Ok(dir.into());
    }
    env::var_os("HOME").map(|home| Path::new(&home).join(".cache/wgnet")).ok_or_else(|| {
        LabError::Machine(
            "neither WGNET_CACHE nor HOME is set: no place for the engines' trees".into(),
        )
    })
}

fn make(suite: Suite, work: &Path) -> Result<PathBuf> {
    let name = suite.name();
    let archives = work.join("cache/archives");
    let lists = work.join("lists");
    for dir in [archives.join("partial"), lists.join("partial")] {
        fs::create_dir_all(&dir).map_err(LabError::io("make the directory", &dir))?;
    }
    let sources = work.join("sources.list");
    let keyring = ["gpg", "pgp"]
        .map(|ending| format!("/usr/share/keyrings/debian-archive-keyring.{ending}"))
        .into_iter()
        .find(|file| Path::new(file).exists())
        .ok_or_else(|| {
            LabError::Machine(
                "Debian's archive keys are missing: apt-get install debian-archive-keyring".into(),
            )
        })?;
    write(&sources, &format!("deb [signed-by={keyring}] {} {name} main\n", mirror()?))?;
    let status = work.join("status");
    write(&status, "")?;

    // Nothing of the machine's own package state is read or changed; its proxy settings stay in force.
    let settings = [
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=/dev/null".into(),
        "Dir::Etc::preferences=/dev/null".into(),
        "Dir::Etc::preferencesparts=/dev/null".into(),
        format!("Dir::State::lists={}", lists.display()),
        format!("Dir::State::status={}", status.display()),
        format!("Dir::Cache={}", work.join("cache").display()),
        "Dir::Cache::pkgcache=".into(),
        "Dir::Cache::srcpkgcache=".into(),
        "APT::Default-Release=".into(),
        "APT::Install-Recommends=0".into(),
        "APT::Sandbox::User=root".into(),
        "Debug::NoLocking=1".into(),
    ];
    let options: Vec<&str> = settings.iter().flat_map(|setting| ["-o", setting]).collect();
    eprintln!("fetching Debian's {name} packages of the engine (once; about 90 MB)");
    run_within(DOWNLOAD, "apt-get", &[&options[..], &["-q", "update"]].concat())?.text()?;
    // The trailing minus keeps a package out: the engine's dependency on git only serves builds.
    let install = ["-q", "-y", "--download-only", "install", "git-"];
    run_within(
        DOWNLOAD,
        "apt-get",
        &[&options[..], &install, PACKAGES, suite.more_packages()].concat(),
    )?
    .text()?;

    let mut packages: Vec<PathBuf> = fs::read_dir(&archives)
        .map_err(LabError::io("list", &archives))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .collect();
    // base-files comes first: it carries the links that merge /bin into /usr/bin.
    let is_base = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("base-files_"))
    };
    packages.sort_by_key(|path| (!is_base(path), path.clone()));
    eprintln!("unpacking {} packages of {name}", packages.len());
    let tree = work.join("root");
    for package in &packages {
        run("dpkg", &["-x", &package.to_string_lossy(), &tree.to_string_lossy()])?.text()?;
    }
    finish(&tree)?;
    Ok(tree)
}

/// What the packages' own scripts would have done.
fn finish(tree: &Path) -> Result<()> {
    for family in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            link("xtables-nft-multi", &tree.join("usr/sbin").join(format!("{family}{tool}")))?;
        }
    }
    for dir in [
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "var/lib/docker",
        "var/lib/containerd",
        "etc/docker",
        "opt/cni",
        "opt/wgnet",
        "etc/wgnet",
        "var/lib/wgnet",
        "usr/lib/modules",
    ] {
        let dir = tree.join(dir);
        fs::create_dir_all(&dir).map_err(LabError::io("make the directory", &dir))?;
    }
    if !tree.join("bin/sh").exists() {
        link("dash", &tree.join("bin/sh"))?;
    }
    let run_link = tree.join("var/run");
    if !run_link.is_symlink() {
        let _ = fs::remove_dir(&run_link);
        link("/run", &run_link)?;
    }
    for (file, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\ntty:x:5:\ndocker:x:999:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("etc/resolv.conf", ""),
    ] {
        write(&tree.join(file), text)?;
    }
    Ok(())
}

fn link(target: &str, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(target, at).map_err(LabError::io("make the link", at))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(LabError::io("write", file))
}

/// The mirror this machine itself installs Debian from.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("WGNET_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts);
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| mirror_in(&text)).ok_or_else(|| {
        LabError::Machine("no Debian mirror is named in /etc/apt/sources.list or sources.list.d: add one, or set WGNET_DEBIAN_MIRROR".into())
    })
}

/// The first address in a list of sources, of either format, that serves a Debian release's main component.
fn mirror_in(text: &str) -> Option<String> {
    let serves_debian = |suites: &str, components: &str| {
        let releases = ["stable", "testing", "unstable", "sid", "bookworm", "trixie", "forky"];
        suites.split_whitespace().any(|suite| releases.contains(&suite))
            && components.split_whitespace().any(|part| part == "main")
    };
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
        let bare = match (line.find('['), line.find(']')) {
            (Some(start), Some(end)) if start < end => {
                format!("{}{}", &line[..start], &line[end + 1..])
            }
            _ => line.to_owned(),
        };
        let mut words = bare.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next())
            && !uri.starts_with("cdrom:")
            && serves_debian(suite, &words.collect::<Vec<_>>().join(" "))
        {
            return Some(uri.to_owned());
        }
    }
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                line.split_once(':')
                    .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.trim())
            })
        };
        let enabled = !field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        let uri = field("URIs")?.split_whitespace().next()?;
        (enabled && serves_debian(field("Suites")?, field("Components")?)).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn a_mirror_is_found_in_both_formats_of_sources() {
        let modern = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://other.example/x\n";
        assert_eq!(mirror_in(modern).as_deref(), Some("http://mirror.example/debian"));
        let old = "# deb http://no.example/debian trixie main\ndeb [signed-by=/k arch=amd64] http://mirror.example/debian trixie main contrib\n";
        assert_eq!(mirror_in(old).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn another_vendors_source_is_not_taken_for_debians() {
        assert_eq!(mirror_in("deb http://vendor.example/apt tool-bookworm main\n"), None);
        assert_eq!(
            mirror_in(
                "Types: deb\nURIs: http://vendor.example/apt\nSuites: nodistro\nComponents: main\n"
            ),
            None
        );
        let security = "deb http://sec.example/debian-security bookworm-security main\n";
        assert_eq!(mirror_in(security), None);
    }
}
