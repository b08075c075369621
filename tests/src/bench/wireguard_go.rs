//! Debian's wireguard-go between the two hosts, wired as wgnet wires its own: a namespace that routes
//! between the tunnel and a container's veth, the UDP socket in the host's namespace, the same MTU.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::{WIREGUARD_GO, address, resident};
use crate::lab::{Host, LabError, Result, checks::Container, wait_until};

pub(super) const SUBNET: &str = "10.92.0";

const PROGRAM: &str = "/usr/bin/wireguard-go";
const COPY: &str = "/usr/local/bin/wireguard-go";
const PORT: u16 = 52999;

/// The first line of what it says of itself.
pub(super) fn version() -> Result<String> {
    let output = std::process::Command::new(PROGRAM).arg("--version").output();
    let output = output.map_err(LabError::io("run", PROGRAM))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.lines().next().unwrap_or_default().replace("wireguard-go ", ""))
}

/// Leaves a container on each host, and a tunnel between them.
pub(super) fn connect(near: &Host, far: &Host, mtu: u32) -> Result<()> {
    let (near_key, far_key) = (start(near)?, start(far)?);
    join(near, 1, far, &far_key, mtu)?;
    join(far, 2, near, &near_key, mtu)?;
    let client = Container { host: far, name: resident(WIREGUARD_GO, 2) };
    let server = address(WIREGUARD_GO, 11);
    // wireguard-go looks once a second whether its interface is up, and shakes hands every 5 s.
    wait_until("a ping through wireguard-go", Duration::from_secs(30), || {
        client.ping(&server).is_ok()
    })
    .map(drop)
}

/// The engine with a key of its own; the public one.
fn start(host: &Host) -> Result<String> {
    let program = fs::read(PROGRAM).map_err(LabError::io("read", PROGRAM))?;
    host.write(COPY, program)?;
    let at = host.path(COPY);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755))
        .map_err(LabError::io("make executable", &at))?;
    host.sh(&format!(
        "umask 077
         wg genkey > /run/bench.key
         {COPY} bgo0 > /var/log/wireguard-go.log 2>&1 < /dev/null
         wg pubkey < /run/bench.key"
    ))
}

fn join(host: &Host, number: usize, other: &Host, other_key: &str, mtu: u32) -> Result<()> {
    let name = resident(WIREGUARD_GO, number);
    host.docker(&["run", "-d", "--name", &name, "--network", "none", "perf", "iperf3", "-s"])?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", &name])?;
    let mine = address(WIREGUARD_GO, 10 + number);
    let theirs = address(WIREGUARD_GO, 13 - number);
    let there = other.address();
    host.sh(&format!(
        "wg set bgo0 listen-port {PORT} private-key /run/bench.key peer {other_key} endpoint {there}:{PORT} allowed-ips {theirs}/32
         ip netns add bgo
         ip link set bgo0 netns bgo
         ip link add bgov mtu {mtu} netns bgo type veth peer name eth0 mtu {mtu} netns {pid}
         ip netns exec bgo sysctl -qw net.ipv4.ip_forward=1
         for link in lo bgov bgo0; do ip -n bgo link set $link up; done
         ip -n bgo link set bgo0 mtu {mtu}
         ip -n bgo addr add {SUBNET}.1/32 dev lo
         ip -n bgo route add {mine} dev bgov
         ip -n bgo route add {theirs} dev bgo0
         inside() {{ nsenter -t {pid} -n ip \"$@\"; }}
         inside addr add {mine}/32 dev eth0
         inside link set eth0 up
         inside route add {SUBNET}.1 dev eth0
         inside route add {SUBNET}.0/24 via {SUBNET}.1"
    ))
    .map(drop)
}
