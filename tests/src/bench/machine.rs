//! The machine the figures are of, the programs on it, and how long its processors have worked.

use std::{
    fmt, fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{BenchOptions, WIREGUARD_GO};
use crate::lab::{Lab, LabError, Result};

/// Somebody else's work on the machine changes every figure.
const IDLE: f64 = 0.1;
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Machine {
    facts: Vec<(&'static str, String)>,
    /// Shares of the processors' time that others had, before and after.
    others: Vec<f64>,
}

impl Machine {
    pub(super) fn describe(lab: &Lab, options: &BenchOptions) -> Result<Self> {
        let host = lab.host(1);
        let cores = cores();
        let engine = host.docker(&["version", "--format", "{{.Server.Version}}"])?;
        let wgnet = host.exec(&["/opt/wgnet/wgnet-driver", "--version"])?;
        let build = if cfg!(debug_assertions) { "DEBUG" } else { "release" };
        let facts = vec![
            ("CPU", format!("{cores} x {}", after(&read("/proc/cpuinfo")?, "model name"))),
            ("memory", after(&read("/proc/meminfo")?, "MemTotal")),
            ("kernel", read("/proc/sys/kernel/osrelease")?.trim().to_owned()),
            ("wgnet", format!("{wgnet}, {build} build, {} WireGuard", options.backend)),
            ("Docker", format!("{engine} ({})", options.suite.name())),
            (WIREGUARD_GO, super::wireguard_go::version()?),
            ("etcd", after(&lab.etcd().etcdctl(&["version"])?, "etcdctl version")),
        ];
        Ok(Self { facts, others: Vec::new() })
    }

    /// Notes how busy the processors were with what is not this benchmark.
    pub(super) fn note_others(&mut self, share: f64) {
        self.others.push(share);
    }

    pub(super) fn json(&self) -> Value {
        let facts = self.facts.iter().map(|(name, fact)| ((*name).to_owned(), json!(fact)));
        Value::Object(facts.chain([("others_share".to_owned(), json!(self.others))]).collect())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, fact) in &self.facts {
            writeln!(f, "- {name}: {fact}")?;
        }
        let percent = |share: &f64| format!("{:.0} %", share * 100.0);
        let shares: Vec<String> = self.others.iter().map(percent).collect();
        let worth = if self.others.iter().any(|&share| share > IDLE) {
            " - NOT IDLE: the figures are worth little"
        } else {
            ""
        };
        writeln!(f, "- others' work before and after: {}{worth}", shares.join(", "))?;
        Ok(())
    }
}

/// How much of the processors' time goes to others now, while this program only waits.
pub(super) fn others_share() -> Result<f64> {
    let (before, started) = (busy_seconds()?, Instant::now());
    thread::sleep(LOOK);
    Ok((busy_seconds()? - before) / (started.elapsed().as_secs_f64() * cores() as f64))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Seconds of work of all processors since the machine started, whoever it was for.
pub(super) fn busy_seconds() -> Result<f64> {
    let stat = read("/proc/stat")?;
    let all = stat.lines().next().unwrap_or_default();
    busy_ticks(all)
        // What the kernel shows to programs counts in hundredths on every architecture we know.
        .map(|ticks| ticks as f64 / 100.0)
        .ok_or_else(|| LabError::Machine(format!("/proc/stat begins with a line that is none: {all}")))
}

/// user, nice, system, (idle, iowait,) irq, softirq: what comes after was done by others.
fn busy_ticks(line: &str) -> Option<u64> {
    let fields: Vec<u64> = line
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = &fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

fn after(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    line.map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).map_err(LabError::io("read", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idling_waiting_and_other_guests() {
        assert_eq!(busy_ticks("cpu  10 20 30 4000 5000 60 70 8000 9000 0"), Some(190));
        assert_eq!(busy_ticks("cpu0 1 2 3 4 5 6 7 8 9 0"), None);
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
    }

    #[test]
    fn a_fact_is_what_follows_its_name() {
        let text = "processor\t: 0\nmodel name\t: A  B\nmodel name\t: other\n";
        assert_eq!(after(text, "model name"), "A  B");
        assert_eq!(after(text, "stepping"), "unknown");
    }
}
