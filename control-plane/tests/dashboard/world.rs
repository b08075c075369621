//! A cluster as its drivers would have published it, of any size, and what happens to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use wgnet_control_plane::store::{Entry, Op, Store, Txn};
use wgnet_proto::record::status::{NetworkState, PeerState, StatusRecord};
use wgnet_proto::record::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot,
};
use wgnet_proto::status::Problem;
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostId, HostKey, Incarnation, MacAddr, NetworkKey, Path, PublicKey,
    Record, Sealer,
};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const INCARNATION: Incarnation = Incarnation([2; 16]);

/// Seals and numbers records.
pub(crate) struct World {
    pub(crate) hosts: usize,
    pub(crate) networks: usize,
    /// In how many networks each host is.
    pub(crate) each: usize,
    seq: u64,
    now: u64,
}

impl World {
    /// `now` is in seconds since the epoch.
    pub(crate) fn new(hosts: usize, networks: usize, each: usize, now: u64) -> Self {
        Self { hosts, networks, each: each.min(networks), seq: 0, now }
    }

    /// The same at another time.
    pub(crate) fn at(&mut self, now: u64) {
        self.now = now;
    }

    pub(crate) fn secrets() -> ClusterSecrets {
        ClusterSecrets::generate([9; 32])
    }

