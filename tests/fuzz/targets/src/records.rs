//! The values of etcd: protobuf of records, and the envelopes around them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use wgnet_proto::record::status::{NetworkState, PeerState};
use wgnet_proto::record::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot,
    StatusRecord, TombstoneRecord,
};
use wgnet_proto::seal::{self, MAX_SEALED};
use wgnet_proto::status::Problem;
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostId, HostKey, Incarnation, MacAddr, NetworkKey, Opener, Path,
    PublicKey, Record, Sealer,
};

use crate::assert_sentence;
use crate::input::Input;

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

pub(crate) fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate([0x5e; 32])
}

/// Hosts of the cluster, the first one being who judges.
pub(crate) static HOSTS: LazyLock<Vec<Sealer>> = LazyLock::new(|| {
    (0..4).map(|n| Sealer::new(HostKey::from_random([n; 32]), secrets(), CLUSTER)).collect()
});

pub(crate) fn blue() -> NetworkKey {
    "s-blue".parse().expect("it is a key")
}

pub(crate) fn host(n: usize) -> HostId {
    HOSTS[n % HOSTS.len()].writer()
}

/// One of the paths that are played with.
pub(crate) fn path(n: u8) -> Path {
    let last = n / 16;
    match n % 9 {
        0 => Path::Cluster,
        1 => Path::Host(host(last.into())),
        2 => Path::Alive(host(last.into())),
        3 => Path::Status(host(last.into())),
        4 => Path::Tombstone(host(last.into())),
        5 => Path::Network(blue()),
        6 => Path::Generation(blue()),
        7 => Path::Member(blue(), host(last.into())),
        _ => Path::Endpoint(blue(), [10, 50, 0, 2 + last % 4].into()),
    }
}

fn network_state() -> NetworkState {
    NetworkState {
        key: blue(),
        docker_id: "ab".repeat(32).parse().expect("it is an id"),
        in_sync: true,
        error: String::new(),
        revision: 42,
        applied: 42,
        lag_ms: 0,
        mtu: 1420,
        generation: 1,
        key_made: Some(1_780_000_000),
        members: 2,
        endpoints: 2,
        endpoints_here: 1,
        endpoints_unpublished: 1,
        unpublished: vec![[10, 50, 0, 2].into()],
        repairs: 0,
        peers_total: 1,
        peers_silent: 0,
        received_bytes: 1 << 40,
        sent_bytes: 1 << 40,
        peers: vec![PeerState {
            host: host(1),
            generation: 1,
            handshake: Some(1_790_000_000),
            received_bytes: 1 << 40,
            sent_bytes: 1 << 40,
            underlay: Some(([192, 0, 2, 1], 51820).into()),
            underlay_changes: 1,
            silent: false,
        }],
    }
}

/// A record that host 1 may write at `path`.
pub(crate) fn example(path: &Path) -> Record {
    match path {
        Path::Cluster => Record::Cluster(ClusterRecord {
            cluster: CLUSTER,
            incarnation: Incarnation([7; 16]),
            schema: 1,
            history: 1,
            announced_at: 7,
        }),
        Path::Host(_) => Record::Host(HostRecord {
            name: "h1".to_owned(),
            underlay: vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("it is an address")],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: Incarnation([7; 16]),
        }),
        Path::Alive(_) => Record::Alive(AliveRecord { boot: "a-boot".to_owned() }),
        Path::Status(_) => Record::Status(Box::new(StatusRecord {
            written: 1_790_000_000,
            name: "h1".to_owned(),
            networks: vec![network_state()],
            problems: vec![Problem {
                code: "port-taken".to_owned(),
                object: "network blue".to_owned(),
                cause: "UDP port 51820 belongs to another program".to_owned(),
                next_step: "free it".to_owned(),
            }],
            ..StatusRecord::default()
        })),
        Path::Tombstone(_) => Record::Tombstone(TombstoneRecord { reason: "stolen".to_owned() }),
        Path::Network(_) => Record::Network(NetworkRecord {
            subnets: vec!["10.50.0.0/24".parse().expect("it is a subnet")],
            options: BTreeMap::from([("mtu".to_owned(), "1380".to_owned())]),
            freed: false,
        }),
        Path::Generation(_) => Record::Generation(1),
        Path::Member(..) => Record::Member(MemberRecord {
            slots: vec![Slot {
                generation: 1,
                public_key: PublicKey([9; 32]),
                port: 51820,
                underlay: vec![[192, 0, 2, 9].into()],
            }],
            ready_generation: 1,
            floor: 1,
        }),
        Path::Endpoint(_, address) => Record::Endpoint(EndpointRecord {
            addresses: vec![*address, "fd50::2".parse().expect("it is an address")],
            endpoint: "ab".repeat(32).parse().expect("it is an id"),
            host: host(1),
            mac: MacAddr::of_address(*address),
            claim: 3,
        }),
    }
}

