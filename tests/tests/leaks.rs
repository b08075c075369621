//! Whatever is deleted under traffic, and while the driver is stopped: nothing readable leaves a host.

// tests/run: long

use std::thread;
use std::time::Duration;

use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Captured, Host, Lab, Result};
use wgnet_tests::swarm::{SOON, Swarm, eventually, only_network, plain_engines};

/// What every packet of the traffic is full of.
const FILLING: u8 = 0x57;
const KNOWN_TEXT: [u8; 64] = [FILLING; 64];
/// More than anything else between the two has.
const TEXT_SIZE: usize = 400;

/// Long enough for a hundred packets after each damage.
const UNDER_DAMAGE: Duration = Duration::from_secs(2);

#[test]
fn nothing_readable_leaves_while_things_are_deleted_and_the_driver_is_stopped() -> Result<()> {
    let swarm = Swarm::start("e2e-leaks", 2)?;
    swarm.network("blue", &["--subnet", "10.73.0.0/24"])?;
    let near = swarm.run(1, "near", "blue", &["--ip", "10.73.0.11"])?;
    swarm.run(2, "far", "blue", &["--ip", "10.73.0.12"])?;
    eventually("the first ping", SOON, || near.ping("10.73.0.12").is_ok())?;
    // A way out of the host for whatever would reach it: the check has to be able to fail.
    let way_out = format!("ip route replace 10.73.0.0/24 via {}", swarm.host(2).address());
    swarm.host(1).sh(&way_out)?;

    let space = only_network(swarm.host(1))?.namespace;
    let veth = swarm
        .host(1)
        .sh(&format!("ip -n {space} -o link | sed -n 's/.*\\(wgv[0-9a-f]*\\)@.*/\\1/p'"))?
        .trim()
        .to_owned();
    let interface = ("WireGuard interface", format!("ip -n {space} link del wg0"));
    let pin = ("pin", format!("ip netns del {space}"));
    let whole = ("whole namespace", {
        format!("ip -n {space} link del wg0; ip -n {space} link del {veth}; ip netns del {space}")
    });
    let container = ("container's interface", format!("ip -n {space} link del {veth}"));
    let phases = Phases { swarm: &swarm, near: &near, space: &space };
    talk(&near)?;
    for (what, damage) in [
        &interface,
        &("route", format!("ip -n {space} route del 10.73.0.12/32")),
        &("unreachable route", format!("ip -n {space} route del unreachable 10.73.0.0/24")),
        &pin,
        &container,
        &whole,
    ] {
        phases.nothing_leaves(what, damage)?;
        phases.traffic_flows(&format!("after the loss of the {what}"))?;
    }

    // Without a driver nothing is repaired, and still nothing leaves: it hangs, or was ended.
    let host = swarm.host(1);
    for (what, damage) in [&interface, &pin, &whole] {
        host.driver_kill("STOP")?;
        phases.nothing_leaves(&format!("{what}, the driver hanging"), damage)?;
        host.driver_kill("CONT")?;
        phases.traffic_flows(&format!("after the loss of the {what}, the driver hanging"))?;
    }
    for (what, damage) in [&whole, &container] {
        host.driver_resume()?;
        phases.traffic_flows("with a driver again")?;
        host.driver_stop()?;
        phases.nothing_leaves(&format!("{what}, without a driver"), damage)?;
    }

    // The container now has no interface but docker_gwbridge's: only the guard keeps its words in.
    let tables = swarm.host(1).sh("nft list tables")?;
    let guards: Vec<_> = tables.lines().filter(|table| table.contains("wgnet")).collect();
    assert!(!guards.is_empty(), "there is no guard in {tables}");
    let capture = swarm.lab.capture()?;
    for guard in guards {
        swarm.host(1).sh(&format!("nft delete {guard}"))?;
    }
    thread::sleep(UNDER_DAMAGE);
    assert!(
        readable(&capture.stop()?)? > 0,
        "without the guard the text should be seen: the check cannot fail"
    );
    Ok(())
}

/// One damage after the other, under the container's words.
struct Phases<'s> {
    swarm: &'s Swarm,
    near: &'s Container<'s>,
    space: &'s str,
}

impl Phases<'_> {
    /// The namespace has its pin, too: traffic goes on without, but the next damage needs it.
    fn traffic_flows(&self, when: &str) -> Result<()> {
        let pinned = format!("ip netns exec {} true", self.space);
        eventually(&format!("traffic {when}"), SOON, || {
            self.near.exec(&["ping", "-c1", "-W1", "10.73.0.12"]).is_ok()
                && self.swarm.host(1).sh(&pinned).is_ok()
        })
    }

    /// The capture sees the words leave encrypted until the damage, and never readable.
    fn nothing_leaves(&self, what: &str, damage: &str) -> Result<()> {
        let port = only_network(self.swarm.host(2))?.slots[0].port;
        let capture = self.swarm.lab.capture()?;
        let answered = self.near.exec(&["ping", "-c5", "-i0.1", "-W1", "10.73.0.12"]);
        assert!(answered.is_ok(), "no traffic before the loss of the {what}: {answered:?}");
        self.swarm.host(1).sh(damage)?;
        // What is looked for is what happens in this time; there is no state to wait for.
        thread::sleep(UNDER_DAMAGE);
        let captured = capture.stop()?;
        let encrypted = captured.encrypted_frames(port, TEXT_SIZE)?;
        assert!(encrypted > 0, "the capture saw nothing of the text before the loss of the {what}");
        assert_eq!(readable(&captured)?, 0, "after the loss of the {what}");
        println!("{what}: {encrypted} frames with the text encrypted, 0 readable");
        Ok(())
    }
}

