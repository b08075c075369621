//! Our own processes end: driver, shim, WireGuard engine; killed, or replaced by others.

use std::thread;
use std::time::Duration;

use super::load::{Load, under_load};
use super::objects::Objects;
use super::{Row, Rows, Scale, milliseconds};
use crate::lab::checks::Container;
use crate::lab::{Host, Inventory, Result, wait_for};
use crate::stream::{Report, Stream};
use crate::swarm::{NAMED, SOON, Swarm, eventually, only_network};

const NETWORK: &str = "blue";

/// dockerd disables a plugin for good that ends within half a second.
const SHIM_LIVES: Duration = Duration::from_secs(2);

const PHASE: Duration = Duration::from_millis(50);

/// What the engine's end does to the traffic is over by then.
const ENGINE_BACK: Duration = Duration::from_secs(3);

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn driver(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = Swarm::start("drill-driver", 2)?;
    swarm.network(NETWORK, &[])?;
    let run = |host, name| swarm.run(host, name, NETWORK, &[]);
    let (near, far) = (run(1, "near")?, run(2, "far")?);
    let space = only_network(swarm.host(1))?.namespace;
    let pair = Pair { near, far, space, swarm: &swarm };
    eventually("the first ping", NAMED, || pair.near.ping("far").is_ok())?;
    let drills: [&dyn Fn() -> Result<Row>; 6] = [
        &|| pair.nothing(Duration::from_secs(scale.pick(3, 60))),
        // 50 kills in the short run, too.
        &|| pair.drivers_killed(scale.pick(40, 100), scale.pick(5, 10)),
        &|| pair.drivers_replaced(scale.pick(1, 5)),
        // Twice on each host: one repeated call may be excused then, and not one for each host.
        &|| pair.shims_killed(scale.pick(2, 10)),
        &|| {
            pair.engines_ended(
                "WireGuard engine killed (userspace only)",
                scale.pick(1, 5),
                |host| host.sh("kill -9 $(pgrep -x wgnet-engine)").map(drop),
            )
        },
        &|| {
            pair.engines_ended("WireGuard engine upgraded (userspace only)", 1, |host| {
                another(host, "wgnet-engine", "upgraded")?;
                put_in_place(host, "wgnet-engine", "upgraded")?;
                host.sh("kill -s TERM $(pgrep -x wgnet-engine)").map(drop)
            })
        },
    ];
    for drill in drills {
        rows.add(drill()?);
    }
    Ok(())
}

/// Two containers on two hosts, which nothing of all this may touch.
struct Pair<'s> {
    near: Container<'s>,
    far: Container<'s>,
    /// The same on both hosts.
    space: String,
    swarm: &'s Swarm,
}

