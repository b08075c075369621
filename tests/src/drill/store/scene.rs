//! Containers on three hosts, and what every host has to know of them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use wgnet_proto::ClusterSecrets;

use super::records::Records;
use super::reports;
use crate::drill::milliseconds;
use crate::lab::checks::Container;
use crate::lab::{Etcd, Host, LabError, LabOptions, Result, SECRET, wait_for};
use crate::stream::{Report, Stream};
use crate::swarm::{SOON, Swarm, eventually, only_network, status};

const NETWORK: &str = "blue";
const NET: &str = "10.83.0";

/// What fills it up fits the time there is.
const QUOTA: &str = "--quota-backend-bytes=16777216";

pub(super) fn swarm() -> Result<Swarm> {
    Swarm::with(LabOptions {
        name: "drill-store".into(),
        hosts: 3,
        etcd_members: 3,
        etcd_flags: vec![QUOTA.into()],
        ..LabOptions::default()
    })
}

pub(super) struct Scene<'s> {
    swarm: &'s Swarm,
    near: Container<'s>,
    pub(super) far: Container<'s>,
    /// On the third host.
    pub(super) eye: Container<'s>,
    /// Everything that runs, by name: its host's number and the last byte of its address.
    running: BTreeMap<String, (usize, usize)>,
}

impl<'s> Scene<'s> {
    pub(super) fn set(swarm: &'s Swarm) -> Result<Self> {
        swarm.network(NETWORK, &["--subnet", &format!("{NET}.0/24")])?;
        let stand = |host, name, last| swarm.run(host, name, NETWORK, &["--ip", &address(last)]);
        let [near, far, eye] = [stand(1, "near", 11)?, stand(2, "far", 12)?, stand(3, "eye", 13)?];
        let running = [("near", 1), ("far", 2), ("eye", 3)];
        let running = running.map(|(name, host)| (name.to_owned(), (host, 10 + host)));
        let scene = Self { swarm, near, far, eye, running: running.into() };
        scene.everywhere(Instant::now(), SOON)?;
        scene.reachable(&["near", "far"])?;
        Ok(scene)
    }

