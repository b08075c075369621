//! A real swarm of three hosts: names, transfers, what can be read on the underlay, what is in a
//! namespace, what remains.

// tests/run: long

#[path = "swarm/inside.rs"]
mod inside;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use wgnet_tests::lab::Result;
use wgnet_tests::lab::checks::{self, Container};
use wgnet_tests::swarm::{NAMED, SOON, Swarm, eventually, status};

const KNOWN_TEXT: &str = "a sentence that nobody between the hosts may read";

/// Everything about one swarm in its normal life; one test, because the swarm is what costs.
#[test]
fn a_swarm_of_three_hosts_shares_a_network_that_nobody_between_them_can_read() -> Result<()> {
    let swarm = Swarm::start("e2e-swarm", 3)?;
    let before: Vec<_> =
        swarm.lab.hosts().iter().map(|host| host.inventory()).collect::<Result<_>>()?;
    let records_before = swarm.lab.etcd().records()?;

    swarm.network("blue", &[])?;
    swarm.host(1).docker(&["network", "create", "-d", "overlay", "--attachable", "plain"])?;
    service(&swarm, "web")?;
    let on_each_host = || {
        checks::service_containers(&swarm.lab, "web").is_ok_and(|tasks| {
            tasks.iter().map(|task| task.host.name()).collect::<BTreeSet<_>>().len() == 3
        })
    };
    eventually("a task on each host", SOON, on_each_host)?;
    let mut everyone = checks::service_containers(&swarm.lab, "web")?;
    for number in 1..=3 {
        let alias = format!("alias{number}");
        everyone.push(swarm.run(
            number,
            &format!("box{number}"),
            "blue",
            &["--network-alias", &alias],
        )?);
    }
    let boxes = everyone[3..].to_vec();

    names_answer(&everyone, &boxes)?;
    transfers_arrive(&boxes)?;
    only_wireguard_leaves(&swarm, &boxes)?;
    inside::everything_clear_is_inside(&swarm, &everyone)?;
    an_unknown_address_fails_at_once(&boxes[0])?;

    for container in &boxes {
        swarm.remove(container)?;
    }
    swarm.host(1).docker(&["service", "rm", "web"])?;
    for host in swarm.lab.hosts() {
        eventually("the tasks to be gone", SOON, || {
            host.docker(&["ps", "-aq"]).is_ok_and(|ids| ids.is_empty())
        })?;
        // The keys stay, for the next task may come: what is looked for at the end was there.
        eventually("the network's keys to be kept", SOON, || {
            status(host).is_ok_and(|said| said.networks.is_empty() && said.lingering.len() == 1)
        })?;
    }
    swarm.host(1).docker(&["network", "rm", "blue", "plain"])?;
    nothing_remains(&swarm, &before, &records_before)
}

fn service(swarm: &Swarm, name: &str) -> Result<()> {
    let create = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--no-resolve-image",
        "--mode",
        "global",
        "--endpoint-mode",
        "dnsrr",
    ];
    let rest = [
        "--stop-grace-period",
        "0s",
        "--network",
        "blue",
        "--name",
        name,
        "perf",
        "sleep",
        "1000000",
    ];
    swarm.host(1).docker(&[&create[..], &rest].concat()).map(drop)
}

/// 9 of 9 between the tasks, and every other pair; by container name, alias and service name, on every host.
fn names_answer(everyone: &[Container<'_>], boxes: &[Container<'_>]) -> Result<()> {
    eventually("every name to answer", NAMED, || {
        checks::ping_matrix(everyone).values().all(Result::is_ok)
    })?;
    let pings = checks::ping_matrix(everyone);
    assert_eq!(pings.len(), everyone.len() * everyone.len());
    for (pair, answer) in pings {
        assert!(answer.is_ok(), "{pair:?}: {answer:?}");
    }
    for asker in boxes {
        for name in ["web", "tasks.web", "alias1", "alias2", "alias3", "box1", "box2", "box3"] {
            assert!(asker.ping(name).is_ok(), "{}: {name} does not answer", asker.name);
        }
        for service in ["web", "tasks.web"] {
            let found =
                asker.exec(&["sh", "-c", &format!("nslookup {service} 127.0.0.11 2>&1; true")])?;
            let words = found.split_whitespace().filter_map(|word| word.parse::<Ipv4Addr>().ok());
            let tasks: BTreeSet<_> = words.filter(|address| !address.is_loopback()).collect();
            assert_eq!(tasks.len(), 3, "{}: {service} is not its three tasks: {found}", asker.name);
        }
    }
    Ok(())
}

