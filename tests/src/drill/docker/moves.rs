//! An address moves to another host while a client sends to it.
//!
//! The client sends an echo request every 10 ms all the time, so that its neighbour entry is warm.
//! Docker takes the old container down before it gives the address away, and that it has none for as
//! long is Docker's own: the gap that is ours begins with the new container's first instruction. The
//! whole silence is shown beside it, and both again for Docker's overlay. A stream runs between the
//! client's host and the new one meanwhile.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use super::leftovers::known;
use super::{DOCKERS, Drills, OURS, between_others, reached_soon};
use crate::drill::begin::{BEGINS, began};
use crate::drill::path::probe::Probe;
use crate::drill::{Row, milliseconds};
use crate::lab::checks::Container;
use crate::lab::{LabError, Result, wait_for};
use crate::stream::Stream;
use crate::swarm::{SOON, eventually, status};

const MOVED: &str = "mover";

/// What the old host's driver does while the address moves.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum OldDriver {
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

/// What one move did, in milliseconds.
struct Gap {
    ours: f64,
    whole: f64,
}

impl Gap {
    const NEVER: Self = Self { ours: f64::INFINITY, whole: f64::INFINITY };
}

impl Drills<'_> {
    pub(super) fn address_moves(&self, old_driver: OldDriver) -> Result<Row> {
        let drill = match old_driver {
            OldDriver::Tells => "address moves to another host",
            OldDriver::EndsUntold => {
                "address moves to another host, the old host's driver down before it told"
            }
            OldDriver::IsDown => "address moves to another host, the old host's driver down",
        };
        let stream = Stream::start(&self.near, &self.far)?;
        let ours = self.one_move(&self.near, OURS, Ipv4Addr::new(10, 84, 0, 200), old_driver)?;
        let report = stream.finish()?;
        let row =
            Row::new(drill).at_most("gap after the new container runs", ours.ours, "ms", 100.0);
        let whole = |row: Row| row.info("whole silence", ours.whole, "ms");
        let row = if old_driver == OldDriver::Tells {
            let address = Ipv4Addr::new(10, 85, 0, 200);
            let dockers = self.one_move(&self.plain, DOCKERS, address, old_driver);
            // What Docker's own network cannot do is no failure of ours.
            let dockers = dockers.unwrap_or_else(|error| {
                eprintln!("  {DOCKERS}: {error}");
                for host in self.swarm.lab.hosts() {
                    let _ = host.docker(&["rm", "-f", MOVED]);
                }
                Gap::NEVER
            });
            whole(row.beside(dockers.ours)).beside(dockers.whole)
        } else {
            whole(row)
        };
        Ok(between_others(row, &report))
    }

    fn one_move(
        &self,
        client: &Container<'_>,
        network: &str,
        address: Ipv4Addr,
        old_driver: OldDriver,
    ) -> Result<Gap> {
        let (from, to) = (self.swarm.host(1), self.swarm.host(3));
        let text = address.to_string();
        let fixed = ["--ip", text.as_str()];
        let old = self.swarm.run(1, MOVED, network, &fixed)?;
        reached_soon(client, &text)?;
        let probe = Probe::start(client, address)?;
        probe.wait_since(SystemTime::now(), SOON)?;
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
        let whole = probe.wait_since(gone, SOON)?;
        if old_driver != OldDriver::Tells {
            from.driver_resume()?;
            eventually("the old host's late word", SOON, || {
                status(from).is_ok_and(|said| said.store.connected && said.store.unpublished == 0)
            })?;
            // It must not take the address away.
            for _ in 0..3 {
                probe.wait_since(SystemTime::now(), Duration::from_secs(1))?;
            }
        }
        let reached = gone + whole;
        let silence = probe.last_before(gone).and_then(|last| reached.duration_since(last).ok());
        drop(probe);
        to.docker(&["rm", "-f", MOVED])?;
        Ok(Gap {
            ours: milliseconds(reached.duration_since(started).unwrap_or_default()),
            whole: milliseconds(silence.unwrap_or(whole)),
        })
    }
}
