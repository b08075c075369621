//! An engine ends and comes back: killed, stopped, slow to start, the swarm's leader.

use std::thread;
use std::time::{Duration, Instant};

use super::{AFTER_KILL, AFTER_START, BACK_WITHIN, Drills, Event, OURS, tasks};
use crate::drill::Row;
use crate::lab::{Host, LabError, Result, wait_for};

const STOPPED_FOR: Duration = Duration::from_secs(30);

impl Drills<'_> {
    /// While no other container starts or ends there, as the row says.
    pub(super) fn engine_killed(&self) -> Result<Row> {
        let host = self.swarm.host(1);
        self.swarm_row("dockerd SIGKILL and start on a swarm node", host, |row| {
            let old = tasks(host);
            let killed = Instant::now();
            host.engine_kill("KILL")?;
            host.engine_start()?;
            let ([ours, dockers], cleared) = self.both_back(host, &old, Instant::now())?;
            let row = row.at_most("its tasks reachable after the start", ours, "s", 60.0);
            Ok((row.beside(dockers), Event { figure: AFTER_KILL, since: killed, cleared }))
        })
    }

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
        self.check_leads(host)?;
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

    fn check_leads(&self, host: &Host) -> Result<()> {
        let said = host.docker(&["node", "inspect", "-f", "{{.ManagerStatus.Leader}}", "self"])?;
        let refusal = || LabError::Machine(format!("{} does not lead the swarm", host.name()));
        if said == "true" { Ok(()) } else { Err(refusal()) }
    }
}
