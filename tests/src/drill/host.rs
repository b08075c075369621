//! Power: one host off and on again, with etcd, without, and with a damaged journal; the whole cluster
//! off and on again.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::begin::{BEGINS, began};
use super::path::{address, probe::Probe};
use super::{Row, Rows, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result, wait_for};
use crate::stream::Stream;
use crate::swarm::{NAMED, SOON, Swarm, eventually, status};

/// A dockerd that starts after a power cut waits for what was there before.
const BOOT: Duration = Duration::from_secs(180);

/// From when the power is back: what is waited for at the most. Docker's gossip spreads the names, of
/// its own overlay's services too.
const NAMED_AT_LAST: f64 = (BOOT.as_secs() + NAMED.as_secs()) as f64;

/// How much longer Docker's own overlay is waited for.
const DOCKER_TOO: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A booting engine has given up by then what it will not start: it waits for 20 s.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(25);

const EVERY_TASK: [&str; 9] = [
    "service",
    "create",
    "--quiet",
    "--detach",
    "--no-resolve-image",
    "--mode=global",
    "--endpoint-mode=dnsrr",
    "--stop-grace-period=0s",
    "--network",
];

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn host(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = Swarm::start("drill-host", scale.pick(2, 3))?;
    swarm.network("blue", &["--subnet", "10.81.0.0/24"])?;
    let overlay = ["-d", "overlay", "--attachable", "--subnet", "10.82.0.0/24", "plain"];
    swarm.host(1).docker(&[&["network", "create"][..], &overlay].concat())?;
    rows.add(one_host(&swarm, "host power-off and boot", Meanwhile::Nothing)?);
    rows.add(one_host(&swarm, "host power-off and boot, without etcd", Meanwhile::NoEtcd)?);
    let drill = "host power-off and boot, its journal damaged";
    rows.add(one_host(&swarm, drill, Meanwhile::JournalDamaged)?);
    rows.add(whole_cluster(&swarm)?);
    Ok(())
}

/// A container on a host that loses its power, which restarts always with the same address, and
/// another one that asks for it. Without etcd nobody can be told of another address.
struct Pair<'s> {
    near: Container<'s>,
    far: Container<'s>,
    probe: Probe,
}

impl<'s> Pair<'s> {
    fn start(swarm: &'s Swarm, network: &str, net: [u8; 3]) -> Result<Self> {
        let target = Ipv4Addr::new(net[0], net[1], net[2], 200);
        let near = swarm.run(1, &format!("near-{network}"), network, &[])?;
        let (host, name) = (swarm.host(2), format!("far-{network}"));
        let run = ["run", "-d", "--name", &name, "--network", network];
        let lasting = ["--restart", "always", "--ip", &target.to_string()];
        host.docker(&[&run[..], &lasting, &BEGINS].concat())?;
        let far = Container { host, name };
        let probe = Probe::start(&near, target)?;
        // On Docker's overlay its gossip says first where the other one is.
        probe.wait_since(SystemTime::now(), NAMED)?;
        Ok(Self { near, far, probe })
    }

    fn back_after(&self, booted: SystemTime, within: Duration) -> Result<Back> {
        let mut look = Instant::now() + LOOK_EVERY;
        let mut by_hand = 0;
        let mut given_up = String::new();
        let (reached, _) = wait_for("an answer after the boot", within, || {
            let is_booted = booted.elapsed().is_ok_and(|since| since >= GIVEN_UP_AFTER);
            if is_booted && Instant::now() >= look {
                look = Instant::now() + LOOK_EVERY;
                match self.start_if_given_up() {
                    Ok(started) => by_hand += u32::from(started),
                    Err(error) => given_up = error.to_string(),
                }
            }
            self.probe.first_since(booted).ok_or_else(|| given_up.clone())
        })?;
        let (started, _) = wait_for("the container's start", SOON, || {
            let started =
                began(self.far.host, &self.far.name).map_err(|error| error.to_string())?;
            if started > booted { Ok(started) } else { Err("not started again".to_owned()) }
        })?;
        // Its interface is there before its first program: then it was reachable as soon as it ran.
        let after = reached.duration_since(started).unwrap_or_default();
        let whole = reached.duration_since(booted).unwrap_or_default();
        Ok(Back {
            after: after.as_secs_f64(),
            whole: whole.as_secs_f64(),
            by_hand: f64::from(by_hand),
        })
    }

