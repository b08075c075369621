//! An etcd that answers and is of no use: another cluster's, full, or slow.

use std::thread;
use std::time::{Duration, Instant};

use wgnet_proto::record::ClusterRecord;
use wgnet_proto::{ClusterId, ClusterSecrets, HostKey, Incarnation, Path, Record, Sealer};

use super::scene::{self, Scene, odd};
use super::{COMPLETE, EVERYWHERE};
use crate::drill::Row;
use crate::lab::{Host, Result, SECRET};
use crate::swarm::{SOON, eventually, status};

pub(super) const PREFIX: &str = "/wgnet/v1";

/// Each answer of a slow etcd comes so late.
const LATE: Duration = Duration::from_secs(2);

/// In so long a driver looks after everything that it looks after by itself, and would write.
const LOOKED: Duration = Duration::from_secs(8);

/// A change takes two answers: that it is made, and that it is told.
const TOLD_LATE: f64 = 6.0;

/// A full etcd is not asked more often than every 5 s.
const ROOM_NOTICED: f64 = 6.0;

/// Another cluster's etcd stands where ours was, farther on in its history, and then ours again.
pub(super) fn clusters_swapped(scene: &mut Scene<'_>) -> Result<Row> {
    let theirs = found_another(scene)?;
    let stream = scene.stream()?;
    exchange(scene, "ours", "theirs")?;
    let silent = scene.hosts_without("foreign-cluster", SOON)?;
    // A driver that starts there has a lease of that etcd at once; others have when they renew theirs.
    scene.host(3).driver_stop()?;
    scene.host(3).driver_resume()?;
    let silent = silent.max(scene.hosts_without("foreign-cluster", SOON)?);
    // Nothing known was forgotten, and hosts go on by themselves.
    let held = scene.everywhere(Instant::now(), SOON).is_ok();
    scene.run(1, "meanwhile", 25)?;
    thread::sleep(LOOKED);
    let now = held_by(scene)?;
    let touched = now != theirs;
    if touched {
        eprintln!("  the other cluster's etcd had {theirs:?} and has {now:?}");
    }
    let back = exchange(scene, "theirs", "ours")?;
    let everywhere = scene.everywhere(back, SOON)?;
    scene.solved("foreign-cluster", SOON)?;
    let solved = back.elapsed().as_secs_f64();
    scene.solved("store-history", Duration::ZERO)?;
    scene.reachable(&["meanwhile"])?;
    Ok(Row::new("two etcd clusters swapped, and back")
        .lost_nothing(&scene::finish(stream)?)
        .at_most("hosts that do not say so", silent, "", 0.0)
        .at_most("hosts' pictures changed", f64::from(u8::from(!held)), "", 0.0)
        .at_most("the other cluster's etcd written to", f64::from(u8::from(touched)), "", 0.0)
        .at_most("everywhere after the way back", everywhere, "s", EVERYWHERE)
        .at_most("no word of it after", solved, "s", COMPLETE))
}

/// The keys in etcd, and its revision: what was written and is gone again counts.
fn held_by(scene: &Scene<'_>) -> Result<(Vec<String>, i64)> {
    Ok((scene.etcd().keys()?, scene.etcd().revision()?))
}

/// Makes another cluster's data, behind the hosts' backs; what it holds.
fn found_another(scene: &Scene<'_>) -> Result<(Vec<String>, i64)> {
    let etcd = scene.etcd();
    let hosts = [1, 2, 3].map(|number| scene.host(number));
    let ours = etcd.revision()?;
    etcd.refuse(&hosts)?;
    exchange(scene, "ours", "theirs")?;
    let secrets = ClusterSecrets::load(&hosts[0].path(SECRET)).expect("the lab made it");
    let (cluster, incarnation) = (ClusterId([7; 16]), Incarnation([7; 16]));
    let sealer = Sealer::new(HostKey::from_random([7; 32]), secrets, cluster);
    let record = Record::Cluster(ClusterRecord {
        cluster,
        incarnation,
        schema: 1,
        history: 1,
        announced_at: 0,
    });
    etcd.put(&format!("{PREFIX}/cluster"), &sealer.seal_record(&Path::Cluster, 1, &record))?;
    etcd.advance(usize::try_from(ours).unwrap_or(0) + 100)?;
    let theirs = held_by(scene)?;
    exchange(scene, "theirs", "ours")?;
    etcd.admit()?;
    for number in 1..=3 {
        scene.until_connected(number, true)?;
    }
    Ok(theirs)
}

fn exchange(scene: &Scene<'_>, aside: &str, instead: &str) -> Result<Instant> {
    scene.etcd().kill()?;
    scene.etcd().exchange(aside, instead)?;
    scene.etcd().start()
}

/// etcd's quota is used up: it takes nothing until somebody makes room.
pub(super) fn full(scene: &mut Scene<'_>) -> Result<Row> {
    let stream = scene.stream()?;
    scene.etcd().fill()?;
    let began = Instant::now();
    scene.run(1, "cramped", 71)?;
    let start = began.elapsed().as_secs_f64() * 1e3;
    let says = |host: &Host, word: &str| {
        status(host).is_ok_and(|status| status.store.error.is_some_and(|it| it.contains(word)))
    };
    eventually("h1 to say that etcd is full", SOON, || says(scene.host(1), "is full"))?;
    scene.etcd().unfill()?;
    let everywhere = scene.everywhere(Instant::now(), SOON)?;
    if says(scene.host(1), "is full") {
        return Err(odd("h1 still says that etcd is full"));
    }
    Ok(Row::new("etcd full (NOSPACE), then disarmed")
        .lost_nothing(&scene::finish(stream)?)
        .info("a start meanwhile", start, "ms")
        .at_most("everywhere after that", everywhere, "s", ROOM_NOTICED))
}

/// Each answer takes two seconds.
pub(super) fn slow(scene: &mut Scene<'_>) -> Result<Row> {
    let hosts = [1, 2, 3].map(|number| scene.host(number));
    let stream = scene.stream()?;
    let slow = scene.etcd().slow(&hosts, LATE)?;
    scene.etcd().kill()?;
    scene.etcd().start()?;
    for number in 1..=3 {
        scene.until_connected(number, false)?;
    }
    for number in 1..=3 {
        scene.until_connected(number, true)?;
    }
    let began = Instant::now();
    scene.run(2, "late", 81)?;
    let start = began.elapsed().as_secs_f64() * 1e3;
    let everywhere = scene.everywhere(Instant::now(), SOON)?;
    drop(slow);
    Ok(Row::new("etcd slow (2 s per request)")
        .lost_nothing(&scene::finish(stream)?)
        .info("a start meanwhile", start, "ms")
        .at_most("a change everywhere after", everywhere, "s", TOLD_LATE))
}
