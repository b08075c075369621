//! What the judge makes of a store that anybody may write to, some of them with the cluster's secret.

use std::collections::BTreeMap;

use wgnet_core::{
    ClusterView, Families, Hints, InForce, Judge, LocalNetwork, LocalSlot, NetworkDefinition,
    NetworkOptions, NetworkView, Seen, Subnet, Verdict, derive, model, plan,
};
use wgnet_proto::{MacAddr, Opener, Path, PresharedKey, PrivateKey, Record};

use crate::assert_sentence;
use crate::input::{Input, put_piece};
use crate::records::{CLUSTER, HOSTS, blue, example, host, path, samples, secrets};

const STEPS: usize = 24;

const PUT_SEALED: u8 = 0;
const PUT_RAW: u8 = 1;
const PUT_ALTERED: u8 = 2;
const DELETE: u8 = 3;
const LIST: u8 = 4;
const KEEP: u8 = 5;
const SNAPSHOT: u8 = 6;
const FORGET: u8 = 7;

/// What is refused changes nothing, what was altered is refused, and whatever is accepted can be planned.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut judge = Judge::new(secrets(), Some(CLUSTER), host(0));
    let mut sealed: Vec<(Path, Vec<u8>)> = Vec::new();
    for revision in 1..=STEPS {
        if input.is_empty() {
            break;
        }
        let revision = i64::try_from(revision).expect("it is small");
        let step = input.byte() % 8;
        match step {
            PUT_SEALED => {
                let path = path(input.byte());
                let (writer, seq) = (usize::from(input.byte()), u64::from(input.byte()));
                let value = HOSTS[writer % HOSTS.len()].seal(&path, seq, input.piece().to_vec());
                put(&mut judge, &path, &value, revision);
                sealed.push((path, value));
            }
            PUT_RAW => {
                let path = path(input.byte());
                let value = input.piece();
                let is_sealed = sealed.iter().any(|(of, known)| *of == path && known == value);
                let verdict = put(&mut judge, &path, value, revision);
                assert!(is_sealed || matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
            }
            PUT_ALTERED => {
                let (which, at, bit) = (input.byte(), input.byte(), input.byte());
                let Some((path, value)) = sealed.get(usize::from(which) % sealed.len().max(1))
                else {
                    continue;
                };
                let mut value = value.clone();
                let at = usize::from(at) * value.len() / 256;
                value[at] ^= 1 << (bit % 8);
                let verdict = put(&mut judge, path, &value, revision);
                assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
            }
            DELETE => judge.delete(&path(input.byte()).to_string()),
            LIST => {
                let kept = input.byte();
                let listed = sealed.iter().enumerate().filter(|(n, _)| kept & (1 << (n % 8)) != 0);
                let entries: Vec<_> = listed
                    .map(|(_, (path, value))| (path.to_string(), value.as_slice(), revision))
                    .collect();
                let scope = ["", "networks/s-blue", "hosts/", "tombstones/"];
                let scope = scope[usize::from(input.byte()) % scope.len()];
                judge.listed(
                    scope,
                    entries.iter().map(|(key, value, at)| (key.as_str(), *value, *at)),
                );
            }
            KEEP => judge.keep_without_store(&path(input.byte())),
            SNAPSHOT => snapshot(&judge),
            FORGET => drop(judge.forget(&blue())),
            _ => unreachable!("there are eight"),
        }
        check(&judge);
    }
    check_seals(&judge);
    plan_for(judge.view());
}

fn put(judge: &mut Judge, path: &Path, value: &[u8], revision: i64) -> Verdict {
    let before = judge.view().clone();
    let verdict = judge.put(&path.to_string(), value, revision);
    match &verdict {
        Verdict::Refused(refusal) => {
            assert_eq!(*judge.view(), before, "{refusal:?}");
            assert_eq!(refusal.path, path.to_string());
            assert_sentence(&refusal.detail);
        }
        Verdict::Ignored => panic!("{path} is known"),
        Verdict::Accepted | Verdict::Outclaimed { .. } => {}
    }
    verdict
}

