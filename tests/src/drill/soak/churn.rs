//! Containers that come and go at random.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::chance::Chance;
use crate::lab::checks::Container;
use crate::lab::{Host, Result, wait_for};
use crate::swarm::Swarm;

/// A command that an engine under a drill keeps waiting.
const COMMAND: Duration = Duration::from_secs(120);

/// Of every container of the soak.
pub(super) const PREFIX: &str = "soak-";

/// What came and went on one host.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Churned {
    pub started: u64,
    pub failed: u64,
    /// How often it was looked how many places are taken, and how many were in all these looks. What an
    /// engine's end takes along counts until its place comes again.
    looks: u64,
    taken: u64,
}

impl Churned {
    /// Places taken at a time, on average.
    pub(super) fn taken(&self) -> f64 {
        self.taken as f64 / self.looks.max(1) as f64
    }
}

/// Starts and stops containers in a host's places until it is over.
pub(super) fn churn(
    swarm: &Swarm,
    number: usize,
    places: usize,
    mut chance: Chance,
    over: &AtomicBool,
) -> Churned {
    let host = swarm.host(number);
    let mut running = BTreeSet::new();
    let mut churned = Churned::default();
    while !over.load(Ordering::Relaxed) {
        let place = chance.below(places);
        let name = name(host, place);
        if running.remove(&place) {
            churned.failed += u64::from(remove(host, &name).is_err());
        } else if start(host, &name).is_ok() {
            churned.started += 1;
            running.insert(place);
        } else {
            churned.failed += 1;
        }
        churned.looks += 1;
        churned.taken += running.len() as u64;
        // A pace, not a wait: as chance has it.
        thread::sleep(Duration::from_millis(chance.below(200) as u64));
    }
    churned
}

/// Starts a container in each place that is empty.
pub(super) fn fill(swarm: &Swarm, places: usize) -> Result<()> {
    swarm.lab.on_all_hosts(|host| {
        let there = names(host)?;
        let empty = (0..places).map(|place| name(host, place)).filter(|it| !there.contains(it));
        empty.into_iter().try_for_each(|name| {
            let what = format!("a container in the place {name}");
            wait_for(&what, COMMAND, || start(host, &name)).map(drop)
        })
    })
}

fn name(host: &Host, place: usize) -> String {
    format!("{PREFIX}{}-{place}", host.name())
}

/// What is left half made would be in the way of the next one of this name.
fn start(host: &Host, name: &str) -> Result<()> {
    let run = ["run", "-d", "--name", name, "--network", "blue", "bb", "sleep", "1000000"];
    let started = host.docker_within(COMMAND, &run);
    started.map(drop).inspect_err(|_| drop(remove(host, name)))
}

fn remove(host: &Host, name: &str) -> Result<()> {
    host.docker_within(COMMAND, &["rm", "-f", name]).map(drop)
}

fn names(host: &Host) -> Result<BTreeSet<String>> {
    let filter = format!("name=^{PREFIX}");
    let names = host.docker(&["ps", "--filter", &filter, "--format", "{{.Names}}"])?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// The containers that run now, whatever was believed.
pub(super) fn running(swarm: &Swarm) -> Result<Vec<Container<'_>>> {
    let mut containers = Vec::new();
    for host in swarm.lab.hosts() {
        containers.extend(names(host)?.into_iter().map(|name| Container { host, name }));
    }
    Ok(containers)
}

pub(super) fn remove_all(swarm: &Swarm) -> Result<()> {
    swarm.lab.on_all_hosts(|host| {
        let script = format!("docker ps -aq --filter name=^{PREFIX} | xargs -r docker rm -f");
        host.exec_within(Duration::from_secs(300), &["sh", "-ec", &script]).map(drop)
    })
}
