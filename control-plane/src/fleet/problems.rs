//! What is wrong with the fleet: what its records show, and what its hosts say themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wgnet_proto::secret::Epoch;
use wgnet_proto::text::{clipped, printable};
use wgnet_proto::{HostId, Path, Refused};

use super::rows::{EndpointState, Filter, HostState, NetworkState};
use super::{Connection, Fleet};

/// One problem; `code`, `severity` and the fields' names are stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProblemRow {
    pub severity: Severity,
    pub code: String,
    /// What is affected: a host, a network, an endpoint, a key of etcd.
    pub object: String,
    pub cause: String,
    pub next_step: String,
    /// The host that says so; none: the records show it.
    pub told_by: Option<String>,
    /// The hosts and networks it is about, for filters.
    #[serde(skip)]
    pub host: Option<HostId>,
    #[serde(skip)]
    pub network: Option<wgnet_proto::NetworkKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not work, or not as wanted.
    Warning,
    /// Everything works, though not in the way that was asked for: nothing needs to be done.
    Note,
}

/// What drivers tell that is no more than that; the driver that has it solved it itself.
const NOTES: [&str; 1] = ["port-taken"];

/// A network that a host could not bring where it should be.
pub const OUT_OF_SYNC: &str = "network-out-of-sync";

/// Of one reason as many refused records are told one by one; beyond, they are counted.
const MOST_REFUSED: usize = 20;

impl Fleet {
    /// Every problem, the worst first.
    pub fn problems(&self, filter: &Filter) -> Vec<ProblemRow> {
        let mut found = Found::default();
        self.problems_of_store(&mut found);
        self.problems_of_hosts(&mut found);
        self.problems_of_networks(&mut found);
        self.problems_told(&mut found);
        let mut problems = found.0;
        problems.retain(|problem| {
            let network = filter.network.as_ref();
            network.is_none_or(|wanted| problem.network.as_ref() == Some(wanted))
                && filter.host.is_none_or(|wanted| problem.host == Some(wanted))
        });
        problems.sort();
        problems.dedup();
        problems
    }

    fn problems_of_store(&self, found: &mut Found) {
        if let Connection::Lost(error) = self.connection() {
            found.add(
                Severity::Error,
                "etcd-away",
                "etcd",
                error.clone(),
                "see that etcd runs (etcdctl endpoint health); running traffic does not need it, and what is shown here may be old",
            );
        }
        if self.cluster().is_none() {
            return self.problem_of_no_cluster(found);
        }
        let mut counts: BTreeMap<Refused, usize> = BTreeMap::new();
        for (key, refusal) in self.refused() {
            let count = counts.entry(refusal.reason).or_default();
            *count += 1;
            if *count > MOST_REFUSED {
                continue;
            }
            let by = refusal.writer.map_or_else(
                || "nobody that is known".to_owned(),
                |writer| format!("host {}", self.host_name(writer)),
            );
            let problem = found.add(
                Severity::Warning,
                &format!("refused-{}", refusal.reason.code()),
                &printable(key),
                format!("a record by {by} is not believed: {}", clipped(&refusal.detail, 200)),
                "find out who wrote it (etcd's access log); a host with another secret is found by: wgnetctl doctor, on it",
            );
            problem.host = refusal.writer;
            problem.network =
                wgnet_proto::Path::parse(key).and_then(|path| path.network().cloned());
        }
        for (reason, count) in counts.into_iter().filter(|(_, count)| *count > MOST_REFUSED) {
            found.add(
                Severity::Warning,
                &format!("refused-{}", reason.code()),
                "etcd",
                format!(
                    "{count} records are not believed: {reason}; {MOST_REFUSED} of them are listed"
                ),
                "find out who wrote them (etcd's access log)",
            );
        }
        for (key, by) in self.outclaimed() {
            let problem = found.add(
                Severity::Warning,
                "address-contested",
                &printable(key),
                format!("two hosts claim it; {} has precedence", self.host_name(*by)),
                "nothing, if it goes within seconds; else remove the older container, and on plain engines give each its own --ip-range",
            );
            problem.network =
                wgnet_proto::Path::parse(key).and_then(|path| path.network().cloned());
        }
    }

