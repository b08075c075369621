//! Engines without a swarm: networks on several of them are one by `-o id=`, and stay through
//! whatever ends an engine, a driver or a host, though Docker says CreateNetwork only once.

// tests/run: long

use std::time::Duration;

use wgnet_proto::status::SlotStatus;
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, Inventory, Lab, LabError, Result};
use wgnet_tests::stream::Stream;
use wgnet_tests::swarm::{SOON, eventually, only_network, plain_engines, status};

const JOURNAL: &str = "/var/lib/wgnet/journal.redb";
const MIRROR: &str = "/run/wgnet/journal.redb";

/// Docker waits for old containers before it starts them anew.
const AFTER_A_CRASH: Duration = Duration::from_secs(60);

/// As the README says: the same subnets everywhere, ranges of its own on each engine.
fn create(host: &Host, number: usize, more: &[&str]) -> Result<()> {
    let range = format!("10.90.0.{}/26", 64 * number);
    let subnet = ["--subnet", "10.90.0.0/24", "--gateway", "10.90.0.1", "--ip-range", &range];
    let range6 = format!("fd00:90::{number}:0/112");
    let subnet6 = ["--ipv6", "--subnet", "fd00:90::/64", "--ip-range", &range6];
    let create = ["network", "create", "-d", "wgnet", "-o", "id=blue"];
    host.docker(&[&create[..], &subnet, &subnet6, more, &["blue"]].concat()).map(drop)
}

fn run<'l>(host: &'l Host, name: &str, more: &[&str]) -> Result<Container<'l>> {
    // A program that is pid 1 ignores SIGTERM, and Docker would wait for it.
    let run = ["run", "-d", "--stop-signal", "KILL", "--network", "blue", "--name", name];
    host.docker(&[&run[..], more, &["perf", "sleep", "1000000"]].concat())?;
    Ok(Container { host, name: name.to_owned() })
}

/// Docker gives others with each start of a container.
fn addresses(container: &Container<'_>) -> Result<[String; 2]> {
    let format =
        "{{with .NetworkSettings.Networks.blue}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}";
    let said = container.host.docker(&["inspect", "-f", format, &container.name])?;
    let (v4, v6) = said.split_once(' ').unwrap_or_default();
    Ok([v4.to_owned(), v6.to_owned()])
}

fn address(container: &Container<'_>) -> Result<String> {
    addresses(container).map(|[v4, _]| v4)
}

