use std::net::IpAddr;
use std::sync::LazyLock;

use wgnet_proto::record::{
    AliveRecord, EndpointRecord, HostRecord, MemberRecord, Slot, TombstoneRecord,
};
use wgnet_proto::{Generation, HostKey, Incarnation, MacAddr, PublicKey, Sealer};

use super::*;

mod properties;

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
        judge.put(&self.path.to_string(), &self.bytes, 7)
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
    Sealed::new(
        host,
        seq,
        Path::Endpoint(blue(), ip(last)),
        Record::Endpoint(record),
    )
}

fn member(host: u8, seq: u64, floor: u64) -> Sealed {
    let public_key = PublicKey([host + 1; 32]);
    let slots = vec![Slot {
        generation: 1,
        public_key,
        port: 51820,
        underlay: Vec::new(),
    }];
    let record = MemberRecord {
        slots,
        ready_generation: 1,
        floor,
    };
    Sealed::new(
        host,
        seq,
        Path::Member(blue(), id(host)),
        Record::Member(record),
    )
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
    let record = Record::Alive(AliveRecord {
        boot: "b".to_owned(),
    });
    Sealed::new(host, seq, Path::Alive(id(host)), record)
}

fn network(writer: u8, seq: u64, subnet: &str, freed: bool) -> Sealed {
    let subnets = vec![subnet.parse().unwrap()];
    let record = NetworkRecord {
        subnets,
        options: BTreeMap::new(),
        freed,
    };
    Sealed::new(writer, seq, Path::Network(blue()), Record::Network(record))
}

fn generation(writer: u8, seq: u64, generation: Generation) -> Sealed {
    Sealed::new(
        writer,
        seq,
        Path::Generation(blue()),
        Record::Generation(generation),
    )
}

fn tombstone(writer: u8, seq: u64, of: u8) -> Sealed {
    let record = Record::Tombstone(TombstoneRecord {
        reason: "stolen".to_owned(),
    });
    Sealed::new(writer, seq, Path::Tombstone(id(of)), record)
}

fn cluster(writer: u8, seq: u64, incarnation: u8) -> Sealed {
    let incarnation = Incarnation([incarnation; 16]);
    let record = ClusterRecord {
        cluster: CLUSTER,
        incarnation,
        schema: 1,
    };
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
    network
        .endpoints
        .get(&ip(last))
        .map(|endpoint| endpoint.host)
}

#[test]
fn valid_records_make_the_view() {
    let entries = [
        cluster(1, 1, 9),
        host_record(1, 2, "one"),
        alive(1, 3),
        network(1, 4, "10.50.0.0/24", false),
        generation(1, 5, 1),
        member(1, 6, 0),
        endpoint(1, 7, 2, 1),
    ];
    let mut judge = judge_with(&entries);
    let view = judge.view();
    assert_eq!(view.hosts[&id(1)].name, "one");
    assert!(view.alive.contains(&id(1)) && view.revoked.is_empty());
    let blue_view = &view.networks[&blue()];
    assert!(blue_view.record.is_some() && blue_view.generation == 1);
    assert!(blue_view.members.contains_key(&id(1)));
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
    assert_eq!(judge.cluster().unwrap().incarnation, Incarnation([9; 16]));
    let networks = BTreeSet::from([blue()]);
    assert_eq!(
        judge.take_changed(),
        Changed {
            cluster: true,
            hosts: true,
            networks
        }
    );
    assert_eq!(judge.take_changed(), Changed::default());
    for entry in &entries {
        entry.put(&mut judge);
    }
    assert_eq!(judge.take_changed(), Changed::default());
    for entry in &entries {
        entry.delete(&mut judge);
    }
    assert_eq!(*judge.view(), ClusterView::default());
    assert_eq!(judge.cluster(), None);
}

#[test]
fn unknown_keys_are_ignored() {
    let mut judge = judge();
    for key in [
        "",
        "x",
        "hosts/",
        "networks/s-blue/services/10.0.0.1",
        "/cluster",
        "cluster/x",
    ] {
        assert_eq!(judge.put(key, b"x", 1), Verdict::Ignored);
        judge.delete(key);
    }
    assert!(judge.refused().is_empty());
}

