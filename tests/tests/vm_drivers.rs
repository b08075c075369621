//! Three drivers with a real etcd on the kernel's own WireGuard, driven by calls that real engines
//! made. Wants a kernel with WireGuard (the virtual machine of tests/vm), and fails without.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::json;
use wgnet_proto::status::{DriverStatus, NetworkStatus};
use wgnet_tests::lab::{self, Host, Lab, LabError, LabOptions, Result, Suite, wait_for};
use wgnet_tests::plugin::Dockerless;
use wgnet_tests::replay::{Replay, Sandbox};
use wgnet_tests::swarm::{SOON, eventually};

const RECORDING: &str = include_str!("../calls/20.10-A-normal-life.jsonl");

/// Programs start 20 to 50 times slower in an emulated machine.
const PATIENCE: u32 = 4;

/// The recording's first network: nine containers on three hosts in its scene A6.
const SUBNET: &str = "10.50.0.0/24";
const GATEWAY: &str = "10.50.0.1/32";

#[test]
fn recorded_life_of_three_hosts_is_carried_by_the_kernels_wireguard() -> Result<()> {
    lab::be_patient(PATIENCE);
    assert_kernel_has_wireguard();
    assert!(
        lab::is_prepared(Suite::default())?,
        "the hosts' tree is not in the cache, and the virtual machine has no network to fetch it: \
         run `cargo run -p wgnet-tests -- prepare` on the machine first"
    );
    let clock = Instant::now();
    let step = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    step("three hosts and etcd");
    let lab = Lab::start(LabOptions {
        name: "vm-drivers".into(),
        engines: false,
        ..LabOptions::default()
    })?;
    // The guest takes its files with it.
    let _logs = Logs(&lab);
    step("drivers");
    lab.make_secret()?;
    let config = lab.driver_config_with("kernel")
        + "legacy_socket = true\nlog = \"info,wgnet_driver=debug\"\n";
    lab.on_all_hosts(|host| host.driver_start(&config))?;
    lab.on_all_hosts(|host| {
        let ready = || match status(host) {
            Ok(status) if status.store.connected => Ok(status.backend),
            Ok(status) => Err(format!("{:?}", status.store)),
            Err(error) => Err(format!("{error}; log:\n{}", host.driver_log())),
        };
        let (backend, _) = wait_for("a driver with etcd", SOON, ready)?;
        assert_eq!(backend, "kernel", "{}", host.name());
        Ok(())
    })?;
    let before = traces(&lab)?;

    step("recorded calls until nine containers run");
    let mut replay = Replay::new(&lab, RECORDING);
    replay.play_to("A6b")?;
    let containers = replay.sandboxes();
    assert_eq!(containers.len(), 9);
    step("pings between all of them");
    all_reach_each_other(&lab, &containers)?;
    lab.on_all_hosts(|host| in_sync(host).map(drop))?;
    step("handshakes, links, sockets");
    lab.on_all_hosts(wireguard_is_the_kernels_and_its_sockets_are_the_hosts)?;
    step("drivers killed under pings");
    no_ping_is_lost_while_drivers_are_killed(&lab, &containers)?;
    step("things deleted by hand");
    what_is_deleted_by_hand_comes_back(&lab, &containers, &step)?;

    step("recorded calls: containers move, stop, start");
    replay.play_to("A9")?;
    all_reach_each_other(&lab, &replay.sandboxes())?;
    step("recorded calls: the network is freed while three containers still run");
    replay.play_to("B1")?;
    assert_eq!(replay.sandboxes().len(), 3);
    all_reach_each_other(&lab, &replay.sandboxes())?;
    step("recorded calls until nothing is left");
    replay.play_to("B4")?;
    assert_eq!(replay.sandboxes().len(), 0);
    assert_eq!(replay.refused(), 1);
    assert!(replay.calls() > 80, "only {} calls", replay.calls());
    nothing_is_left(&lab, &before)?;
    step("the kernel loses its WireGuard");
    a_kernel_without_wireguard_is_said_and_not_silently_replaced(lab.host(1))?;
    step("done");
    Ok(())
}

/// Shows the drivers' logs at the end of a test that failed.
struct Logs<'lab>(&'lab Lab);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        for host in self.0.hosts() {
            println!("--- log of {}'s driver\n{}", host.name(), host.driver_log());
        }
    }
}

