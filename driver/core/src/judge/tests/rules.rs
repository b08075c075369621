//! Which records count, and what follows from them.

use super::*;

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
    assert_eq!(judge.take_changed(), Changed { cluster: true, hosts: true, networks });
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
    for key in ["", "x", "hosts/", "networks/s-blue/services/10.0.0.1", "/cluster", "cluster/x"] {
        assert_eq!(judge.put(key, b"x", 1), Verdict::Ignored);
        judge.delete(key);
    }
    assert!(judge.refused().is_empty());
}

#[test]
fn the_cluster_record_follows_a_restored_store() {
    let mut judge = judge_with(&[cluster(1, 1, 1), cluster(2, 9, 2), cluster(1, 5, 3)]);
    assert_eq!(judge.cluster().unwrap().incarnation, Incarnation([3; 16]));
    assert_eq!(cluster(1, 1, 1).put(&mut judge), Verdict::Accepted);
    assert_eq!(judge.cluster().unwrap().incarnation, Incarnation([1; 16]));
}

#[test]
fn what_a_backup_brought_back_has_an_address_only_where_nobody_else_has() {
    let mut judge = judge_with(&[endpoint(1, 5, 2, 1), endpoint(1, 6, 4, 1)]);
    let [ghost, alone] = [endpoint(2, 9, 2, 9), endpoint(2, 8, 3, 9)];
    judge.set_fallen(Some(7));
    assert_eq!(ghost.put_at(&mut judge, 7), Verdict::Outclaimed { by: id(1) });
    judge.set_fallen(None);
    assert_eq!(announced(1, 4, 2, 9).put_at(&mut judge, 10), Verdict::Accepted);
    assert_eq!(ghost.put_at(&mut judge, 7), Verdict::Outclaimed { by: id(1) });
    assert_eq!(alone.put_at(&mut judge, 9), Verdict::Accepted);
    assert_eq!(endpoint(1, 6, 4, 1).put_at(&mut judge, 7), Verdict::Accepted);
    let is_weak = |judge: &Judge, last| judge.view().networks[&blue()].endpoints.is_weak(&ip(last));
    assert_eq!((owner_of(&judge, 2), owner_of(&judge, 3)), (Some(id(1)), Some(id(2))));
    assert!(!is_weak(&judge, 2) && is_weak(&judge, 3));
    assert!(is_weak(&judge, 4), "whoever begins to look now must see the same");
    assert_eq!(endpoint(1, 6, 4, 1).put_at(&mut judge, 10), Verdict::Accepted);
    assert!(!is_weak(&judge, 4), "put back as it was");
    // Of two that were known before, the same has it as before, whichever the backup is of.
    let once = judge;
    let known = [endpoint(1, 5, 2, 8), endpoint(2, 6, 2, 4)];
    for brought_back in &known {
        let mut judge = super::judge();
        known.iter().for_each(|it| drop(it.put(&mut judge)));
        judge.set_fallen(Some(7));
        brought_back.put_at(&mut judge, 7);
        assert_eq!(owner_of(&judge, 2), Some(id(1)));
    }
    // Whoever looks on is told of the announcement after all that stands.
    let mut judge = judge_with(&[cluster(1, 1, 1)]);
    assert_eq!(alone.put_at(&mut judge, 7), Verdict::Accepted);
    assert_eq!(endpoint(1, 6, 4, 1).put_at(&mut judge, 11), Verdict::Accepted);
    judge.take_changed();
    assert_eq!(announced(1, 4, 2, 9).put_at(&mut judge, 10), Verdict::Accepted);
    assert!(is_weak(&judge, 3) && !is_weak(&judge, 4));
    assert!(judge.take_changed().networks.contains(&blue()));
    let mut judge = once;
    // Whoever has it puts its own there: the other is gone, and cannot be replayed.
    assert_eq!(endpoint(1, 7, 2, 1).put_at(&mut judge, 11), Verdict::Accepted);
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
    let replayed = ghost.put_at(&mut judge, 12);
    assert!(matches!(replayed, Verdict::Refused(it) if it.reason == Refused::RolledBack));
    // Unless its host is there and puts it there anew.
    assert_eq!(endpoint(2, 10, 2, 9).put_at(&mut judge, 13), Verdict::Accepted);
    assert_eq!(endpoint(2, 11, 3, 9).put_at(&mut judge, 14), Verdict::Accepted);
    assert_eq!((owner_of(&judge, 2), owner_of(&judge, 3)), (Some(id(2)), Some(id(2))));
    assert!(!is_weak(&judge, 2) && !is_weak(&judge, 3));
}

