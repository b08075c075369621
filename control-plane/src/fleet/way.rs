//! Whether one endpoint reaches another, step by step: through which hosts, keys and underlay
//! addresses, and if not, which step fails. Pure: records and reports in, sentences out.

mod ends;
mod tunnel;

use std::net::IpAddr;

use serde::Serialize;
use wgnet_proto::{EndpointId, HostId, NetworkKey};

use super::Fleet;
use super::rows::HostState;

/// The way from one endpoint to another, and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    pub from: Option<End>,
    pub to: Option<End>,
    pub network: Option<NetworkKey>,
    pub verdict: Verdict,
    /// In order; after a failed one there are only those that can still be looked at.
    pub steps: Vec<Step>,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    pub address: IpAddr,
    pub endpoint: EndpointId,
    pub host: HostId,
    pub host_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is a way, and a session on it.
    Open,
    /// Nothing speaks against it, but nobody tells whether packets arrive.
    Unproven,
    /// A step fails.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Stable: `endpoint`, `network`, `address`, `host`, `member`, `generation`, `key`, `underlay`,
    /// `secret`, `driver`, `mtu`, `handshake`.
    pub step: &'static str,
    pub outcome: Outcome,
    pub says: String,
    /// What to do, where something is to be done.
    pub next_step: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Good,
    Unknown,
    Broken,
}

impl Way {
    /// The first step that fails.
    pub fn failing(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.outcome == Outcome::Broken)
    }
}

/// The steps so far.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn good(&mut self, step: &'static str, says: impl Into<String>) {
        self.add(step, Outcome::Good, says.into(), None);
    }

    fn unknown(&mut self, step: &'static str, says: impl Into<String>, next: &str) {
        self.add(step, Outcome::Unknown, says.into(), Some(next));
    }

    fn broken(&mut self, step: &'static str, says: impl Into<String>, next: &str) {
        self.add(step, Outcome::Broken, says.into(), Some(next));
    }

    fn add(&mut self, step: &'static str, outcome: Outcome, says: String, next: Option<&str>) {
        self.0.push(Step { step, outcome, says, next_step: next.map(str::to_owned) });
    }

    fn is_broken(&self) -> bool {
        self.0.iter().any(|step| step.outcome == Outcome::Broken)
    }

    fn verdict(&self) -> Verdict {
        let worst = |outcome| self.0.iter().any(|step| step.outcome == outcome);
        if worst(Outcome::Broken) {
            Verdict::Broken
        } else if worst(Outcome::Unknown) {
            Verdict::Unproven
        } else {
            Verdict::Open
        }
    }
}

impl Fleet {
    /// The way from `from` to `to`, each an address, a MAC address or the beginning of an endpoint's
    /// id; in `network`, if it is given. `now` is in seconds since the epoch.
    pub fn way(&self, from: &str, to: &str, network: Option<&NetworkKey>, now: u64) -> Way {
        let mut steps = Steps::default();
        let ends = self.ends(from, to, network, &mut steps);
        let (from, to, network) = match ends {
            ends::Ends::Both { network, from, to } => {
                self.between(&network, (&from, &to), now, &mut steps);
                (Some(from), Some(to), Some(network))
            }
            ends::Ends::Some { from, to } => (from, to, network.cloned()),
        };
        Way { from, to, network, verdict: steps.verdict(), steps: steps.0 }
    }

    fn between(&self, network: &NetworkKey, (from, to): (&End, &End), now: u64, steps: &mut Steps) {
        self.network_step(network, steps);
        self.address_step(network, from, steps);
        self.address_step(network, to, steps);
        if from.host == to.host {
            self.host_step(from.host, steps);
            self.driver_step(network, from.host, steps);
            return;
        }
        for host in [from.host, to.host] {
            self.host_step(host, steps);
        }
        for host in [from.host, to.host] {
            self.member_step(network, host, steps);
        }
        // The rest is about keys of both.
        if !steps.is_broken() {
            self.tunnel(network, (from.host, to.host), now, steps);
        }
    }

