//! What happened of late: the difference of what the records said before an event and after it, kept
//! in memory for a day. Knows nothing of pages.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use wgnet_core::ClusterView;
use wgnet_proto::{Generation, HostId, NetworkKey, Path};

use crate::fleet::Fleet;

/// How long an entry is kept, in milliseconds.
const KEPT_FOR: u64 = 86_400_000;

/// As many are kept; beyond, the oldest go before their time.
pub const MOST: usize = 20_000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since the epoch, by this process's clock.
    pub at: u64,
    pub what: What,
    pub network: Option<NetworkKey>,
    pub host: Option<Named>,
}

/// A host with the name that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: HostId,
    pub name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Began {
        hosts: usize,
        networks: usize,
        endpoints: usize,
    },
    EtcdLost {
        error: String,
    },
    /// It was away for so many milliseconds.
    EtcdBack {
        after: u64,
    },
    OtherHistory,
    HostCame,
    HostGone,
    HostBack,
    HostForgotten,
    HostRevoked,
    HostRenamed {
        from: Arc<str>,
    },
    HostUpgraded {
        from: String,
        to: String,
    },
    HostMoved {
        to: Vec<IpAddr>,
    },
    NetworkCame,
    NetworkFreed,
    NetworkWent,
    KeysRotated {
        generation: Generation,
    },
    MemberCame,
    MemberWent,
    EndpointCame {
        address: IpAddr,
    },
    EndpointWent {
        address: IpAddr,
    },
    EndpointMoved {
        address: IpAddr,
        from: Named,
    },
    EndpointReplaced {
        address: IpAddr,
    },
    ProblemCame {
        code: String,
        object: String,
    },
    ProblemWent {
        code: String,
        object: String,
    },
}

/// What entries can be chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Problems,
    Hosts,
    Networks,
    Endpoints,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Problems, Self::Hosts, Self::Networks, Self::Endpoints];

    pub fn name(self) -> &'static str {
        match self {
            Self::Problems => "problems",
            Self::Hosts => "hosts",
            Self::Networks => "networks",
            Self::Endpoints => "endpoints",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Whether it is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
}

impl What {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Began { .. }
            | Self::EtcdLost { .. }
            | Self::EtcdBack { .. }
            | Self::OtherHistory
            | Self::ProblemCame { .. }
            | Self::ProblemWent { .. } => Kind::Problems,
            Self::HostCame
            | Self::HostGone
            | Self::HostBack
            | Self::HostForgotten
            | Self::HostRevoked
            | Self::HostRenamed { .. }
            | Self::HostUpgraded { .. }
            | Self::HostMoved { .. } => Kind::Hosts,
            Self::NetworkCame
            | Self::NetworkFreed
            | Self::NetworkWent
            | Self::KeysRotated { .. }
            | Self::MemberCame
            | Self::MemberWent => Kind::Networks,
            Self::EndpointCame { .. }
            | Self::EndpointWent { .. }
            | Self::EndpointMoved { .. }
            | Self::EndpointReplaced { .. } => Kind::Endpoints,
        }
    }

    pub fn tone(&self) -> Tone {
        match self {
            Self::EtcdLost { .. }
            | Self::OtherHistory
            | Self::HostGone
            | Self::HostRevoked
            | Self::ProblemCame { .. } => Tone::Bad,
            Self::EtcdBack { .. } | Self::HostBack | Self::ProblemWent { .. } => Tone::Good,
            Self::Began { .. }
            | Self::HostCame
            | Self::HostForgotten
            | Self::HostRenamed { .. }
            | Self::HostUpgraded { .. }
            | Self::HostMoved { .. }
            | Self::NetworkCame
            | Self::NetworkFreed
            | Self::NetworkWent
            | Self::KeysRotated { .. }
            | Self::MemberCame
            | Self::MemberWent
            | Self::EndpointCame { .. }
            | Self::EndpointWent { .. }
            | Self::EndpointMoved { .. }
            | Self::EndpointReplaced { .. } => Tone::Plain,
        }
    }
}

/// The entries, the oldest first.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    /// Some went before their time.
    is_cut: bool,
}

impl Journal {
    /// The newest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub fn add(&mut self, entry: Entry) {
        self.forget_before(entry.at.saturating_sub(KEPT_FOR));
        if self.entries.len() >= MOST {
            self.entries.pop_front();
            self.is_cut = true;
        }
        self.entries.push_back(entry);
    }

    pub fn forget_before(&mut self, at: u64) {
        while self.entries.front().is_some_and(|entry| entry.at < at) {
            self.entries.pop_front();
            self.is_cut = false;
        }
    }

    /// Takes in what differs at some paths between two views; the fleet is as the second one, and
    /// `before` knows the names of hosts that are gone.
    pub fn compare(
        &mut self,
        at: u64,
        paths: &BTreeSet<Path>,
        before: &ClusterView,
        fleet: &Fleet,
    ) {
        let pair = Pair { before, after: fleet.view(), fleet };
        for path in paths {
            let Some(what) = pair.at(path) else { continue };
            let host = pair.host(path).map(|id| pair.named(id));
            self.add(Entry { at, what, network: path.network().cloned(), host });
        }
    }
}