#[test]
fn the_cluster_is_learned_from_its_record_and_then_pinned() {
    let mut judge = Judge::new(secrets(), None, id(0));
    assert_eq!(
        reason(member(1, 1, 0).put(&mut judge)),
        Refused::UnknownCluster
    );
    assert_eq!(cluster(1, 2, 1).put(&mut judge), Verdict::Accepted);
    assert_eq!(judge.cluster_id(), Some(CLUSTER));
    assert_eq!(member(1, 1, 0).put(&mut judge), Verdict::Accepted);
    let other = ClusterId([0xc2; 16]);
    let record = ClusterRecord {
        cluster: other,
        incarnation: Incarnation([1; 16]),
        schema: 1,
    };
    let foreign = Sealer::new(HostKey::from_random([2; 32]), secrets(), other);
    let sealed = foreign.seal_record(&Path::Cluster, 1, &Record::Cluster(record.clone()));
    assert_eq!(
        reason(judge.put("cluster", &sealed, 1)),
        Refused::ForeignCluster
    );
    let contradiction = sealer(2).seal_record(&Path::Cluster, 1, &Record::Cluster(record));
    assert_eq!(
        reason(judge.put("cluster", &contradiction, 1)),
        Refused::BadRecord
    );
    assert_eq!(judge.cluster().unwrap().cluster, CLUSTER);
}

#[test]
fn the_cluster_record_follows_a_restored_store() {
    let mut judge = judge_with(&[cluster(1, 1, 1), cluster(2, 9, 2), cluster(1, 5, 3)]);
    assert_eq!(judge.cluster().unwrap().incarnation, Incarnation([3; 16]));
    assert_eq!(cluster(1, 1, 1).put(&mut judge), Verdict::Accepted);
    assert_eq!(judge.cluster().unwrap().incarnation, Incarnation([1; 16]));
}

#[test]
fn a_rolled_back_record_is_refused_and_the_newer_one_stays() {
    let mut judge = judge_with(&[host_record(1, 5, "old"), host_record(1, 6, "new")]);
    assert_eq!(
        reason(host_record(1, 5, "old").put(&mut judge)),
        Refused::RolledBack
    );
    assert_eq!(judge.view().hosts[&id(1)].name, "new");
    assert_eq!(
        reason(host_record(1, 6, "other").put(&mut judge)),
        Refused::RolledBack
    );
    assert_eq!(host_record(1, 6, "new").put(&mut judge), Verdict::Accepted);
}

#[test]
fn a_deleted_record_cannot_be_replayed() {
    let first = endpoint(1, 5, 2, 1);
    let mut judge = judge_with(&[member(1, 1, 0), first.clone()]);
    first.delete(&mut judge);
    assert_eq!(reason(first.put(&mut judge)), Refused::RolledBack);
    assert_eq!(owner_of(&judge, 2), None);
    assert_eq!(endpoint(1, 6, 2, 1).put(&mut judge), Verdict::Accepted);
}

#[test]
fn what_is_leased_may_come_back_as_it_was() {
    let mut judge = judge_with(&[alive(1, 5)]);
    alive(1, 5).delete(&mut judge);
    assert_eq!(reason(alive(1, 4).put(&mut judge)), Refused::RolledBack);
    assert_eq!(alive(1, 5).put(&mut judge), Verdict::Accepted);
}

#[test]
fn rubbish_over_a_valid_record_harms_nothing_and_is_reported() {
    let entry = member(1, 5, 0);
    let key = entry.path.to_string();
    let mut judge = judge_with(std::slice::from_ref(&entry));
    let before = judge.view().clone();
    judge.take_changed();
    let Verdict::Refused(refusal) = judge.put(&key, b"rubbish", 8) else {
        panic!()
    };
    assert!(refusal.first_time && refusal.path == key);
    assert_eq!(*judge.view(), before);
    assert_eq!(judge.take_changed(), Changed::default());
    assert_eq!(judge.clobbered(), &BTreeSet::from([entry.path.clone()]));
    let held = judge.in_store(&entry.path).unwrap();
    assert_eq!(
        (held.mod_revision, held.writer, held.accepted),
        (8, None, None)
    );
    assert_eq!(judge.sealed(&entry.path), Some(entry.bytes.as_slice()));
    assert_eq!(member(1, 6, 0).put(&mut judge), Verdict::Accepted);
    assert!(judge.clobbered().is_empty());
}

