//! The Debian package on three hosts with real engines: installed, upgraded under a counted stream,
//! removed and purged. What starts the service there is the lab: its hosts have no systemd.

// tests/run: oldest

use std::fs;

use wgnet_tests::lab::{CONFIG, Host, Lab, LabError, LabOptions, Result, wait_for};
use wgnet_tests::package::packages;
use wgnet_tests::stream::Stream;
use wgnet_tests::swarm::{SOON, Swarm, eventually, status};

const DRIVER: &str = "/usr/sbin/wgnet-driver";
const DEB: &str = "/var/tmp/wgnet.deb";
const UNMOUNT: &str = "umount -l /opt/wgnet/wgnet-driver 2> /dev/null || true";

/// Where a package may leave something; the lab's own programs are elsewhere.
const OURS: &str = "find /etc /usr /lib /var/lib /run -xdev -name '*wgnet*' ! -path '/run/wgnet-lab*' \
    ! -path '/var/lib/docker/*' ! -path '/run/docker/*' | sort";

#[test]
#[ignore = "takes minutes"]
fn a_package_is_upgraded_under_traffic_and_leaves_nothing_when_purged() -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let packages = packages(dir.path(), &["1.0.0", "1.0.1"]);
    let package = |version: &str| {
        let entries = fs::read_dir(&packages).expect("it was made above").flatten();
        let is_it = |name: &str| name.starts_with(&format!("wgnet_{version}_"));
        let mut found = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_it));
        fs::read(found.next().expect("one of each version").path()).expect("it can be read")
    };
    let lab = Lab::start(LabOptions { name: "e2e-install".into(), ..LabOptions::default() })?;
    // The hosts' trees were unpacked, not installed: dpkg there knows of nothing.
    lab.on_all_hosts(|host| host.sh("touch /var/lib/dpkg/status").map(drop))?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.sh(OURS)).collect::<Result<_>>()?;
    let inventories: Vec<_> = lab.hosts().iter().map(Host::inventory).collect::<Result<_>>()?;

    let (old, new) = (package("1.0.0"), package("1.0.1"));
    lab.on_all_hosts(|host| install(host, &old))?;
    lab.make_secret()?;
    let config =
        lab.driver_config().replace("/opt/wgnet/wgnet-engine", "/usr/lib/wgnet/wgnet-engine");
    lab.on_all_hosts(|host| {
        host.driver_start(&config)?;
        host.exec(&["wgnetctl", "plugin", "install"]).map(drop)
    })?;
    lab.load_images()?;
    lab.swarm_init()?;
    let swarm = Swarm { lab };
    swarm.network("blue", &[])?;
    let (near, far) = (swarm.run(1, "near", "blue", &[])?, swarm.run(2, "far", "blue", &[])?);
    eventually("the first ping", SOON, || near.ping("far").is_ok())?;

    let stream = Stream::start(&near, &far)?;
    for host in swarm.lab.hosts() {
        install(host, &new)?;
        restart(host)?;
        assert_eq!(host.read(CONFIG)?, config, "settings are kept");
    }
    let late = swarm.run(3, "late", "blue", &[])?;
    eventually("a container after the upgrade", SOON, || late.ping("near").is_ok())?;
    let report = stream.finish()?;
    println!("  upgrade of three hosts: {} of {} packets lost", report.lost(), report.sent());
    assert_eq!(report.lost(), 0, "{report:?}");

    for container in [&near, &far, &late] {
        swarm.remove(container)?;
    }
    swarm.host(1).docker(&["network", "rm", "blue"])?;
    swarm.lab.on_all_hosts(|host| {
        eventually("the network to be gone", SOON, || {
            status(host).is_ok_and(|status| status.networks.is_empty())
        })?;
        host.docker(&["plugin", "rm", "-f", "wgnet:latest"])?;
        host.driver_stop()?;
        host.sh(UNMOUNT)?;
        host.exec(&["dpkg", "--force-bad-path", "-r", "wgnet"])?;
        assert!(host.read(CONFIG).is_ok(), "settings stay until it is purged");
        host.exec(&["dpkg", "--force-bad-path", "-P", "wgnet"]).map(drop)
    })?;
    for ((host, before), inventory) in swarm.lab.hosts().iter().zip(before).zip(&inventories) {
        // The lab's own empty directories may have gone with the package's.
        let after = host.sh(OURS)?;
        let new: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
        assert!(new.is_empty(), "files on {}: {new:?}", host.name());
        let mut left = host.inventory()?.changes_since(inventory);
        // The swarm stays.
        let dockers = ["docker_gwbridge", "docker/", "ingress", "udp *:7946", "udp 0.0.0.0:4789"];
        left.retain(|line| !dockers.iter().any(|its| line.contains(its)));
        assert!(left.is_empty(), "{}: {left:#?}", host.name());
    }
    Ok(())
}

/// What an administrator types; and the lab's service is to run the package's program.
fn install(host: &Host, package: &[u8]) -> Result<()> {
    host.write(DEB, package)?;
    // nftables is there, but nobody told dpkg; diff and ldconfig are not, and not needed.
    host.exec(&["dpkg", "--force-depends", "--force-bad-path", "-i", DEB])?;
    // The file that was mounted before is no more.
    let mount = format!("{UNMOUNT}; rm {DEB}; mount --bind {DRIVER} /opt/wgnet/wgnet-driver");
    host.sh(&mount).map(drop)
}

/// What the unit does after an upgrade.
fn restart(host: &Host) -> Result<()> {
    let old = host.driver_pid();
    host.driver_kill("TERM")?;
    wait_for("the new driver", SOON, || {
        let pid = host.driver_pid().filter(|pid| Some(*pid) != old);
        let pid = pid.ok_or_else(|| LabError::Machine("it does not run".to_owned()))?;
        host.sh(&format!("[ /proc/{pid}/exe -ef {DRIVER} ]"))
    })?;
    eventually("the new driver's answer", SOON, || host.wgnetctl(&["status"]).is_ok())
}
