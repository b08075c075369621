//! What Docker waits for in the driver: the calls of an endpoint's life, through the driver's socket,
//! by one caller and by several at once, without any engine.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::report::Figure;
use super::statistics::{Samples, Statistic};
use crate::lab::{Host, Result};
use crate::plugin::Dockerless;
use crate::swarm::{SOON, eventually};

const NETWORK: &str = "bench00000000000000000001";

/// A network that both hosts are members of, so that every endpoint is published to somebody.
pub(super) struct Network<'lab> {
    driver: Dockerless<'lab>,
}

/// How long the calls of one endpoint took.
pub(super) struct Life {
    create: Duration,
    join: Duration,
    leave: Duration,
    delete: Duration,
}

impl<'lab> Network<'lab> {
    pub(super) fn on(near: &'lab Host, far: &'lab Host) -> Result<Self> {
        for host in [near, far] {
            let made = || {
                Dockerless { host }
                    .create_network(NETWORK, "10.93.0.0/16", "10.93.0.1/16", &json!({}))
                    .is_ok()
            };
            eventually("a network for calls", SOON, made)?;
        }
        Ok(Self { driver: Dockerless { host: near } })
    }

    /// Makes all endpoints, then removes all; callers share them evenly.
    pub(super) fn lives(&self, endpoints: usize, callers: usize) -> Result<Vec<Life>> {
        let made = share(endpoints, callers, |number| self.make(number, callers))?;
        let removed = share(endpoints, callers, |number| self.remove(number, callers))?;
        let lives = made.into_iter().zip(removed);
        Ok(lives
            .map(|((create, join), (leave, delete))| Life { create, join, leave, delete })
            .collect())
    }

    fn make(&self, number: usize, callers: usize) -> Result<(Duration, Duration)> {
        let endpoint = endpoint(number, callers);
        let address = format!("10.93.{}.{}/16", 1 + number / 250, 1 + number % 250);
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let create = json!({ "NetworkID": NETWORK, "EndpointID": endpoint, "Interface": interface, "Options": {} });
        // Docker has made the sandbox by then, and moves the link into it later; nobody does here.
        let sandbox = format!("/var/run/docker/netns/{}", &endpoint[..12]);
        let join = json!({ "NetworkID": NETWORK, "EndpointID": endpoint, "SandboxKey": sandbox, "Options": {} });
        Ok((self.timed("CreateEndpoint", &create)?, self.timed("Join", &join)?))
    }

    fn remove(&self, number: usize, callers: usize) -> Result<(Duration, Duration)> {
        let ids = json!({ "NetworkID": NETWORK, "EndpointID": endpoint(number, callers) });
        Ok((self.timed("Leave", &ids)?, self.timed("DeleteEndpoint", &ids)?))
    }

    fn timed(&self, method: &str, body: &serde_json::Value) -> Result<Duration> {
        let started = Instant::now();
        self.driver.done(method, body)?;
        Ok(started.elapsed())
    }
}

/// Never used again: the driver refuses the id of an endpoint that was deleted.
fn endpoint(number: usize, callers: usize) -> String {
    format!("{number:032x}{callers:032x}").chars().rev().collect()
}

/// The work for every number, by so many threads at once; the results in the order of the numbers.
fn share<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    let parts = thread::scope(|scope| {
        let one = |thread| {
            move || {
                (thread..count).step_by(threads).map(|number| Ok((number, work(number)?))).collect()
            }
        };
        let parts: Vec<_> = (0..threads).map(|thread| scope.spawn(one(thread))).collect();
        let join = |part: thread::ScopedJoinHandle<'_, Result<Vec<(usize, T)>>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut all: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

pub(super) fn figures(callers: &str, lives: &[Life]) -> Vec<Figure> {
    let line = |what: &str, statistic, of: &dyn Fn(&Life) -> Duration| Figure {
        what: format!("{what}, {callers}"),
        unit: "ms",
        statistic,
        wgnet: Samples::new(lives.iter().map(|life| of(life).as_secs_f64() * 1e3).collect()),
        beside: None,
        aim: None,
    };
    let made = |life: &Life| life.create + life.join;
    let whole = |life: &Life| life.create + life.join + life.leave + life.delete;
    vec![
        line("CreateEndpoint + Join", Statistic::Median, &made),
        line("CreateEndpoint + Join", Statistic::P99, &made),
        line("all calls, CreateEndpoint to DeleteEndpoint", Statistic::Median, &whole),
        line("all calls, CreateEndpoint to DeleteEndpoint", Statistic::P99, &whole),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::LabError;

    #[test]
    fn shared_work_is_done_once_for_each_number_and_comes_back_in_order() {
        for threads in [1, 3, 10, 50] {
            assert_eq!(share(20, threads, Ok).unwrap(), (0..20).collect::<Vec<_>>());
        }
        let failing = |number| {
            if number == 7 { Err(LabError::Machine("seven".into())) } else { Ok(number) }
        };
        assert_eq!(share(20, 3, failing).unwrap_err().to_string(), "seven");
    }

    #[test]
    fn every_endpoint_has_an_id_of_its_own() {
        let mut ids: Vec<String> = [1, 10]
            .into_iter()
            .flat_map(|callers| (0..300).map(move |number| endpoint(number, callers)))
            .collect();
        assert!(ids.iter().all(|id| id.len() == 64));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 600);
    }
}