/// Why not everyone reaches everyone else by address; empty if they do.
fn unreached(boxes: &[Container<'_>]) -> String {
    let addresses: Vec<_> = boxes.iter().map(|to| addresses(to).unwrap_or_default()).collect();
    let mut failures = String::new();
    for (at, from) in boxes.iter().enumerate() {
        let others = addresses.iter().enumerate().filter(|(to, _)| *to != at);
        for to in others.flat_map(|(_, both)| both) {
            if let Err(error) = from.ping(to) {
                failures.push_str(&format!("{} to {to:?}: {error}\n", from.name));
            }
        }
    }
    failures
}

fn all_reach_each_other(when: &str, boxes: &[Container<'_>]) -> Result<()> {
    let mut failures = String::new();
    let reached = eventually(&format!("all pings {when}"), AFTER_A_CRASH, || {
        failures = unreached(boxes);
        failures.is_empty()
    });
    reached.map_err(|error| LabError::Machine(format!("{error}: {failures}")))
}

/// What Docker says when it refuses.
fn refused(host: &Host, args: &[&str]) -> Result<String> {
    let said = host.try_docker(args)?;
    assert!(!said.success(), "{said:?}");
    Ok(format!("{said:?}"))
}

#[test]
fn a_network_of_plain_engines_outlives_engines_drivers_and_hosts() -> Result<()> {
    let lab = plain_engines("e2e-plain", 3, &[])?;
    let before: Vec<_> = lab.hosts().iter().map(|host| host.inventory()).collect::<Result<_>>()?;
    let records_before = lab.etcd().records()?;
    // Options are each engine's own matter.
    for (number, more) in [(1, &[][..]), (2, &[]), (3, &["-o", "mtu=1380"])] {
        create(lab.host(number), number, more)?;
    }
    let boxes: Vec<_> = (1..=3)
        .map(|number| run(lab.host(number), &format!("box{number}"), &["--restart", "always"]))
        .collect::<Result<_>>()?;
    all_reach_each_other("at first", &boxes)?;
    let near = run(lab.host(1), "near", &[])?;
    assert!(near.ping("box1").is_ok(), "names answer on one engine");

    an_address_has_one_owner(&lab, &boxes)?;

    let keys: Vec<_> =
        lab.hosts().iter().map(|h| Ok(only_network(h)?.slots)).collect::<Result<_>>()?;
    lab.host(1).driver_crash()?;
    all_reach_each_other("after a kill of the driver", &boxes)?;
    lab.host(2).engine_stop()?;
    lab.host(2).engine_start()?;
    all_reach_each_other("after a restart of the engine", &boxes)?;
    lab.host(2).engine_kill("KILL")?;
    lab.host(2).engine_start()?;
    all_reach_each_other("after a kill of the engine", &boxes)?;
    for driver_first in [true, false] {
        lab.host(3).power_off()?;
        lab.host(3).boot()?;
        if driver_first {
            lab.host(3).driver_resume()?;
            lab.host(3).engine_start()?;
        } else {
            lab.host(3).engine_launch()?;
            lab.host(3).driver_resume()?;
            lab.host(3).engine_wait(AFTER_A_CRASH)?;
        }
        all_reach_each_other(&format!("after a power cut, driver first: {driver_first}"), &boxes)?;
    }
    a_power_cut_takes_the_journal_along(lab.host(2), &keys[1])?;
    all_reach_each_other("after a power cut that damaged the journal", &boxes)?;
    a_hand_moves_a_damaged_journal_away(lab.host(1), &keys[0])?;
    all_reach_each_other("after a hand moved the journal away", &boxes)?;
    lab.etcd().kill()?;
    lab.etcd().wipe()?;
    lab.etcd().start()?;
    all_reach_each_other("after the loss of all of etcd", &boxes)?;
    eventually("three hosts to have said everything again", SOON, || {
        lab.hosts().iter().all(|host| only_network(host).is_ok_and(|n| n.members.len() == 2))
    })?;
    for ((host, keys), container) in lab.hosts().iter().zip(&keys).zip(&boxes) {
        let network = only_network(host)?;
        assert_eq!(network.slots, *keys, "{} keeps keys and ports", host.name());
        let mine: Vec<_> = network.endpoints.iter().filter(|endpoint| endpoint.local).collect();
        let wanted = if host.name() == "h1" { 2 } else { 1 };
        assert_eq!(mine.len(), wanted, "{}: endpoints of dead containers: {mine:?}", host.name());
        assert!(network.in_sync, "{network:?}");
        assert!(!address(container)?.is_empty());
    }

    nothing_remains(&lab, &before, &records_before)
}

/// The mirror is gone with the power; what Docker says only once is known all the same.
fn a_power_cut_takes_the_journal_along(host: &Host, keys: &[SlotStatus]) -> Result<()> {
    host.power_off()?;
    host.write(JOURNAL, "no journal at all".repeat(5000))?;
    host.boot()?;
    host.driver_resume()?;
    host.engine_start()?;
    let damaged = || {
        status(host).is_ok_and(|said| said.problems.iter().any(|it| it.code == "journal-damaged"))
    };
    eventually("the damaged journal in the status", SOON, damaged)?;
    assert_eq!(only_network(host)?.slots, keys, "keys and ports are as they were");
    host.sh(&format!("rm {JOURNAL}.damaged-1"))?;
    eventually("an end of the problem", SOON, || !damaged())
}

/// With containers, and without a mirror, a hand is asked for: it does what the sentence says.
fn a_hand_moves_a_damaged_journal_away(host: &Host, keys: &[SlotStatus]) -> Result<()> {
    host.driver_stop()?;
    host.sh(&format!("rm {MIRROR}; echo no journal at all > {JOURNAL}"))?;
    host.driver_resume()?;
    eventually("the driver to say what to do", SOON, || {
        host.wgnetctl(&["status"]).is_err_and(|said| {
            let said = said.to_string();
            said.contains("move the file away") && said.contains("networks.json")
        })
    })?;
    host.sh(&format!("mv {JOURNAL} /tmp/damaged.redb"))?;
    eventually("the driver to work", SOON, || status(host).is_ok())?;
    assert_eq!(only_network(host)?.slots, keys, "keys and ports are as they were");
    host.sh("all=$(docker ps -q) && docker stop $all && docker start $all").map(drop)
}

/// Between plain engines nobody coordinates addresses but the drivers.
fn an_address_has_one_owner(lab: &Lab, boxes: &[Container<'_>]) -> Result<()> {
    let taken = address(&boxes[0])?;
    let second = ["run", "--rm", "--network", "blue", "--ip", &taken, "bb", "true"];
    let said = refused(lab.host(2), &second)?;
    for words in [&*format!("address {taken}"), "in use on host h1", "--ip-range"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert!(boxes[1].ping(&taken).is_ok(), "the owner keeps it");
    lab.host(2).docker(&["run", "--rm", "--network", "blue", "bb", "true"]).map(drop)
}

fn nothing_remains(lab: &Lab, before: &[Inventory], records_before: &[String]) -> Result<()> {
    lab.on_all_hosts(|host| {
        host.sh("docker rm -f $(docker ps -aq)")?;
        host.docker(&["network", "rm", "blue"]).map(drop)
    })?;
    let mut records = Vec::new();
    let clean = eventually("etcd to be as before", SOON, || {
        let now = lab.etcd().records();
        now.inspect(|now| records.clone_from(now)).is_ok_and(|now| now == records_before)
    });
    assert!(clean.is_ok(), "{records_before:?} became {records:?}");
    for (host, before) in lab.hosts().iter().zip(before) {
        let mut left = Vec::new();
        let clean = eventually("nothing to be left", SOON, || {
            // Docker's own: the bridge that it makes once, and the names of its sandboxes.
            let dockers = ["docker_gwbridge", "docker/", "172.1"];
            left = host.changes_since(before, &dockers);
            left.is_empty()
        });
        assert!(clean.is_ok(), "{}: {left:#?}", host.name());
        assert_eq!(status(host)?.networks.len(), 0);
    }
    Ok(())
}

#[test]
fn live_restore_keeps_traffic_and_what_docker_forgot_alone_can_be_made_anew() -> Result<()> {
    let lab = plain_engines("e2e-plain2", 2, &["--live-restore"])?;
    for number in 1..=2 {
        create(lab.host(number), number, &[])?;
    }
    let boxes: Vec<_> = (1..=2)
        .map(|number| run(lab.host(number), &format!("box{number}"), &["--restart", "always"]))
        .collect::<Result<_>>()?;
    all_reach_each_other("at first", &boxes)?;

    // With live-restore the end of dockerd touches no container.
    let far = address(&boxes[1])?;
    let stream = Stream::start(&boxes[0], &boxes[1])?;
    for signal in ["TERM", "KILL"] {
        lab.host(1).engine_kill(signal)?;
        lab.host(1).engine_start()?;
    }
    let report = stream.finish()?;
    assert_eq!(report.lost(), 0, "{report:?}");
    assert_eq!(address(&boxes[1])?, far);

    other_subnets_do_not_become_one_network(&lab)?;

    // Docker removes a network though its driver does not answer; who makes it anew gets it.
    lab.host(2).driver_stop()?;
    let removed = lab.host(2).try_docker(&["network", "rm", "blue"])?;
    lab.host(2).driver_resume()?;
    if !removed.success() {
        lab.host(2).docker(&["network", "rm", "blue"])?;
    }
    create(lab.host(2), 2, &[])?;
    let boxes = [boxes[0].clone(), run(lab.host(2), "again", &[])?];
    all_reach_each_other("after a removal that the driver did not hear of", &boxes)
}

/// A network of the same id with another subnet could reach nobody: its first container says so.
fn other_subnets_do_not_become_one_network(lab: &Lab) -> Result<()> {
    let host = lab.host(2);
    host.docker(&["rm", "-f", "box2"])?;
    host.docker(&["network", "rm", "blue"])?;
    let other = ["--subnet", "10.91.0.0/24", "-o", "id=blue"];
    host.docker(&[&["network", "create", "-d", "wgnet"], &other[..], &["blue"]].concat())?;
    eventually("the other engine's endpoint to be known", SOON, || {
        only_network(host).is_ok_and(|network| !network.members.is_empty())
    })?;
    let said = refused(host, &["run", "--rm", "--network", "blue", "bb", "true"])?;
    for words in ["10.90.0.", "on host h1", "the same --subnet"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    host.docker(&["network", "rm", "blue"])?;
    create(host, 2, &[])
}

/// Docker goes on with the driver that it has, and at its next start prefers the plugin, of which it
/// knows none of that name.
#[test]
fn a_plugin_beside_the_legacy_socket_is_told_of_before_containers_cannot_start() -> Result<()> {
    let lab = plain_engines("e2e-plain3", 1, &[])?;
    let host = lab.host(1);
    create(host, 1, &[])?;
    run(host, "before", &[])?;
    let problems = |wanted: &[&str]| {
        eventually(&format!("the problems {wanted:?}"), SOON, || {
            let told = status(host).map(|status| status.problems).unwrap_or_default();
            told.iter().map(|problem| &*problem.code).eq(wanted.iter().copied())
        })
    };
    problems(&[])?;
    host.plugin_install()?;
    problems(&["legacy-beside-plugin"])?;
    run(host, "meanwhile", &[])?;
    host.engine_stop()?;
    host.engine_start()?;
    let start = ["start", "before"];
    let said = refused(host, &start)?;
    assert!(said.contains("could not resolve driver wgnet"), "{said}");
    host.docker(&["plugin", "rm", "-f", "wgnet:latest"])?;
    problems(&[])?;
    host.docker(&start)?;
    run(host, "after", &[])?.ping("before").map(drop)
}
