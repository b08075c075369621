//! Docker's commands while something else happens: containers started and removed on every host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Host, Result};

/// More than the shim lets a call wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that starts fewer containers than one in so long is hardly under load. (With two other labs beside on two
/// cores one takes up to five seconds.)
const ONE_IN: Duration = Duration::from_secs(6);

/// An engine that is away refuses at once, again and again.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Containers on each host.
    started: Vec<u64>,
    length: Duration,
    pub(crate) failures: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Load {
    pub(crate) fn started(&self) -> f64 {
        self.started.iter().sum::<u64>() as f64
    }

    /// How many must have been started in all, or it was none to speak of.
    pub(crate) fn enough(&self) -> f64 {
        let each = self.length.as_secs() / ONE_IN.as_secs();
        (each.max(1) * self.started.len() as u64) as f64
    }

    /// On the host that started fewest.
    pub(crate) fn fewest(&self) -> f64 {
        self.started.iter().min().map_or(0.0, |fewest| *fewest as f64)
    }

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
        self.started.extend(other.started);
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
    let (done, load) = while_they_come_and_go(hosts, network, work);
    for failure in &load.failures {
        eprintln!("  failed: {failure}");
    }
    Ok((done?, load))
}

/// The same where commands are to fail, for the work ends engines.
pub(crate) fn while_they_come_and_go<T>(
    hosts: &[&Host],
    network: &str,
    work: impl FnOnce() -> Result<T>,
) -> (Result<T>, Load) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> =
            hosts.iter().map(|host| scope.spawn(|| run_until(host, network, &over))).collect();
        let began = Instant::now();
        let done = work();
        let mut load = Load { length: began.elapsed(), ..Load::default() };
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            load.add(worker.join().expect("a worker does not panic"));
        }
        (done, load)
    })
}

fn run_until(host: &Host, network: &str, over: &AtomicBool) -> Load {
    let (mut load, mut started) = (Load::default(), 0);
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let run = ["run", "--rm", "--network", network, "bb", "true"];
        let done = host.docker_within(PATIENCE, &run);
        let took = began.elapsed();
        match done {
            Ok(_) => started += 1,
            Err(error) => {
                load.failures.push(error.to_string());
                thread::sleep(AFTER_FAILURE);
            }
        }
        load.slowest = load.slowest.max(took);
    }
    load.started.push(started);
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_enough_by_its_length_and_on_each_host() {
        let mut load = Load { length: Duration::from_secs(18), ..Load::default() };
        for started in [7, 0] {
            load.add(Load { started: vec![started], ..Load::default() });
        }
        assert_eq!((load.started(), load.enough(), load.fewest()), (7.0, 6.0, 0.0));
        load.length = Duration::from_secs(1);
        assert_eq!(load.enough(), 2.0);
    }
}
