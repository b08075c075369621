//! The part of the way between two hosts: keys, underlay, sessions.

use std::net::{IpAddr, SocketAddr};

use wgnet_core::Families;
use wgnet_proto::record::{MemberRecord, Slot};
use wgnet_proto::{Generation, HostId, NetworkKey};

use super::Steps;
use crate::fleet::Fleet;
use crate::fleet::report::{PeerSlot, STALE_AFTER};

impl Fleet {
    /// Both are known, members, and not revoked.
    pub(super) fn tunnel(
        &self,
        key: &NetworkKey,
        (from, to): (HostId, HostId),
        now: u64,
        steps: &mut Steps,
    ) {
        let network = &self.view().networks[key];
        let (start, goal) = (&network.members[&from], &network.members[&to]);
        let (from_name, to_name) = (self.host_name(from), self.host_name(to));
        let Some(generation) = common(start, goal, network.generation) else {
            return steps.broken(
                "generation",
                format!(
                    "{from_name} has keys of generation {}, {to_name} of {}: none in common",
                    generations(start),
                    generations(goal)
                ),
                "restart the driver that is behind; a rotation that is interrupted goes on by itself",
            );
        };
        steps.good("generation", format!("both have keys of generation {generation}"));
        let (near, far) = (slot(start, generation), slot(goal, generation));
        if near.public_key == far.public_key {
            return steps.broken(
                "key",
                format!(
                    "{from_name} and {to_name} have the same public key: one is a copy of the other"
                ),
                "on the copy stop the driver, wgnet-driver --clean-up, remove /var/lib/wgnet and /run/wgnet/journal.redb, and start it",
            );
        }
        steps.good("key", format!("{from_name} {}, {to_name} {}", near.public_key, far.public_key));
        self.underlay_step((from, near), (to, far), steps);
        self.secret_step(from, to, steps);
        self.driver_step(key, from, steps);
        self.driver_step(key, to, steps);
        self.mtu_step(key, from, to, steps);
        self.handshake_step(key, (from, near), (to, far), now, steps);
    }

    fn underlay_step(&self, near: (HostId, &Slot), far: (HostId, &Slot), steps: &mut Steps) {
        let there = self.first_address(far, near.0);
        let back = self.first_address(near, far.0);
        let (near, far) = (self.host_name(near.0), self.host_name(far.0));
        match (there, back) {
            (Some(there), Some(back)) => {
                steps.good("underlay", format!("{near} {back} <-> {far} {there} (UDP)"));
            }
            (Some(there), None) => {
                steps
                    .good("underlay", format!("{near} sends to {far} at {there} (UDP) and begins"));
            }
            (None, Some(back)) => {
                steps.good("underlay", format!("{far} sends to {near} at {back} (UDP) and begins"));
            }
            (None, None) => steps.broken(
                "underlay",
                format!("neither {near} nor {far} has an address that the other can send to"),
                "set `underlay` in the driver's settings of one of them, in a family both have",
            ),
        }
    }

