//! Trouble with etcd: away, another cluster's, without a leader, compacted, full, restored, wiped.
//!
//! One lab with three members of etcd, so that any of them can be lost. Streams run between two hosts
//! through everything; containers come, go and move; and the third host looks.

mod records;
mod reports;
mod scene;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::{Row, Rows, Scale, milliseconds, turn};
use crate::lab::{Result, wait_for};
use crate::stream::Stream;
use crate::swarm::SOON;
use records::Records;
use scene::Scene;

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn store(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = scene::swarm()?;
    let mut scene = Scene::set(&swarm)?;
    let ancient = Backup::take(&scene, "ancient")?;
    rows.add(away(&mut scene, scale)?);
    rows.add(trouble::clusters_swapped(&mut scene)?);
    let old = before_the_backup(&mut scene)?;
    rows.add(one_member_lost(&mut scene)?);
    rows.add(leader_lost(&mut scene)?);
    rows.add(compacted(&mut scene)?);
    rows.add(trouble::full(&mut scene)?);
    rows.add(trouble::slow(&mut scene)?);
    turn::others_for(scale.pick(Duration::ZERO, OLD).saturating_sub(old.taken.elapsed()))?;
    rows.add(restored(&mut scene, &old)?);
    rows.add(wiped(&mut scene)?);
    rows.add(restored_from_before(&mut scene, &ancient)?);
    Ok(())
}

/// How old a backup is when etcd is restored from it, at full length.
const OLD: Duration = Duration::from_secs(3600);

struct Backup {
    file: PathBuf,
    taken: Instant,
}

impl Backup {
    fn take(scene: &Scene<'_>, name: &str) -> Result<Self> {
        Ok(Self { file: scene.etcd().snapshot(name)?, taken: Instant::now() })
    }

    /// In place of what etcd holds; when that answers, and how old the backup is then, in seconds.
    fn restore(&self, scene: &Scene<'_>) -> Result<(Instant, f64)> {
        scene.etcd().kill()?;
        scene.etcd().restore(&self.file)?;
        let back = scene.etcd().start()?;
        Ok((back, back.duration_since(self.taken).as_secs_f64()))
    }
}

/// What is to be there again, and had been noticed already, before etcd loses its history.
struct Before {
    records: Records,
    noticed: BTreeMap<String, usize>,
}

impl Before {
    fn take(scene: &Scene<'_>) -> Result<Self> {
        Ok(Self { records: scene.settled_records()?, noticed: scene.noticed() })
    }
}

/// What has changed while etcd could tell nobody is everywhere so soon after its return.
const EVERYWHERE: f64 = 2.0;

/// Every host has written its records again so soon.
const COMPLETE: f64 = 5.0;

fn away(scene: &mut Scene<'_>, scale: Scale) -> Result<Row> {
    scene.run(2, "old", 23)?;
    scene.run(2, "mover", 24)?;
    scene.everywhere(Instant::now(), SOON)?;
    let stream = scene.stream()?;
    // Beside the stream, too, which costs a machine something.
    let [quickest, before] = scene.starts(1, scale.pick(3, 10))?;
    scene.etcd().kill()?;
    let gone = Instant::now();
    let length = Duration::from_secs(scale.pick(12, 600));
    let mut starts = Vec::new();
    while gone.elapsed() < length {
        let next = Instant::now() + Duration::from_secs(scale.pick(0, 20));
        starts.push(away_round(scene, starts.len())?);
        thread::sleep(next.min(gone + length).saturating_duration_since(Instant::now()));
    }
    let out = gone.elapsed();
    let back = scene.etcd().start()?;
    let everywhere = scene.everywhere(back, SOON)?;
    scene.all_reachable()?;
    let rounds = starts.len();
    // What other work of the machine adds is in neither of the quickest.
    let [quickest_meanwhile, meanwhile] = scene::quickest_and_median(starts);
    Ok(Row::new("etcd: all members down")
        .lost_nothing(&scene::finish(stream)?)
        .info("for", out.as_secs_f64(), "s")
        .at_least(
            "containers started, stopped or moved",
            4.0 * rounds as f64,
            "",
            scale.pick(8.0, 80.0),
        )
        .info("a start before", before, "ms")
        .at_most("a start meanwhile", meanwhile, "ms", 2.0 * before + 500.0)
        .at_most("the quickest", quickest_meanwhile, "ms", 1.5 * quickest + 200.0)
        .at_most("everywhere after its return", everywhere, "s", EVERYWHERE))
}

/// Two containers start, another one stops, and one moves on; how long the first took, in milliseconds.
fn away_round(scene: &mut Scene<'_>, round: usize) -> Result<f64> {
    let guest = |round| format!("guest{round}");
    let began = Instant::now();
    scene.run(1, &format!("new{round}"), 100 + round)?;
    let start = milliseconds(began.elapsed());
    scene.run(2 + round % 2, &guest(round), 150 + round)?;
    match round.checked_sub(1) {
        None => scene.remove("old")?,
        Some(last) => scene.remove(&guest(last))?,
    }
    scene.moved("mover", [3, 1, 2][round % 3])?;
    Ok(start)
}

