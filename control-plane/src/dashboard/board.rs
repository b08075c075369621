//! What all pages are made from: the fleet as etcd tells it now, what happened of late and what was
//! counted. Pure: events and times in; whoever shows it only reads.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_core::ClusterView;
use wgnet_proto::{ClusterSecrets, HostId, NetworkKey, Path};

use super::flows::{Flows, Rate};
use super::journal::{Entry, Journal, Named, What, all_paths};
use super::order::natural;
use super::series::{Keep, Series};
use super::tunnels::Tunnels;
use crate::fleet::problems::{ProblemRow, Severity};
use crate::fleet::rows::{Filter, HostRow, HostState, NetworkRow};
use crate::fleet::{Connection, Fleet};
use crate::follower::Followed;

/// Times are milliseconds since the epoch, by this process's clock, where nothing else is said.
pub struct Board {
    fleet: Fleet,
    summary: Summary,
    journal: Journal,
    flows: Flows,
    plots: Plots,
    /// Counts what a page may have to follow.
    version: u64,
    /// Since when the connection to etcd is as it is.
    since: u64,
    is_listed: bool,
    /// What was known when another history began, until that is listed.
    before: Option<ClusterView>,
}

/// What is made of the whole fleet once for all pages.
#[derive(Debug, Default)]
pub struct Summary {
    pub hosts: Vec<HostRow>,
    pub networks: Vec<NetworkRow>,
    pub problems: Vec<Problem>,
    pub tunnels: Tunnels,
    pub endpoints: usize,
}

/// A problem, told once.
#[derive(Debug)]
pub struct Problem {
    pub row: ProblemRow,
    /// The host that it is about, by the records or by its name.
    pub about: Option<HostId>,
    /// The hosts that say so.
    pub told_by: Vec<(HostId, String)>,
}

impl Problem {
    pub fn concerns(&self, host: HostId) -> bool {
        self.about == Some(host) || self.told_by.iter().any(|(teller, _)| *teller == host)
    }
}

/// What several hosts say in the same words becomes one.
fn told_once(rows: Vec<ProblemRow>, hosts: &[HostRow]) -> Vec<Problem> {
    let named: BTreeMap<&str, HostId> =
        hosts.iter().map(|host| (host.name.as_str(), host.host)).collect();
    let mut problems: Vec<Problem> = Vec::new();
    for row in rows {
        let teller = row.host.zip(row.told_by.clone());
        let is_same = |last: &Problem| {
            let last = &last.row;
            last.told_by.is_some()
                && row.told_by.is_some()
                && (last.severity, &last.code, &last.object, &last.cause, &last.next_step)
                    == (row.severity, &row.code, &row.object, &row.cause, &row.next_step)
        };
        match problems.last_mut().filter(|last| is_same(last)) {
            Some(last) => last.told_by.extend(teller),
            None => {
                let name = row.object.strip_prefix("host ").unwrap_or(&row.object);
                let about = match teller {
                    Some(_) => named.get(name).copied(),
                    None => row.host,
                };
                problems.push(Problem { row, about, told_by: teller.into_iter().collect() });
            }
        }
    }
    problems
}

impl Summary {
    fn of(fleet: &Fleet, now: u64) -> Self {
        let all = Filter::default();
        let networks = fleet.network_rows(&all);
        let mut hosts = fleet.host_rows(&all);
        hosts.sort_by(|a, b| natural(&a.name, &b.name).then(a.host.cmp(&b.host)));
        let problems = told_once(fleet.problems(&all), &hosts);
        Self {
            hosts,
            endpoints: networks.iter().map(|network| network.endpoints).sum(),
            networks,
            problems,
            tunnels: Tunnels::of(fleet, now / 1000),
        }
    }

    /// Without notes, which are no trouble.
    pub fn trouble(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.row.severity != Severity::Note)
    }

    pub fn alive(&self) -> usize {
        self.hosts.iter().filter(|host| host.state == HostState::Alive).count()
    }
}

/// What goes in and out of something.
pub(super) struct Traffic {
    pub(super) sent: Series,
    pub(super) received: Series,
}

impl Traffic {
    fn new() -> Self {
        Self { sent: Series::new(Keep::Mean), received: Series::new(Keep::Mean) }
    }

    fn sample(&mut self, now: u64, rate: Rate) {
        self.sent.sample(now, rate.sent as f32);
        self.received.sample(now, rate.received as f32);
    }
}

pub(super) struct Plots {
    pub(super) all: Traffic,
    pub(super) networks: BTreeMap<NetworkKey, Traffic>,
    pub(super) hosts: BTreeMap<HostId, Traffic>,
    /// For how long the oldest change had not been followed anywhere, in milliseconds.
    pub(super) lag: Series,
}

impl Board {
    pub fn new(secrets: ClusterSecrets, now: u64) -> Self {
        Self {
            fleet: Fleet::new(secrets),
            summary: Summary::default(),
            journal: Journal::default(),
            flows: Flows::default(),
            plots: Plots {
                all: Traffic::new(),
                networks: BTreeMap::new(),
                hosts: BTreeMap::new(),
                lag: Series::new(Keep::Highest),
            },
            version: 1,
            since: now,
            is_listed: false,
            before: None,
        }
    }