    /// Where `other` sends to first.
    fn first_address(&self, (host, slot): (HostId, &Slot), other: HostId) -> Option<SocketAddr> {
        let hosts = &self.view().hosts;
        let families = match hosts.get(&other) {
            Some(record) if !record.underlay.is_empty() => Families::of(&record.underlay),
            _ => Families::BOTH,
        };
        let of_host = hosts.get(&host).map(|record| record.underlay.as_slice()).unwrap_or_default();
        let candidates = slot.underlay.iter().chain(of_host).map(IpAddr::to_canonical);
        let fits = |address: &IpAddr| match address {
            IpAddr::V4(v4) => families.ipv4 && !v4.is_loopback(),
            IpAddr::V6(v6) => families.ipv6 && !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        candidates.into_iter().find(fits).map(|address| SocketAddr::new(address, slot.port))
    }

    fn secret_step(&self, from: HostId, to: HostId, steps: &mut Steps) {
        match (self.epoch(from), self.epoch(to)) {
            (Some(one), Some(other)) if one != other => steps.broken(
                "secret",
                format!(
                    "{} uses epoch {one} of the cluster secret, {} epoch {other}: their pre-shared keys differ",
                    self.host_name(from),
                    self.host_name(to)
                ),
                "copy the newest secret file to both and restart the driver that is behind",
            ),
            (Some(epoch), _) => steps.good("secret", format!("both use epoch {epoch} of the cluster secret")),
            (None, _) => {}
        }
    }

    fn mtu_step(&self, key: &NetworkKey, from: HostId, to: HostId, steps: &mut Steps) {
        let mtu = |host| Some(self.reports().get(&host)?.networks.get(key)?.mtu);
        match (mtu(from), mtu(to)) {
            (Some(one), Some(other)) if one != other => steps.unknown(
                "mtu",
                format!(
                    "the MTU is {one} on {} and {other} on {}: large packets without path MTU discovery are lost",
                    self.host_name(from),
                    self.host_name(to)
                ),
                "set the same with `-o mtu=` when the network is made",
            ),
            (Some(mtu), Some(_)) => steps.good("mtu", format!("{mtu} on both")),
            (None, _) | (_, None) => {}
        }
    }

    fn handshake_step(
        &self,
        key: &NetworkKey,
        (from, near): (HostId, &Slot),
        (to, far): (HostId, &Slot),
        now: u64,
        steps: &mut Steps,
    ) {
        let there = Session::told(self, key, from, (to, far));
        let back = Session::told(self, key, to, (from, near));
        let sessions: Vec<Session> = there.into_iter().chain(back).collect();
        let newest = sessions.iter().filter_map(|session| session.last).max();
        if let Some(lacking) = sessions.iter().find(|session| !session.is_peer) {
            return steps.broken(
                "handshake",
                format!("{} has no peer {}", lacking.host, lacking.peer),
                "restart wgnet-driver there, if it stays so for seconds; nothing is lost by it",
            );
        }
        if let Some(silent) = sessions.iter().find(|session| session.is_silent) {
            return steps.broken(
                "handshake",
                format!("{} sends to {}, and nothing comes back", silent.host, silent.peer),
                &format!("see whether {} runs and UDP between both is open; compare their clocks: wgnetctl doctor, on both", silent.peer),
            );
        }
        match newest.map(|at| now.saturating_sub(at)) {
            Some(age) if age <= STALE_AFTER => {
                steps.good("handshake", format!("the last one was {age} s ago"));
            }
            Some(age) => steps.unknown(
                "handshake",
                format!("the last one was {age} s ago, and its session ran out; without traffic that is normal"),
                "ping from one to the other and ask again",
            ),
            None => match sessions.first() {
                Some(session) => steps.broken(
                    "handshake",
                    format!(
                        "{} and {} never had one: {} B sent, {} B received",
                        session.host, session.peer, session.sent, session.received
                    ),
                    &format!(
                        "open UDP {} on {} and UDP {} on {} for each other; compare both secrets and clocks: wgnetctl doctor, on both",
                        near.port,
                        self.host_name(from),
                        far.port,
                        self.host_name(to)
                    ),
                ),
                None => steps.unknown(
                    "handshake",
                    "neither host tells of its sessions",
                    "run the same as root on one of the two hosts",
                ),
            },
        }
    }
}

/// What one host tells of its session with another.
struct Session {
    host: String,
    peer: String,
    is_peer: bool,
    is_silent: bool,
    last: Option<u64>,
    sent: u64,
    received: u64,
}

impl Session {
    fn told(fleet: &Fleet, key: &NetworkKey, host: HostId, peer: (HostId, &Slot)) -> Option<Self> {
        let report = fleet.reports().get(&host)?;
        let network = report.networks.get(key)?;
        let found = network.peers.iter().find(|it| match it.slot {
            PeerSlot::Key(key) => key == peer.1.public_key,
            PeerSlot::Generation(generation) => {
                it.host == peer.0 && generation == peer.1.generation
            }
        });
        // A record has room for some peers only; a driver itself tells all.
        if found.is_none() && !report.is_direct {
            return None;
        }
        Some(Self {
            host: fleet.host_name(host),
            peer: fleet.host_name(peer.0),
            is_peer: found.is_some(),
            is_silent: found.is_some_and(|it| it.silent),
            last: found.and_then(|it| it.last_handshake),
            sent: found.map_or(0, |it| it.sent_bytes),
            received: found.map_or(0, |it| it.received_bytes),
        })
    }
}

/// The generation that packets go through: the network's current one if both have it, else the
/// highest that both have.
fn common(one: &MemberRecord, other: &MemberRecord, current: Generation) -> Option<Generation> {
    let of_one = one.slots.iter().map(|slot| slot.generation);
    let shared = of_one.filter(|it| other.slots.iter().any(|slot| slot.generation == *it));
    shared.max_by_key(|generation| (*generation == current, *generation))
}

fn slot(member: &MemberRecord, generation: Generation) -> &Slot {
    member.slots.iter().find(|slot| slot.generation == generation).expect("it is common to both")
}

fn generations(member: &MemberRecord) -> String {
    let all: Vec<String> = member.slots.iter().map(|slot| slot.generation.to_string()).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" and ") }
}
