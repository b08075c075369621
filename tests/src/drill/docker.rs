//! Docker itself is in trouble: an engine killed, a leader lost, a plugin disabled, a node drained or
//! gone from the swarm, an address that comes back on another host.
//!
//! All of it happens to h1 (the plugin's to h3) while a stream runs between h2 and h3. Docker's own
//! overlay has the same services beside ours.

mod engines;
mod killed;
mod leftovers;
mod moves;

use std::thread;
use std::time::{Duration, Instant};

use super::{Row, Rows, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result, wait_for};
use crate::stream::Stream;
use crate::swarm::{SOON, Swarm, eventually};
use leftovers::Leftovers;

const OURS: &str = "blue";
const DOCKERS: &str = "plain";

/// Each host has a task of each.
const SERVICES: [(&str, &str); 2] = [("web", OURS), ("plain-web", DOCKERS)];

/// Docker's own part may take longer than ours: a bulk sync of its gossip that is not answered
/// (libnetwork/networkdb) takes 30 s, and the network's tasks wait for it.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// The bar of what is to be gone.
const GONE_WITHIN: f64 = 60.0;

/// How long it is waited for, to tell when it was.
const GONE_AT_LAST: Duration = Duration::from_secs(90);

/// What the end of old endpoints is counted from: the table's words for it, and when it was.
struct Event {
    figure: &'static str,
    since: Instant,
    /// When they were gone, where that was looked at already.
    cleared: Option<Instant>,
}

const AFTER_START: &str = "nothing of old endpoints after dockerd's start";
const AFTER_DRAIN: &str = "nothing of old endpoints after the drain";
const AFTER_LEAVE: &str = "nothing of old endpoints after the leave";

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn docker(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = Swarm::start("drill-docker", 3)?;
    swarm.network(OURS, &["--subnet", "10.84.0.0/24"])?;
    let overlay = ["-d", "overlay", "--attachable", "--subnet", "10.85.0.0/24", DOCKERS];
    swarm.host(1).docker(&[&["network", "create"][..], &overlay].concat())?;
    swarm.host(1).docker(&["node", "promote", "h2", "h3"])?;
    let drills = Drills {
        near: swarm.run(2, "near", OURS, &[])?,
        far: swarm.run(3, "far", OURS, &[])?,
        plain: swarm.run(2, "plain-near", DOCKERS, &[])?,
        swarm: &swarm,
    };
    drills.start_services()?;
    let full = scale == Scale::Full;
    drills.address_moves(full, rows)?;
    rows.add(drills.plugin_disabled()?);
    if full {
        rows.add(drills.leader_lost()?);
    }
    rows.add(drills.killed_under_load(scale.pick(2, 5))?);
    if full {
        rows.add(drills.engine_stopped()?);
        rows.add(drills.engine_starts_slowly()?);
    }
    drills.make_worker(swarm.host(1))?;
    rows.add(drills.worker_drained()?);
    rows.add(drills.worker_leaves(full)?);
    Ok(())
}

struct Drills<'s> {
    swarm: &'s Swarm,
    near: Container<'s>,
    far: Container<'s>,
    /// On Docker's overlay, beside `near`.
    plain: Container<'s>,
}