fn assert_kernel_has_wireguard() {
    let ip = |args: &[&str]| Command::new("ip").args(args).output().expect("ip is installed");
    let made = ip(&["link", "add", "wgnettprobe", "type", "wireguard"]);
    assert!(
        made.status.success(),
        "this kernel makes no WireGuard interface, so that this test shows nothing here: run it in the virtual machine \
         (tests/run --tier vm, or tests/vm/run -m 3072 with this program): {}",
        String::from_utf8_lossy(&made.stderr)
    );
    ip(&["link", "del", "wgnettprobe"]);
}

/// From each to each, at once from all; tried again while a route is still on its way.
fn all_reach_each_other(lab: &Lab, containers: &[Sandbox<'_>]) -> Result<()> {
    let addresses: Vec<&str> = containers.iter().map(|of| of.address.as_str()).collect();
    let round = || -> Result<BTreeSet<String>> {
        let lost = Mutex::new(BTreeSet::new());
        lab.on_all_hosts(|host| {
            for from in containers.iter().filter(|from| from.host.name() == host.name()) {
                let unanswered = from.unreachable(&addresses)?;
                let mut lost = lost.lock().unwrap();
                lost.extend(unanswered.iter().map(|to| format!("{} to {to}", from.address)));
            }
            Ok(())
        })?;
        Ok(lost.into_inner().unwrap())
    };
    let complete = || match round() {
        Ok(lost) if lost.is_empty() => Ok(()),
        Ok(lost) => Err(format!("no answer {lost:?}")),
        Err(error) => Err(error.to_string()),
    };
    let what = format!("pings between all of {} containers", addresses.len());
    wait_for(&what, SOON, complete).map(drop)
}

/// What a driver says of itself. Starting `wgnetctl` over and over would leave the drivers no time to start.
fn status(host: &Host) -> Result<DriverStatus> {
    let path = host.path("/run/wgnet/admin.sock");
    let ask = || -> std::io::Result<DriverStatus> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(serde_json::from_str(body)?)
    };
    ask().map_err(|error| LabError::Machine(format!("{}: no status: {error}", host.name())))
}

/// The only network of a host, once the kernel is as it should be.
fn in_sync(host: &Host) -> Result<NetworkStatus> {
    let ask = || {
        let mut networks = status(host).map_err(|error| error.to_string())?.networks;
        match networks.pop() {
            Some(network) if networks.is_empty() && network.in_sync => Ok(network),
            last => Err(format!("{last:?}")),
        }
    };
    let (network, _) = wait_for(&format!("{} in sync", host.name()), SOON, ask)?;
    Ok(network)
}

fn wireguard_is_the_kernels_and_its_sockets_are_the_hosts(host: &Host) -> Result<()> {
    let network = in_sync(host)?;
    let said = host.sh(&format!(
        "ip netns exec {} sh -ec 'wg show wg0 latest-handshakes; echo --; ip -d -o link; echo --; ss -H -u -a -n'
         echo --; ss -H -u -a -n; echo --; ps -e -o comm=",
        network.namespace
    ))?;
    let parts: Vec<&str> = said.split("--\n").collect();
    let [peers, links, sockets_inside, sockets, processes] = parts[..] else {
        panic!("{}: {said}", host.name());
    };
    let shaken = |line: &&str| line.split('\t').nth(1).is_some_and(|at| at != "0");
    assert_eq!(peers.lines().filter(shaken).count(), 2, "{}: {peers}", host.name());
    for link in links.lines() {
        let expected = match link.split(": ").nth(1).unwrap_or_default() {
            "lo" => true,
            "wg0" => link.contains(" wireguard ") && link.contains("mtu 1370"),
            veth if veth.starts_with("wgv") => link.contains(" veth "),
            // The kernel puts those into every namespace.
            fallback => fallback.contains("tnl") && link.contains("state DOWN"),
        };
        assert!(expected, "{}: {link}", host.name());
    }
    assert_eq!(sockets_inside, "", "{}: a socket inside", host.name());
    let port = network.slots[0].port;
    assert!(sockets.contains(&format!(":{port} ")), "{}: no {port} in {sockets}", host.name());
    assert!(!processes.contains("wgnet-engine"), "{}: an engine runs", host.name());
    Ok(())
}

/// A ping that goes on until it is stopped, with a file that tells of every answer.
struct Stream<'lab> {
    from: &'lab Sandbox<'lab>,
    pid: String,
    log: String,
}

impl<'lab> Stream<'lab> {
    fn start(from: &'lab Sandbox<'lab>, to: &Sandbox<'_>) -> Result<Self> {
        let log = format!("/tmp/pings-to-{}", to.address);
        let script = format!("ping -n -i 0.05 {} > {log} 2>&1 & echo $!", to.address);
        Ok(Self { from, pid: from.sh(&script)?, log })
    }

