//! An address moves to another host while a client sends to it.
//!
//! The client sends an echo request every 10 ms all the time, so that its neighbour entry is warm.
//! Docker takes the old container down before it gives the address away, and that it has none for as
//! long is Docker's own: the gap that is ours begins with the new container's first instruction. The
//! whole silence is shown beside it, and both again for Docker's overlay.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::{DOCKERS, Drills, OURS, reached_soon};
use crate::drill::path::probe::Probe;
use crate::drill::{Row, milliseconds};
use crate::lab::checks::Container;
use crate::lab::{Host, Result, wait_for};
use crate::swarm::SOON;

const MOVED: &str = "mover";

/// With its driver away a host's Docker waits for each call's end.
const WITHOUT_DRIVER: Duration = Duration::from_secs(150);

/// What one move did, in milliseconds.
struct Gap {
    ours: f64,
    whole: f64,
}

impl Drills<'_> {
    /// `still_known`: the old host never says that the address is free.
    pub(super) fn address_moves(&self, still_known: bool) -> Result<Vec<Row>> {
        let drill = if still_known {
            "address moves to another host, the old host's driver down"
        } else {
            "address moves to another host"
        };
        let ours = self.one_move(&self.near, OURS, Ipv4Addr::new(10, 84, 0, 200), still_known)?;
        let row =
            Row::new(drill).at_most("gap after the new container runs", ours.ours, "ms", 100.0);
        let whole = |row: Row, gap: &Gap| row.info("whole silence", gap.whole, "ms");
        if still_known {
            return Ok(vec![whole(row, &ours)]);
        }
        let address = Ipv4Addr::new(10, 85, 0, 200);
        let dockers = self.one_move(&self.plain, DOCKERS, address, false)?;
        Ok(vec![whole(row.beside(dockers.ours), &ours).beside(dockers.whole)])
    }

    fn one_move(
        &self,
        client: &Container<'_>,
        network: &str,
        address: Ipv4Addr,
        still_known: bool,
    ) -> Result<Gap> {
        let (from, to) = (self.swarm.host(1), self.swarm.host(3));
        let text = address.to_string();
        let fixed = ["--ip", text.as_str()];
        let old = self.swarm.run(1, MOVED, network, &fixed)?;
        reached_soon(client, &text)?;
        let probe = Probe::start(client, address)?;
        probe.wait_since(SystemTime::now(), SOON)?;
        if still_known {
            from.driver_stop()?;
        }
        from.docker_within(WITHOUT_DRIVER, &["rm", "-f", &old.name])?;
        let gone = SystemTime::now();
        let run = ["run", "-d", "--name", MOVED, "--network", network];
        to.docker(&[&run[..], &fixed, &BEGINS].concat())?;
        let started = began(to, MOVED)?;
        let whole = probe.wait_since(gone, SOON)?;
        if still_known {
            from.driver_resume()?;
            // The old host's late word must not take the address away.
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

/// Says first of all when it began, in the kernel's count.
const BEGINS: [&str; 4] = ["perf", "sh", "-c", "cat /proc/uptime; exec sleep 1000000"];

/// When the container's first program ran.
fn began(host: &Host, name: &str) -> Result<SystemTime> {
    let (said, _) = wait_for("the time of the container's start", SOON, || {
        let logged = host.docker(&["logs", name]).map_err(|error| error.to_string())?;
        seconds(&logged).ok_or(logged)
    })?;
    let now = host.read("/proc/uptime")?;
    let since = seconds(&now).map_or(0.0, |now| (now - said).max(0.0));
    Ok(SystemTime::now() - Duration::from_secs_f64(since))
}

fn seconds(uptime: &str) -> Option<f64> {
    uptime.split_whitespace().next()?.parse().ok()
}