    /// A booting engine waits 20 s for the swarm to give a container its address, and does not try
    /// again if it was not free by then. Whether a hand has started the container.
    fn start_if_given_up(&self) -> Result<bool> {
        let Container { host, name } = &self.far;
        let state = host.docker(&["inspect", "-f", "{{.State.Running}} {{.State.Error}}", name])?;
        let given_up_for = state.strip_prefix("false").unwrap_or_default().trim();
        if given_up_for.is_empty() {
            return Ok(false);
        }
        // All that the swarm refuses is called so (moby: daemon/cluster/networks.go). What a driver
        // refused is not, and stays as it is.
        if !given_up_for.contains("attach") {
            return Err(LabError::Machine(format!("{name} was given up: {given_up_for}")));
        }
        // If the address is still not free, it is tried again.
        Ok(host.try_docker(&["start", name])?.status.success())
    }
}

/// How a container was reached after the boot: seconds from its start, and from the boot.
struct Back {
    after: f64,
    whole: f64,
    /// How often a hand started it, since its engine had given it up.
    by_hand: f64,
}

impl Back {
    const NEVER: Self = Self { after: f64::INFINITY, whole: f64::INFINITY, by_hand: 0.0 };
}

/// What else is wrong while a host has no power and boots.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    NoEtcd,
    /// As an end in the middle of a write on a bad disk leaves it. Its mirror is in memory, and gone.
    JournalDamaged,
}

const JOURNAL: &str = "/var/lib/wgnet/journal.redb";

/// Half of a page is no page.
const CUT_TO: u64 = 20_000;

fn damage(host: &Host) -> Result<()> {
    let path = host.path(JOURNAL);
    let cut = std::fs::File::options().write(true).open(&path).and_then(|it| it.set_len(CUT_TO));
    cut.map_err(|error| LabError::Machine(format!("{}: {error}", path.display())))
}

fn one_host(swarm: &Swarm, drill: &'static str, meanwhile: Meanwhile) -> Result<Row> {
    let ours = Pair::start(swarm, "blue", [10, 81, 0])?;
    let docker = Pair::start(swarm, "plain", [10, 82, 0])?;
    let (host, etcd) = (swarm.host(2), swarm.lab.etcd());
    let before = status(host)?.host_id;
    // Between hosts that keep their power, where there are two.
    let third = (swarm.lab.hosts().len() > 2).then(|| swarm.run(3, "third", "blue", &[]));
    let third = third.transpose()?;
    let stream = third.as_ref().map(|third| Stream::start(&ours.near, third)).transpose()?;
    if meanwhile == Meanwhile::NoEtcd {
        etcd.stop()?;
    }
    host.power_off()?;
    if meanwhile == Meanwhile::JournalDamaged {
        damage(host)?;
    }
    host.boot()?;
    let booted = SystemTime::now();
    host.driver_resume()?;
    host.engine_start()?;
    let back = ours.back_after(booted, BOOT)?;
    let beside = docker.back_after(booted, DOCKER_TOO).unwrap_or(Back::NEVER);
    if meanwhile == Meanwhile::NoEtcd {
        etcd.start()?;
    }
    let report = stream.map(Stream::finish).transpose()?;
    let mut others = 0.0;
    if meanwhile == Meanwhile::JournalDamaged {
        is_made_anew(host)?;
        others = if status(host)?.host_id == before { 0.0 } else { 1.0 };
    }
    drop((ours, docker));
    third.iter().try_for_each(|third| swarm.remove(third))?;
    for (number, names) in [(1, ["near-blue", "near-plain"]), (2, ["far-blue", "far-plain"])] {
        swarm.host(number).docker(&[&["rm", "-f"][..], &names].concat())?;
    }
    let row = match meanwhile {
        Meanwhile::JournalDamaged => {
            Row::new(drill).at_most("came back as another host", others, "", 0.0)
        }
        Meanwhile::Nothing | Meanwhile::NoEtcd => Row::new(drill),
    };
    let row = row
        .at_most("reachable after its container's start", back.after, "s", 1.0)
        .beside(beside.after)
        .info("reachable after the boot", back.whole, "s")
        .beside(beside.whole)
        .info("started by hand, given up by Docker", back.by_hand, "times")
        .beside(beside.by_hand);
    Ok(match report {
        Some(report) => row.lost_nothing_between_others(&report),
        None => row,
    })
}

/// The damaged file is set aside, which people are told; whoever has looked at it takes it away.
fn is_made_anew(host: &Host) -> Result<()> {
    let tells = || {
        status(host).is_ok_and(|said| said.problems.iter().any(|it| it.code == "journal-damaged"))
    };
    eventually("the damaged journal in the status", SOON, tells)?;
    host.sh(&format!("rm {JOURNAL}.damaged-*"))?;
    eventually("an end of the problem", SOON, || !tells())
}

/// The services on our network.
const OURS: [&str; 2] = ["web", "store"];