    /// The numbers of the pings that were answered.
    fn answered(&self) -> Result<BTreeSet<u32>> {
        let said = self.from.host.read(&self.log)?;
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        Ok(said.lines().filter(|line| line.contains(" bytes from ")).filter_map(number).collect())
    }

    /// Waits until 20 more were answered.
    fn goes_on(&self) -> Result<()> {
        let last = || self.answered().ok().and_then(|all| all.last().copied()).unwrap_or(0);
        let known = last();
        let what = format!("answers to {}", self.from.address);
        wait_for(&what, SOON, || match last() {
            now if now >= known + 20 => Ok(()),
            now => Err(format!("{now} of {}", known + 20)),
        })
        .map(drop)
    }

    /// How many were answered; none may be missing between the first and the last.
    fn stop(self) -> Result<usize> {
        self.from.host.exec(&["kill", "-INT", &self.pid])?;
        let answered = self.answered()?;
        let missing: Vec<u32> = (1..=answered.last().copied().unwrap_or(0))
            .filter(|number| !answered.contains(number))
            .collect();
        assert!(missing.is_empty(), "{}: lost {missing:?}", self.from.address);
        Ok(answered.len())
    }
}

fn no_ping_is_lost_while_drivers_are_killed(lab: &Lab, containers: &[Sandbox<'_>]) -> Result<()> {
    let of = |host: usize| {
        let name = format!("h{host}");
        containers.iter().find(move |one| one.host.name() == name).expect("each host has some")
    };
    let before = kernel_states(lab)?;
    let streams: Vec<_> = [(1, 2), (2, 3), (3, 1)]
        .iter()
        .map(|&(from, to)| Stream::start(of(from), of(to)))
        .collect::<Result<_>>()?;
    streams.iter().try_for_each(Stream::goes_on)?;
    lab.on_all_hosts(|host| {
        host.driver_crash()?;
        in_sync(host).map(drop)
    })?;
    streams.iter().try_for_each(Stream::goes_on)?;
    assert_eq!(before, kernel_states(lab)?, "the new drivers touched kernel objects");
    for stream in streams {
        println!("  {} pings, none lost", stream.stop()?);
    }
    Ok(())
}

fn kernel_states(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let all = Mutex::new(BTreeMap::new());
    lab.on_all_hosts(|host| {
        let state = kernel_state(host, Identity::Kept)?;
        all.lock().unwrap().insert(host.name().to_owned(), state);
        Ok(())
    })?;
    Ok(all.into_inner().unwrap())
}

#[derive(Clone, Copy, PartialEq)]
enum Identity {
    /// Also what tells an object from one that was made again.
    Kept,
    Any,
}

/// Everything the driver made in a host's namespace, which traffic does not change. Addresses of IPv6 that
/// links get by themselves come late.
fn kernel_state(host: &Host, identity: Identity) -> Result<String> {
    let space = &in_sync(host)?.namespace;
    let said = host.sh(&format!(
        "ip netns exec {space} sh -ec 'ip -br link; ip -4 -br addr; ip -4 route show table all; \
         wg show wg0 public-key; wg show wg0 listen-port; wg show wg0 preshared-keys; wg show wg0 endpoints; wg show wg0 allowed-ips'"
    ))?;
    let mut lines: Vec<String> = said
        .lines()
        .map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            // wg lists a peer's addresses in the order of a tree.
            words.get_mut(1..).unwrap_or_default().sort_unstable();
            let words = words.iter().map(|word| word.split("@if").next().unwrap_or_default());
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    if identity == Identity::Kept {
        lines.push(host.sh(&format!(
            "stat -L -c %i /run/netns/{space}; ip netns exec {space} ip -o link | cut -d: -f1,2"
        ))?);
    }
    Ok(lines.join("\n"))
}

fn what_is_deleted_by_hand_comes_back(
    lab: &Lab,
    containers: &[Sandbox<'_>],
    step: &dyn Fn(&str),
) -> Result<()> {
    let near = containers.iter().find(|one| one.host.name() == "h1").expect("h1 has some");
    let far = containers.iter().find(|one| one.host.name() == "h2").expect("h2 has some");
    let host = lab.host(1);
    let network = in_sync(host)?;
    let space = &network.namespace;
    let peer = status(lab.host(2))?.networks[0].slots[0].public_key.to_string();
    let intact = kernel_state(host, Identity::Any)?;
    let route = format!("ip -n {space} route");
    let veth = host
        .sh(&format!("{route} get {} | sed -n 's/.* dev \\(wgv[^ ]*\\).*/\\1/p'", near.address))?;
    let damages = [
        ("route to a remote endpoint", format!("{route} del {}", far.address)),
        ("unreachable route of the subnet", format!("{route} del unreachable {SUBNET}")),
        ("gateway address", format!("ip -n {space} addr del {GATEWAY} dev lo")),
        ("veth pair", format!("ip -n {space} link del {veth}")),
        ("WireGuard interface", format!("ip -n {space} link del wg0")),
        (
            "whole namespace",
            format!(
                "ip -n {space} link del wg0; ip -n {space} link del {veth}; ip netns del {space}"
            ),
        ),
        ("peer", format!("ip netns exec {space} wg set wg0 peer '{peer}' remove")),
    ];
    for (what, damage) in &damages {
        host.sh(damage)?;
        let since = Instant::now();
        let whole = || match kernel_state(host, Identity::Any) {
            Ok(now) if now == intact => Ok(()),
            Ok(now) => Err(difference(&intact, &now)),
            Err(error) => Err(error.to_string()),
        };
        wait_for(&format!("the repair of the {what}"), SOON, whole)?;
        let whole_after = since.elapsed();
        eventually(&format!("traffic after the loss of the {what}"), SOON, || {
            near.reaches(&far.address)
        })?;
        let (whole_after, traffic_after) =
            (whole_after.as_secs_f32(), since.elapsed().as_secs_f32());
        step(&format!(
            "{what}: seen whole after {whole_after:.1} s, traffic after {traffic_after:.1} s"
        ));
    }
    all_reach_each_other(lab, containers)?;
    assert_eq!(in_sync(host)?.slots, network.slots, "keys and ports are the same");
    Ok(())
}

fn difference(wanted: &str, now: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (wanted, now) = (lines(wanted), lines(now));
    format!("missing {:#?}, new {:#?}", &wanted - &now, &now - &wanted)
}

/// Only in the virtual machine, which ends with this: nothing gives the module back.
fn a_kernel_without_wireguard_is_said_and_not_silently_replaced(host: &Host) -> Result<()> {
    let is_the_guest = read("/proc/cmdline").contains(" wgvm.job=");
    assert!(is_the_guest, "this takes WireGuard from the kernel it runs on");
    std::fs::write("/proc/sys/kernel/modprobe", "/bin/false\n").expect("root may");
    let removed = Command::new("rmmod").arg("wireguard").output().expect("rmmod is installed");
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));

    host.driver_crash()?;
    let body = json!({ "NetworkID": "bad0000000000000000000001", "Options": {}, "IPv6Data": [],
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.90.0.0/24", "Gateway": "10.90.0.1/24" }] });
    let refused = || {
        let answer =
            Dockerless { host }.call("CreateNetwork", &body).map_err(|error| error.to_string())?;
        let said = answer["Err"].as_str().unwrap_or_default().to_owned();
        let words = ["no WireGuard", "modprobe wireguard", "userspace"];
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    };
    wait_for("the driver to say what is missing", SOON, refused)?;
    assert!(host.driver_pid().is_some(), "the driver ended: {}", host.driver_log());
    assert!(!host.sh("ps -e -o comm=")?.contains("wgnet-engine"), "an engine runs instead");
    Ok(())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a network could leave behind, on all hosts. The lab's inventory would take minutes here.
fn traces(lab: &Lab) -> Result<BTreeSet<String>> {
    const LIST: &str = "ls /run/netns; ip -br link; nft list tables; ss -H -u -a -n
        find /etc/wgnet /var/lib/wgnet /run/wgnet /run/docker -mindepth 1 ! -path /run/docker/netns
        ip route show table all | grep -v -e fe80: -e ff00: || true; ps -e -o comm= | grep wgnet";
    let all = Mutex::new(BTreeSet::new());
    lab.on_all_hosts(|host| {
        let listed = host.sh(LIST)?;
        let lines = listed.lines().map(|line| format!("{}: {line}", host.name()));
        all.lock().unwrap().extend(lines);
        Ok(())
    })?;
    Ok(all.into_inner().unwrap())
}

fn nothing_is_left(lab: &Lab, before: &BTreeSet<String>) -> Result<()> {
    wait_for("hosts as before the first call", SOON, || match traces(lab) {
        Ok(now) if now == *before => Ok(()),
        Ok(now) => Err(format!("missing {:#?}, new {:#?}", before - &now, &now - before)),
        Err(error) => Err(error.to_string()),
    })?;
    wait_for("an etcd without networks", SOON, || {
        let keys = lab.etcd().keys().map_err(|error| error.to_string())?;
        let left: Vec<_> = keys.iter().filter(|key| key.contains("/networks/")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .map(drop)
}