/// How many frames could be read; of a capture that has gaps nothing can be said.
fn readable(captured: &Captured) -> Result<usize> {
    assert_eq!(captured.lost, 0, "the capture lost frames: try again on a less busy machine");
    captured.frames_with(&KNOWN_TEXT)
}

#[test]
fn a_second_network_is_no_way_out_either() -> Result<()> {
    let swarm = Swarm::start("e2e-leaks2", 2)?;
    swarm.network("blue", &["--subnet", "10.73.0.0/24"])?;
    swarm.network("closed", &["--subnet", "10.74.0.0/24", "--internal"])?;
    let host = swarm.host(1);
    host.docker(&["network", "create", "mine"])?;
    let on_bridge = swarm.run(1, "bridged", "blue", &["--ip", "10.73.0.11"])?;
    host.docker(&["network", "connect", "mine", "bridged"])?;
    let on_closed = swarm.run(1, "closed", "closed", &["--ip", "10.74.0.11"])?;
    host.docker(&["network", "connect", "blue", "closed"])?;
    for subnet in ["10.73.0.0/24", "10.74.0.0/24"] {
        host.sh(&format!("ip route replace {subnet} via {}", swarm.host(2).address()))?;
    }
    talk_to(&on_bridge, "10.73.0.12")?;
    talk_to(&on_closed, "10.74.0.12")?;

    the_second_network_is_no_way_out(&swarm.lab, host)
}

/// Engines without a swarm, which alone have IPv6.
#[test]
fn ipv6_leaves_encrypted_and_a_second_network_is_no_way_out() -> Result<()> {
    let lab = plain_engines("e2e-leaks6", 2, &[])?;
    let host = lab.host(1);
    for (number, host) in (1..).zip(lab.hosts()) {
        let range = format!("10.73.0.{}/26", 64 * number);
        let v4 = ["--subnet", "10.73.0.0/24", "--gateway", "10.73.0.1", "--ip-range", &range];
        let v6 = ["--ipv6", "--subnet", "fd00:73::/64"];
        let create = ["network", "create", "-d", "wgnet", "-o", "id=blue"];
        host.docker(&[&create[..], &v4, &v6, &["blue"]].concat())?;
        let address = format!("fd00:73::1{number}");
        let run = ["run", "-d", "--name", host.name(), "--network", "blue", "--ip6", &address];
        host.docker(&[&run[..], &["perf", "sleep", "1000000"]].concat())?;
    }
    let near = Container { host, name: host.name().to_owned() };
    eventually("the first ping", SOON, || near.ping("fd00:73::12").is_ok())?;

    // The second network's gateway, and the host's route: a way out for whatever would reach it.
    let second = ["network", "create", "--ipv6", "--subnet", "fd00:91::/64"];
    host.docker(&[&second[..], &["--gateway", "fd00:91::1", "second"]].concat())?;
    host.docker(&["network", "connect", "second", &near.name])?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", &near.name])?;
    host.sh(&format!("nsenter -t {pid} -n ip -6 route replace default via fd00:91::1"))?;
    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    host.sh(&format!("ip -6 route replace fd00:73::/64 via {}", lab.host(2).address_v6()))?;

    let port = only_network(lab.host(2))?.slots[0].port;
    talk_to(&near, "fd00:73::12")?;
    let capture = lab.capture()?;
    near.exec(&["ping", "-c5", "-i0.1", "-W1", "fd00:73::12"])?;
    let captured = capture.stop()?;
    assert!(captured.encrypted_frames(port, TEXT_SIZE)? > 0, "the capture saw nothing");
    assert_eq!(readable(&captured)?, 0);
    the_second_network_is_no_way_out(&lab, host)
}

/// Nothing but the second network leads anywhere any more, nobody repairs it, and the guard is all there is.
fn the_second_network_is_no_way_out(lab: &Lab, host: &Host) -> Result<()> {
    host.driver_stop()?;
    let capture = lab.capture()?;
    let every_veth = "for n in $(ls /run/netns | grep ^wgnet-); do ip -n $n -o link | sed -n 's/.*\\(wgv[0-9a-f]*\\)@.*/\\1/p' | xargs -r -n1 ip -n $n link del; done";
    host.sh(every_veth)?;
    thread::sleep(UNDER_DAMAGE);
    assert_eq!(readable(&capture.stop()?)?, 0, "through a second network");

    let capture = lab.capture()?;
    let tables = host.sh("nft list tables")?;
    for guard in tables.lines().filter(|table| table.contains("wgnet")) {
        host.sh(&format!("nft delete {guard}"))?;
    }
    thread::sleep(UNDER_DAMAGE);
    assert!(readable(&capture.stop()?)? > 0, "the check cannot fail");
    Ok(())
}

/// Sends the text to the other container, for ever, whether it can be reached or not.
fn talk(from: &Container<'_>) -> Result<()> {
    talk_to(from, "10.73.0.12")
}

fn talk_to(from: &Container<'_>, address: &str) -> Result<()> {
    let ping = format!("ping -q -i 0.02 -s {TEXT_SIZE} -p {FILLING:x} {address}");
    let say = format!("while :; do {ping}; sleep 0.05; done >/dev/null 2>&1");
    from.host.docker(&["exec", "-d", &from.name, "sh", "-c", &say]).map(drop)
}
