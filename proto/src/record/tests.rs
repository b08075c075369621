use std::net::IpAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::rules::BadRecord;
use super::*;
use crate::{NetworkKey, Path};

mod status;

const HOST: HostId = HostId([7; 16]);

fn network() -> NetworkKey {
    "s-abc".parse().unwrap()
}

fn endpoint() -> EndpointRecord {
    EndpointRecord {
        addresses: vec!["10.50.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        endpoint: "ab".repeat(32).parse().unwrap(),
        host: HOST,
        mac: MacAddr([2, 0x42, 10, 50, 0, 2]),
        claim: 1,
    }
}

fn endpoint_path() -> Path {
    Path::Endpoint(network(), "10.50.0.2".parse().unwrap())
}

fn slot(generation: Generation) -> Slot {
    let public_key = PublicKey([generation as u8 + 1; 32]);
    Slot { generation, public_key, port: 51820, underlay: Vec::new() }
}

fn host() -> HostRecord {
    HostRecord {
        name: "a".into(),
        underlay: vec!["192.0.2.1".parse().unwrap()],
        version: "0.1.0".into(),
        backend: "kernel".into(),
        incarnation: Incarnation([1; 16]),
    }
}

fn definition() -> NetworkRecord {
    NetworkRecord {
        subnets: vec!["10.50.0.0/24".parse().unwrap()],
        options: BTreeMap::from([("mtu".into(), "1300".into())]),
        freed: false,
    }
}

fn refused_field(path: &Path, record: Record) -> &'static str {
    let BadRecord { field, .. } = Record::decode(path, &record.encode()).unwrap_err();
    field
}

prop_compose! {
    fn unicast()(v4 in any::<bool>(), bytes in any::<[u8; 15]>()) -> IpAddr {
        if v4 {
            [10, bytes[0], bytes[1], bytes[2]].into()
        } else {
            let mut v6 = [0xfd; 16];
            v6[1..].copy_from_slice(&bytes);
            v6.into()
        }
    }
}

fn distinct_addresses(least: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    proptest::collection::btree_set(unicast(), least..=16).prop_map(|set| set.into_iter().collect())
}

fn any_record() -> impl Strategy<Value = (Path, Record)> {
    let cluster = any::<([u8; 16], [u8; 16])>().prop_map(|(cluster, incarnation)| {
        let (cluster, incarnation) = (ClusterId(cluster), Incarnation(incarnation));
        (
            Path::Cluster,
            Record::Cluster(ClusterRecord {
                cluster,
                incarnation,
                schema: 1,
                history: 1,
                announced_at: 7,
            }),
        )
    });
    let host = ("[ -~]{1,64}", distinct_addresses(0), any::<[u8; 16]>()).prop_map(
        |(name, underlay, incarnation)| {
            let incarnation = Incarnation(incarnation);
            let record = HostRecord { name, underlay, incarnation, ..host() };
            (Path::Host(HOST), Record::Host(record))
        },
    );
    let network_record = (
        proptest::collection::btree_set(unicast(), 0..=16),
        btree_map("[ -~]{1,20}", "\\PC{0,40}", 0..10),
        any::<bool>(),
    )
        .prop_map(|(subnets, options, freed)| {
            let subnets = subnets.into_iter().map(IpNet::from).collect();
            let record = NetworkRecord { subnets, options, freed };
            (Path::Network(network()), Record::Network(record))
        });
    let member = (vec((1..=u16::MAX, distinct_addresses(0)), 0..=4), any::<(u32, u64)>()).prop_map(
        |(slots, (ready_generation, floor))| {
            let slots = (0..).zip(slots).map(|(generation, (port, underlay))| Slot {
                port,
                underlay,
                ..slot(generation)
            });
            let record = MemberRecord { slots: slots.collect(), ready_generation, floor };
            (Path::Member(network(), HOST), Record::Member(record))
        },
    );
    let endpoint = (distinct_addresses(1), any::<([u8; 32], [u8; 5])>(), 1..=1_u64 << 62).prop_map(
        |(addresses, (id, mac), claim)| {
            let path = Path::Endpoint(network(), addresses[0]);
            let record = EndpointRecord {
                addresses,
                endpoint: hex::encode(id).parse().unwrap(),
                host: HOST,
                mac: MacAddr([2, mac[0], mac[1], mac[2], mac[3], mac[4]]),
                claim,
            };
            (path, Record::Endpoint(record))
        },
    );
    let rest = ("[ -~]{0,64}", any::<u32>()).prop_flat_map(|(text, generation)| {
        prop_oneof![
            Just((Path::Alive(HOST), Record::Alive(AliveRecord { boot: text.clone() }))),
            Just((Path::Tombstone(HOST), Record::Tombstone(TombstoneRecord { reason: text }))),
            Just((Path::Generation(network()), Record::Generation(generation))),
        ]
    });
    let status = status::any_status()
        .prop_map(|record| (Path::Status(HOST), Record::Status(Box::new(record))));
    prop_oneof![cluster, host, network_record, member, endpoint, status, rest]
}

fn any_path() -> impl Strategy<Value = Path> {
    any_record().prop_map(|(path, _)| path)
}