/// Every kind of path once; those that have an owner are host 1's.
pub(crate) fn samples() -> impl Iterator<Item = (u8, Path)> {
    (16..25).map(|n| (n, path(n)))
}

/// What is decoded keeps the rules, fits an envelope, and is the same when written and read again.
pub(crate) fn record(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let path = path(input.byte());
    match Record::decode(&path, input.rest()) {
        Ok(record) => {
            assert_eq!(record.check(&path), Ok(()));
            let written = record.encode();
            assert_eq!(Record::decode(&path, &written).as_ref(), Ok(&record));
            assert!(HOSTS[1].seal(&path, u64::MAX, written).len() <= MAX_SEALED);
            for text in texts(&record) {
                assert!(text.len() <= 4096 && !text.chars().any(char::is_control), "{text:?}");
            }
        }
        Err(error) => assert_sentence(&error.to_string()),
    }
}

fn texts(record: &Record) -> Vec<&str> {
    match record {
        Record::Host(host) => vec![&host.name, &host.version, &host.backend],
        Record::Alive(alive) => vec![&alive.boot],
        Record::Tombstone(tombstone) => vec![&tombstone.reason],
        Record::Network(network) => {
            network.options.iter().flat_map(|(key, value)| [key.as_str(), value]).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    samples().map(|(n, path)| [&[n][..], &example(&path).encode()].concat()).collect()
}

/// The only values that anybody sealed, by path.
static GENUINE: LazyLock<BTreeMap<Path, Vec<u8>>> = LazyLock::new(|| {
    let sealed = |path: Path| {
        let sealed = HOSTS[1].seal_record(&path, 300, &example(&path));
        (path, sealed)
    };
    samples().map(|(_, path)| sealed(path)).collect()
});

/// Nothing opens but what was sealed, where it was sealed for; under another secret and in another
/// cluster not even that.
pub(crate) fn envelope(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let path = path(input.byte());
    let sealed = input.rest();
    let is_genuine = GENUINE.get(&path).is_some_and(|genuine| genuine == sealed);
    match Opener::new(secrets(), Some(CLUSTER)).open(&path, sealed) {
        Ok(opened) => {
            assert!(is_genuine, "{path} was not sealed");
            assert_eq!((opened.writer, opened.seq, opened.cluster), (host(1), 300, CLUSTER));
            assert_eq!(seal::claimed_writer(sealed), Some(opened.writer));
            assert_eq!(seal::payload_of(sealed), Some(opened.payload));
        }
        Err(refused) => {
            assert!(!is_genuine, "{path}: {refused}");
            assert_sentence(&refused.to_string());
        }
    }
    let other_secret = ClusterSecrets::generate([0x5f; 32]);
    assert!(Opener::new(other_secret, Some(CLUSTER)).open(&path, sealed).is_err());
    assert!(Opener::new(secrets(), Some(ClusterId([0xc2; 16]))).open(&path, sealed).is_err());
    let of_nowhere = Opener::new(secrets(), None).open(&path, sealed).is_ok();
    assert_eq!(of_nowhere, is_genuine && path == Path::Cluster);
    let _ = (seal::claimed_writer(sealed), seal::payload_of(sealed));
}

pub(crate) fn envelope_seeds() -> Vec<Vec<u8>> {
    samples().map(|(n, path)| [&[n][..], &GENUINE[&path]].concat()).collect()
}
