//! An address moves to another host while clients on all hosts send to it.
//!
//! A client sends an echo request every 10 ms all the time, so that its neighbour entry is warm.
//! Docker takes the old container down before it gives the address away, and that it has none for as
//! long is Docker's own: the gap that is ours begins with the new container's first instruction, and is
//! the worst client's. The whole silence is shown beside it, and both again for Docker's overlay. A
//! stream runs between the new host and a third one meanwhile.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use super::leftovers::known;
use super::{Drills, SERVICES, task};
use crate::drill::begin::{BEGINS, began};
use crate::drill::path::probe::Probe;
use crate::drill::{Row, Rows, milliseconds};
use crate::lab::checks::Container;
use crate::lab::{LabError, Result, wait_for};
use crate::stream::Stream;
use crate::swarm::{SOON, eventually, status};

const MOVED: &str = "mover";

/// What the old host's driver does while the address moves.
#[derive(Clone, Copy, PartialEq)]
enum OldDriver {
    /// It says at once that the address is free.
    Tells,
    /// It takes the container down, is kept from etcd, and is down with that unsaid. Docker has nothing
    /// to wait for, so that it takes seconds.
    EndsUntold,
    /// It is down before, and Docker waits for it.
    IsDown,
}

/// With its driver away a host's Docker waits for each call's end.
const WITHOUT_DRIVER: Duration = Duration::from_secs(150);

/// A host whose driver was down finds what has moved so soon after its return.
const FOUND: f64 = 2000.0;

/// What one move did to the worst client, in milliseconds.
struct Gap {
    ours: f64,
    whole: f64,
    /// On the old host, after its driver's return, if that was down: nobody could tell it before.
    late: Option<f64>,
}

impl Gap {
    const NEVER: Self = Self { ours: f64::INFINITY, whole: f64::INFINITY, late: None };
}

impl Drills<'_> {
    pub(super) fn address_moves(&self, full: bool, rows: &mut Rows) -> Result<()> {
        rows.add(self.address_moves_while(OldDriver::Tells)?);
        rows.add(self.address_moves_while(OldDriver::EndsUntold)?);
        if full {
            rows.add(self.address_moves_while(OldDriver::IsDown)?);
        }
        Ok(())
    }

    fn address_moves_while(&self, old_driver: OldDriver) -> Result<Row> {
        let drill = match old_driver {
            OldDriver::Tells => "address moves to another host",
            OldDriver::EndsUntold => {
                "address moves to another host, the old host's driver down before it told"
            }
            OldDriver::IsDown => "address moves to another host, the old host's driver down",
        };
        let stream = Stream::start(&self.near, &self.far)?;
        let [blue, plain] = SERVICES;
        let ours = self.one_move(blue, Ipv4Addr::new(10, 84, 0, 200), old_driver)?;
        let report = stream.finish()?;
        let row =
            Row::new(drill).at_most("gap after the new container runs", ours.ours, "ms", 100.0);
        let whole = |row: Row| row.info("whole silence", ours.whole, "ms");
        let row = if old_driver == OldDriver::Tells {
            let dockers = self.one_move(plain, Ipv4Addr::new(10, 85, 0, 200), old_driver);
            // What Docker's own network cannot do is no failure of ours.
            let dockers = dockers.unwrap_or_else(|error| {
                eprintln!("  {}: {error}", plain.1);
                for host in self.swarm.lab.hosts() {
                    let _ = host.docker(&["rm", "-f", MOVED]);
                }
                Gap::NEVER
            });
            whole(row.beside(dockers.ours)).beside(dockers.whole)
        } else {
            whole(row)
        };
        let row = match ours.late {
            Some(late) => {
                row.at_most("from the old host after its driver's return", late, "ms", FOUND)
            }
            None => row,
        };
        Ok(row.lost_nothing_between_others(&report))
    }

    /// The clients are a service's tasks.
    fn one_move(
        &self,
        (service, network): (&str, &str),
        address: Ipv4Addr,
        old_driver: OldDriver,
    ) -> Result<Gap> {
        let (from, to) = (self.swarm.host(1), self.swarm.host(3));
        let text = address.to_string();
        let fixed = ["--ip", text.as_str()];
        let old = self.swarm.run(1, MOVED, network, &fixed)?;
        let probes = self.swarm.lab.hosts().iter().map(|host| {
            let name = task(host, service);
            let name =
                name.ok_or_else(|| LabError::Machine(format!("no task on {}", host.name())))?;
            let client = Container { host, name };
            eventually("the first answer", SOON, || client.ping(&text).is_ok())?;
            Probe::start(&client, address)
        });
        let probes = probes.collect::<Result<Vec<_>>>()?;
        let all_answered = |probes: &[Probe], within| {
            let now = SystemTime::now();
            probes.iter().try_for_each(|probe| probe.wait_since(now, within).map(drop))
        };
        all_answered(&probes, SOON)?;
        match old_driver {
            OldDriver::Tells => {}
            OldDriver::EndsUntold => self.swarm.lab.etcd().refuse(&[from])?,
            OldDriver::IsDown => from.driver_stop()?,
        }
        from.docker_within(WITHOUT_DRIVER, &["rm", "-f", &old.name])?;
        let gone = SystemTime::now();
        if old_driver == OldDriver::EndsUntold {
            from.driver_stop()?;
            self.swarm.lab.etcd().admit()?;
        }
        if old_driver != OldDriver::Tells && !known(to, from)?.contains(&IpAddr::V4(address)) {
            return Err(LabError::Machine(format!("{} told that {address} is free", from.name())));
        }
        let run = ["run", "-d", "--name", MOVED, "--network", network];
        // The manager hears of the freed address when it does.
        wait_for("the address to be free again", SOON, || {
            to.docker(&[&run[..], &fixed, &BEGINS].concat()).inspect_err(|_| {
                let _ = to.docker(&["rm", "-f", MOVED]);
            })
        })?;
        let started = began(to, MOVED)?;
        let told = if old_driver == OldDriver::Tells { &probes } else { &probes[1..] };
        let mut gap = Gap { ours: 0.0, whole: 0.0, late: None };
        for probe in told {
            let whole = probe.wait_since(gone, SOON)?;
            let reached = gone + whole;
            let last = probe.last_before(gone);
            let silence = last.and_then(|last| reached.duration_since(last).ok());
            let ours = reached.duration_since(started).unwrap_or_default();
            gap.ours = gap.ours.max(milliseconds(ours));
            gap.whole = gap.whole.max(milliseconds(silence.unwrap_or(whole)));
        }
        if old_driver != OldDriver::Tells {
            from.driver_resume()?;
            gap.late = Some(milliseconds(probes[0].wait_since(SystemTime::now(), SOON)?));
            eventually("the old host's late word", SOON, || {
                status(from).is_ok_and(|said| said.store.connected && said.store.unpublished == 0)
            })?;
            // It must not take the address away.
            for _ in 0..3 {
                all_answered(&probes, Duration::from_secs(1))?;
            }
        }
        drop(probes);
        to.docker(&["rm", "-f", MOVED])?;
        Ok(gap)
    }
}