impl Drills<'_> {
    fn start_services(&self) -> Result<()> {
        for (service, network) in SERVICES {
            let create = ["service", "create", "--quiet", "--detach", "--no-resolve-image"];
            let how = ["--mode=global", "--endpoint-mode=dnsrr", "--stop-grace-period=0s"];
            let what = ["--network", network, "--name", service, "perf", "sleep", "1000000"];
            self.swarm.host(2).docker(&[&create[..], &how, &what].concat())?;
        }
        for host in self.swarm.lab.hosts() {
            for (service, network) in SERVICES {
                self.task_back(host, service, network, None, BACK_WITHIN)?;
            }
        }
        Ok(())
    }

    /// Until it is one in its own eyes, too.
    fn make_worker(&self, host: &Host) -> Result<()> {
        let demote = ["node", "demote", host.name()];
        // Docker refuses an update that crosses one of its own.
        wait_for("the node's demotion", BACK_WITHIN, || self.near.host.docker(&demote))?;
        eventually("the end of its manager", BACK_WITHIN, || manages(host).is_ok_and(|it| !it))
    }

    fn worker_drained(&self) -> Result<Row> {
        let host = self.swarm.host(1);
        self.swarm_row("worker drained and active again", host, |row| {
            let old = tasks(host);
            // Docker refuses an update that crosses one of its own.
            let update = |to| {
                let update = ["node", "update", "--availability", to, "h1"];
                wait_for("the node's update", SOON, || self.near.host.docker(&update))
            };
            update("drain")?;
            let drained = Instant::now();
            eventually("the drained node's tasks to end", BACK_WITHIN, || {
                SERVICES.iter().all(|(service, _)| task(host, service).is_none())
            })?;
            update("active")?;
            let ([ours, dockers], cleared) = self.both_back(host, &old, Instant::now())?;
            let row = row.at_most("its tasks reachable again after", ours, "s", 60.0);
            Ok((row.beside(dockers), Event { figure: AFTER_DRAIN, since: drained, cleared }))
        })
    }

    /// Docker needs some twenty seconds after the join to see that the node has the plugin.
    fn worker_leaves(&self, join_again: bool) -> Result<Row> {
        let (host, manager) = (self.swarm.host(1), self.swarm.host(2));
        self.swarm_row("swarm leave --force", host, |row| {
            let old = tasks(host);
            host.docker(&["swarm", "leave", "--force"])?;
            let left = Instant::now();
            eventually("nothing of the network on the host", BACK_WITHIN, || {
                host.sh("! ls /run/netns | grep ^wgnet-").is_ok()
            })?;
            let clean = left.elapsed().as_secs_f64();
            let row = row.at_most("nothing of it on the host after", clean, "s", GONE_WITHIN);
            if !join_again {
                return Ok((row, Event { figure: AFTER_LEAVE, since: left, cleared: None }));
            }
            let token = manager.docker(&["swarm", "join-token", "-q", "worker"])?;
            let meeting = format!("{}:2377", manager.address());
            let address = host.address();
            let join = ["swarm", "join", "--token", &token, "--advertise-addr", &address, &meeting];
            host.docker(&join)?;
            let joined = Instant::now();
            let ([ours, dockers], cleared) = self.both_back(host, &old, joined)?;
            let row = row
                .at_most("tasks reachable after it joined again", ours, "s", 60.0)
                .beside(dockers);
            Ok((row, Event { figure: AFTER_LEAVE, since: left, cleared }))
        })
    }

    /// Running containers keep their network without the plugin; new ones wait for it.
    fn plugin_disabled(&self) -> Result<Row> {
        let host = self.far.host;
        let stream = Stream::start(&self.near, &self.far)?;
        host.docker(&["plugin", "disable", "-f", "wgnet"])?;
        // Docker does nothing about it by itself; what would break breaks at once.
        thread::sleep(Duration::from_secs(2));
        host.docker(&["plugin", "enable", "wgnet"])?;
        let enabled = Instant::now();
        let run = ["run", "--rm", "--network", OURS, "bb", "ping", "-c1", "-W1", "near"];
        wait_for("a new container with network", BACK_WITHIN, || {
            host.docker_within(BACK_WITHIN, &run)
        })?;
        let again = enabled.elapsed();
        let row = Row::new("plugin disabled by force and enabled").lost_nothing(&stream.finish()?);
        Ok(row.info("containers start again after", again.as_secs_f64(), "s"))
    }

    /// What happens to one host must leave nothing of what was there. It happens while every endpoint has
    /// its container, as the row says.
    fn swarm_row(
        &self,
        drill: &'static str,
        host: &Host,
        work: impl FnOnce(Row) -> Result<(Row, Event)>,
    ) -> Result<Row> {
        let joined = "each old endpoint to have its container";
        let (old, _) = wait_for(joined, BACK_WITHIN, || leftovers::joined(self.swarm, host, OURS))?;
        self.beside_others(|| {
            let row = Row::new(drill).info("old endpoints, all joined", old as f64, "");
            let (row, Event { figure, since, cleared }) = work(row)?;
            let cleared = cleared.or_else(|| self.cleared(host));
            Ok(row.at_most(figure, seconds(since, cleared), "s", GONE_WITHIN))
        })
    }

    /// What happens to the first host must not touch the others.
    fn beside_others(&self, work: impl FnOnce() -> Result<Row>) -> Result<Row> {
        let stream = Stream::start(&self.near, &self.far)?;
        let row = work()?;
        Ok(row.lost_nothing_between_others(&stream.finish()?))
    }

    /// When nothing is left of what has no container any more, if that comes.
    fn cleared(&self, host: &Host) -> Option<Instant> {
        let mut left = Leftovers::default();
        let cleared = eventually("the old endpoints to be gone", GONE_AT_LAST, || {
            Leftovers::of(self.swarm, host, OURS).is_ok_and(|now| {
                left = now;
                left.none()
            })
        });
        let told = cleared.inspect_err(|_| eprintln!("  {}: left {left:?}", host.name()));
        told.ok().map(|()| Instant::now())
    }

    /// Seconds until the host has new tasks, ours and that of Docker's overlay, that can be reached; and
    /// when nothing was left of the old endpoints, whatever Docker's overlay takes.
    fn both_back(
        &self,
        host: &Host,
        old: &[Option<String>; 2],
        since: Instant,
    ) -> Result<([f64; 2], Option<Instant>)> {
        thread::scope(|scope| {
            let [(ours, blue), (dockers, plain)] = SERVICES;
            let dockers = scope.spawn(move || {
                let back = self.task_back(host, dockers, plain, old[1].as_deref(), BACK_WITHIN);
                seconds(since, back.ok())
            });
            let ours = self.task_back(host, ours, blue, old[0].as_deref(), BACK_WITHIN)?;
            let cleared = self.cleared(host);
            let dockers = dockers.join().expect("it does not panic");
            Ok(([seconds(since, Some(ours)), dockers], cleared))
        })
    }

    /// Waits until the host has another task of a service than it had, and until it can be reached.
    fn task_back(
        &self,
        host: &Host,
        service: &str,
        network: &str,
        old: Option<&str>,
        within: Duration,
    ) -> Result<Instant> {
        let asking = if network == OURS { &self.near } else { &self.plain };
        let what = format!("a reachable task of {service} on {}", host.name());
        let reach = || {
            let new = task(host, service).filter(|new| Some(new.as_str()) != old);
            let new = new.ok_or_else(|| LabError::Machine("there is none".to_owned()))?;
            let each = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
            let address = host.docker(&["inspect", "-f", &each, &new])?;
            asking.ping(&address)
        };
        wait_for(&what, within, reach).map(|_| Instant::now())
    }
}

fn tasks(host: &Host) -> [Option<String>; 2] {
    SERVICES.map(|(service, _)| task(host, service))
}

/// The running container of a service on a host.
fn task(host: &Host, service: &str) -> Option<String> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let ids = host.docker(&["ps", "-q", "--no-trunc", "--filter", &label]).ok()?;
    ids.lines().next().map(str::to_owned)
}

/// From one moment to another, if that ever came.
fn seconds(since: Instant, at: Option<Instant>) -> f64 {
    at.map_or(f64::INFINITY, |at| at.duration_since(since).as_secs_f64())
}

/// Whether a host says that it is one of the swarm's managers.
fn manages(host: &Host) -> Result<bool> {
    Ok(host.docker(&["info", "-f", "{{.Swarm.ControlAvailable}}"])? == "true")
}
