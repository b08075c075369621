//! Containers on three hosts, and what every host has to know of them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::checks::Container;
use crate::lab::{Etcd, Host, LabError, LabOptions, Result, wait_for};
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

    /// Milliseconds from `docker run` to a running container on a host, the median of some.
    pub(super) fn starts(&self, host: usize, times: usize) -> Result<f64> {
        let mut all = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            let container = self.swarm.run(host, "passing", NETWORK, &[])?;
            all.push(began.elapsed().as_secs_f64() * 1e3);
            self.swarm.remove(&container)?;
        }
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
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

    /// How many hosts do not come to report a problem.
    pub(super) fn hosts_without(&self, code: &str, within: Duration) -> Result<f64> {
        let reports = |host: &Host| {
            status(host).is_ok_and(|status| status.problems.iter().any(|it| it.code == code))
        };
        let mut without = 0;
        let _ = eventually(&format!("reports of {code}"), within, || {
            without = self.on(&[1, 2, 3], reports).into_iter().filter(|reports| !reports).count();
            without == 0
        });
        Ok(without as f64)
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
        eventually(&format!("h{host} to be connected: {wanted}"), SOON, || {
            status(self.host(host)).is_ok_and(|status| status.store.connected == wanted)
        })
    }

    /// Does something while etcd does not answer; when it did again.
    pub(super) fn while_waiting_for_an_answer(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Instant> {
        let etcd = self.etcd();
        thread::scope(|scope| {
            let answer = scope.spawn(|| {
                let args = ["--command-timeout=300ms", "get", "--limit=1", "x"];
                wait_for("an answer of etcd", SOON, || etcd.etcdctl(&args))?;
                Ok(Instant::now())
            });
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

pub(super) fn odd(what: &str) -> LabError {
    LabError::Machine(what.to_owned())
}

fn address(last: usize) -> String {
    format!("{NET}.{last}")
}
