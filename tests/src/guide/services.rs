//! What apt and systemd are to a real host, for the lab's, which have neither: packages without
//! fetching anything, and services as their units say.

use std::process::Command;
use std::time::Duration;

use crate::lab::{Host, LabError, Result, Running, wait_for};
use crate::swarm::SOON;

const ETCD_PID: &str = "/run/wgnet-lab/etcd.pid";
const ETCD_END: Duration = Duration::from_secs(20);

/// Nobody told the host's dpkg of what is there, and not all that it looks for is needed.
const DPKG: &str = "dpkg --force-depends --force-bad-path";

/// The machine's program, with the libraries that it wants: the host's may be of another release.
const BRING: &str = r#"
umask 022
program=$(command -v "$1") to=usr/local/lib/$1
mkdir -p "$2/$to"
cp -L "$program" "$2/$to/program"
libraries=$(ldd "$program" 2> /dev/null | grep -o '/[^ ]*' || true)
loader=
for library in $libraries; do
    cp -L "$library" "$2/$to/"
    case $library in */ld-*) loader="/$to/${library##*/} --library-path /$to " ;; esac
done
printf '#!/bin/sh\nexec %s/%s/program "$@"\n' "$loader" "$to" > "$2/usr/bin/$1"
chmod 755 "$2/usr/bin/$1"
"#;

/// Runs a script of the machine's bash.
///
/// # Errors
///
/// When it fails.
pub fn on_machine(script: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]).args(args);
    Running::start(command, format!("bash {args:?}"), None)?.finish(2 * SOON)?.text()
}

/// Puts a program of the machine into a host.
///
/// # Errors
///
/// When the machine has none.
pub fn bring(host: &Host, program: &str) -> Result<()> {
    on_machine(BRING, &[program, &host.path("/").to_string_lossy()]).map(drop)
}

/// Makes a user for a service, as its package does.
///
/// # Errors
///
/// What the host says.
pub fn user(host: &Host, name: &str, number: u32) -> Result<()> {
    host.sh(&format!(
        "grep -q '^{name}:' /etc/passwd || {{ \
         echo '{name}:x:{number}:{number}::/var/lib/{name}:/usr/sbin/nologin' >> /etc/passwd; \
         echo '{name}:x:{number}:' >> /etc/group; }}"
    ))
    .map(drop)
}

/// Debian's packages etcd-server and etcd-client.
///
/// # Errors
///
/// What the machine or the host says.
pub fn install_etcd(host: &Host) -> Result<()> {
    bring(host, "etcd")?;
    bring(host, "etcdctl")?;
    user(host, "etcd", 101)?;
    host.sh("mkdir -p -m 700 /var/lib/etcd; chown etcd: /var/lib/etcd; touch /etc/default/etcd")
        .map(drop)
}

/// The package that is in /root; a driver that runs is restarted, as the package does.
///
/// # Errors
///
/// What dpkg or the driver says.
pub fn install(host: &Host) -> Result<()> {
    host.sh(&format!("cd /root; {DPKG} -i ./wgnet_*.deb"))?;
    if host.driver_pid().is_none() {
        return Ok(());
    }
    systemctl(host, "restart", "wgnet-driver")?;
    let pid = host.driver_pid().unwrap_or_default();
    host.sh(&format!("[ /proc/{pid}/exe -ef /usr/sbin/wgnet-driver ]")).map(drop)
}

/// What the package's script has systemd do first, and the rest.
///
/// # Errors
///
/// What the driver or dpkg says.
pub fn remove(host: &Host) -> Result<()> {
    host.driver_stop()?;
    host.sh(&format!("{DPKG} -r wgnet")).map(drop)
}

/// # Errors
///
/// What dpkg says.
pub fn purge(host: &Host) -> Result<()> {
    host.sh(&format!("{DPKG} -P wgnet")).map(drop)
}

/// # Errors
///
/// When the service does not do so, or the lab does not know how it should.
pub fn systemctl(host: &Host, verb: &str, unit: &str) -> Result<()> {
    match (verb, unit) {
        ("start", "wgnet-driver") => start_driver(host),
        ("restart", "wgnet-driver") => restart_driver(host),
        ("stop", "wgnet-driver") => host.driver_stop(),
        ("status", "wgnet-driver") if host.driver_pid().is_some() => Ok(()),
        ("start", "etcd") => start_etcd(host),
        ("stop", "etcd") => stop_etcd(host),
        ("restart", "etcd") => stop_etcd(host).and_then(|()| start_etcd(host)),
        ("status", "etcd") if host.service_pid(ETCD_PID).is_some() => Ok(()),
        _ => Err(LabError::Machine(format!("{}: {verb} {unit}: no, or unknown", host.name()))),
    }
}

/// Ready is what answers.
fn start_driver(host: &Host) -> Result<()> {
    let unit = host.sh("cat $(dpkg -L wgnet | grep '/wgnet-driver[.]service$')")?;
    let settings = |name: &str| {
        let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    for needed in settings("ConditionPathExists") {
        host.sh(&format!("[ -e {needed} ]"))?;
    }
    let command = settings("ExecStart").pop().unwrap_or_default();
    host.driver_run(&command.split_whitespace().collect::<Vec<_>>())?;
    answers(host)
}

fn restart_driver(host: &Host) -> Result<()> {
    let Some(old) = host.driver_pid() else {
        return start_driver(host);
    };
    host.driver_kill("TERM")?;
    wait_for(&format!("another driver on {}", host.name()), SOON, || {
        host.driver_pid().filter(|pid| *pid != old).ok_or("it does not run")
    })?;
    answers(host)
}

fn answers(host: &Host) -> Result<()> {
    let what = format!("an answer of the driver on {}", host.name());
    wait_for(&what, SOON, || host.exec(&["wgnetctl", "status"])).map(drop)
}

/// What is in Debian's unit; who may read the certificates matters.
fn start_etcd(host: &Host) -> Result<()> {
    if host.service_pid(ETCD_PID).is_some() {
        return Ok(());
    }
    let run = "set -a; . /etc/default/etcd; \
               exec setpriv --reuid etcd --regid etcd --clear-groups -- etcd";
    host.start_service("etcd", &["sh", "-ec", run])
}

fn stop_etcd(host: &Host) -> Result<()> {
    let Some(pid) = host.service_pid(ETCD_PID) else {
        return Ok(());
    };
    host.signal(pid, "TERM")?;
    host.wait_gone(pid, "etcd", ETCD_END)
}