    pub(crate) fn key(host: usize) -> HostKey {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&(host as u64).to_be_bytes());
        HostKey::from_bytes(bytes)
    }

    pub(crate) fn id(host: usize) -> HostId {
        Self::key(host).id()
    }

    pub(crate) fn network(number: usize) -> NetworkKey {
        format!("s-{}", docker_id(number)).parse().unwrap()
    }

    fn is_member(&self, host: usize, network: usize) -> bool {
        (network + self.networks - host % self.networks) % self.networks < self.each
    }

    pub(crate) fn members(&self, network: usize) -> Vec<usize> {
        (0..self.hosts).filter(|host| self.is_member(*host, network)).collect()
    }

    /// The address of the n-th endpoint of a network.
    pub(crate) fn address(number: usize) -> IpAddr {
        let [.., high, low] = (number as u32 + 10).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 50, high, low))
    }

    /// Everything, with so many endpoints in all.
    pub(crate) fn records(&self, endpoints: usize) -> Vec<(usize, Path, Record)> {
        let cluster = ClusterRecord {
            cluster: CLUSTER,
            incarnation: INCARNATION,
            schema: 1,
            history: 1,
            announced_at: 0,
        };
        let mut records = vec![(0, Path::Cluster, Record::Cluster(cluster))];
        for network in 0..self.networks {
            let record = NetworkRecord {
                subnets: vec!["10.50.0.0/16".parse().unwrap()],
                options: BTreeMap::new(),
                freed: false,
            };
            records.push((0, Path::Network(Self::network(network)), Record::Network(record)));
            let members = self.members(network);
            for host in &members {
                let path = Path::Member(Self::network(network), Self::id(*host));
                let slots = vec![slot(*host)];
                let record = MemberRecord { slots, ready_generation: 0, floor: 0 };
                records.push((*host, path, Record::Member(record)));
            }
            for number in 0..endpoints / self.networks {
                records.push(self.endpoint(network, number, members[number % members.len()]));
            }
        }
        for host in 0..self.hosts {
            records.push(self.host(host, &format!("host{host}")));
            records.push(self.alive(host));
            records.push(self.status(host, |_| {}));
        }
        records
    }

    pub(crate) fn host(&self, host: usize, name: &str) -> (usize, Path, Record) {
        let [.., high, low] = (host as u32 + 1).to_be_bytes();
        let record = HostRecord {
            name: name.to_owned(),
            underlay: vec![IpAddr::from([192, 0, high, low])],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: INCARNATION,
        };
        (host, Path::Host(Self::id(host)), Record::Host(record))
    }

    pub(crate) fn alive(&self, host: usize) -> (usize, Path, Record) {
        let record = AliveRecord { boot: "b".to_owned() };
        (host, Path::Alive(Self::id(host)), Record::Alive(record))
    }

    pub(crate) fn endpoint(
        &self,
        network: usize,
        number: usize,
        host: usize,
    ) -> (usize, Path, Record) {
        let address = Self::address(number);
        let record = EndpointRecord {
            addresses: vec![address],
            endpoint: format!("{network:08x}{number:08x}{host:048x}").parse().unwrap(),
            host: Self::id(host),
            mac: MacAddr::of_address(address),
            claim: self.seq + number as u64 + 1,
        };
        (host, Path::Endpoint(Self::network(network), address), Record::Endpoint(record))
    }

    /// All peers up with some traffic, and what is changed about that.
    pub(crate) fn status(
        &self,
        host: usize,
        change: impl FnOnce(&mut StatusRecord),
    ) -> (usize, Path, Record) {
        let networks = (0..self.networks).filter(|network| self.is_member(host, *network));
        let networks = networks.map(|network| {
            let others = self.members(network).into_iter().filter(|other| *other != host);
            let peers: Vec<PeerState> = others
                .map(|other| PeerState {
                    host: Self::id(other),
                    generation: 0,
                    handshake: Some(self.now - (host * 7 + other * 13 + network) as u64 % 240),
                    received_bytes: 1000 + self.seq,
                    sent_bytes: 2000 + self.seq,
                    underlay: Some(([192, 0, 2, 1], 51_820).into()),
                    underlay_changes: 0,
                    silent: false,
                })
                .collect();
            NetworkState {
                key: Self::network(network),
                docker_id: docker_id(network).parse().unwrap(),
                in_sync: true,
                error: String::new(),
                revision: 5,
                applied: 5,
                lag_ms: 0,
                mtu: 1420,
                generation: 0,
                key_made: Some(self.now - 86_400),
                members: peers.len() as u32 + 1,
                endpoints: 3,
                endpoints_here: 1,
                endpoints_unpublished: 0,
                unpublished: Vec::new(),
                repairs: 0,
                peers_total: peers.len() as u32,
                peers_silent: 0,
                received_bytes: 1000 * peers.len() as u64,
                sent_bytes: 2000 * peers.len() as u64,
                peers,
            }
        });
        let mut record = StatusRecord {
            written: self.now,
            next_within: 15,
            name: format!("host{host}"),
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            kernel: "6.1.0".to_owned(),
            networks: networks.collect(),
            ..StatusRecord::default()
        };
        change(&mut record);
        (host, Path::Status(Self::id(host)), Record::Status(Box::new(record)))
    }

    pub(crate) fn seal(
        &mut self,
        (host, path, record): (usize, Path, Record),
    ) -> (String, Vec<u8>) {
        self.seq += 1;
        record.check(&path).unwrap();
        let sealer = Sealer::new(Self::key(host), Self::secrets(), CLUSTER);
        (path.to_string(), sealer.seal_record(&path, self.seq, &record))
    }

    /// As a listing has them.
    pub(crate) fn entries(&mut self, records: Vec<(usize, Path, Record)>) -> Vec<Entry> {
        let sealed = records.into_iter().map(|record| self.seal(record)).zip(1..);
        sealed.map(|((key, value), mod_revision)| Entry { key, value, mod_revision }).collect()
    }

    /// Puts records into a store, many at a time.
    pub(crate) async fn put<S: Store>(&mut self, store: &S, records: Vec<(usize, Path, Record)>) {
        for some in records.chunks(64) {
            let ops = some.iter().cloned().map(|record| {
                let (key, value) = self.seal(record);
                Op::Put { key, value }
            });
            let ops = ops.collect();
            store.commit(Txn { conditions: Vec::new(), ops }).await.unwrap();
        }
    }

    pub(crate) async fn delete<S: Store>(store: &S, path: &Path) {
        let ops = vec![Op::Delete { key: path.to_string() }];
        store.commit(Txn { conditions: Vec::new(), ops }).await.unwrap();
    }
}

fn slot(host: usize) -> Slot {
    let mut key = [3; 32];
    key[..8].copy_from_slice(&(host as u64 + 1).to_be_bytes());
    Slot { generation: 0, public_key: PublicKey(key), port: 51_820, underlay: Vec::new() }
}

pub(crate) fn problem(code: &str, object: &str, cause: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        object: object.to_owned(),
        cause: cause.to_owned(),
        next_step: "look".to_owned(),
    }
}

/// As swarm makes them: 25 characters.
fn docker_id(network: usize) -> String {
    format!("{:09}{network:04}{network:012}", (network + 1) * 123_456_789 % 1_000_000_000)
}
