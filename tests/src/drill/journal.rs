//! The journal is in trouble: its disk is full, its file damaged, with etcd and without, with its
//! mirror and without.

use std::thread;
use std::time::{Duration, Instant};

use super::{Row, Rows, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result, wait_for};
use crate::stream::Stream;
use crate::swarm::{NAMED, SOON, Swarm, eventually, only_network, status};

const NETWORK: &str = "blue";
const DIR: &str = "/var/lib/wgnet";
const FILE: &str = "/var/lib/wgnet/journal.redb";
const MIRROR: &str = "/run/wgnet/journal.redb";

/// Longer than from one try of a driver to the next that cannot begin.
const ANOTHER_TRY: Duration = Duration::from_millis(2500);

/// What becomes of the file: words for the table and what does it.
const DAMAGES: [(&str, &str); 3] = [
    ("truncated", "truncate -s 20000 $f"),
    ("zeroed", "s=$(stat -c %s $f); rm $f; truncate -s $s $f"),
    (
        "with garbage in the middle",
        "for at in $(seq 2 3 $(($(stat -c %s $f) / 4096 - 2))); do \
         dd if=/dev/urandom of=$f bs=1024 count=2 seek=$((at * 4)) conv=notrunc status=none; done",
    ),
];

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn journal(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = Swarm::start("drill-journal", 2)?;
    swarm.network(NETWORK, &["--subnet", "10.88.0.0/24"])?;
    let host = swarm.host(1);
    host.driver_stop()?;
    host.sh(&format!(
        "mkdir /tmp/kept; mv {DIR}/* /tmp/kept; mount -t tmpfs -o size=8m tmpfs {DIR}
         cp --sparse=always -p /tmp/kept/* {DIR}"
    ))?;
    host.driver_resume()?;
    let drills = Drills {
        near: swarm.run(1, "near", NETWORK, &[])?,
        far: swarm.run(2, "far", NETWORK, &[])?,
        swarm: &swarm,
    };
    eventually("the first ping", NAMED, || drills.near.ping("far").is_ok())?;
    rows.add(drills.disk_full(scale)?);
    rows.add(drills.damaged(scale)?);
    rows.add(drills.damaged_without_etcd()?);
    rows.add(drills.damaged_without_mirror()?);
    Ok(())
}

struct Drills<'s> {
    swarm: &'s Swarm,
    near: Container<'s>,
    far: Container<'s>,
}

impl Drills<'_> {
    fn host(&self) -> &Host {
        self.swarm.host(1)
    }

    fn disk_full(&self, scale: Scale) -> Result<Row> {
        let host = self.host();
        // A file that was in use for a while has pages enough to need no room; a new one has not.
        let (what, how) = DAMAGES[0];
        self.damage(what, how)?;
        let stream = Stream::start(&self.near, &self.far)?;
        host.sh(&format!("dd if=/dev/zero of={DIR}/filler bs=4096 2>/dev/null || true"))?;
        // Pages that the file has already may take some changes: those of sixty containers, or more.
        let mut said = String::new();
        let mut started = 0;
        while said.is_empty() && started < 300 {
            match self.run_one() {
                Ok(()) => started += 1,
                Err(error) => said = error.to_string(),
            }
        }
        must_say(&said, &["journal.redb", "No space left", "free some space"])?;
        eventually("the problem in the status", SOON, || has_problem(host, "journal-unwritable"))?;
        // Full for a while: nothing else happens.
        thread::sleep(scale.pick(Duration::from_secs(3), Duration::from_secs(60)));
        host.sh(&format!("rm {DIR}/filler"))?;
        let freed = Instant::now();
        eventually("the problem to be over", SOON, || !has_problem(host, "journal-unwritable"))?;
        let healed = freed.elapsed();
        self.run_one()?;
        let report = stream.finish()?;
        Ok(Row::new("disk of the journal full").lost_nothing(&report).at_most(
            "well by itself after there is room",
            healed.as_secs_f64(),
            "s",
            10.0,
        ))
    }

    fn damaged(&self, scale: Scale) -> Result<Row> {
        let stream = Stream::start(&self.near, &self.far)?;
        let mut failed = 0;
        for (what, how) in DAMAGES.iter().cycle().take(scale.pick(3, 9)) {
            self.damage(what, how)?;
            failed += u32::from(self.run_one().is_err());
        }
        let report = stream.finish()?;
        Ok(Row::new("journal file damaged (truncated, zeroed, garbage)")
            .lost_nothing(&report)
            .at_most("docker commands failed", f64::from(failed), "", 0.0))
    }

    /// Docker starts a container all the same, and what was known of the others still is.
    fn damaged_without_etcd(&self) -> Result<Row> {
        let stream = Stream::start(&self.near, &self.far)?;
        self.swarm.lab.etcd().stop()?;
        let (what, how) = DAMAGES[1];
        self.damage(what, how)?;
        let failed = u32::from(self.run_one().is_err());
        self.swarm.lab.etcd().start()?;
        eventually("everything to be published", SOON, || {
            status(self.host())
                .is_ok_and(|said| said.store.connected && said.store.unpublished == 0)
        })?;
        let after = self.swarm.run(1, "after", NETWORK, &[])?;
        eventually("a container of afterwards", NAMED, || self.far.ping("after").is_ok())?;
        let report = stream.finish()?;
        self.swarm.remove(&after)?;
        Ok(Row::new("journal file damaged while etcd is away").lost_nothing(&report).at_most(
            "docker commands failed",
            f64::from(failed),
            "",
            0.0,
        ))
    }

    /// Then nothing tells what runs here. The driver ends nothing and replaces nothing: it says what to
    /// do. When that was done, the network is back through Docker's calls.
    fn damaged_without_mirror(&self) -> Result<Row> {
        let host = self.host();
        let stream = Stream::start(&self.near, &self.far)?;
        host.driver_stop()?;
        let (_, how) = DAMAGES[2];
        host.sh(&format!("f={FILE}; {how}; rm {MIRROR}"))?;
        let file = || host.sh(&format!("stat -c %i {FILE}*"));
        let before = file()?;
        host.driver_resume()?;
        let what_to_do =
            ["journal.redb", "nothing else tells", "restart the host", "move the file away"];
        let told = || must_say(&refusal(host.wgnetctl(&["status"])), &what_to_do);
        wait_for("the driver to say what to do", SOON, told)?;
        let first = Instant::now();
        must_say(&refusal(self.run_one()), &what_to_do)?;
        thread::sleep(ANOTHER_TRY.saturating_sub(first.elapsed()));
        told()?;
        let replaced = if file()? == before { 0.0 } else { 1.0 };
        let report = stream.finish()?;

        host.sh(&format!("mv {FILE} /tmp/damaged.redb"))?;
        let moved = Instant::now();
        eventually("the driver to work", SOON, || status(host).is_ok())?;
        let near = self.near.name.as_str();
        host.docker(&["stop", "-t", "0", near])?;
        // Until Docker has noticed that this was the network's last one here, it says nothing of it.
        wait_for("the container's start", SOON, || host.docker(&["start", near]))?;
        eventually("the way to both sides", SOON, || {
            self.near.ping("far").is_ok() && self.far.ping(near).is_ok()
        })?;
        let back = moved.elapsed().as_secs_f64();
        eventually("the network to be whole", SOON, || {
            only_network(host).is_ok_and(|network| network.in_sync)
        })?;
        Ok(Row::new("journal file damaged and its mirror gone, until a hand moves it away")
            .lost_nothing(&report)
            .at_most("file set aside or replaced without being asked", replaced, "", 0.0)
            .at_most("reachable after that and its container's start", back, "s", 30.0))
    }

    /// Damages the file of a driver that ends, and waits until its successor has made it good.
    fn damage(&self, what: &str, how: &str) -> Result<()> {
        let host = self.host();
        let before = (status(host)?.host_id, only_network(host)?);
        host.driver_stop()?;
        host.sh(&format!("f={FILE}; {how}"))?;
        host.driver_resume()?;
        eventually(&format!("the journal to be good again after it was {what}"), SOON, || {
            only_network(host).is_ok_and(|now| now.in_sync) && has_problem(host, "journal-damaged")
        })?;
        let now = (status(host)?.host_id, only_network(host)?);
        let same = now.0 == before.0
            && now.1.slots == before.1.slots
            && now.1.endpoints == before.1.endpoints;
        if !same {
            return Err(LabError::Machine(format!("{what}: {before:?} became {now:?}")));
        }
        // Whoever has looked at it takes it away.
        host.sh(&format!("test $(stat -c %a {FILE}.damaged-*) = 600; rm {FILE}.damaged-*"))?;
        eventually("the problem to be over", SOON, || !has_problem(host, "journal-damaged"))
    }

    fn run_one(&self) -> Result<()> {
        self.host().docker(&["run", "--rm", "--network", NETWORK, "bb", "true"]).map(drop)
    }
}

fn refusal<T>(outcome: Result<T>) -> String {
    outcome.err().map(|error| error.to_string()).unwrap_or_default()
}

fn must_say(said: &str, parts: &[&str]) -> Result<()> {
    match parts.iter().find(|part| !said.contains(*part)) {
        Some(part) => Err(LabError::Machine(format!("{part:?} is missing in: {said}"))),
        None => Ok(()),
    }
}

fn has_problem(host: &Host, code: &str) -> bool {
    status(host).is_ok_and(|said| said.problems.iter().any(|problem| problem.code == code))
}
