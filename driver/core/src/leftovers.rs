//! What of a listing of the networks nobody claims any more, and why.
//!
//! What belongs to a host that is revoked or was absent for the grace can go at once. Whatever else
//! has no owner must have been so for the grace ([`Unclaimed`]): it may be half written.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::{HostId, NetworkKey, Path};

/// One key of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: Path,
    /// Whom its envelope names, genuine or not: what only claims to be of a dead host is no loss.
    pub writer: Option<HostId>,
    pub mod_revision: i64,
}

/// What is known beyond the listing.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub me: HostId,
    /// Hosts with a record of their own.
    pub hosts: &'a BTreeSet<HostId>,
    /// Absent for the grace, as this host has itself seen, or to be forgotten by order.
    pub dead: &'a BTreeSet<HostId>,
    pub revoked: &'a BTreeSet<HostId>,
}

/// Why nobody claims it: what must still be true when it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Revoked(HostId),
    Dead(HostId),
    /// The member's host has no record of its own.
    NoHost(HostId),
    /// The endpoint's host is no member.
    NoMember(HostId),
    /// The network has no members.
    NoMembers,
}

impl Why {
    /// Whether it must have been so for the grace.
    fn must_last(self) -> bool {
        match self {
            Self::Revoked(_) | Self::Dead(_) => false,
            Self::NoHost(_) | Self::NoMember(_) | Self::NoMembers => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub path: Path,
    pub mod_revision: i64,
    pub why: Why,
}

/// Finds what nobody claims in a complete listing of all networks. Never this host's own.
pub fn leftovers(found: &[Found], known: Known<'_>) -> Vec<Leftover> {
    let mut members: BTreeMap<&NetworkKey, BTreeSet<HostId>> = BTreeMap::new();
    for path in found.iter().map(|found| &found.path) {
        if let Path::Member(network, host) = path {
            members.entry(network).or_default().insert(*host);
        }
    }
    let none = BTreeSet::new();
    let of = |found: &Found| {
        let members = found.path.network().and_then(|key| members.get(key)).unwrap_or(&none);
        let why = match &found.path {
            Path::Member(_, host) => why_host(*host, known)
                .or_else(|| (!known.hosts.contains(host)).then_some(Why::NoHost(*host)))
                .filter(|_| *host != known.me),
            Path::Endpoint(..) if found.writer == Some(known.me) => None,
            Path::Endpoint(..) => match found.writer {
                Some(host) => why_host(host, known)
                    .or_else(|| (!members.contains(&host)).then_some(Why::NoMember(host))),
                None => members.is_empty().then_some(Why::NoMembers),
            },
            Path::Network(_) | Path::Generation(_) => members.is_empty().then_some(Why::NoMembers),
            Path::Cluster | Path::Host(_) | Path::Alive(_) | Path::Status(_) => None,
            Path::Tombstone(_) => None,
        };
        let leftover =
            |why| Leftover { path: found.path.clone(), mod_revision: found.mod_revision, why };
        why.map(leftover)
    };
    found.iter().filter_map(of).collect()
}

fn why_host(host: HostId, known: Known<'_>) -> Option<Why> {
    if known.revoked.contains(&host) {
        return Some(Why::Revoked(host));
    }
    known.dead.contains(&host).then_some(Why::Dead(host))
}

/// Since when nobody has claimed what.
#[derive(Debug, Clone, Default)]
pub struct Unclaimed {
    since: BTreeMap<Path, (Why, i64, u64)>,
}

impl Unclaimed {
    /// Takes in what a listing left over, `now` in seconds of a clock that only goes forward.
    /// Returns what is to be removed.
    pub fn feed(&mut self, now: u64, grace: u64, leftovers: Vec<Leftover>) -> Vec<Leftover> {
        let before = std::mem::take(&mut self.since);
        let mut over = Vec::new();
        for leftover in leftovers {
            let Leftover { path, mod_revision, why } = &leftover;
            if !why.must_last() {
                over.push(leftover);
                continue;
            }
            let known =
                before.get(path).filter(|known| (known.0, known.1) == (*why, *mod_revision));
            let since = known.map_or(now, |known| known.2);
            self.since.insert(path.clone(), (*why, *mod_revision, since));
            if now.saturating_sub(since) >= grace && known.is_some() {
                over.push(leftover);
            }
        }
        over
    }

    /// Everything begins anew: another history, or a time in which nobody could look.
    pub fn clear(&mut self) {
        self.since.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: HostId = HostId([1; 16]);
    const LIVE: HostId = HostId([2; 16]);
    const DEAD: HostId = HostId([3; 16]);
    const REVOKED: HostId = HostId([4; 16]);
    const UNKNOWN: HostId = HostId([5; 16]);

    fn key(name: &str) -> NetworkKey {
        format!("n-{name}").parse().unwrap()
    }

    fn member(network: &str, host: HostId) -> Found {
        Found { path: Path::Member(key(network), host), writer: Some(host), mod_revision: 5 }
    }

    fn endpoint(network: &str, number: u8, host: HostId) -> Found {
        let path = Path::Endpoint(key(network), [10, 0, 0, number].into());
        Found { path, writer: Some(host), mod_revision: 6 }
    }

    fn network(name: &str) -> Found {
        Found { path: Path::Network(key(name)), writer: Some(LIVE), mod_revision: 4 }
    }

    fn found(found: &[Found]) -> Vec<(String, Why)> {
        let (hosts, dead, revoked) = ([ME, LIVE, DEAD].into(), [DEAD].into(), [REVOKED].into());
        let known = Known { me: ME, hosts: &hosts, dead: &dead, revoked: &revoked };
        let left = leftovers(found, known).into_iter();
        left.map(|left| (left.path.to_string(), left.why)).collect()
    }

    #[test]
    fn what_lives_is_left_alone() {
        let live = [
            network("a"),
            member("a", ME),
            member("a", LIVE),
            endpoint("a", 1, ME),
            endpoint("a", 2, LIVE),
        ];
        assert!(found(&live).is_empty());
    }

    #[test]
    fn what_is_of_dead_and_revoked_hosts_is_left_over() {
        let listing = [
            network("a"),
            member("a", LIVE),
            member("a", DEAD),
            endpoint("a", 1, DEAD),
            member("a", REVOKED),
            endpoint("a", 2, REVOKED),
        ];
        let whys: Vec<Why> = found(&listing).into_iter().map(|(_, why)| why).collect();
        let (dead, revoked) = (Why::Dead(DEAD), Why::Revoked(REVOKED));
        assert_eq!(whys, [dead, dead, revoked, revoked]);
    }

    #[test]
    fn what_has_no_owner_is_left_over() {
        let listing = [network("a"), member("a", UNKNOWN), endpoint("a", 1, LIVE), network("b")];
        let whys: Vec<Why> = found(&listing).into_iter().map(|(_, why)| why).collect();
        assert_eq!(whys, [Why::NoHost(UNKNOWN), Why::NoMember(LIVE), Why::NoMembers]);
    }

    #[test]
    fn this_hosts_own_is_its_publishers_business() {
        assert!(found(&[member("a", ME), endpoint("b", 1, ME)]).is_empty());
    }

    #[test]
    fn what_only_has_no_owner_must_last() {
        let left = |mod_revision, why| Leftover { path: network("b").path, mod_revision, why };
        let mut unclaimed = Unclaimed::default();
        assert_eq!(unclaimed.feed(0, 10, vec![left(4, Why::Dead(DEAD))]).len(), 1);
        assert!(unclaimed.feed(0, 0, vec![left(4, Why::NoMembers)]).is_empty(), "seen once");
        assert!(unclaimed.feed(9, 10, vec![left(4, Why::NoMembers)]).is_empty());
        assert_eq!(unclaimed.feed(10, 10, vec![left(4, Why::NoMembers)]).len(), 1);
        assert!(unclaimed.feed(11, 10, vec![left(7, Why::NoMembers)]).is_empty(), "it changed");
        assert!(unclaimed.feed(20, 10, vec![]).is_empty());
        assert!(unclaimed.feed(22, 10, vec![left(7, Why::NoMembers)]).is_empty(), "it was claimed");
    }
}