fn wiped(scene: &mut Scene<'_>) -> Result<Row> {
    let before = Before::take(scene)?;
    let stream = scene.stream()?;
    scene.etcd().kill()?;
    scene.etcd().wipe()?;
    let back = scene.etcd().start()?;
    let row = again(Row::new("etcd wiped"), scene, &before, back)?;
    Ok(row.lost_nothing(&scene::finish(stream)?))
}

fn before_the_backup(scene: &mut Scene<'_>) -> Result<Backup> {
    scene.run(1, "forgotten", 31)?;
    scene.run(2, "moved", 32)?;
    scene.everywhere(Instant::now(), SOON)?;
    Backup::take(scene, "old")
}

fn restored(scene: &mut Scene<'_>, old: &Backup) -> Result<Row> {
    scene.remove("forgotten")?;
    scene.moved("moved", 3)?;
    scene.run(1, "young", 33)?;
    scene.everywhere(Instant::now(), SOON)?;
    let before = Before::take(scene)?;
    let stream = scene.stream()?;
    let (back, age) = old.restore(scene)?;
    let drill = if age < OLD.as_secs_f64() {
        "etcd restored from an old backup"
    } else {
        "etcd restored from an hour-old backup"
    };
    let row = Row::new(drill).info("age", age, "s");
    let row = again(row, scene, &before, back)?;
    scene.reachable(&["moved", "young"])?;
    Ok(row.lost_nothing(&scene::finish(stream)?))
}

/// A backup of a history that the hosts have left since.
fn restored_from_before(scene: &mut Scene<'_>, ancient: &Backup) -> Result<Row> {
    let before = Before::take(scene)?;
    let stream = scene.stream()?;
    let (back, age) = ancient.restore(scene)?;
    let row = Row::new("etcd restored from a backup of before it was wiped").info("age", age, "s");
    let row = again(row, scene, &before, back)?;
    scene.reachable(&["moved", "young"])?;
    Ok(row.lost_nothing(&scene::finish(stream)?))
}

/// All hosts write their records into another history, and say that it is one.
fn again(row: Row, scene: &Scene<'_>, before: &Before, back: Instant) -> Result<Row> {
    wait_for("every record to be back", SOON, || {
        let now = scene.records().map_err(|error| error.to_string())?;
        now.are_again(&before.records)
    })?;
    let complete = back.elapsed().as_secs_f64();
    let everywhere = scene.everywhere(back, SOON)?;
    let silent = scene.hosts_unaware(&before.noticed, SOON)?;
    Ok(row
        .at_most("records complete after", complete, "s", COMPLETE)
        .at_most("every host content after", everywhere, "s", COMPLETE)
        .at_most("hosts that do not report it", silent, "", 0.0))
}

fn one_member_lost(scene: &mut Scene<'_>) -> Result<Row> {
    let leader = scene.etcd().leader()?.name().to_owned();
    let stream = scene.stream()?;
    let mut slowest: f64 = 0.0;
    let members = scene.etcd().members();
    for (round, member) in members.iter().filter(|it| it.name() != leader).enumerate() {
        member.kill()?;
        scene.run(1 + round, &format!("bystander{round}"), 41 + round)?;
        slowest = slowest.max(scene.everywhere(Instant::now(), SOON)?);
        scene.etcd().start()?;
    }
    Ok(Row::new("one member of etcd lost").lost_nothing(&scene::finish(stream)?).at_most(
        "a change everywhere after",
        slowest,
        "s",
        EVERYWHERE,
    ))
}

fn leader_lost(scene: &mut Scene<'_>) -> Result<Row> {
    let stream = scene.stream()?;
    scene.etcd().leader()?.kill()?;
    let gone = Instant::now();
    let elected = scene.while_waiting_for_an_answer(|scene| scene.run(1, "orphan", 51))?;
    let everywhere = scene.everywhere(elected, SOON)?;
    let row = Row::new("etcd's leader lost")
        .lost_nothing(&scene::finish(stream)?)
        .info("another after", elected.duration_since(gone).as_secs_f64(), "s")
        .at_most("everywhere after that", everywhere, "s", EVERYWHERE);
    scene.etcd().start()?;
    Ok(row)
}

/// The watcher of one host hears nothing, and when it could, what it missed is compacted.
fn compacted(scene: &mut Scene<'_>) -> Result<Row> {
    scene.run(2, "unheard", 61)?;
    scene.everywhere(Instant::now(), SOON)?;
    let stream = Stream::start(&scene.eye, &scene.far)?;
    scene.etcd().refuse(&[scene.host(3)])?;
    scene.until_connected(3, false)?;
    scene.remove("unheard")?;
    scene.run(1, "unseen", 62)?;
    scene.everywhere_on(&[1, 2], Instant::now(), SOON)?;
    scene.etcd().compact()?;
    scene.etcd().admit()?;
    let everywhere = scene.everywhere(Instant::now(), SOON)?;
    Ok(Row::new("etcd compacted under a stopped watcher")
        .lost_nothing(&scene::finish(stream)?)
        .at_most("converged after", everywhere, "s", EVERYWHERE))
}