    pub(super) fn etcd(&self) -> &'s Etcd {
        self.swarm.lab.etcd()
    }

    pub(super) fn host(&self, number: usize) -> &'s Host {
        self.swarm.host(number)
    }

    /// Between the first two hosts.
    pub(super) fn stream(&self) -> Result<Stream> {
        Stream::start(&self.near, &self.far)
    }

    pub(super) fn run(&mut self, host: usize, name: &str, last: usize) -> Result<()> {
        self.swarm.run(host, name, NETWORK, &["--ip", &address(last)])?;
        self.running.insert(name.to_owned(), (host, last));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        let (host, _) = self.running.remove(name).expect("it runs");
        self.swarm.remove(&Container { host: self.host(host), name: name.to_owned() })
    }

    /// The same container with the same address on another host.
    pub(super) fn moved(&mut self, name: &str, to: usize) -> Result<()> {
        let (_, last) = self.running[name];
        self.remove(name)?;
        // The manager hears of the freed address when it does.
        wait_for("the address to be free again", SOON, || {
            self.run(to, name, last).inspect_err(|_| {
                let _ = self.host(to).docker(&["rm", "-f", name]);
            })
        })
        .map(drop)
    }

    /// Milliseconds from `docker run` to a running container on a host: the quickest and the median of some.
    pub(super) fn starts(&self, host: usize, times: usize) -> Result<[f64; 2]> {
        let mut all = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            let container = self.swarm.run(host, "passing", NETWORK, &[])?;
            all.push(milliseconds(began.elapsed()));
            self.swarm.remove(&container)?;
        }
        Ok(quickest_and_median(all))
    }

    /// Seconds until every host knows of everything that runs, and of nothing else, and has it in
    /// its kernel.
    pub(super) fn everywhere(&self, since: Instant, within: Duration) -> Result<f64> {
        self.everywhere_on(&[1, 2, 3], since, within)
    }

    pub(super) fn everywhere_on(
        &self,
        hosts: &[usize],
        since: Instant,
        within: Duration,
    ) -> Result<f64> {
        let at = |(host, last): &(usize, usize)| (address(*last), format!("h{host}"));
        let wanted: BTreeMap<String, String> = self.running.values().map(at).collect();
        wait_for("every change to be everywhere", within, || {
            let known = self.on(hosts, |host| knows(host, &wanted));
            known.into_iter().find_map(Result::err).map_or(Ok(()), Err)
        })?;
        Ok(since.elapsed().as_secs_f64())
    }

    /// The third host reaches all of these.
    pub(super) fn reachable(&self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| {
            let target = address(self.running[*name].1);
            eventually(&format!("a ping to {name}"), SOON, || self.eye.ping(&target).is_ok())
        })
    }

    pub(super) fn all_reachable(&self) -> Result<()> {
        self.reachable(&self.running.keys().map(String::as_str).collect::<Vec<_>>())
    }

    /// How many hosts do not come to report a problem.
    pub(super) fn hosts_without(&self, code: &str, within: Duration) -> Result<f64> {
        let reports = |host: &Host| {
            status(host).is_ok_and(|status| status.problems.iter().any(|it| it.code == code))
        };
        self.hosts_that_do_not(&format!("report {code}"), reports, within)
    }

    fn hosts_that_do_not(
        &self,
        what: &str,
        does: impl Fn(&Host) -> bool + Sync,
        within: Duration,
    ) -> Result<f64> {
        let mut others = 0;
        let _ = eventually(&format!("hosts to {what}"), within, || {
            others = self.on(&[1, 2, 3], &does).into_iter().filter(|does| !does).count();
            others == 0
        });
        Ok(others as f64)
    }

    /// What etcd holds once no host has anything left to write.
    pub(super) fn settled_records(&self) -> Result<Records> {
        eventually("everything to be published", SOON, || {
            let is_done = |host: &Host| {
                let store = status(host).map(|status| status.store);
                store.is_ok_and(|store| store.connected && store.unpublished == 0)
            };
            self.on(&[1, 2, 3], is_done).into_iter().all(|is_done| is_done)
        })?;
        self.records()
    }

    pub(super) fn records(&self) -> Result<Records> {
        let secrets = ClusterSecrets::load(&self.host(1).path(SECRET)).expect("the lab made it");
        Records::read(self.etcd(), &secrets)
    }

    /// How often each host noticed that etcd is of another history.
    pub(super) fn noticed(&self) -> BTreeMap<String, usize> {
        let hosts = self.swarm.lab.hosts().iter();
        hosts.map(|host| (host.name().to_owned(), reports::noticed(&host.driver_log()))).collect()
    }

    /// How many hosts do not come to report another history than those noticed before.
    pub(super) fn hosts_unaware(
        &self,
        noticed: &BTreeMap<String, usize>,
        within: Duration,
    ) -> Result<f64> {
        let reports = |host: &Host| {
            let problems = status(host).map(|status| status.problems).unwrap_or_default();
            let log = host.driver_log();
            problems.iter().any(|problem| {
                problem.code == "store-history"
                    && reports::are_of_now(&log, noticed[host.name()], &problem.cause)
            })
        };
        self.hosts_that_do_not("report another history", reports, within)
    }

    /// Until no host reports a problem any more.
    pub(super) fn solved(&self, code: &str, within: Duration) -> Result<()> {
        let is_well = |host: &Host| {
            status(host).is_ok_and(|status| status.problems.iter().all(|it| it.code != code))
        };
        eventually(&format!("an end of {code}"), within, || {
            self.on(&[1, 2, 3], is_well).into_iter().all(|is_well| is_well)
        })
    }

    pub(super) fn until_connected(&self, host: usize, wanted: bool) -> Result<()> {
        eventually(&format!("h{host} to be connected: {wanted}"), 3 * SOON, || {
            status(self.host(host)).is_ok_and(|status| status.store.connected == wanted)
        })
    }

    /// Does something while etcd does not answer; what [`Etcd::until_it_answers`] says.
    pub(super) fn while_waiting_for_an_answer(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Instant> {
        let etcd = self.etcd();
        thread::scope(|scope| {
            let answer = scope.spawn(|| etcd.until_it_answers(SOON));
            work(self)?;
            answer.join().expect("it only asks")
        })
    }

    fn on<T: Send>(&self, hosts: &[usize], ask: impl Fn(&Host) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let ask = &ask;
            let asked: Vec<_> =
                hosts.iter().map(|host| scope.spawn(move || ask(self.host(*host)))).collect();
            asked.into_iter().map(|it| it.join().expect("it only asks")).collect()
        })
    }
}

/// Whether a host knows just these endpoints and their hosts.
fn knows(host: &Host, wanted: &BTreeMap<String, String>) -> Result<()> {
    let network = only_network(host)?;
    let known: BTreeMap<String, String> = network
        .endpoints
        .iter()
        .flat_map(|it| it.addresses.iter().map(|at| (at.to_string(), it.host_name.clone())))
        .collect();
    if known != *wanted {
        return Err(odd(&format!("{} knows {known:?} instead of {wanted:?}", host.name())));
    }
    if !network.in_sync {
        return Err(odd(&format!("{} is not in sync: {:?}", host.name(), network.error)));
    }
    Ok(())
}

/// What was lost is told with its time, to be found in the drivers' logs.
pub(super) fn finish(stream: Stream) -> Result<Report> {
    let report = stream.finish()?;
    for (way, flow) in [("there", &report.there), ("back", &report.back)] {
        for loss in &flow.losses {
            let (seconds, packets) = (loss.before_ms / 1e3, loss.packets);
            eprintln!("  {packets} packets lost {way} until {seconds:.3}");
        }
    }
    Ok(report)
}

pub(super) fn quickest_and_median(mut all: Vec<f64>) -> [f64; 2] {
    all.sort_by(f64::total_cmp);
    [all[0], all[all.len() / 2]]
}

pub(super) fn odd(what: &str) -> LabError {
    LabError::Machine(what.to_owned())
}

fn address(last: usize) -> String {
    format!("{NET}.{last}")
}
