//! What nobody will ever take back goes by itself: endpoints of a dockerd that was killed, records of
//! a host that is dead. And what etcd seems to have lost all at once does not, until somebody says so.

// tests/run: long

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use wgnet_tests::lab::checks::{Container, service_containers};
use wgnet_tests::lab::{Host, Result, wait_until};
use wgnet_tests::swarm::{SOON, Swarm, eventually, only_network, status};

/// The promise for what a killed dockerd left, from its start on.
const SWEPT_WITHIN: Duration = Duration::from_secs(60);

const GRACE: Duration = Duration::from_secs(5);

/// A dead host's lease, the grace, and some turns.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(45 + 5 + 20);

#[test]
fn what_nobody_claims_goes_and_what_is_held_waits_for_an_order() -> Result<()> {
    let swarm = Swarm::start("e2e-sweep", 3)?;
    let config =
        format!("{}dead_host_grace = \"{}s\"\n", swarm.lab.driver_config(), GRACE.as_secs());
    swarm.lab.on_all_hosts(|host| {
        host.driver_stop()?;
        host.driver_start(&config)
    })?;
    swarm.network("blue", &[])?;
    swarm.host(1).docker(&[
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--mode=global",
        "--network=blue",
        "--name=web",
        "perf",
        "sleep",
        "1000000",
    ])?;
    let tasks = service_containers(&swarm.lab, "web")?;
    let of = |number: usize| {
        let name = swarm.host(number).name();
        tasks.iter().find(|task| task.host.name() == name).expect("the service is global")
    };
    let far = address(of(2))?;
    eventually("the first ping", SOON, || of(1).ping(&far).is_ok())?;
    eventually("all members", SOON, || {
        only_network(swarm.host(1)).is_ok_and(|network| network.members.len() == 2)
    })?;

    a_held_listing_is_released_by_order(&swarm, of(1), &far)?;
    a_living_host_is_not_forgotten(&swarm)?;

    // Both at once: they do not concern each other, and take their time.
    let dead = status(swarm.host(3))?.host_id.to_string();
    swarm.host(3).power_off()?;
    let off = Instant::now();
    nothing_is_left_of_a_killed_dockerd(&swarm, of(1))?;
    nothing_is_left_of_a_dead_host(&swarm, &dead, off)
}

/// Two of three members vanish while the first host's driver looks away.
fn a_held_listing_is_released_by_order(
    swarm: &Swarm,
    near: &Container<'_>,
    far: &str,
) -> Result<()> {
    let host = swarm.host(1);
    let me = status(host)?.host_id.to_string();
    for other in swarm.lab.hosts() {
        other.driver_stop()?;
    }
    for key in swarm.lab.etcd().keys()? {
        if key.contains("/members/") && !key.ends_with(&me) {
            swarm.lab.etcd().etcdctl(&["del", &key])?;
        }
    }
    host.driver_resume()?;
    eventually("the listing to be held", SOON, || {
        status(host).is_ok_and(|status| {
            status.problems.iter().any(|problem| problem.code == "mass-delete-held")
        })
    })?;
    let shown: Value = json(&host.wgnetctl(&["release", "--json"])?);
    assert_eq!((&shown[0]["vanishing"], &shown[0]["of"]), (&2.into(), &3.into()), "{shown}");
    assert!(near.ping(far).is_ok(), "nothing was cut off");
    assert_eq!(only_network(host)?.members.len(), 2, "looking changes nothing");

    let key = only_network(host)?.key.to_string();
    let unknown = host.try_wgnetctl(&["release", "s-unknown"])?;
    assert!(unknown.text().is_err());
    let released: Value = json(&host.wgnetctl(&["release", &key, "--json"])?);
    assert_eq!(released[0]["vanishing"], 2, "{released}");
    eventually("the released members to be gone", SOON, || {
        only_network(host).is_ok_and(|network| network.members.is_empty() && network.in_sync)
    })?;
    let held = status(host)?.problems.iter().any(|problem| problem.code == "mass-delete-held");
    assert!(!held, "what was released is no problem any more");

    for number in [2, 3] {
        swarm.host(number).driver_resume()?;
    }
    eventually("the way to come back", SOON, || near.ping(far).is_ok())
}