    /// Takes in what a follower of everything tells. What is shown follows with [`Board::settle`].
    pub fn take(&mut self, event: Followed, now: u64) {
        match event {
            Followed::Connected => self.connected(now),
            Followed::Disconnected { error } => self.disconnected(error, now),
            Followed::History { .. } => {
                self.note(now, What::OtherHistory);
                self.before.get_or_insert_with(|| self.fleet.view().clone());
                self.fleet.take(event);
            }
            Followed::Listed { .. } => self.listed(event, now),
            Followed::Changed { ref changes, .. } => {
                let paths: BTreeSet<Path> =
                    changes.iter().filter_map(|change| Path::parse(change.key())).collect();
                let before = self.fleet.view().clone();
                self.fleet.take(event);
                self.journal.compare(now, &paths, &before, &self.fleet);
                for path in paths {
                    if let Path::Status(host) = path {
                        self.flows.take(host, self.fleet.reports().get(&host));
                    }
                }
            }
        }
    }

    fn connected(&mut self, now: u64) {
        match self.fleet.connection() {
            Connection::Connected => return,
            Connection::Connecting => {}
            Connection::Lost(_) => {
                self.note(now, What::EtcdBack { after: now.saturating_sub(self.since) });
            }
        }
        self.since = now;
        self.fleet.take(Followed::Connected);
    }

    fn disconnected(&mut self, error: String, now: u64) {
        let was_lost = matches!(self.fleet.connection(), Connection::Lost(_));
        self.fleet.take(Followed::Disconnected { error });
        if let (false, Connection::Lost(error)) = (was_lost, self.fleet.connection()) {
            let error = error.clone();
            self.since = now;
            self.note(now, What::EtcdLost { error });
        }
    }

    fn listed(&mut self, event: Followed, now: u64) {
        let before = self.before.take().unwrap_or_else(|| self.fleet.view().clone());
        self.fleet.take(event);
        if self.is_listed {
            let paths = all_paths(&before, self.fleet.view());
            self.journal.compare(now, &paths, &before, &self.fleet);
        } else {
            let view = self.fleet.view();
            let (hosts, networks) = (view.hosts.len(), view.networks.len());
            let endpoints = view.networks.values().map(|network| network.endpoints.len()).sum();
            self.note(now, What::Began { hosts, networks, endpoints });
            self.is_listed = true;
        }
        for (host, report) in self.fleet.reports() {
            self.flows.take(*host, Some(report));
        }
    }

    fn note(&mut self, at: u64, what: What) {
        self.journal.add(Entry { at, what, network: None, host: None });
    }

    /// Makes what pages show follow what was taken in.
    pub fn settle(&mut self, now: u64) {
        let summary = Summary::of(&self.fleet, now);
        // Before a history is listed nothing of it is known, and all seems wrong.
        if self.is_listed && self.before.is_none() {
            self.compare_problems(&summary, now);
            self.summary = summary;
        }
        self.version += 1;
    }

    fn compare_problems(&mut self, summary: &Summary, now: u64) {
        // That etcd is away has entries of its own.
        let told = |problems: &[Problem]| -> BTreeSet<(String, String)> {
            let all = problems.iter().map(|it| &it.row).filter(|it| it.code != "etcd-away");
            all.map(|problem| (problem.code.clone(), problem.object.clone())).collect()
        };
        let (before, after) = (told(&self.summary.problems), told(&summary.problems));
        let problems = || summary.problems.iter().chain(&self.summary.problems).map(|it| &it.row);
        let mut entries = Vec::new();
        for (code, object) in before.symmetric_difference(&after) {
            let row = problems().find(|it| it.code == *code && it.object == *object);
            let (code, object) = (code.clone(), object.clone());
            let is_new = after.contains(&(code.clone(), object.clone()));
            let what = match is_new {
                true => What::ProblemCame { code, object },
                false => What::ProblemWent { code, object },
            };
            entries.push(Entry {
                at: now,
                what,
                network: row.and_then(|row| row.network.clone()),
                host: row
                    .and_then(|row| row.host)
                    .map(|id| Named { id, name: self.fleet.host_name(id).into() }),
            });
        }
        entries.into_iter().for_each(|entry| self.journal.add(entry));
    }

    /// Samples what is plotted. While etcd is away nothing is known, and plots have a gap.
    pub fn sample(&mut self, now: u64) {
        let seconds = now / 1000;
        self.journal.forget_before(now.saturating_sub(86_400_000));
        if !self.is_listed || *self.fleet.connection() != Connection::Connected {
            return;
        }
        let networks = self.flows.of_networks();
        let mut all = Rate::default();
        let plots = &mut self.plots;
        plots.networks.retain(|key, _| self.fleet.view().networks.contains_key(key));
        for (key, rate) in networks {
            all += rate;
            if self.fleet.view().networks.contains_key(key) {
                let traffic = plots.networks.entry(key.clone()).or_insert_with(Traffic::new);
                traffic.sample(seconds, rate);
            }
        }
        plots.all.sample(seconds, all);
        plots.hosts.retain(|host, _| self.fleet.view().hosts.contains_key(host));
        let mut lag = 0;
        for (host, report) in self.fleet.reports() {
            if self.fleet.state_of(*host) != HostState::Alive {
                continue;
            }
            let worst = report.networks.values().map(|network| network.lag_ms).max();
            lag = lag.max(worst.unwrap_or_default());
            if let Some(rate) = self.flows.of_host(*host) {
                plots.hosts.entry(*host).or_insert_with(Traffic::new).sample(seconds, rate);
            }
        }
        plots.lag.sample(seconds, lag as f32);
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    pub(super) fn plots(&self) -> &Plots {
        &self.plots
    }

    /// What a page that was made now shows; a higher one shows something else.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether anything is known at all.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Since when the connection to etcd is as it is.
    pub fn since(&self) -> u64 {
        self.since
    }
}