proptest! {
    #[test]
    fn every_record_that_keeps_the_rules_survives_the_wire((path, record) in any_record()) {
        record.check(&path).unwrap();
        let bytes = record.encode();
        prop_assert_eq!(&bytes, &record.clone().encode());
        prop_assert_eq!(Record::decode(&path, &bytes).unwrap(), record);
    }

    #[test]
    fn unknown_fields_are_ignored((path, record) in any_record(), value in any::<u8>()) {
        let mut bytes = record.encode();
        bytes.extend([0xfa, 0x01, 1, value]); // field 31, one byte
        prop_assert_eq!(Record::decode(&path, &bytes).unwrap(), record);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(path in any_path(), bytes in vec(any::<u8>(), 0..300)) {
        let _ = Record::decode(&path, &bytes);
    }

    #[test]
    fn no_damaged_record_makes_the_decoder_panic(
        (path, record) in any_record(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut bytes = record.encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(record) = Record::decode(&path, &bytes) {
                record.check(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_record_at_a_path_of_another_kind_is_refused((_, record) in any_record(), path in any_path()) {
        let here = record.check(&path);
        prop_assert!(here.is_ok() || Record::decode(&path, &record.encode()) != Ok(record));
    }
}

#[test]
fn every_checked_record_fits_into_an_envelope() {
    let value = "v".repeat(4096);
    let options = (0..7).map(|n| (format!("{n:0128}"), value.clone())).collect();
    let record = Record::Network(NetworkRecord { options, ..definition() });
    record.check(&Path::Network(network())).unwrap();
    assert!(record.encode().len() < crate::seal::MAX_SEALED / 2 + 2048);
    const { assert!(rules::MAX_STATUS < crate::seal::MAX_SEALED / 2 + 2048) };
}

#[test]
fn an_endpoint_must_have_the_address_of_its_path_first() {
    let other = Path::Endpoint(network(), "10.50.0.3".parse().unwrap());
    assert_eq!(refused_field(&other, Record::Endpoint(endpoint())), "addresses");
    let record = EndpointRecord { addresses: Vec::new(), ..endpoint() };
    assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "addresses");
}

#[test]
fn an_endpoint_that_breaks_a_rule_is_refused() {
    let first: IpAddr = "10.50.0.2".parse().unwrap();
    for second in ["10.50.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "::ffff:10.0.0.1", "ff02::1"] {
        let addresses = vec![first, second.parse().unwrap()];
        let record = EndpointRecord { addresses, ..endpoint() };
        assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "addresses");
    }
    let many = (0..17).map(|n| [10, 50, 0, 2 + n].into()).collect();
    let record = EndpointRecord { addresses: many, ..endpoint() };
    assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "addresses");
    for mac in [[0; 6], [1, 0, 0, 0, 0, 0], [0xff; 6]] {
        let record = EndpointRecord { mac: MacAddr(mac), ..endpoint() };
        assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "mac");
    }
    let record = EndpointRecord { claim: 0, ..endpoint() };
    assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "claim");
    let record = EndpointRecord { claim: (1 << 62) + 1, ..endpoint() };
    assert_eq!(refused_field(&endpoint_path(), Record::Endpoint(record)), "claim");
}

#[test]
fn a_member_that_breaks_a_rule_is_refused() {
    let path = Path::Member(network(), HOST);
    let field = |slots| {
        let record = MemberRecord { slots, ready_generation: 0, floor: 0 };
        refused_field(&path, Record::Member(record))
    };
    assert_eq!(field((0..5).map(slot).collect()), "slots");
    assert_eq!(field(vec![slot(1), slot(1)]), "slots");
    assert_eq!(field(vec![Slot { port: 0, ..slot(1) }]), "port");
    assert_eq!(field(vec![Slot { public_key: PublicKey([0; 32]), ..slot(1) }]), "public_key");
    let underlay = vec!["255.255.255.255".parse().unwrap()];
    assert_eq!(field(vec![Slot { underlay, ..slot(1) }]), "underlay");
    let underlay = (0..17).map(|n| [192, 0, 2, n].into()).collect();
    assert_eq!(field(vec![Slot { underlay, ..slot(1) }]), "underlay");
}

#[test]
fn a_host_that_breaks_a_rule_is_refused() {
    let field = |record| refused_field(&Path::Host(HOST), Record::Host(record));
    for name in [String::new(), "x".repeat(65), "a\nb".into(), "\x1b[2J".into(), "é".into()] {
        assert_eq!(field(HostRecord { name, ..host() }), "name");
    }
    assert_eq!(field(HostRecord { version: "v\0".into(), ..host() }), "version");
    assert_eq!(field(HostRecord { underlay: vec!["::".parse().unwrap()], ..host() }), "underlay");
}

#[test]
fn a_network_that_breaks_a_rule_is_refused() {
    let path = Path::Network(network());
    for subnet in ["224.0.0.0/24", "0.0.0.0/0", "127.0.0.0/8", "128.0.0.0/7"] {
        let subnets = vec![subnet.parse().unwrap()];
        let record = NetworkRecord { subnets, ..definition() };
        assert_eq!(refused_field(&path, Record::Network(record)), "subnets");
    }
    let with_host_bits =
        NetworkRecord { subnets: vec!["10.0.0.1/24".parse().unwrap()], ..definition() };
    assert_eq!(Record::Network(with_host_bits).check(&path).unwrap_err().field, "subnets");
    let options = |count: usize, value: &str| {
        let options = (0..count).map(|n| (n.to_string(), value.to_owned())).collect();
        refused_field(&path, Record::Network(NetworkRecord { options, ..definition() }))
    };
    assert_eq!(options(65, "x"), "options");
    assert_eq!(options(1, &"x".repeat(4097)), "options");
    assert_eq!(options(1, "a\tb"), "options");
    assert_eq!(options(20, &"x".repeat(4000)), "options");
}