/// Every path at which two views may differ.
pub fn all_paths(before: &ClusterView, after: &ClusterView) -> BTreeSet<Path> {
    let mut paths = BTreeSet::new();
    for view in [before, after] {
        paths.extend(view.hosts.keys().map(|host| Path::Host(*host)));
        paths.extend(view.alive.iter().map(|host| Path::Alive(*host)));
        paths.extend(view.revoked.iter().map(|host| Path::Tombstone(*host)));
        for (key, network) in &view.networks {
            paths.insert(Path::Network(key.clone()));
            paths.insert(Path::Generation(key.clone()));
            paths.extend(network.members.keys().map(|host| Path::Member(key.clone(), *host)));
            paths.extend(network.endpoints.keys().map(|at| Path::Endpoint(key.clone(), *at)));
        }
    }
    paths
}

struct Pair<'a> {
    before: &'a ClusterView,
    after: &'a ClusterView,
    fleet: &'a Fleet,
}

impl Pair<'_> {
    fn at(&self, path: &Path) -> Option<What> {
        match path {
            Path::Cluster | Path::Status(_) => None,
            Path::Host(host) => self.at_host(*host),
            Path::Alive(host) => self.at_alive(*host),
            Path::Tombstone(host) => {
                let is_new =
                    self.after.revoked.contains(host) && !self.before.revoked.contains(host);
                is_new.then_some(What::HostRevoked)
            }
            Path::Network(key) => self.at_network(key),
            Path::Generation(key) => {
                let generation = |view: &ClusterView| Some(view.networks.get(key)?.generation);
                let (before, after) = (generation(self.before)?, generation(self.after)?);
                (before != after).then_some(What::KeysRotated { generation: after })
            }
            Path::Member(key, host) => {
                let is_in = |view: &ClusterView| {
                    view.networks.get(key).is_some_and(|it| it.members.contains_key(host))
                };
                match (is_in(self.before), is_in(self.after)) {
                    (false, true) => Some(What::MemberCame),
                    (true, false) => Some(What::MemberWent),
                    (true, true) | (false, false) => None,
                }
            }
            Path::Endpoint(key, at) => self.at_endpoint(key, *at),
        }
    }

    fn at_host(&self, host: HostId) -> Option<What> {
        let (before, after) = match (self.before.hosts.get(&host), self.after.hosts.get(&host)) {
            (None, Some(_)) => return Some(What::HostCame),
            (Some(_), None) => return Some(What::HostForgotten),
            (None, None) => return None,
            (Some(before), Some(after)) => (before, after),
        };
        if before.name != after.name {
            return Some(What::HostRenamed { from: shown(&before.name).into() });
        }
        if before.version != after.version {
            let (from, to) = (shown(&before.version), shown(&after.version));
            return Some(What::HostUpgraded { from, to });
        }
        (before.underlay != after.underlay).then(|| What::HostMoved { to: after.underlay.clone() })
    }

    fn at_alive(&self, host: HostId) -> Option<What> {
        match (self.before.alive.contains(&host), self.after.alive.contains(&host)) {
            (true, false) => Some(What::HostGone),
            // Of a new host its own record tells.
            (false, true) => self.before.hosts.contains_key(&host).then_some(What::HostBack),
            (true, true) | (false, false) => None,
        }
    }

    fn at_network(&self, key: &NetworkKey) -> Option<What> {
        let record = |view: &ClusterView| Some(view.networks.get(key)?.record.as_ref()?.freed);
        match (record(self.before), record(self.after)) {
            (None, Some(_)) => Some(What::NetworkCame),
            (Some(_), None) => Some(What::NetworkWent),
            (Some(false), Some(true)) => Some(What::NetworkFreed),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    fn at_endpoint(&self, key: &NetworkKey, address: IpAddr) -> Option<What> {
        let record = |view: &ClusterView| {
            view.networks.get(key)?.endpoints.get(&address).map(|it| (it.host, it.endpoint.clone()))
        };
        match (record(self.before), record(self.after)) {
            (None, Some(_)) => Some(What::EndpointCame { address }),
            (Some(_), None) => Some(What::EndpointWent { address }),
            (Some((from, _)), Some((to, _))) if from != to => {
                Some(What::EndpointMoved { address, from: self.named(from) })
            }
            (Some((_, before)), Some((_, after))) => {
                (before != after).then_some(What::EndpointReplaced { address })
            }
            (None, None) => None,
        }
    }

    /// The host that an entry about a path is about.
    fn host(&self, path: &Path) -> Option<HostId> {
        match path {
            Path::Host(host)
            | Path::Alive(host)
            | Path::Status(host)
            | Path::Tombstone(host)
            | Path::Member(_, host) => Some(*host),
            Path::Endpoint(key, at) => {
                let host =
                    |view: &ClusterView| Some(view.networks.get(key)?.endpoints.get(at)?.host);
                host(self.after).or_else(|| host(self.before))
            }
            Path::Cluster | Path::Network(_) | Path::Generation(_) => None,
        }
    }

    fn named(&self, id: HostId) -> Named {
        let name = match self.before.hosts.get(&id) {
            Some(record) if !self.after.hosts.contains_key(&id) => shown(&record.name),
            _ => self.fleet.host_name(id),
        };
        Named { id, name: name.into() }
    }
}

fn shown(text: &str) -> String {
    wgnet_proto::text::printable(text).into_owned()
}