#[test]
fn a_refusal_is_told_once_and_counted_by_reason() {
    let mut judge = judge();
    let first_time = |verdict| matches!(verdict, Verdict::Refused(refusal) if refusal.first_time);
    assert!(first_time(judge.put("cluster", b"rubbish", 1)));
    assert!(!first_time(judge.put("cluster", b"rubbish", 1)));
    assert!(!first_time(judge.put("cluster", b"other rubbish", 2)));
    let entry = member(1, 1, 0);
    let moved = format!("networks/s-red/members/{}", id(1));
    assert!(first_time(judge.put(&moved, &entry.bytes, 3)));
    assert_eq!(judge.refused()[&Refused::Malformed], 2);
    assert_eq!(judge.refused()[&Refused::WrongSecret], 1);
    let last: Vec<_> = judge.last_refusals().collect();
    assert_eq!(last.len(), 2);
    assert_eq!(
        (last[1].path.as_str(), last[1].writer),
        (moved.as_str(), Some(id(1)))
    );
    for n in 0..100 {
        judge.put(&format!("networks/s-{n}"), b"rubbish", 4);
    }
    assert_eq!(judge.last_refusals().count(), 32);
}

#[test]
fn a_host_cannot_write_an_endpoint_of_another() {
    let mut judge = judge_with(&[member(1, 1, 0), endpoint(1, 2, 2, 1)]);
    let record = judge.entry(&Path::Endpoint(blue(), ip(2))).unwrap().record;
    let path = Path::Endpoint(blue(), ip(2));
    let sealed = sealer(2).seal_record(&path, 9, &record);
    assert_eq!(
        reason(judge.put(&path.to_string(), &sealed, 9)),
        Refused::WrongWriter
    );
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
    assert_eq!(judge.highest_claim(&blue()), 1);
}

#[test]
fn a_floor_voids_older_endpoints_whenever_they_come() {
    let mut judge = judge_with(&[member(1, 1, 0), endpoint(1, 2, 2, 1), endpoint(1, 6, 3, 1)]);
    judge.take_changed();
    assert_eq!(member(1, 7, 5).put(&mut judge), Verdict::Accepted);
    assert_eq!(
        (owner_of(&judge, 2), owner_of(&judge, 3)),
        (None, Some(id(1)))
    );
    assert!(judge.take_changed().networks.contains(&blue()));
    assert_eq!(
        reason(endpoint(1, 4, 4, 1).put(&mut judge)),
        Refused::VoidByFloor
    );
    assert_eq!(
        reason(endpoint(1, 2, 2, 1).put(&mut judge)),
        Refused::VoidByFloor
    );
    member(1, 7, 5).delete(&mut judge);
    assert_eq!(
        reason(endpoint(1, 4, 4, 1).put(&mut judge)),
        Refused::VoidByFloor
    );
    assert_eq!(endpoint(2, 4, 4, 1).put(&mut judge), Verdict::Accepted);
}

#[test]
fn a_floor_lets_deleted_endpoints_be_forgotten() {
    let mut judge = judge_with(&[member(1, 1, 0), endpoint(1, 2, 2, 1), endpoint(2, 2, 3, 1)]);
    endpoint(1, 2, 2, 1).delete(&mut judge);
    endpoint(2, 2, 3, 1).delete(&mut judge);
    assert_eq!(judge.graves.len(), 2);
    member(1, 9, 9).put(&mut judge);
    assert_eq!(judge.graves.len(), 1);
}

#[test]
fn the_higher_claim_has_the_address_and_then_the_higher_host() {
    let mut judge = judge_with(&[endpoint(1, 1, 2, 5)]);
    assert_eq!(
        endpoint(2, 1, 2, 4).put(&mut judge),
        Verdict::Outclaimed { by: id(1) }
    );
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
    assert!(judge.clobbered().contains(&Path::Endpoint(blue(), ip(2))));
    assert_eq!(endpoint(3, 1, 2, 6).put(&mut judge), Verdict::Accepted);
    assert_eq!(owner_of(&judge, 2), Some(id(3)));
    assert!(judge.clobbered().is_empty());
    endpoint(1, 1, 3, 4).put(&mut judge);
    endpoint(2, 1, 3, 4).put(&mut judge);
    assert_eq!(owner_of(&judge, 3), Some(id(1).max(id(2))));
    assert_eq!(judge.highest_claim(&blue()), 6);
}

