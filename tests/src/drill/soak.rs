//! Containers started and stopped at random on three hosts while something fails every few seconds;
//! afterwards everything must be as if nothing had happened.
//!
//! The order of drills and containers follows from a seed, which is printed; `WGNET_SEED` sets it.

mod chance;
mod churn;
mod memory;
mod trouble;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::path::address;
use super::{Row, Rows, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, Inventory, LabError, Result};
use crate::swarm::{NAMED, SOON, Swarm, eventually, status};
use chance::Chance;
use churn::{Churned, churn};
use memory::Memory;
use trouble::{Drill, Trouble};

const HOSTS: usize = 3;

/// Where neither driver nor engine is killed, so that their memory is that of the whole time.
const SPARED: usize = HOSTS;

/// A host that starts fewer containers than one in so many seconds hardly has any come and go.
const ONE_IN: f64 = 6.0;

/// Docker's own leftovers are its own business.
const DOCKERS: [&str; 2] = ["docker_gwbridge", "docker/"];

/// Docker clears what its own killed process left once a minute.
const CLEARED_WITHIN: Duration = Duration::from_secs(90);

struct Plan {
    /// Places for containers; about half of them are taken while containers come and go.
    places: usize,
    length: Duration,
    drill_every: Duration,
    /// How long an outage or a pause takes.
    outage: Duration,
}

impl Plan {
    fn of(scale: Scale) -> Self {
        let (places, length, drill_every, outage) =
            scale.pick((12, 45, 6, 2), (201, 20 * 60, 20, 8));
        Self {
            places,
            length: Duration::from_secs(length),
            drill_every: Duration::from_secs(drill_every),
            outage: Duration::from_secs(outage),
        }
    }

    /// How many must have happened at least. A slow one delays the next.
    fn enough_drills(&self) -> f64 {
        (0.6 * self.length.as_secs_f64() / self.drill_every.as_secs_f64()).floor()
    }

    fn places_of_a_host(&self) -> usize {
        self.places / HOSTS
    }
}

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn soak(scale: Scale, rows: &mut Rows) -> Result<()> {
    let seed = seed();
    eprintln!("soak: seed {seed}; WGNET_SEED={seed} repeats its choices");
    let plan = Plan::of(scale);
    let swarm = Swarm::start("drill-soak", u8::try_from(HOSTS).expect("it is small"))?;
    swarm.network("blue", &["--subnet", "10.83.0.0/16"])?;
    let before = Before::take(&swarm)?;
    lasting(&swarm)?;

    let over = AtomicBool::new(false);
    let (churned, (trouble, mut memory, length)) = thread::scope(|scope| {
        let workers: Vec<_> = (1..=HOSTS)
            .map(|number| {
                let (swarm, over, places) = (&swarm, &over, plan.places_of_a_host());
                scope.spawn(move || churn(swarm, number, places, Chance::new(seed, number), over))
            })
            .collect();
        let trouble = drills(&swarm, &plan, seed);
        over.store(true, Ordering::Relaxed);
        let churned = workers.into_iter().map(|worker| worker.join().expect("it does not panic"));
        let churned: Vec<Churned> = churned.collect();
        Ok::<_, LabError>((churned, trouble?))
    })?;
    let settled = settle(&swarm)?;
    // Before the places are filled: as many containers run as did all the time.
    memory.look(length, swarm.host(SPARED))?;
    churn::fill(&swarm, plan.places_of_a_host())?;
    let containers = churn::running(&swarm)?;
    let (first_missing, missing) = matrix(&containers)?;
    let of_all = |count: fn(&Churned) -> u64| churned.iter().map(count).sum::<u64>() as f64;
    let fewest = churned.iter().map(|host| host.started).min().unwrap_or_default();
    let seconds = length.as_secs_f64();
    let row = Row::new("containers at random, drills at random")
        .info("length", seconds, "s")
        .info("seed", seed as f64, "")
        .at_least("drills", trouble.total() as f64, "", plan.enough_drills())
        .info("places for containers", plan.places as f64, "")
        .info("taken at a time", churned.iter().map(Churned::taken).sum(), "")
        .at_least(
            "containers started",
            of_all(|host| host.started),
            "",
            (seconds / ONE_IN).floor() * HOSTS as f64,
        )
        .at_least("on each host", fewest as f64, "", 1.0)
        .at_most(
            "docker commands failed meanwhile",
            of_all(|host| host.failed),
            "",
            trouble.may_fail() as f64,
        )
        .info("settled after", settled.as_secs_f64(), "s")
        .at_least(
            "containers at the end",
            containers.len() as f64,
            "",
            (HOSTS * plan.places_of_a_host()) as f64,
        )
        .info("pairs silent at first", first_missing as f64, "")
        .at_most("pairs silent", missing as f64, "", 0.0);
    let row = memory.into_row(row, length);
    eprintln!("soak: drills {trouble}");
    churn::remove_all(&swarm)?;
    rows.add(before.compare(&swarm, &trouble, row));
    Ok(())
}

