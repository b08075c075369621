//! Three hosts with one network, and what a test changes about them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wgnet_proto::record::status::{NetworkState, PeerState, StatusRecord};
use wgnet_proto::record::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot,
    TombstoneRecord,
};
use wgnet_proto::status::{DriverStatus, MemberStatus, NetworkStatus};
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostId, HostKey, Incarnation, MacAddr, NetworkKey, Path, PublicKey,
    Record, Sealer,
};

use crate::fleet::{Fleet, HostReport};
use crate::follower::Followed;
use crate::store::Entry;

pub(super) const SECRET: [u8; 32] = [9; 32];
pub(super) const NOW: u64 = 1_800_000_000;
const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(super) const INCARNATION: Incarnation = Incarnation([2; 16]);

/// Records before they are sealed, each with the host that writes it.
pub(super) struct Planted {
    pub(super) records: BTreeMap<Path, (u8, Record)>,
    /// Seal with this secret instead, by path.
    pub(super) secrets: BTreeMap<Path, ClusterSecrets>,
    reports: BTreeMap<HostId, HostReport>,
}

pub(super) fn key(host: u8) -> HostKey {
    HostKey::from_bytes([host; 32])
}

pub(super) fn id(host: u8) -> HostId {
    key(host).id()
}

pub(super) fn network(name: &str) -> NetworkKey {
    NetworkKey::named(name).unwrap()
}

/// What both hosts of a pair know a member's slot by.
pub(super) fn slot(host: u8, generation: u32) -> Slot {
    Slot {
        generation,
        public_key: PublicKey([host * 16 + generation as u8 + 1; 32]),
        port: 51_820 + u16::from(host),
        underlay: Vec::new(),
    }
}

impl Planted {
    /// Hosts 1 to 3, all members of `blue` with one endpoint each: 10.0.0.1 to 10.0.0.3. All report
    /// fresh handshakes.
    pub(super) fn healthy() -> Self {
        let mut planted =
            Self { records: BTreeMap::new(), secrets: BTreeMap::new(), reports: BTreeMap::new() };
        let cluster = ClusterRecord {
            cluster: CLUSTER,
            incarnation: INCARNATION,
            schema: 1,
            history: 1,
            announced_at: 0,
        };
        planted.put(1, Path::Cluster, Record::Cluster(cluster));
        planted.network("blue", "10.0.0.0/24");
        for host in 1..=3 {
            planted.host(host);
            planted.member(host, "blue", vec![slot(host, 0)]);
            planted.endpoint(host, "blue", [10, 0, 0, host]);
        }
        for host in 1..=3 {
            planted.report(host, |_| {});
        }
        planted
    }

    pub(super) fn put(&mut self, host: u8, path: Path, record: Record) {
        self.records.insert(path, (host, record));
    }

    pub(super) fn host(&mut self, host: u8) {
        let record = HostRecord {
            name: format!("h{host}"),
            underlay: vec![IpAddr::from([192, 0, 2, host])],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: INCARNATION,
        };
        self.put(host, Path::Host(id(host)), Record::Host(record));
        let alive = AliveRecord { boot: "b".to_owned() };
        self.put(host, Path::Alive(id(host)), Record::Alive(alive));
    }

    pub(super) fn change_host(&mut self, host: u8, change: impl FnOnce(&mut HostRecord)) {
        let Some((_, Record::Host(record))) = self.records.get_mut(&Path::Host(id(host))) else {
            panic!("no such host");
        };
        change(record);
    }

    pub(super) fn network(&mut self, name: &str, subnet: &str) {
        let record = NetworkRecord {
            subnets: vec![subnet.parse().unwrap()],
            options: BTreeMap::new(),
            freed: false,
        };
        self.put(1, Path::Network(network(name)), Record::Network(record));
    }

    pub(super) fn free(&mut self, name: &str) {
        let path = Path::Network(network(name));
        let Some((_, Record::Network(record))) = self.records.get_mut(&path) else {
            panic!("no such network");
        };
        record.freed = true;
    }

    pub(super) fn member(&mut self, host: u8, name: &str, slots: Vec<Slot>) {
        let record = MemberRecord { slots, ready_generation: 0, floor: 0 };
        self.put(host, Path::Member(network(name), id(host)), Record::Member(record));
    }