fn transfers_arrive(boxes: &[Container<'_>]) -> Result<()> {
    for (from, to) in [(&boxes[0], &boxes[1]), (&boxes[1], &boxes[0])] {
        from.serve("/tmp")?;
        let transfer = checks::transfer(from, to, 100)?;
        assert_eq!(transfer.sent, transfer.received, "{} to {}", from.name, to.name);
        assert!(transfer.bytes >= 100_000_000);
    }
    Ok(())
}

/// The same check on Docker's overlay finds the text: it can fail.
fn only_wireguard_leaves(swarm: &Swarm, boxes: &[Container<'_>]) -> Result<()> {
    let plain: Vec<_> = [1, 2]
        .into_iter()
        .map(|number| swarm.run(number, &format!("plain{number}"), "plain", &[]))
        .collect::<Result<_>>()?;
    plain[0].serve("/tmp")?;
    assert!(
        checks::readable_frames(&swarm.lab, &plain[0], &plain[1], KNOWN_TEXT)?.readable > 0,
        "the overlay is readable"
    );
    assert_eq!(
        checks::readable_frames(&swarm.lab, &boxes[0], &boxes[1], KNOWN_TEXT)?.readable,
        0,
        "wgnet is not"
    );
    plain.iter().try_for_each(|container| swarm.remove(container))
}

fn an_unknown_address_fails_at_once(asker: &Container<'_>) -> Result<()> {
    let gateway = asker.exec(&[
        "sh",
        "-c",
        "ip route | sed -n 's/.*via \\([0-9.]*\\) dev eth0.*/\\1/p' | head -n1",
    ])?;
    let (net, _) = gateway.trim().rsplit_once('.').expect("an address");
    // Not after the minutes in which a connection gives up that nobody answers.
    let connect = asker.exec(&["sh", "-c", &format!("nc -w 20 {net}.250 80 2>&1; true")])?;
    assert!(connect.contains("unreachable") || connect.contains("No route to host"), "{connect}");
    Ok(())
}

/// The lists of before and after are equal, on every host and in etcd.
fn nothing_remains(
    swarm: &Swarm,
    before: &[wgnet_tests::lab::Inventory],
    records_before: &[String],
) -> Result<()> {
    for (host, before) in swarm.lab.hosts().iter().zip(before) {
        let mut left = Vec::new();
        let clean = eventually("nothing to be left", SOON, || {
            // Docker keeps its bridge of all swarm networks, namespaces, links and sockets of its own
            // overlays; ours have other names.
            let dockers =
                ["docker_gwbridge", "docker/", "172.1", ":4789", "host link veth", "host link vx-"];
            left = host.changes_since(before, &dockers);
            left.is_empty()
        });
        assert!(clean.is_ok(), "{}: {left:#?}", host.name());
        eventually("the driver to have forgotten the network, keys and all", SOON, || {
            status(host).is_ok_and(|said| said.networks.is_empty() && said.lingering.is_empty())
        })?;
    }
    let (mut kept, mut records) = (Vec::new(), Vec::new());
    let clean = eventually("the records to be gone", SOON, || {
        match swarm.lab.etcd().records() {
            Ok(now) => records = now,
            Err(error) => {
                kept = vec![error.to_string()];
                return false;
            }
        }
        let is_kept = |key: &&String| !records_before.contains(key) || key.contains("/networks/");
        kept = records.iter().filter(is_kept).cloned().collect();
        kept.extend(records_before.iter().filter(|key| !records.contains(key)).cloned());
        kept.is_empty()
    });
    assert!(clean.is_ok(), "{kept:?} of {records:?}");
    Ok(())
}
