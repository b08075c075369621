//! Docker's commands while something else happens: containers started and removed on every host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Host, Result};

/// More than the shim lets a call wait.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) started: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Load {
    pub(crate) fn failed(&self) -> f64 {
        self.failures.len() as f64
    }

    /// How many failures say this, and the load without them. All others still count.
    pub(crate) fn without(mut self, words: &str) -> (f64, Self) {
        let before = self.failures.len();
        self.failures.retain(|failure| !failure.contains(words));
        ((before - self.failures.len()) as f64, self)
    }

    fn add(&mut self, other: Self) {
        self.started += other.started;
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// One container after the other on each of these hosts, for as long as the work takes.
pub(crate) fn under_load<T>(
    hosts: &[&Host],
    network: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Load)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> =
            hosts.iter().map(|host| scope.spawn(|| run_until(host, network, &over))).collect();
        let done = work();
        over.store(true, Ordering::Relaxed);
        let mut load = Load::default();
        for worker in workers {
            load.add(worker.join().expect("a worker does not panic"));
        }
        for failure in &load.failures {
            eprintln!("  failed: {failure}");
        }
        Ok((done?, load))
    })
}

fn run_until(host: &Host, network: &str, over: &AtomicBool) -> Load {
    let mut load = Load::default();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let run = ["run", "--rm", "--network", network, "bb", "true"];
        match host.docker_within(PATIENCE, &run) {
            Ok(_) => load.started += 1,
            Err(error) => load.failures.push(error.to_string()),
        }
        load.slowest = load.slowest.max(began.elapsed());
    }
    load
}
