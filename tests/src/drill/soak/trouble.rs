//! What fails during the soak, and how often it did.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::Duration;

use super::HOSTS;
use crate::lab::{Host, Result};
use crate::swarm::Swarm;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Drill {
    DriverKilled,
    ShimKilled,
    EngineKilled,
    DockerKilled,
    StoreKilled,
    CableOut,
    SilentLoss,
    HostFrozen,
}

impl Drill {
    pub(super) const ALL: [Self; 8] = [
        Self::DriverKilled,
        Self::ShimKilled,
        Self::EngineKilled,
        Self::DockerKilled,
        Self::StoreKilled,
        Self::CableOut,
        Self::SilentLoss,
        Self::HostFrozen,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DriverKilled => "driver killed",
            Self::ShimKilled => "shim killed",
            Self::EngineKilled => "WireGuard engine killed",
            Self::DockerKilled => "dockerd killed",
            Self::StoreKilled => "etcd killed",
            Self::CableOut => "cable out",
            Self::SilentLoss => "silent loss",
            Self::HostFrozen => "host frozen",
        }
    }

    /// How many commands of the containers that come and go it may cost: none where only ours or etcd
    /// ends. dockerd repeats a call of a plugin that died with an empty body (moby#35459); a killed engine
    /// refuses the command that it is at, and each host's engine does that waits for a manager it cannot
    /// reach.
    fn may_fail(self) -> u64 {
        match self {
            Self::DriverKilled | Self::EngineKilled | Self::StoreKilled => 0,
            Self::ShimKilled => 1,
            Self::DockerKilled | Self::CableOut | Self::SilentLoss | Self::HostFrozen => {
                HOSTS as u64
            }
        }
    }

    /// Whether a process of ours begins anew, whose memory would be measured.
    pub(super) fn resets_memory(self) -> bool {
        matches!(self, Self::DriverKilled | Self::EngineKilled)
    }

    /// Does it, and undoes it where nothing else would.
    pub(super) fn run(self, swarm: &Swarm, number: usize, outage: Duration) -> Result<()> {
        let (host, etcd) = (swarm.host(number), swarm.lab.etcd());
        match self {
            Self::DriverKilled => host.driver_crash(),
            Self::ShimKilled => kill_program(host, "wgnet-shim"),
            Self::EngineKilled => kill_program(host, "wgnet-engine"),
            Self::DockerKilled => {
                host.engine_kill("KILL")?;
                host.engine_start()
            }
            Self::StoreKilled => {
                etcd.kill()?;
                thread::sleep(outage);
                etcd.start().map(drop)
            }
            Self::CableOut => {
                host.unplug()?;
                thread::sleep(outage);
                host.plug()
            }
            Self::SilentLoss => {
                host.drop_silently()?;
                thread::sleep(outage);
                host.undrop()
            }
            Self::HostFrozen => {
                host.freeze()?;
                thread::sleep(outage);
                host.thaw()
            }
        }
    }
}

fn kill_program(host: &Host, program: &str) -> Result<()> {
    host.sh(&format!("kill -9 $(pgrep -x {program})")).map(drop)
}

/// What was done to which host.
#[derive(Debug, Default)]
pub(super) struct Trouble(BTreeMap<(Drill, usize), usize>);

impl Trouble {
    pub(super) fn note(&mut self, drill: Drill, number: usize) {
        *self.0.entry((drill, number)).or_default() += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum::<usize>() as u64
    }

    /// How many commands may have failed for all of it.
    pub(super) fn may_fail(&self) -> u64 {
        self.0.iter().map(|((drill, _), times)| drill.may_fail() * *times as u64).sum()
    }

    /// How often we made a host's driver start again.
    pub(super) fn driver_starts(&self, number: usize) -> usize {
        self.0.get(&(Drill::DriverKilled, number)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, ((drill, number), times)) in self.0.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{} on h{number} x{times}", drill.name())?;
        }
        Ok(())
    }
}