    pub(super) fn endpoint(&mut self, host: u8, name: &str, address: [u8; 4]) -> Path {
        let address = IpAddr::from(address);
        let number = self.records.len();
        let record = EndpointRecord {
            addresses: vec![address],
            endpoint: format!("{number:04}{:060}", 7).parse().unwrap(),
            host: id(host),
            mac: MacAddr::of_address(address),
            claim: number as u64 + 1,
        };
        let path = Path::Endpoint(network(name), address);
        self.put(host, path.clone(), Record::Endpoint(record));
        path
    }

    pub(super) fn revoke(&mut self, by: u8, host: u8) {
        let record = TombstoneRecord { reason: "stolen".to_owned() };
        self.put(by, Path::Tombstone(id(host)), Record::Tombstone(record));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        assert!(self.records.remove(path).is_some());
    }

    /// What the driver of a host answers: in sync, with fresh sessions to all other members of
    /// `blue`, and what is changed about that.
    pub(super) fn report(&mut self, host: u8, change: impl FnOnce(&mut NetworkStatus)) {
        let members = (1..=3).filter(|other| *other != host).map(|other| MemberStatus {
            host_id: id(other),
            name: format!("h{other}"),
            public_key: slot(other, 0).public_key,
            underlay: None,
            handshake_age: Some(20),
            received_bytes: 100,
            sent_bytes: 200,
        });
        let mut network = NetworkStatus {
            key: network("blue"),
            docker_id: "blue".parse().unwrap(),
            namespace: "wgnet-blue".to_owned(),
            subnets: Vec::new(),
            mtu: 1420,
            slots: Vec::new(),
            members: members.collect(),
            endpoints: Vec::new(),
            in_sync: true,
            error: None,
            repairs: 0,
        };
        change(&mut network);
        let status = DriverStatus {
            host_id: id(host),
            name: format!("h{host}"),
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            underlay: Vec::new(),
            store: Default::default(),
            networks: vec![network],
            lingering: Vec::new(),
            hosts: Vec::new(),
            problems: Vec::new(),
            refused: BTreeMap::new(),
        };
        self.reports.insert(id(host), HostReport::direct(&status, NOW));
    }

    /// A status record that says the same as [`Self::report`] does, of h2 only (h1 for h2).
    pub(super) fn status(&mut self, host: u8, change: impl FnOnce(&mut PeerState)) {
        let other = if host == 2 { 1 } else { 2 };
        let mut peer = PeerState {
            host: id(other),
            generation: 0,
            handshake: Some(NOW - 20),
            received_bytes: 100,
            sent_bytes: 200,
            underlay: None,
            underlay_changes: 0,
            silent: false,
        };
        change(&mut peer);
        let blue = NetworkState {
            key: network("blue"),
            docker_id: "blue".parse().unwrap(),
            in_sync: true,
            error: String::new(),
            revision: 5,
            applied: 5,
            lag_ms: 0,
            mtu: 1420,
            generation: 0,
            key_made: None,
            members: 3,
            endpoints: 3,
            endpoints_here: 1,
            endpoints_unpublished: 0,
            unpublished: Vec::new(),
            repairs: 0,
            peers_total: 2,
            peers_silent: 0,
            received_bytes: 0,
            sent_bytes: 0,
            peers: vec![peer],
        };
        let record = StatusRecord {
            written: NOW,
            next_within: 15,
            name: format!("h{host}"),
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            kernel: "6.1.0".to_owned(),
            networks: vec![blue],
            ..StatusRecord::default()
        };
        self.put(host, Path::Status(id(host)), Record::Status(Box::new(record)));
    }

    pub(super) fn silence(&mut self) {
        self.reports.clear();
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let sealed = (1..).zip(&self.records).map(|(revision, (path, (host, record)))| {
            let secrets = self.secrets.get(path).cloned();
            let secrets = secrets.unwrap_or_else(|| ClusterSecrets::generate(SECRET));
            let sealer = Sealer::new(key(*host), secrets, CLUSTER);
            let value = sealer.seal_record(path, revision as u64, record);
            Entry { key: path.to_string(), value, mod_revision: revision }
        });
        sealed.collect()
    }

    pub(super) fn fleet(&self) -> Fleet {
        self.fleet_with(ClusterSecrets::generate(SECRET))
    }

    pub(super) fn fleet_with(&self, secrets: ClusterSecrets) -> Fleet {
        let mut fleet = Fleet::new(secrets);
        let entries = self.entries();
        fleet.take(Followed::Listed { scope: String::new(), revision: 1000, entries });
        fleet.take(Followed::Connected);
        for (host, report) in &self.reports {
            fleet.hear(*host, report.clone());
        }
        fleet
    }
}
