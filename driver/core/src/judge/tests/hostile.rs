//! What somebody who can write to the store may try.

use super::*;

#[test]
fn the_cluster_is_learned_from_its_record_and_then_pinned() {
    let mut judge = Judge::new(secrets(), None, id(0));
    assert_eq!(reason(member(1, 1, 0).put(&mut judge)), Refused::UnknownCluster);
    assert_eq!(cluster(1, 2, 1).put(&mut judge), Verdict::Accepted);
    assert_eq!(judge.cluster_id(), Some(CLUSTER));
    assert_eq!(member(1, 1, 0).put(&mut judge), Verdict::Accepted);
    let other = ClusterId([0xc2; 16]);
    let record = ClusterRecord {
        cluster: other,
        incarnation: Incarnation([1; 16]),
        schema: 1,
        history: 1,
        announced_at: 0,
    };
    let foreign = Sealer::new(HostKey::from_random([2; 32]), secrets(), other);
    let sealed = foreign.seal_record(&Path::Cluster, 1, &Record::Cluster(record.clone()));
    assert_eq!(reason(judge.put("cluster", &sealed, 1)), Refused::ForeignCluster);
    let contradiction = sealer(2).seal_record(&Path::Cluster, 1, &Record::Cluster(record));
    assert_eq!(reason(judge.put("cluster", &contradiction, 1)), Refused::BadRecord);
    assert_eq!(judge.cluster().unwrap().cluster, CLUSTER);
}

#[test]
fn a_rolled_back_record_is_refused_and_the_newer_one_stays() {
    let mut judge = judge_with(&[host_record(1, 5, "old"), host_record(1, 6, "new")]);
    assert_eq!(reason(host_record(1, 5, "old").put(&mut judge)), Refused::RolledBack);
    assert_eq!(judge.view().hosts[&id(1)].name, "new");
    assert_eq!(reason(host_record(1, 6, "other").put(&mut judge)), Refused::RolledBack);
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
fn a_host_that_is_gone_is_not_made_alive_by_what_it_wrote_before() {
    let mut judge = judge_with(&[alive(1, 5)]);
    alive(1, 5).delete(&mut judge);
    for seq in [4, 5] {
        assert_eq!(reason(alive(1, seq).put(&mut judge)), Refused::RolledBack);
    }
    assert_eq!(alive(1, 6).put(&mut judge), Verdict::Accepted);
}

#[test]
fn rubbish_over_a_valid_record_harms_nothing_and_is_reported() {
    let entry = member(1, 5, 0);
    let key = entry.path.to_string();
    let mut judge = judge_with(std::slice::from_ref(&entry));
    let before = judge.view().clone();
    judge.take_changed();
    let Verdict::Refused(refusal) = judge.put(&key, b"rubbish", 8) else { panic!() };
    assert!(refusal.first_time && refusal.path == key);
    assert_eq!(*judge.view(), before);
    assert_eq!(judge.take_changed(), Changed::default());
    assert_eq!(judge.clobbered(), &BTreeSet::from([entry.path.clone()]));
    let held = judge.in_store(&entry.path).unwrap();
    assert_eq!((held.mod_revision, held.writer, held.accepted), (8, None, None));
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
    let Verdict::Refused(refusal) = judge.put(&moved, &entry.bytes, 3) else {
        panic!("it is moved")
    };
    assert!(refusal.first_time);
    assert_eq!((refusal.path.as_str(), refusal.writer), (moved.as_str(), Some(id(1))));
    assert_eq!(judge.refused()[&Refused::Malformed], 2);
    assert_eq!(judge.refused()[&Refused::WrongSecret], 1);
}

#[test]
fn a_host_cannot_write_an_endpoint_of_another() {
    let mut judge = judge_with(&[member(1, 1, 0), endpoint(1, 2, 2, 1)]);
    let record = judge.entry(&Path::Endpoint(blue(), ip(2))).unwrap().record;
    let path = Path::Endpoint(blue(), ip(2));
    let sealed = sealer(2).seal_record(&path, 9, &record);
    assert_eq!(reason(judge.put(&path.to_string(), &sealed, 9)), Refused::WrongWriter);
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
    assert_eq!(judge.highest_claim(&blue()), 1);
}

#[test]
fn a_floor_voids_older_endpoints_whenever_they_come() {
    let mut judge = judge_with(&[member(1, 1, 0), endpoint(1, 2, 2, 1), endpoint(1, 6, 3, 1)]);
    judge.take_changed();
    assert_eq!(member(1, 7, 5).put(&mut judge), Verdict::Accepted);
    assert_eq!((owner_of(&judge, 2), owner_of(&judge, 3)), (None, Some(id(1))));
    assert!(judge.take_changed().networks.contains(&blue()));
    assert_eq!(reason(endpoint(1, 4, 4, 1).put(&mut judge)), Refused::VoidByFloor);
    assert_eq!(reason(endpoint(1, 2, 2, 1).put(&mut judge)), Refused::VoidByFloor);
    member(1, 7, 5).delete(&mut judge);
    assert_eq!(reason(endpoint(1, 4, 4, 1).put(&mut judge)), Refused::VoidByFloor);
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
fn a_revoked_host_has_no_records_and_stays_revoked() {
    let records = [host_record(1, 1, "one"), member(1, 2, 0), endpoint(1, 3, 2, 9)];
    let mut judge = judge_with(&records);
    assert_eq!(endpoint(2, 1, 2, 1).put(&mut judge), Verdict::Outclaimed { by: id(1) });
    let revocation = tombstone(3, 1, 1);
    assert_eq!(revocation.put(&mut judge), Verdict::Accepted);
    assert!(judge.take_changed().hosts);
    assert!(judge.view().hosts.is_empty() && judge.view().revoked.contains(&id(1)));
    assert_eq!(owner_of(&judge, 2), Some(id(2)));
    revocation.delete(&mut judge);
    assert!(judge.view().revoked.contains(&id(1)));
    assert!(judge.clobbered().contains(&revocation.path));
    assert_eq!(judge.sealed(&revocation.path), Some(revocation.bytes.as_slice()));
    assert_eq!(reason(host_record(1, 9, "one").put(&mut judge)), Refused::RevokedWriter);
    let snapshot: Vec<_> = judge.export().map(|(key, value)| (key, value.to_vec())).collect();
    let mut restarted = Judge::new(secrets(), Some(CLUSTER), id(0));
    restarted.import(snapshot.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
    assert!(restarted.view().revoked.contains(&id(1)));
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
    assert!(!shown.contains("94, 94") && !shown.contains("5e5e"), "{shown}");
}
