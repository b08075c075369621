//! What somebody deletes by hand comes back by itself, with the same keys, and traffic flows again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, LabError, Result, WireGuard, wait_for};
use wgnet_tests::swarm::{NAMED, SOON, Swarm, eventually, only_network, status};

/// The promise; looking at it takes some time itself.
const REPAIRED_WITHIN: Duration = Duration::from_secs(2);

const WG: &str = "wg0";

type Damage<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

#[test]
fn what_is_deleted_by_hand_comes_back_within_two_seconds_with_the_same_keys() -> Result<()> {
    let swarm = Swarm::start("e2e-repair", 2)?;
    swarm.network("blue", &["--subnet", "10.71.0.0/24"])?;
    let near = swarm.run(1, "near", "blue", &["--ip", "10.71.0.11"])?;
    let far = swarm.run(2, "far", "blue", &["--ip", "10.71.0.12"])?;
    eventually("the first ping", NAMED, || near.ping("far").is_ok())?;
    let host = swarm.host(1);
    let network = only_network(host)?;
    let space = &network.namespace;
    let looker = Looker::new(&near, space, network.slots[0].port)?;
    let intact = looker.whole()?;
    let peer = only_network(swarm.host(2))?.slots[0].public_key;
    assert!(intact.wireguard.peers.contains_key(&peer), "{intact:?}");

    // What exists of the kind, and how to delete one.
    let veth = intact.links("wgv").next().expect("near's veth").to_owned();
    let delete = |object: &str| format!("ip -n {space} {object}");
    let damages: Vec<Damage<'_>> = [
        ("WireGuard interface", delete("link del wg0")),
        ("WireGuard interface that is down", delete("link set wg0 down")),
        ("route to a remote endpoint", delete("route del 10.71.0.12/32")),
        ("route to the local endpoint", delete("route del 10.71.0.11/32")),
        ("unreachable route of the subnet", delete("route del unreachable 10.71.0.0/24")),
        ("gateway address", delete("addr del 10.71.0.1/32 dev lo")),
        ("veth pair", delete(&format!("link del {veth}"))),
        ("pin of the namespace", format!("ip netns del {space}")),
        (
            "whole namespace",
            format!(
                "ip -n {space} link del wg0; ip -n {space} link del {veth}; ip netns del {space}"
            ),
        ),
    ]
    .into_iter()
    .map(|(what, command)| (what, Box::new(move || host.sh(&command).map(drop)) as _))
    .chain([("peer", Box::new(|| host.remove_peer(space, WG, peer)) as _)])
    .collect();
    for (what, damage) in &damages {
        let repairs = only_network(host)?.repairs;
        damage()?;
        let damaged = Instant::now();
        let (_, repaired) = wait_for(&format!("the {what}"), SOON, || match looker.whole() {
            Ok(now) => now.differs_from(&intact).map_or(Ok(()), Err),
            Err(error) => Err(error.to_string()),
        })?;
        eventually(&format!("traffic after the loss of the {what}"), SOON, || {
            near.exec(&["ping", "-c1", "-W1", "10.71.0.12"]).is_ok()
        })?;
        let traffic = damaged.elapsed();
        println!("{what}: there after {repaired:.2?}, traffic after {traffic:.2?}");
        assert!(repaired < REPAIRED_WITHIN, "{what}: whole after {repaired:?}");
        assert!(traffic < REPAIRED_WITHIN, "{what}: traffic after {traffic:?}");
        eventually(&format!("the repair of the {what} in the status"), SOON, || {
            only_network(host).is_ok_and(|now| now.in_sync && now.repairs > repairs)
        })?;
        assert_eq!(only_network(host)?.slots, network.slots, "{what}: keys and ports are the same");
    }
    assert_eq!(status(host)?.problems, [], "nothing is left to complain of");
    // The other way round: what others open is looked at from the far side, too.
    eventually("the way back", NAMED, || far.ping("near").is_ok())
}