/// Whatever is in the view is in force, its writer's to say, and no revoked host's.
fn check(judge: &Judge) {
    let view = judge.view();
    let in_force = |path: Path, record: Record| {
        let InForce { writer, record: judged, .. } = judge.entry(&path).expect("it is in the view");
        assert_eq!(judged, record);
        assert!(!view.revoked.contains(&writer), "{path}");
        assert!(path.owner().is_none_or(|owner| owner == writer));
        assert_eq!(record.check(&path), Ok(()));
        writer
    };
    for (id, record) in &view.hosts {
        in_force(Path::Host(*id), Record::Host(record.clone()));
    }
    for (key, network) in &view.networks {
        if let Some(record) = &network.record {
            in_force(Path::Network(key.clone()), Record::Network(record.clone()));
        }
        for (id, record) in &network.members {
            in_force(Path::Member(key.clone(), *id), Record::Member(record.clone()));
        }
        for (address, record) in &network.endpoints {
            let path = Path::Endpoint(key.clone(), *address);
            assert_eq!(in_force(path, Record::Endpoint(record.clone())), record.host);
            assert_eq!(record.addresses.first(), Some(address));
            assert!(record.claim <= judge.highest_claim(key));
        }
    }
}

/// What a snapshot holds is genuine; dear to find out, so once at the end.
fn check_seals(judge: &Judge) {
    let opener = Opener::new(secrets(), Some(CLUSTER));
    for (key, sealed) in judge.export() {
        let path = Path::parse(&key).expect("it is a key");
        assert!(opener.open(&path, sealed).is_ok(), "{key}");
    }
}

/// A host that starts from what another kept sees no host that was revoked, and no record of one.
fn snapshot(judge: &Judge) {
    let kept: Vec<_> = judge.export().map(|(key, value)| (key, value.to_vec())).collect();
    let mut started = Judge::new(secrets(), Some(CLUSTER), host(0));
    started.import(kept.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
    check(&started);
    assert_eq!(started.view().revoked, judge.view().revoked);
}

/// From any picture of the cluster follows a plan that a kernel can carry out.
fn plan_for(view: &ClusterView) {
    let local = local();
    let none = NetworkView::default();
    let network = view.networks.get(&blue()).unwrap_or(&none);
    let keys = |_, _| Some(PresharedKey::from_bytes([4; 32]));
    let desired = derive(&local, network, view, host(0), Families::BOTH, &keys);
    wgnet_core::superseded(&local, network, view, host(0));
    let mut seen = Seen::Absent;
    let mut hints = Hints::default();
    for step in plan(desired.as_ref(), &seen.clone(), &hints) {
        assert_eq!(model::apply(&mut seen, &step), Ok(()), "{step:?}");
        hints.applied(&step);
    }
}

pub(crate) fn local() -> LocalNetwork {
    let endpoint = wgnet_core::LocalEndpoint {
        id: "cd".repeat(32).parse().expect("it is an id"),
        addresses: vec!["10.50.0.4/24".parse().expect("it is an address")],
        mac: MacAddr([2, 0x42, 10, 50, 0, 4]),
        mac_given: false,
        claim: 2,
        sandbox: None,
        superseded: false,
    };
    LocalNetwork {
        definition: NetworkDefinition {
            docker_id: "m3v0gvk6pj5e0l1y9h3kz1v2c".parse().expect("it is an id"),
            key: blue(),
            subnets: vec![Subnet {
                pool: "10.50.0.0/24".parse().expect("it is a subnet"),
                gateway: Some([10, 50, 0, 1].into()),
            }],
            internal: false,
            options: NetworkOptions::default(),
            raw_options: BTreeMap::new(),
            mtu: 1420,
        },
        slots: vec![LocalSlot {
            generation: 1,
            private_key: PrivateKey::from_random([3; 32]),
            made: None,
            port: 51820,
        }],
        endpoints: BTreeMap::from([(endpoint.id.clone(), endpoint)]),
        lingering: false,
    }
}

/// Everything put; then taken away, altered, listed and revoked in several ways.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let put = |n: u8, seq: u8| {
        let mut step = vec![PUT_SEALED, n, 1, seq];
        put_piece(&mut step, &example(&path(n)).encode());
        step
    };
    let all: Vec<u8> = samples()
        .filter(|(_, path)| !matches!(path, Path::Tombstone(_)))
        .zip(1..)
        .flat_map(|((n, _), seq)| put(n, seq))
        .collect();
    let tombstone =
        samples().find(|(_, path)| matches!(path, Path::Tombstone(_))).expect("it is one").0;
    let mut raw = vec![PUT_RAW, 16];
    put_piece(&mut raw, b"rubbish");
    [
        &[][..],
        &raw,
        &[PUT_ALTERED, 0, 10, 3, PUT_ALTERED, 3, 200, 1],
        &[LIST, 0xff, 0, LIST, 1, 1, KEEP, 24, SNAPSHOT],
        &[DELETE, 24, FORGET, SNAPSHOT],
        &[&put(tombstone, 200)[..], &[SNAPSHOT, DELETE, tombstone, SNAPSHOT]].concat(),
        &put(24, 100),
    ]
    .map(|steps| [&all, steps].concat())
    .to_vec()
}