    fn problem_of_no_cluster(&self, found: &mut Found) {
        match self.refused().get("cluster") {
            Some(refusal) if refusal.reason == Refused::WrongSecret => found.add(
                Severity::Error,
                "wrong-secret",
                "cluster",
                "nothing in etcd opens with this host's cluster secret".to_owned(),
                "copy /etc/wgnet/secret again from a host that works, or name the right file with --secret",
            ),
            Some(refusal) => found.add(
                Severity::Error,
                &format!("refused-{}", refusal.reason.code()),
                "cluster",
                format!("the cluster's own record is not believed: {}", clipped(&refusal.detail, 200)),
                "start a driver: the hosts put it back",
            ),
            None => found.add(
                Severity::Error,
                "no-cluster",
                "etcd",
                "there is no cluster below this prefix".to_owned(),
                "compare etcd_prefix with the drivers'; the first driver that starts makes the cluster",
            ),
        };
    }

    fn problems_of_hosts(&self, found: &mut Found) {
        let cluster = self.cluster();
        let hosts = &self.view().hosts;
        for row in self.host_rows(&Filter::default()) {
            let mut add = |severity, code: &str, cause: String, next: &str| {
                found.add(severity, code, &row.name, cause, next).host = Some(row.host);
            };
            match row.state {
                HostState::Gone => add(
                    Severity::Error,
                    "host-gone",
                    format!("no driver there has reached etcd for 45 s; endpoints there: {}", row.endpoints),
                    "see whether the host runs and reaches etcd (systemctl status wgnet-driver, there); if it is gone for good: wgnetctl forget-host",
                ),
                HostState::Unrecorded => add(
                    Severity::Error,
                    "host-unrecorded",
                    "it is a member of networks and has no record of itself, so nobody knows the way to it".to_owned(),
                    "see why its driver does not publish: wgnetctl status, there",
                ),
                HostState::Alive | HostState::Revoked => {}
            }
            let Some(record) = hosts.get(&row.host) else { continue };
            if row.state == HostState::Alive && record.underlay.is_empty() {
                add(
                    Severity::Error,
                    "no-underlay",
                    "it does not say where its UDP can be reached".to_owned(),
                    "set `underlay` in its driver's settings, or give it a route to etcd",
                );
            }
            if row.state == HostState::Alive
                && cluster.as_ref().is_some_and(|it| it.incarnation != record.incarnation)
            {
                add(
                    Severity::Warning,
                    "not-republished",
                    "etcd was wiped or restored, and this host has not published all its records since".to_owned(),
                    "nothing, if it goes within seconds; else: wgnetctl status, there",
                );
            }
        }
        self.problems_between_hosts(found);
    }

    fn problems_between_hosts(&self, found: &mut Found) {
        let alive: Vec<HostId> = self.view().alive.iter().copied().collect();
        let records = alive.iter().filter_map(|host| Some((*host, self.view().hosts.get(host)?)));
        let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut names: BTreeMap<String, Vec<HostId>> = BTreeMap::new();
        for (host, record) in records {
            let name = self.host_name(host);
            versions.entry(printable(&record.version).into_owned()).or_default().push(name.clone());
            names.entry(name).or_default().push(host);
        }
        if versions.len() > 1 {
            let each = versions.iter().map(|(version, hosts)| format!("{version}: {}", few(hosts)));
            let each: Vec<String> = each.collect();
            found.add(
                Severity::Warning,
                "versions-differ",
                "hosts",
                each.join("; "),
                "finish the upgrade: install the newest wgnet-driver on every host and restart it; no packet is lost",
            );
        }
        for (name, hosts) in names.into_iter().filter(|(_, hosts)| hosts.len() > 1) {
            let ids: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            found.add(
                Severity::Warning,
                "same-name",
                &name,
                format!("{} hosts have this name: {}", ids.len(), few(&ids)),
                "set `name` in the settings of all but one, or their host names; a copied host needs its state removed: wgnet-driver --clean-up, then /var/lib/wgnet and /run/wgnet/journal.redb, while its driver is stopped",
            );
        }
        let mut epochs: BTreeMap<Epoch, Vec<String>> = BTreeMap::new();
        for host in alive {
            if let Some(epoch) = self.epoch(host) {
                epochs.entry(epoch).or_default().push(self.host_name(host));
            }
        }
        // Sealed anew when the last host has the new secret; without it nobody finds the cluster.
        if let Some(cluster) = self.judge.entry(&Path::Cluster) {
            epochs.entry(cluster.epoch).or_default().push("the record of the cluster".to_owned());
        }
        if epochs.len() > 1 {
            let each = epochs.iter().map(|(epoch, hosts)| format!("epoch {epoch}: {}", few(hosts)));
            let each: Vec<String> = each.collect();
            found.add(
                Severity::Warning,
                "secret-epochs-differ",
                "hosts",
                format!(
                    "hosts seal with different epochs of the cluster secret ({})",
                    each.join("; ")
                ),
                "copy the newest secret file to every host and restart its driver",
            );
        }
    }