/// Services on every host, two on our network and one on Docker's overlay; everything off, etcd too.
fn whole_cluster(swarm: &Swarm) -> Result<Row> {
    let manager = swarm.host(1);
    for (service, network) in [("web", "blue"), ("store", "blue"), ("plain-web", "plain")] {
        let rest = [network, "--name", service, "perf", "sleep", "1000000"];
        manager.docker(&[&EVERY_TASK[..], &rest].concat())?;
    }
    for services in [&OURS[..], &["plain-web"]] {
        // A host was without power a moment ago: Docker's gossip takes its time.
        wait_for("every name to answer", NAMED, || answer(swarm, services, By::Name))?;
    }

    swarm.lab.on_all_hosts(Host::power_off)?;
    swarm.lab.etcd().kill()?;
    let power = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let etcd = scope.spawn(|| swarm.lab.etcd().start());
        swarm.lab.on_all_hosts(|host| {
            host.boot()?;
            host.driver_resume()?;
            host.engine_launch()
        })?;
        swarm.lab.on_all_hosts(|host| host.engine_wait(BOOT))?;
        etcd.join().expect("it does not panic").map(drop)
    })?;
    let engines = power.elapsed();
    let all_answer = |services: &'static [&str], by: By, within| {
        wait_for("every task to answer", within, || answer(swarm, services, by))
            .map(|_| power.elapsed().as_secs_f64())
    };
    let (ours, docker) = thread::scope(|scope| {
        let docker = scope.spawn(|| {
            let reached = all_answer(&["plain-web"], By::Address, BOOT + DOCKER_TOO)?;
            Ok::<_, LabError>((reached, all_answer(&["plain-web"], By::Name, DOCKER_TOO * 2)?))
        });
        let ours = all_answer(&OURS, By::Address, BOOT)
            .map(|reached| (reached, all_answer(&OURS, By::Name, NAMED)));
        (ours, docker.join().expect("it does not panic"))
    });
    let (reached, named) = ours?;
    let unnamed = if named.is_ok() { 0 } else { unnamed(swarm, &OURS) };
    // Those that answer only when asked once more were too late.
    let named = named.unwrap_or(f64::INFINITY);
    let (docker_reached, docker_named) = docker.unwrap_or((f64::INFINITY, f64::INFINITY));
    manager.docker(&["service", "rm", "web", "store", "plain-web"])?;
    Ok(Row::new("whole cluster power-off and boot")
        .info("engines answer", engines.as_secs_f64(), "s")
        .info("all tasks reachable", reached, "s")
        .beside(docker_reached)
        .at_most("services that a host does not reach by name", unnamed as f64, "", 0.0)
        .at_most("all services reachable by name from every host", named, "s", NAMED_AT_LAST)
        .beside(docker_named))
}

#[derive(Clone, Copy, PartialEq)]
enum By {
    Address,
    /// Which Docker's gossip has to tell first.
    Name,
}

/// Every task pings every task, and by name every service, too.
fn answer(swarm: &Swarm, services: &[&str], by: By) -> Result<()> {
    let mut tasks = Vec::new();
    for service in services {
        for host in swarm.lab.hosts() {
            tasks.extend(tasks_on(host, service)?);
        }
    }
    let targets: Vec<String> = if by == By::Name {
        let names = tasks.iter().map(|task| task.name.as_str());
        names.chain(services.iter().copied()).map(str::to_owned).collect()
    } else {
        let addresses = tasks.iter().map(address);
        addresses.map(|address| Ok(address?.to_string())).collect::<Result<_>>()?
    };
    let targets = targets.join(" ");
    tasks.iter().try_for_each(|task| ping_all(task, &targets))
}

/// How many services do not answer by their names, of each host's.
fn unnamed(swarm: &Swarm, services: &[&str]) -> usize {
    let hosts = swarm.lab.hosts().iter();
    let ways = hosts.flat_map(|host| services.iter().map(move |service| (host, *service)));
    let without = ways.filter(|(host, service)| {
        let tasks = tasks_on(host, services[0]);
        let asked = tasks.and_then(|tasks| ping_all(&tasks[0], service));
        asked.inspect_err(|error| eprintln!("  {service} from {}: {error}", host.name())).is_err()
    });
    without.count()
}

/// At least one.
fn tasks_on<'h>(host: &'h Host, service: &str) -> Result<Vec<Container<'h>>> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let names = host.docker(&["ps", "--filter", &label, "--format", "{{.Names}}"])?;
    if names.is_empty() {
        return Err(LabError::Machine(format!("no {service} on {}", host.name())));
    }
    Ok(names.lines().map(|name| Container { host, name: name.to_owned() }).collect())
}

fn ping_all(from: &Container<'_>, targets: &str) -> Result<()> {
    // A name that nobody knows is asked for outside, for many seconds.
    let script = format!(
        "for t in {targets}; do timeout 3 ping -q -c1 -W1 $t >/dev/null || {{ echo no $t; exit 1; }}; done"
    );
    from.exec(&["sh", "-c", &script]).map(drop)
}