impl Pair<'_> {
    /// What the stream itself and this machine lose.
    fn nothing(&self, length: Duration) -> Result<Row> {
        let stream = Stream::start(&self.near, &self.far)?;
        // That nothing happens takes its time.
        thread::sleep(length);
        Ok(undisturbed(Row::new("nothing happens"), &stream.finish()?))
    }

    fn drivers_killed(&self, kills: usize, at_once: usize) -> Result<Row> {
        let (idle, records) = (self.inventories()?, self.swarm.lab.etcd().records()?);
        let objects = self.objects()?;
        let mut counters = self.received()?;
        let mut forgotten = 0;
        // A peer that was taken away and made again counts from 0.
        let mut look = || -> Result<()> {
            let now = self.received()?;
            forgotten += now.iter().zip(&counters).filter(|(now, before)| now < before).count();
            counters = now;
            Ok(())
        };
        let (report, load) = self.under_stream_and_load(|| {
            for kill in 0..kills {
                // Each is hit at another moment of its life, from its first steps to its rest.
                thread::sleep(PHASE * (kill * 7 % 11) as u32);
                self.swarm.host(1 + kill % 2).driver_crash()?;
                look()?;
            }
            (0..at_once).try_for_each(|_| {
                self.swarm.lab.on_all_hosts(Host::driver_crash)?;
                look()
            })
        })?;
        let lost = objects.into_iter().map(Objects::lost).collect::<Result<Vec<_>>>()?;
        let leaked = self.leaked(&idle) + self.leaked_records(&records);
        Ok(of_load(undisturbed(Row::new("driver SIGKILL under load"), &report), &load)
            .info("kills", kills as f64, "")
            .info("of all drivers at once", at_once as f64, "")
            .at_most("leaked", leaked as f64, "objects", 0.0)
            .at_most(
                "lost of running containers",
                lost.concat().len() as f64,
                "kernel objects",
                0.0,
            )
            .at_most("peers made anew", forgotten as f64, "", 0.0))
    }

    fn drivers_replaced(&self, times: usize) -> Result<Row> {
        let names: Vec<String> = (0..times).map(|time| format!("new-{time}")).collect();
        for host in self.swarm.lab.hosts() {
            names.iter().try_for_each(|name| another(host, "wgnet-driver", name))?;
        }
        let (report, load) = self.under_stream_and_load(|| {
            for name in &names {
                for host in self.swarm.lab.hosts() {
                    let new = put_in_place(host, "wgnet-driver", name)?;
                    let old = host.driver_pid();
                    host.driver_kill("TERM")?;
                    wait_for("the new driver", SOON, || {
                        let pid = host.driver_pid().filter(|pid| Some(*pid) != old);
                        let pid = pid.ok_or_else(|| "it does not run".to_owned())?;
                        let runs = format!("/proc/{pid}/exe");
                        host.sh(&format!("[ {runs} -ef {new} ]"))
                            .map_err(|_| "it is old".to_owned())
                    })?;
                    eventually("the new driver's answer", SOON, || {
                        host.wgnetctl(&["status", "--json"]).is_ok()
                    })?;
                }
            }
            Ok(())
        })?;
        let row = Row::new("driver upgraded (binary replaced, service restarted)");
        Ok(of_load(undisturbed(row, &report), &load).info("upgrades", 2.0 * times as f64, ""))
    }

    fn shims_killed(&self, times: usize) -> Result<Row> {
        let (report, load) = self.under_stream_and_load(|| {
            for _ in 0..times {
                for host in self.swarm.lab.hosts() {
                    let old = host.exec(&["pgrep", "-x", "wgnet-shim"])?;
                    host.exec(&["kill", "-9", &old])?;
                    eventually("the shim's successor", SOON, || {
                        host.exec(&["pgrep", "-x", "wgnet-shim"]).is_ok_and(|new| new != old)
                    })?;
                    // It has to grow old enough to be killed again.
                    thread::sleep(SHIM_LIVES);
                }
            }
            Ok(())
        })?;
        let row = Row::new("shim plugin killed");
        // Only dockerd has the arguments of a call that is under way, and it repeats the call without
        // them (moby#35459). Guessing them could give a container another one's place. Few kills meet a
        // call under way.
        let (bare, load) = load.without("with an empty body");
        let kills = 2.0 * times as f64;
        let at_worst = (kills / 4.0).ceil();
        Ok(of_load(undisturbed(row, &report), &load)
            .at_most(
                "not counted: commands whose call dockerd repeated with an empty body (moby#35459)",
                bare,
                "",
                at_worst,
            )
            .info("kills", kills, ""))
    }

    /// Alternately on both hosts; the gap is from the last packet before to the first one after it.
    fn engines_ended(
        &self,
        drill: &'static str,
        times: usize,
        end: impl Fn(&Host) -> Result<()>,
    ) -> Result<Row> {
        let stream = Stream::start(&self.near, &self.far)?;
        for _ in 0..times {
            for host in self.swarm.lab.hosts() {
                end(host)?;
                // The gap shows in the stream.
                thread::sleep(ENGINE_BACK);
            }
        }
        let report = stream.finish()?;
        for loss in report.there.losses.iter().chain(&report.back.losses) {
            eprintln!("  lost {} packets in a row", loss.packets);
        }
        Ok(Row::new(drill)
            .at_most("longest gap", milliseconds(report.longest_gap()), "ms", 1000.0)
            .info("ends", 2.0 * times as f64, "")
            .info("lost", report.lost() as f64, "packets")
            .info("of", report.sent() as f64, "packets"))
    }

    fn under_stream_and_load(&self, work: impl FnOnce() -> Result<()>) -> Result<(Report, Load)> {
        let hosts: Vec<&Host> = self.swarm.lab.hosts().iter().collect();
        let stream = Stream::start(&self.near, &self.far)?;
        let ((), load) = under_load(&hosts, NETWORK, work)?;
        Ok((stream.finish()?, load))
    }

    fn inventories(&self) -> Result<Vec<Inventory>> {
        self.swarm.lab.hosts().iter().map(Host::inventory).collect()
    }

    /// How much is there that was not, once what is on its way out has gone.
    fn leaked(&self, idle: &[Inventory]) -> usize {
        let mut left = Vec::new();
        let _ = eventually("nothing to be leaked", SOON, || {
            left.clear();
            for (host, idle) in self.swarm.lab.hosts().iter().zip(idle) {
                // Docker clears the names of its own sandboxes once a minute.
                left.extend(host.changes_since(idle, &["docker_gwbridge", "docker/"]));
            }
            left.is_empty()
        });
        left.iter().for_each(|line| eprintln!("  leaked: {line}"));
        left.len()
    }

    /// The same in etcd.
    fn leaked_records(&self, idle: &[String]) -> usize {
        let mut left = Vec::new();
        let _ = eventually("no record to be leaked", SOON, || {
            left = match self.swarm.lab.etcd().records() {
                Ok(keys) => keys.into_iter().filter(|key| !idle.contains(key)).collect(),
                // It shows nothing, least of all that nothing is left.
                Err(error) => vec![error.to_string()],
            };
            left.is_empty()
        });
        left.iter().for_each(|key| eprintln!("  leaked in etcd: {key}"));
        left.len()
    }

    fn objects(&self) -> Result<Vec<Objects<'_>>> {
        [&self.near, &self.far].into_iter().map(Objects::watch).collect()
    }

    /// What WireGuard has received from the other host, near and far.
    fn received(&self) -> Result<[u64; 2]> {
        let of = |container: &Container<'_>| container.host.wireguard_received(&self.space, "wg0");
        Ok([of(&self.near)?, of(&self.far)?])
    }
}

/// Another file of other content than a program of ours, but as good.
fn another(host: &Host, program: &str, name: &str) -> Result<()> {
    let new = other_file(program, name);
    host.sh(&format!("cp /opt/wgnet/{program} {new}; echo {name} >> {new}")).map(drop)
}

/// As an upgrade does it.
fn put_in_place(host: &Host, program: &str, name: &str) -> Result<String> {
    let new = other_file(program, name);
    host.sh(&format!("mount --bind {new} /opt/wgnet/{program}"))?;
    Ok(new)
}

fn other_file(program: &str, name: &str) -> String {
    format!("/var/tmp/{program}-{name}")
}

/// Not a packet may be lost or doubled; where one was, its place is told.
fn undisturbed(row: Row, report: &Report) -> Row {
    for loss in report.there.losses.iter().chain(&report.back.losses) {
        eprintln!("  {}: {loss:?}", row.drill);
    }
    row.lost_nothing(report)
}

fn of_load(row: Row, load: &Load) -> Row {
    row.at_most("docker commands failed", load.failed(), "", 0.0)
        .at_least("containers started", load.started(), "", load.enough())
        .at_least("on each host", load.fewest(), "", 1.0)
        .info("slowest", load.slowest.as_secs_f64(), "s")
}
