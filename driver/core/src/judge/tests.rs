use std::net::IpAddr;
use std::sync::LazyLock;

use wgnet_proto::record::{
    AliveRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot, TombstoneRecord,
};
use wgnet_proto::{Generation, HostKey, Incarnation, MacAddr, PublicKey, Sealer};

use super::*;

mod hostile;
mod properties;
mod rules;

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate([0x5e; 32])
}

/// Hosts by number, below ten.
static HOSTS: LazyLock<Vec<(HostId, Sealer)>> = LazyLock::new(|| {
    let sealer = |host| Sealer::new(HostKey::from_random([host; 32]), secrets(), CLUSTER);
    (0..10).map(sealer).map(|sealer| (sealer.writer(), sealer)).collect()
});

fn sealer(host: u8) -> &'static Sealer {
    &HOSTS[usize::from(host)].1
}

fn id(host: u8) -> HostId {
    HOSTS[usize::from(host)].0
}

/// The judge of host 0.
fn judge() -> Judge {
    Judge::new(secrets(), Some(CLUSTER), id(0))
}

fn blue() -> NetworkKey {
    "s-blue".parse().unwrap()
}

fn ip(last: u8) -> IpAddr {
    [10, 50, 0, last].into()
}

/// An entry of the store.
#[derive(Clone)]
struct Sealed {
    path: Path,
    bytes: Vec<u8>,
    shown: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Sealed {
    fn new(writer: u8, seq: u64, path: Path, record: Record) -> Self {
        record.check(&path).unwrap();
        let bytes = sealer(writer).seal_record(&path, seq, &record);
        let shown = format!("{path} by {writer} seq {seq}: {record:?}");
        Self { path, bytes, shown }
    }

    fn put(&self, judge: &mut Judge) -> Verdict {
        self.put_at(judge, 7)
    }

    fn put_at(&self, judge: &mut Judge, mod_revision: i64) -> Verdict {
        judge.put(&self.path.to_string(), &self.bytes, mod_revision)
    }

    fn delete(&self, judge: &mut Judge) {
        judge.delete(&self.path.to_string());
    }
}

fn endpoint(host: u8, seq: u64, last: u8, claim: Claim) -> Sealed {
    let record = EndpointRecord {
        addresses: vec![ip(last)],
        endpoint: "ab".repeat(32).parse().unwrap(),
        host: id(host),
        mac: MacAddr::of_address(ip(last)),
        claim,
    };
    Sealed::new(host, seq, Path::Endpoint(blue(), ip(last)), Record::Endpoint(record))
}

fn member(host: u8, seq: u64, floor: u64) -> Sealed {
    let public_key = PublicKey([host + 1; 32]);
    let slots = vec![Slot { generation: 1, public_key, port: 51820, underlay: Vec::new() }];
    let record = MemberRecord { slots, ready_generation: 1, floor };
    Sealed::new(host, seq, Path::Member(blue(), id(host)), Record::Member(record))
}

fn host_record(host: u8, seq: u64, name: &str) -> Sealed {
    let record = HostRecord {
        name: name.to_owned(),
        underlay: Vec::new(),
        version: "0.1.0".to_owned(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([1; 16]),
    };
    Sealed::new(host, seq, Path::Host(id(host)), Record::Host(record))
}

fn alive(host: u8, seq: u64) -> Sealed {
    let record = Record::Alive(AliveRecord { boot: "b".to_owned() });
    Sealed::new(host, seq, Path::Alive(id(host)), record)
}

fn network(writer: u8, seq: u64, subnet: &str, freed: bool) -> Sealed {
    let subnets = vec![subnet.parse().unwrap()];
    let record = NetworkRecord { subnets, options: BTreeMap::new(), freed };
    Sealed::new(writer, seq, Path::Network(blue()), Record::Network(record))
}

fn generation(writer: u8, seq: u64, generation: Generation) -> Sealed {
    Sealed::new(writer, seq, Path::Generation(blue()), Record::Generation(generation))
}

fn tombstone(writer: u8, seq: u64, of: u8) -> Sealed {
    let record = Record::Tombstone(TombstoneRecord { reason: "stolen".to_owned() });
    Sealed::new(writer, seq, Path::Tombstone(id(of)), record)
}

fn cluster(writer: u8, seq: u64, incarnation: u8) -> Sealed {
    announced(writer, seq, incarnation, 0)
}

fn announced(writer: u8, seq: u64, incarnation: u8, announced_at: i64) -> Sealed {
    let incarnation = Incarnation([incarnation; 16]);
    let record =
        ClusterRecord { cluster: CLUSTER, incarnation, schema: 1, history: 1, announced_at };
    Sealed::new(writer, seq, Path::Cluster, Record::Cluster(record))
}

fn judge_with(entries: &[Sealed]) -> Judge {
    let mut judge = judge();
    for entry in entries {
        assert_eq!(entry.put(&mut judge), Verdict::Accepted, "{}", entry.path);
    }
    judge
}

fn reason(verdict: Verdict) -> Refused {
    match verdict {
        Verdict::Refused(refusal) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn owner_of(judge: &Judge, last: u8) -> Option<HostId> {
    let network = judge.view().networks.get(&blue())?;
    network.endpoints.get(&ip(last)).map(|endpoint| endpoint.host)
}