/// Something fails every few seconds, each kind once before any comes again, for as long as planned or
/// (an engine's start may take half a minute) until it was enough. The memory is looked at before each.
fn drills(swarm: &Swarm, plan: &Plan, seed: u64) -> Result<(Trouble, Memory, Duration)> {
    let mut chance = Chance::new(seed, 0);
    let mut trouble = Trouble::default();
    let mut memory = Memory::default();
    let started = Instant::now();
    let mut deck = Vec::new();
    let mut next = plan.drill_every;
    let is_enough = |trouble: &Trouble| trouble.total() as f64 >= plan.enough_drills();
    let is_over = |trouble: &Trouble, after: Duration| {
        let length = if is_enough(trouble) { plan.length } else { 3 * plan.length };
        after + plan.drill_every >= length
    };
    while !is_over(&trouble, started.elapsed()) {
        // The drill is what happens at this time; there is no state to wait for.
        thread::sleep(next.saturating_sub(started.elapsed()));
        next += plan.drill_every;
        memory.look(started.elapsed(), swarm.host(SPARED))?;
        if deck.is_empty() {
            deck = Drill::ALL.to_vec();
            chance.shuffle(&mut deck);
        }
        let drill = deck.pop().expect("it was filled");
        let number = 1 + chance.below(if drill.resets_memory() { SPARED - 1 } else { HOSTS });
        eprintln!("soak: {:5.1} s: {} on h{number}", started.elapsed().as_secs_f64(), drill.name());
        drill.run(swarm, number, plan.outage)?;
        trouble.note(drill, number);
    }
    thread::sleep(plan.length.saturating_sub(started.elapsed()));
    Ok((trouble, memory, started.elapsed()))
}

/// Waits until every engine and driver says that all is well.
fn settle(swarm: &Swarm) -> Result<Duration> {
    let started = Instant::now();
    for host in swarm.lab.hosts() {
        let mut last = String::new();
        let settled = eventually("a host in order", 2 * SOON, || {
            last = match status(host) {
                Ok(status) => status
                    .networks
                    .iter()
                    .filter(|network| !network.in_sync)
                    .map(|network| format!("{}: {:?}", network.namespace, network.error))
                    .collect(),
                Err(error) => error.to_string(),
            };
            last.is_empty() && host.engine_is_up()
        });
        settled.map_err(|error| LabError::Machine(format!("{}: {error}; {last}", host.name())))?;
    }
    Ok(started.elapsed())
}