    fn network_step(&self, key: &NetworkKey, steps: &mut Steps) {
        let network = &self.view().networks[key];
        match &network.record {
            Some(record) if record.freed => steps.broken(
                "network",
                format!("{key} was given back by Docker: its hosts take it down"),
                "make the network again, and its containers with it",
            ),
            Some(_) => steps.good("network", format!("both are in {key}")),
            None => steps.unknown(
                "network",
                format!("{key} has no record of its own"),
                "restart the driver of a member, if it stays so",
            ),
        }
    }

    fn address_step(&self, network: &NetworkKey, end: &End, steps: &mut Steps) {
        let record = self.view().networks[network].record.as_ref();
        let is_inside = record
            .is_none_or(|record| record.subnets.iter().any(|subnet| subnet.contains(&end.address)));
        if !is_inside {
            return steps.broken(
                "address",
                format!(
                    "{} is in none of the network's subnets, so it is routed nowhere",
                    end.address
                ),
                "remove the container and start it anew",
            );
        }
        let key = wgnet_proto::Path::Endpoint(network.clone(), end.address).to_string();
        match self.outclaimed().get(&key) {
            Some(by) if *by != end.host => steps.broken(
                "address",
                format!("{} leads to {}, which has precedence", end.address, self.host_name(*by)),
                "remove the older container; on plain engines give each its own --ip-range",
            ),
            Some(by) => steps.unknown(
                "address",
                format!(
                    "another host claims {}, too; {} has precedence",
                    end.address,
                    self.host_name(*by)
                ),
                "remove the other container; on plain engines give each its own --ip-range",
            ),
            None => steps.good("address", format!("{} leads to {}", end.address, end.host_name)),
        }
    }

    fn host_step(&self, host: HostId, steps: &mut Steps) {
        let name = self.host_name(host);
        match self.state_of(host) {
            HostState::Alive => steps.good("host", format!("{name} is alive")),
            HostState::Gone => steps.broken(
                "host",
                format!("no driver of {name} has reached etcd for 45 s"),
                "see whether the host runs, and reaches etcd; running traffic may go on meanwhile",
            ),
            HostState::Revoked => steps.broken(
                "host",
                format!("{name} was revoked: nothing it writes counts"),
                "move the container to another host; the host joins again only with a new key",
            ),
            HostState::Unrecorded => steps.broken(
                "host",
                format!("{name} has no record of itself, so nobody knows the way"),
                "see why its driver does not publish: wgnetctl status, there",
            ),
        }
    }

    fn member_step(&self, key: &NetworkKey, host: HostId, steps: &mut Steps) {
        let name = self.host_name(host);
        if self.view().networks[key].members.contains_key(&host) {
            return steps.good("member", format!("{name} is a member of {key}"));
        }
        let record = wgnet_proto::Path::Member(key.clone(), host).to_string();
        match self.refused().get(&record) {
            Some(refusal) => steps.broken(
                "member",
                format!("the record of {name} as a member is not believed: {}", refusal.detail),
                "see: wgnetctl problems",
            ),
            None => steps.broken(
                "member",
                format!("{name} is no member of {key}: nobody has a key for it"),
                "see why its driver does not publish: wgnetctl status, there",
            ),
        }
    }

    fn driver_step(&self, key: &NetworkKey, host: HostId, steps: &mut Steps) {
        let name = self.host_name(host);
        let Some(report) = self.reports().get(&host) else {
            return steps.unknown(
                "driver",
                format!("{name} does not tell how its kernel is"),
                &format!("run the same on {name}, or: wgnetctl status, there"),
            );
        };
        match report.networks.get(key) {
            Some(network) if network.in_sync => {
                steps.good("driver", format!("{name} has in its kernel what it should"));
            }
            Some(network) => steps.broken(
                "driver",
                format!(
                    "{name} could not put everything into its kernel: {}",
                    network.error.as_deref().unwrap_or("it is at work")
                ),
                "see: wgnetctl problems, and journalctl -u wgnet-driver, there",
            ),
            None if report.is_direct => steps.broken(
                "driver",
                format!("the driver of {name} does not run {key} now"),
                "restart wgnet-driver there; nothing is lost by it",
            ),
            None => steps.unknown(
                "driver",
                format!("{name} does not tell of {key}"),
                "see: wgnetctl status, there",
            ),
        }
    }
}
