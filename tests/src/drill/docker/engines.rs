//! An engine ends and comes back: stopped, slow to start, the swarm's leader.

use std::thread;
use std::time::{Duration, Instant};

use super::{AFTER_START, BACK_WITHIN, Drills, Event, OURS, manages, tasks};
use crate::drill::Row;
use crate::lab::{Host, Result, wait_for};
use crate::swarm::eventually;

const STOPPED_FOR: Duration = Duration::from_secs(30);

impl Drills<'_> {
    pub(super) fn engine_stopped(&self) -> Result<Row> {
        let host = self.swarm.host(1);
        self.swarm_row("dockerd stopped, started half a minute later", host, |row| {
            let old = tasks(host);
            host.engine_kill("TERM")?;
            // For others it is a node that is down. The drill's own wait is no time of ours.
            thread::sleep(STOPPED_FOR);
            let started = Instant::now();
            host.engine_start()?;
            let ([ours, dockers], cleared) = self.both_back(host, &old, Instant::now())?;
            let row = row.at_most("its tasks reachable after the start", ours, "s", 60.0);
            Ok((row.beside(dockers), Event { figure: AFTER_START, since: started, cleared }))
        })
    }

    /// dockerd stands still soon after its start began.
    pub(super) fn engine_starts_slowly(&self) -> Result<Row> {
        let host = self.swarm.host(1);
        self.swarm_row("dockerd killed, its start takes half a minute longer", host, |row| {
            let old = tasks(host);
            host.engine_kill("KILL")?;
            host.engine_launch()?;
            host.engine_halt(STOPPED_FOR)?;
            host.engine_wait(BACK_WITHIN)?;
            let started = Instant::now();
            let ([ours, dockers], cleared) = self.both_back(host, &old, started)?;
            let row = row.at_most("its tasks reachable after the start", ours, "s", 60.0);
            Ok((row.beside(dockers), Event { figure: AFTER_START, since: started, cleared }))
        })
    }

    /// Its engine is killed, and started again when another one leads.
    pub(super) fn leader_lost(&self) -> Result<Row> {
        let host = self.swarm.host(1);
        self.let_lead(host)?;
        self.swarm_row("swarm leader lost and back", host, |row| {
            let old = tasks(host);
            host.engine_kill("KILL")?;
            let killed = Instant::now();
            let run = ["run", "--rm", "--network", OURS, "bb", "true"];
            wait_for("a container under the new leader", BACK_WITHIN, || {
                self.near.host.docker_within(BACK_WITHIN, &run)
            })?;
            let led = killed.elapsed();
            let started = Instant::now();
            host.engine_start()?;
            let ([ours, dockers], cleared) = self.both_back(host, &old, Instant::now())?;
            let row = row
                .info("containers start under the new leader after", led.as_secs_f64(), "s")
                .at_most("its tasks reachable after the start", ours, "s", 60.0)
                .beside(dockers);
            Ok((row, Event { figure: AFTER_START, since: started, cleared }))
        })
    }

    /// Makes a manager the swarm's leader: one that leads hands over when it is demoted.
    pub(super) fn let_lead(&self, host: &Host) -> Result<()> {
        if leads(host)? {
            return Ok(());
        }
        let others = || self.swarm.lab.hosts().iter().filter(|other| other.name() != host.name());
        for other in others() {
            // Docker refuses an update that crosses one of its own.
            let demote = ["node", "demote", other.name()];
            wait_for("another manager's demotion", BACK_WITHIN, || host.docker(&demote))?;
            eventually("its end", BACK_WITHIN, || manages(other).is_ok_and(|it| !it))?;
        }
        eventually("the last manager to lead", BACK_WITHIN, || leads(host).is_ok_and(|it| it))?;
        for other in others() {
            let promote = ["node", "promote", other.name()];
            wait_for("another manager's return", BACK_WITHIN, || host.docker(&promote))?;
            eventually("its manager", BACK_WITHIN, || manages(other).is_ok_and(|it| it))?;
        }
        Ok(())
    }
}

/// Whether a manager leads the swarm.
pub(super) fn leads(host: &Host) -> Result<bool> {
    Ok(host.docker(&["node", "inspect", "-f", "{{.ManagerStatus.Leader}}", "self"])? == "true")
}