fn a_living_host_is_not_forgotten(swarm: &Swarm) -> Result<()> {
    let name = status(swarm.host(3))?.name;
    let refused = swarm.host(1).try_wgnetctl(&["forget-host", &name])?.text();
    let sentence = refused.expect_err("a living host must not be forgotten").to_string();
    assert!(sentence.contains("alive"), "{sentence}");
    Ok(())
}

fn nothing_is_left_of_a_killed_dockerd(swarm: &Swarm, near: &Container<'_>) -> Result<()> {
    let host = swarm.host(2);
    let old = local_endpoints(host)?;
    assert!(!old.is_empty());
    host.engine_kill("KILL")?;
    host.engine_start()?;
    let started = Instant::now();
    let mut left = String::new();
    let gone = wait_until("the old endpoints to be gone everywhere", SWEPT_WITHIN, || {
        let here = local_endpoints(host).unwrap_or_else(|_| old.clone());
        let there = remote_endpoints(swarm.host(1)).unwrap_or_else(|_| old.clone());
        let links = veths(host).unwrap_or_default();
        left = format!("journal {here:?}, other host {there:?}, links {links:?}");
        let is_old = |id: &&String| here.contains(*id) || there.contains(*id);
        let has_link = |id: &String| links.iter().any(|link| link.ends_with(&id[..12]));
        !old.iter().any(|id| is_old(&id) || has_link(id))
    });
    assert!(gone.is_ok(), "of {old:?} are left: {left}");
    println!("nothing left of the old endpoints {:.1} s after the start", seconds(started));
    eventually("the new task to answer", SOON, || {
        let task = service_containers_on(host);
        task.is_some_and(|task| address(&task).is_ok_and(|far| near.ping(&far).is_ok()))
    })
}

fn nothing_is_left_of_a_dead_host(swarm: &Swarm, dead: &str, off: Instant) -> Result<()> {
    let mut left = Vec::new();
    let gone = wait_until("the dead host's records to be gone", FORGOTTEN_WITHIN, || {
        let keys = swarm.lab.etcd().keys().unwrap_or_default();
        left = keys.into_iter().filter(|key| key.contains(dead)).collect();
        left.is_empty()
    });
    assert!(gone.is_ok(), "left: {left:?}");
    println!("a dead host was forgotten after {:.1} s", seconds(off));
    eventually("the other hosts to know nothing of it", SOON, || {
        [1, 2].iter().all(|number| {
            status(swarm.host(*number)).is_ok_and(|status| {
                let known = status.hosts.iter().any(|host| host.host_id.to_string() == dead);
                let mut endpoints = status.networks.iter().flat_map(|network| &network.endpoints);
                !known && !endpoints.any(|endpoint| endpoint.host_id.to_string() == dead)
            })
        })
    })
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn local_endpoints(host: &Host) -> Result<BTreeSet<String>> {
    endpoints(host, true)
}

fn remote_endpoints(host: &Host) -> Result<BTreeSet<String>> {
    endpoints(host, false)
}

fn endpoints(host: &Host, local: bool) -> Result<BTreeSet<String>> {
    let networks = status(host)?.networks;
    let endpoints = networks.into_iter().flat_map(|network| network.endpoints);
    Ok(endpoints.filter(|it| it.local == local).map(|it| it.id.to_string()).collect())
}

/// Both ends of every pair, in the host's namespace and the networks'.
fn veths(host: &Host) -> Result<Vec<String>> {
    let list = "for n in $(ls /run/netns | grep ^wgnet-); do ip -n $n -o link; done; ip -o link";
    let links = host.sh(list)?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let ours = names.filter(|name| name.starts_with("wgv") || name.starts_with("wgc"));
    Ok(ours.map(str::to_owned).collect())
}

fn service_containers_on(host: &Host) -> Option<Container<'_>> {
    let label = "label=com.docker.swarm.service.name=web";
    let names = host.docker(&["ps", "--filter", label, "--format", "{{.Names}}"]).ok()?;
    Some(Container { host, name: names.lines().next()?.to_owned() })
}

fn address(container: &Container<'_>) -> Result<String> {
    let show = "ip -4 -o addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'";
    Ok(container.exec(&["sh", "-c", show])?.trim().to_owned())
}