#[test]
fn what_a_container_spoils_in_itself_is_put_right_if_it_can_be_and_hinders_no_other_one()
-> Result<()> {
    let swarm = Swarm::start("e2e-spoilt", 2)?;
    swarm.network("blue", &["--subnet", "10.72.0.0/24"])?;
    let spoilt = swarm.run(1, "spoilt", "blue", &["--cap-add", "NET_ADMIN"])?;
    let far = swarm.run(2, "far", "blue", &["--ip", "10.72.0.12"])?;
    let reaches = || spoilt.exec(&["ping", "-c1", "-W1", "10.72.0.12"]).is_ok();
    eventually("the first ping", NAMED, || spoilt.ping("far").is_ok())?;
    let host = swarm.host(1);
    let space = only_network(host)?.namespace;
    // The driver looks into containers once a minute by itself, and after whatever is changed outside.
    let look = || host.sh(&format!("ip -n {space} route del 10.72.0.12/32")).map(drop);
    let others_come_and_go = |name: &str| {
        let other = swarm.run(1, name, "blue", &[])?;
        eventually("another container's ping", SOON, || {
            other.exec(&["ping", "-c1", "-W1", "10.72.0.12"]).is_ok()
        })?;
        swarm.remove(&other)
    };

    // In one go: the driver may look at any time.
    spoilt.exec(&["sh", "-c", "ip route flush dev eth0 && ! ping -c1 -W1 10.72.0.12"])?;
    look()?;
    others_come_and_go("first")?;
    eventually("the routes in the container", SOON, || {
        reaches() || {
            let _ = look();
            false
        }
    })?;

    // A gateway that is the container's own address is none: the routes cannot come back.
    spoilt.exec(&["ip", "addr", "add", "10.72.0.1/32", "dev", "lo"])?;
    spoilt.exec(&["ip", "route", "flush", "dev", "eth0"])?;
    eventually("the driver to see it", SOON, || {
        look().is_ok() && only_network(host).is_ok_and(|network| network.error.is_some())
    })?;
    let told = host.wgnetctl(&["problems", "--json"]);
    assert!(told.is_err_and(|error| error.to_string().contains("network-out-of-sync")));
    for name in ["second", "third", "fourth"] {
        others_come_and_go(name)?;
    }
    assert!(only_network(host)?.error.is_some(), "nothing of it was put right meanwhile");

    spoilt.exec(&["ip", "addr", "del", "10.72.0.1/32", "dev", "lo"])?;
    eventually("the routes in the container again", SOON, reaches)?;
    eventually("a network in sync", SOON, || only_network(host).is_ok_and(|now| now.in_sync))?;
    assert_eq!(status(host)?.problems, []);
    eventually("the way back", NAMED, || far.ping("spoilt").is_ok())
}

/// Looks at everything of a network that a host's kernel has, without the driver.
struct Looker<'s> {
    host: &'s Host,
    space: &'s str,
    commands: String,
}

/// All of it; what tells an object from the one that was there before is left out.
#[derive(Debug)]
struct Whole {
    lines: BTreeSet<String>,
    wireguard: WireGuard,
}

impl<'s> Looker<'s> {
    fn new(container: &Container<'s>, space: &'s str, port: u16) -> Result<Self> {
        let host = container.host;
        let process = host.docker(&["inspect", "-f", "{{.State.Pid}}", &container.name])?;
        let inside = format!("nsenter -t {process} -n");
        // An `ip -n` of a namespace without its pin fails.
        let commands = format!(
            "for ip in 'ip -n {space}' '{inside} ip'; do
                 $ip -br link; $ip -4 -br addr; $ip -4 route show table all
             done
             ss -Huan sport = :{port} | sed 's/^/socket /'"
        );
        Ok(Self { host, space, commands })
    }

    fn whole(&self) -> Result<Whole> {
        let said = self.host.sh(&self.commands)?;
        let wireguard = self
            .host
            .wireguard(self.space, WG)?
            .ok_or_else(|| LabError::Machine(format!("WireGuard has no {WG} in {}", self.space)))?;
        let without_index = |word: &str| word.split("@if").next().unwrap_or_default().to_owned();
        let lines = said
            .lines()
            .map(|line| line.split_whitespace().map(without_index).collect::<Vec<_>>().join(" "));
        Ok(Whole { lines: lines.collect(), wireguard })
    }
}

impl Whole {
    fn links(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let names = self.lines.iter().filter_map(|line| line.split(' ').next());
        names.filter(move |name| name.starts_with(prefix))
    }

    fn differs_from(&self, intact: &Self) -> Option<String> {
        let (missing, new) = (&intact.lines - &self.lines, &self.lines - &intact.lines);
        let same = missing.is_empty() && new.is_empty() && self.wireguard == intact.wireguard;
        (!same).then(|| format!("missing {missing:?}, new {new:?}, {:?}", self.wireguard))
    }
}
