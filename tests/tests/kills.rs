//! The driver is killed over and over while containers start and stop.

// tests/run: long

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use wgnet_tests::lab::Result;
use wgnet_tests::lab::checks::Container;
use wgnet_tests::swarm::{SOON, Swarm, eventually, only_network};

const KILLS: usize = 50;

#[test]
fn fifty_kills_of_the_driver_fail_no_docker_command_and_touch_no_running_container() -> Result<()> {
    let swarm = Swarm::start("e2e-kills", 2)?;
    swarm.network("blue", &[])?;
    let lasting = [swarm.run(1, "lasting1", "blue", &[])?, swarm.run(2, "lasting2", "blue", &[])?];
    eventually("the first ping", SOON, || lasting[0].ping("lasting2").is_ok())?;
    let objects: Vec<String> = lasting.iter().map(kernel_objects).collect::<Result<_>>()?;
    let idle: Vec<_> =
        swarm.lab.hosts().iter().map(|host| host.inventory()).collect::<Result<_>>()?;

    let over = AtomicBool::new(false);
    let started = AtomicUsize::new(0);
    let failures: Vec<String> = thread::scope(|scope| -> Result<Vec<String>> {
        let workers: Vec<_> = (1..=2)
            .map(|number| {
                let (swarm, over, started) = (&swarm, &over, &started);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let run = ["run", "--rm", "--network", "blue", "bb", "true"];
                        match swarm.host(number).docker_within(Duration::from_secs(60), &run) {
                            Ok(_) => _ = started.fetch_add(1, Ordering::Relaxed),
                            Err(error) => failures.push(error.to_string()),
                        }
                    }
                    failures
                })
            })
            .collect();
        for kill in 0..KILLS {
            let host = swarm.host(1 + kill % 2);
            host.driver_crash()?;
        }
        over.store(true, Ordering::Relaxed);
        Ok(workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker does not panic"))
            .collect())
    })?;
    assert_eq!(failures, Vec::<String>::new(), "of {} containers", started.load(Ordering::Relaxed));
    assert!(
        started.load(Ordering::Relaxed) >= 10,
        "only {} containers were started meanwhile",
        started.load(Ordering::Relaxed)
    );

    let now: Vec<String> = lasting.iter().map(kernel_objects).collect::<Result<_>>()?;
    assert_eq!(objects, now, "a running container keeps every kernel object");
    assert!(lasting[0].ping("lasting2").is_ok() && lasting[1].ping("lasting1").is_ok());
    for (host, idle) in swarm.lab.hosts().iter().zip(&idle) {
        let mut left = Vec::new();
        let clean = eventually("nothing to be leaked", SOON, || {
            left = host.inventory().map(|now| now.changes_since(idle)).unwrap_or_default();
            // Docker clears the names of its own sandboxes once a minute.
            left.retain(|line| !line.contains("docker_gwbridge") && !line.contains("docker/"));
            left.is_empty()
        });
        assert!(clean.is_ok(), "{}: {left:#?}", host.name());
    }
    Ok(())
}

/// The identity of everything that carries the container's traffic: index and address of its
/// interface, of the veth's other end, of WireGuard's interface.
fn kernel_objects(container: &Container<'_>) -> Result<String> {
    let space = only_network(container.host)?.namespace;
    let inside = container.exec(&[
        "sh",
        "-c",
        "cat /sys/class/net/eth0/ifindex /sys/class/net/eth0/iflink /sys/class/net/eth0/address",
    ])?;
    let peer = inside.split_whitespace().nth(1).unwrap_or_default();
    let outside = container.host.sh(&format!("ip -n {space} -o link | sed -nE 's/^({peer}|[0-9]+): (wg0|wgv[0-9a-f]+).*/\\1 \\2/p' | grep -E '^{peer} |wg0$'"))?;
    Ok(format!("{inside}\n{outside}"))
}