    fn problems_of_networks(&self, found: &mut Found) {
        for row in self.network_rows(&Filter::default()) {
            if row.state == NetworkState::Unrecorded {
                let problem = found.add(
                    Severity::Warning,
                    "network-unrecorded",
                    row.network.as_str(),
                    "members or endpoints stand in etcd without the network's own record"
                        .to_owned(),
                    "nothing, if it goes within seconds; else restart the driver of a member",
                );
                problem.network = Some(row.network.clone());
            }
        }
        for (key, network) in &self.view().networks {
            let behind = network.members.iter().filter(|(host, member)| {
                self.state_of(**host) == HostState::Alive
                    && !member.slots.iter().any(|slot| slot.generation == network.generation)
            });
            for (host, _) in behind {
                let problem = found.add(
                    Severity::Warning,
                    "keys-behind",
                    key.as_str(),
                    format!(
                        "{} has no key of generation {}",
                        self.host_name(*host),
                        network.generation
                    ),
                    "nothing, while keys are rotated; else restart its driver",
                );
                (problem.network, problem.host) = (Some(key.clone()), Some(*host));
            }
        }
        for row in self.endpoint_rows(&Filter::default()) {
            if row.state == EndpointState::NoMember {
                let problem = found.add(
                    Severity::Error,
                    "endpoint-without-member",
                    &format!("{} of {}", row.addresses[0], row.network),
                    format!(
                        "{} has this endpoint and is no member of the network: nobody sends there",
                        row.host_name
                    ),
                    "restart the driver there; if the host is gone: wgnetctl forget-host",
                );
                (problem.network, problem.host) = (Some(row.network.clone()), Some(row.host));
            }
        }
    }

    fn problems_told(&self, found: &mut Found) {
        let keys: BTreeSet<_> = self.view().networks.keys().collect();
        for (host, report) in self.reports() {
            if self.state_of(*host) == HostState::Gone && !report.is_direct {
                continue;
            }
            let name = self.host_name(*host);
            // What is refused is told above, once for all, and so is a secret that opens nothing.
            let is_told = |code: &str| {
                let is_wrong_secret = code == "wrong-secret" && self.cluster().is_none();
                code.starts_with("refused-") || is_wrong_secret
            };
            for (key, network) in &report.networks {
                let Some(error) = &network.error else { continue };
                let row = found.add(
                    Severity::Error,
                    OUT_OF_SYNC,
                    key.as_str(),
                    format!("its driver could not bring it where it should be: {error}"),
                    "nothing, if it goes within seconds: it is tried again all the time; else, there: journalctl -u wgnet-driver -n 50",
                );
                row.told_by = Some(name.clone());
                (row.network, row.host) = (Some(key.clone()), Some(*host));
            }
            let told = report.problems.iter().filter(|it| !is_told(&it.code));
            for problem in told {
                let is_note = NOTES.contains(&problem.code.as_str());
                let row = found.add(
                    if is_note { Severity::Note } else { Severity::Error },
                    &problem.code,
                    &problem.object,
                    problem.cause.clone(),
                    &problem.next_step,
                );
                row.told_by = Some(name.clone());
                row.host = Some(*host);
                row.network =
                    keys.iter().find(|key| problem.object.contains(key.as_str())).copied().cloned();
            }
        }
    }
}

#[derive(Default)]
struct Found(Vec<ProblemRow>);

impl Found {
    fn add(
        &mut self,
        severity: Severity,
        code: &str,
        object: &str,
        cause: String,
        next_step: &str,
    ) -> &mut ProblemRow {
        self.0.push(ProblemRow {
            severity,
            code: code.to_owned(),
            object: object.to_owned(),
            cause,
            next_step: next_step.to_owned(),
            told_by: None,
            host: None,
            network: None,
        });
        self.0.last_mut().expect("was pushed")
    }
}

/// The first of many names, and how many more there are.
fn few(names: &[String]) -> String {
    const FEW: usize = 5;
    let first = names.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > FEW { format!("{first} and {} more", names.len() - FEW) } else { first }
}