/// Pings every container from every one; the pairs that did not answer at first, and when asked again.
fn matrix(containers: &[Container<'_>]) -> Result<(u64, u64)> {
    let addresses: Vec<Ipv4Addr> = containers.iter().map(address).collect::<Result<_>>()?;
    let ask = |from: &Container<'_>, to: &[Ipv4Addr]| -> Result<Vec<Ipv4Addr>> {
        let list: Vec<String> = to.iter().map(ToString::to_string).collect();
        let script = format!(
            "for a in {}; do ping -q -c1 -W2 $a >/dev/null || echo $a; done",
            list.join(" ")
        );
        let silent = from.exec_within(Duration::from_secs(600), &["sh", "-c", &script])?;
        Ok(silent.lines().filter_map(|line| line.parse().ok()).collect())
    };
    let (mut first, mut again) = (0, 0);
    for from in containers {
        let silent = ask(from, &addresses)?;
        if silent.is_empty() {
            continue;
        }
        first += silent.len() as u64;
        let mut left = silent;
        // What was told a moment ago may be on its way.
        let _ = eventually("an answer", SOON, || {
            left = ask(from, &left).unwrap_or_else(|_| left.clone());
            left.is_empty()
        });
        for to in &left {
            eprintln!("soak: {} on {} does not reach {to}", from.name, from.host.name());
        }
        again += left.len() as u64;
    }
    Ok((first, again))
}

/// What the hosts had before the containers came: after one came and went on each.
struct Before {
    inventories: Vec<Inventory>,
    driver_starts: Vec<usize>,
}

impl Before {
    fn take(swarm: &Swarm) -> Result<Self> {
        let first = lasting(swarm)?;
        for container in &first {
            swarm.remove(container)?;
        }
        let hosts = swarm.lab.hosts();
        for host in hosts {
            eventually("the network to leave the host", SOON, || {
                host.sh("ls /run/netns").is_ok_and(|pins| !pins.contains("wgnet-"))
            })?;
        }
        let inventories = hosts.iter().map(Host::inventory).collect::<Result<_>>()?;
        Ok(Self { inventories, driver_starts: hosts.iter().map(driver_starts).collect() })
    }

    /// The rest of the row: what is left, and who restarted.
    fn compare(&self, swarm: &Swarm, trouble: &Trouble, row: Row) -> Row {
        let (mut left_over, mut restarts) = (0, 0);
        for (number, host) in (1..).zip(swarm.lab.hosts()) {
            let mut left = Vec::new();
            let _ = eventually("nothing to be left", CLEARED_WITHIN, || {
                left = host.changes_since(&self.inventories[number - 1], &DOCKERS);
                left.is_empty()
            });
            for line in &left {
                eprintln!("soak: left on {}: {line}", host.name());
            }
            left_over += left.len() as u64;
            let starts = driver_starts(host) - self.driver_starts[number - 1];
            let ours = trouble.driver_starts(number);
            if starts != ours {
                eprintln!("soak: the driver of {} started {starts} times, not {ours}", host.name());
            }
            restarts += starts.abs_diff(ours) as u64;
        }
        let mut records = Vec::new();
        let _ = eventually("no endpoint to be left in etcd", SOON, || {
            records = match swarm.lab.etcd().records() {
                Ok(keys) => keys.into_iter().filter(|key| key.contains("/endpoints/")).collect(),
                // It shows nothing, least of all that nothing is left.
                Err(error) => vec![error.to_string()],
            };
            records.is_empty()
        });
        for key in &records {
            eprintln!("soak: left in etcd: {key}");
        }
        row.at_most("left over on the hosts", left_over as f64, "", 0.0)
            .at_most("left over in etcd", records.len() as f64, "", 0.0)
            .at_most("restarts of a driver by itself", restarts as f64, "", 0.0)
    }
}

/// One container on each host, all reaching each other.
fn lasting(swarm: &Swarm) -> Result<Vec<Container<'_>>> {
    let run = |number| {
        let name = format!("{}h{number}-lasting", churn::PREFIX);
        swarm.run(number, &name, "blue", &["--restart", "always"])
    };
    let containers: Vec<Container<'_>> = (1..=HOSTS).map(run).collect::<Result<_>>()?;
    for from in &containers {
        for to in &containers {
            eventually("the first ping", NAMED, || from.ping(&to.name).is_ok())?;
        }
    }
    Ok(containers)
}

fn driver_starts(host: &Host) -> usize {
    host.driver_log().matches("wgnet-driver starts").count()
}

fn seed() -> u64 {
    let wanted = std::env::var("WGNET_SEED").ok().and_then(|seed| seed.parse().ok());
    wanted.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Short enough to be read aloud, and exact as a figure.
        now.as_micros() as u64 % 1_000_000
    })
}