#[test]
fn a_deleted_key_frees_its_address_for_lower_claims() {
    let mut judge = judge_with(&[endpoint(1, 1, 2, 5)]);
    endpoint(1, 1, 2, 5).delete(&mut judge);
    assert_eq!(endpoint(2, 1, 2, 4).put(&mut judge), Verdict::Accepted);
    assert_eq!(owner_of(&judge, 2), Some(id(2)));
    assert_eq!(judge.highest_claim(&blue()), 5);
}

#[test]
fn a_network_keeps_its_subnets_and_stays_freed() {
    let mut judge = judge_with(&[network(1, 1, "10.50.0.0/24", false)]);
    let other = network(2, 1, "10.60.0.0/24", false);
    assert_eq!(reason(other.put(&mut judge)), Refused::Conflicting);
    assert_eq!(
        network(2, 2, "10.50.0.0/24", true).put(&mut judge),
        Verdict::Accepted
    );
    let unfreed = network(3, 3, "10.50.0.0/24", false);
    assert_eq!(reason(unfreed.put(&mut judge)), Refused::Conflicting);
    let record = judge.view().networks[&blue()].record.clone().unwrap();
    assert!(record.freed && record.subnets == ["10.50.0.0/24".parse().unwrap()]);
    other.delete(&mut judge);
    assert_eq!(
        network(2, 9, "10.60.0.0/24", false).put(&mut judge),
        Verdict::Accepted
    );
}

#[test]
fn two_writers_of_the_same_network_clobber_nothing() {
    let judge = judge_with(&[
        network(1, 1, "10.50.0.0/24", false),
        network(2, 1, "10.50.0.0/24", false),
        network(1, 2, "10.50.0.0/24", false),
    ]);
    assert!(judge.clobbered().is_empty());
}

#[test]
fn the_highest_generation_counts() {
    let mut judge = judge_with(&[generation(1, 1, 2)]);
    assert_eq!(
        generation(2, 1, 1).put(&mut judge),
        Verdict::Outclaimed { by: id(1) }
    );
    assert_eq!(judge.view().networks[&blue()].generation, 2);
}

#[test]
fn a_revoked_host_has_no_records_and_stays_revoked() {
    let records = [
        host_record(1, 1, "one"),
        member(1, 2, 0),
        endpoint(1, 3, 2, 9),
    ];
    let mut judge = judge_with(&records);
    assert_eq!(
        endpoint(2, 1, 2, 1).put(&mut judge),
        Verdict::Outclaimed { by: id(1) }
    );
    let revocation = tombstone(3, 1, 1);
    assert_eq!(revocation.put(&mut judge), Verdict::Accepted);
    assert!(judge.take_changed().hosts);
    assert!(judge.view().hosts.is_empty() && judge.view().revoked.contains(&id(1)));
    assert_eq!(owner_of(&judge, 2), Some(id(2)));
    revocation.delete(&mut judge);
    assert!(judge.view().revoked.contains(&id(1)));
    assert!(judge.clobbered().contains(&revocation.path));
    assert_eq!(
        judge.sealed(&revocation.path),
        Some(revocation.bytes.as_slice())
    );
    assert_eq!(
        reason(host_record(1, 9, "one").put(&mut judge)),
        Refused::RevokedWriter
    );
    let snapshot: Vec<_> = judge
        .export()
        .map(|(key, value)| (key, value.to_vec()))
        .collect();
    let mut restarted = Judge::new(secrets(), Some(CLUSTER), id(0));
    restarted.import(
        snapshot
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice())),
    );
    assert!(restarted.view().revoked.contains(&id(1)));
}