#[test]
fn the_higher_claim_has_the_address_and_then_the_higher_host() {
    let mut judge = judge_with(&[endpoint(1, 1, 2, 5)]);
    assert_eq!(endpoint(2, 1, 2, 4).put(&mut judge), Verdict::Outclaimed { by: id(1) });
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
fn a_record_whose_deletion_was_missed_yields_to_what_the_store_holds() {
    let mut judge = judge_with(&[endpoint(1, 1, 2, 5)]);
    let path = endpoint(1, 1, 2, 5).path;
    assert!(!judge.yield_to_store(&path), "the store holds what is in force");
    endpoint(2, 1, 2, 4).put(&mut judge);
    assert!(judge.yield_to_store(&path));
    assert_eq!(owner_of(&judge, 2), Some(id(2)));
    assert!(judge.clobbered().is_empty() && !judge.yield_to_store(&path));
    assert_eq!(reason(endpoint(1, 1, 2, 5).put(&mut judge)), Refused::RolledBack);
    assert_eq!(owner_of(&judge, 2), Some(id(2)));
    assert_eq!(endpoint(1, 2, 2, 6).put(&mut judge), Verdict::Accepted);
    assert_eq!(owner_of(&judge, 2), Some(id(1)), "a new claim counts");
}

#[test]
fn a_record_does_not_yield_to_rubbish() {
    let mut judge = judge_with(&[endpoint(1, 1, 2, 5)]);
    let path = endpoint(1, 1, 2, 5).path;
    judge.put(&path.to_string(), b"rubbish", 9);
    assert!(judge.clobbered().contains(&path) && !judge.yield_to_store(&path));
    assert_eq!(owner_of(&judge, 2), Some(id(1)));
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
    assert_eq!(network(2, 2, "10.50.0.0/24", true).put(&mut judge), Verdict::Accepted);
    let unfreed = network(3, 3, "10.50.0.0/24", false);
    assert_eq!(unfreed.put(&mut judge), Verdict::Outclaimed { by: id(2) });
    let unfreed = network(2, 3, "10.50.0.0/24", false);
    assert_eq!(reason(unfreed.put(&mut judge)), Refused::Conflicting);
    let record = judge.view().networks[&blue()].record.clone().unwrap();
    assert!(record.freed && record.subnets == ["10.50.0.0/24".parse().unwrap()]);
    other.delete(&mut judge);
    assert_eq!(network(2, 9, "10.60.0.0/24", false).put(&mut judge), Verdict::Accepted);
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
    assert_eq!(generation(2, 1, 1).put(&mut judge), Verdict::Outclaimed { by: id(1) });
    assert_eq!(judge.view().networks[&blue()].generation, 2);
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
    assert_eq!((owner_of(&judge, 2), owner_of(&judge, 3)), (Some(id(1)), None));
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
    assert_eq!(reason(endpoint(0, 45, 2, 1).put(&mut judge)), Refused::VoidByFloor);
    assert_eq!(judge.own_highest_seq(), 45);
    let own = [member(0, 40, 0).path, Path::Endpoint(blue(), ip(2))];
    assert_eq!(*judge.own_in_store(), BTreeSet::from(own.clone()));
    judge.delete(&own[1].to_string());
    assert_eq!(*judge.own_in_store(), BTreeSet::from([own[0].clone()]));
    let forged = Sealer::new(HostKey::from_random([0; 32]), ClusterSecrets::insecure(), CLUSTER);
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
