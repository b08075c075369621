//! Containers that come and go at random.

use std::collections::BTreeSet;
use std::iter::Sum;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::chance::Chance;
use crate::lab::Result;
use crate::lab::checks::Container;
use crate::swarm::Swarm;

/// A command that an engine under a drill keeps waiting.
const COMMAND: Duration = Duration::from_secs(120);

/// Of every container of the soak.
pub(super) const PREFIX: &str = "soak-";

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Churned {
    pub started: u64,
    /// An engine that was killed, or that waits for a manager it cannot reach, refuses.
    pub failed: u64,
}

impl Sum for Churned {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            started: sum.started + one.started,
            failed: sum.failed + one.failed,
        })
    }
}

/// Starts and stops a host's share of the containers until it is over.
pub(super) fn churn(
    swarm: &Swarm,
    number: usize,
    share: usize,
    mut chance: Chance,
    over: &AtomicBool,
) -> Churned {
    let host = swarm.host(number);
    let mut running = BTreeSet::new();
    let mut churned = Churned::default();
    while !over.load(Ordering::Relaxed) {
        let slot = chance.below(share);
        let name = format!("{PREFIX}{number}-{slot}");
        let remove = || host.docker_within(COMMAND, &["rm", "-f", &name]);
        let run = ["run", "-d", "--name", &name, "--network", "blue", "bb", "sleep", "1000000"];
        if running.remove(&slot) {
            churned.failed += u64::from(remove().is_err());
        } else if host.docker_within(COMMAND, &run).is_ok() {
            churned.started += 1;
            running.insert(slot);
        } else {
            churned.failed += 1;
            // What was left half made is in the way of the next one of this name.
            let _ = remove();
        }
        // A pace, not a wait: as chance has it.
        thread::sleep(Duration::from_millis(chance.below(200) as u64));
    }
    churned
}

/// The containers that run now, whatever was believed.
pub(super) fn running(swarm: &Swarm) -> Result<Vec<Container<'_>>> {
    let mut containers = Vec::new();
    for host in swarm.lab.hosts() {
        let filter = format!("name=^{PREFIX}");
        let names = host.docker(&["ps", "--filter", &filter, "--format", "{{.Names}}"])?;
        containers.extend(names.lines().map(|name| Container { host, name: name.to_owned() }));
    }
    Ok(containers)
}

pub(super) fn remove_all(swarm: &Swarm) -> Result<()> {
    swarm.lab.on_all_hosts(|host| {
        let script = format!("docker ps -aq --filter name=^{PREFIX} | xargs -r docker rm -f");
        host.exec_within(Duration::from_secs(300), &["sh", "-ec", &script]).map(drop)
    })
}