#[test]
fn a_listing_removes_what_it_lacks_and_nothing_beyond_its_scope() {
    let entries = [member(1, 1, 0), endpoint(1, 2, 2, 1), endpoint(2, 2, 3, 1)];
    let mut judge = judge_with(&entries);
    host_record(1, 3, "one").put(&mut judge);
    let red = Path::Member("s-blue-2".parse().unwrap(), id(1));
    let record = judge.entry(&entries[0].path).unwrap().record;
    let red = Sealed::new(1, 4, red, record);
    red.put(&mut judge);
    let (key, bytes) = (entries[1].path.to_string(), entries[1].bytes.clone());
    let keys = BTreeSet::from([key.as_str()]);
    assert_eq!(judge.missing("networks/s-blue", &keys).len(), 2);
    assert_eq!(judge.missing("networks/s-blue/members/", &keys).len(), 1);
    assert_eq!(judge.missing("", &keys).len(), 4);
    let verdicts = judge.listed("networks/s-blue", [(key.as_str(), bytes.as_slice(), 9)]);
    assert_eq!(verdicts, []);
    assert_eq!(
        (owner_of(&judge, 2), owner_of(&judge, 3)),
        (Some(id(1)), None)
    );
    assert!(judge.view().networks[&blue()].members.is_empty());
    assert!(judge.entry(&red.path).is_some());
    assert_eq!(judge.view().hosts.len(), 1);
    assert_eq!(reason(entries[2].put(&mut judge)), Refused::RolledBack);
}

#[test]
fn a_record_can_stay_in_force_without_the_store() {
    let entry = member(1, 1, 0);
    let mut judge = judge_with(std::slice::from_ref(&entry));
    judge.keep_without_store(&entry.path);
    assert!(judge.entry(&entry.path).is_some());
    assert_eq!(judge.in_store(&entry.path), None);
    assert!(judge.clobbered().contains(&entry.path));
    assert_eq!(judge.missing("", &BTreeSet::new()), []);
    assert_eq!(entry.put(&mut judge), Verdict::Accepted);
    assert!(judge.clobbered().is_empty());
}

#[test]
fn own_records_are_known_by_path_and_highest_seq() {
    let mut judge = judge_with(&[member(0, 40, 50), member(1, 99, 0)]);
    assert_eq!(
        reason(endpoint(0, 45, 2, 1).put(&mut judge)),
        Refused::VoidByFloor
    );
    assert_eq!(judge.own_highest_seq(), 45);
    let own = [member(0, 40, 0).path, Path::Endpoint(blue(), ip(2))];
    assert_eq!(*judge.own_in_store(), BTreeSet::from(own.clone()));
    judge.delete(&own[1].to_string());
    assert_eq!(*judge.own_in_store(), BTreeSet::from([own[0].clone()]));
    let forged = Sealer::new(
        HostKey::from_random([0; 32]),
        ClusterSecrets::insecure(),
        CLUSTER,
    );
    let forged = forged.seal_record(&own[0], 1000, &Record::Member(MemberRecord::default()));
    judge.put(&own[0].to_string(), &forged, 9);
    assert_eq!(judge.own_highest_seq(), 45);
    assert!(judge.own_in_store().is_empty());
}

#[test]
fn a_forgotten_network_leaves_nothing_behind() {
    let mut judge = judge_with(&[member(1, 1, 5), endpoint(1, 6, 2, 3), endpoint(1, 7, 3, 3)]);
    endpoint(1, 7, 3, 3).delete(&mut judge);
    judge.put("networks/s-blue/generation", b"rubbish", 1);
    judge.take_changed();
    judge.forget(&blue());
    assert!(judge.take_changed().networks.contains(&blue()));
    assert_eq!(*judge.view(), ClusterView::default());
    assert!(judge.places.is_empty() && judge.graves.is_empty() && judge.floors.is_empty());
    assert_eq!((judge.strays, judge.highest_claim(&blue())), (0, 0));
    assert!(judge.clobbered().is_empty());
    assert_eq!(endpoint(1, 6, 2, 3).put(&mut judge), Verdict::Accepted);
}

#[test]
fn a_store_full_of_rubbish_is_remembered_to_a_limit() {
    let mut judge = judge();
    for n in 0..MAX_STRAYS + 10 {
        judge.put(&format!("networks/s-{n}"), b"rubbish", 1);
    }
    assert_eq!(judge.places.len(), MAX_STRAYS);
    assert_eq!(member(1, 1, 0).put(&mut judge), Verdict::Accepted);
    let listed = judge.listed("", []);
    assert_eq!((judge.places.len(), judge.strays, listed.len()), (0, 0, 0));
}

#[test]
fn debug_output_shows_no_secret() {
    let shown = format!("{:?} {:#?}", judge_with(&[member(1, 1, 0)]), judge());
    assert!(
        !shown.contains("94, 94") && !shown.contains("5e5e"),
        "{shown}"
    );
}
