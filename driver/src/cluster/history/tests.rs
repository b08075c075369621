use wgnet_proto::{ClusterSecrets, HostKey, Sealer};

use super::*;
use crate::cluster::{HostFacts, wanted};

const OURS: Incarnation = Incarnation([1; 16]);
const NEXT: Incarnation = Incarnation([2; 16]);

/// The number of this host's next record.
const NEXT_SEQ: u64 = 7;

fn record(incarnation: Incarnation, history: u64) -> ClusterRecord {
    ClusterRecord { cluster: ClusterId([3; 16]), incarnation, schema: 1, history, announced_at: 0 }
}

fn at_a_hundred() -> History {
    let mut history = History::new(Some(OURS), 5, 0, 0);
    assert!(!history.seen_to_be(Owner::Us, 90));
    assert_eq!(history.meet(&record(OURS, 5), NEXT_SEQ), Turn::Same);
    history.reached(100);
    history
}

#[test]
fn a_fallen_revision_is_announced_unless_somebody_did() {
    let mut history = at_a_hundred();
    assert!(history.fell(1));
    history.seen_to_be(Owner::Us, 50);
    assert_eq!(history.meet(&record(OURS, 5), NEXT_SEQ), Turn::Announce);
    history.seen_to_be(Owner::Us, 51);
    assert_eq!(history.meet(&record(NEXT, 6), NEXT_SEQ), Turn::Another);
    assert!(!history.has_fallen());
    assert_eq!(history.meet(&record(NEXT, 6), NEXT_SEQ), Turn::Same);
}

#[test]
fn a_backup_that_names_an_earlier_history_is_announced_as_another_one() {
    for falls in [true, false] {
        let mut history = at_a_hundred();
        if falls {
            assert!(history.fell(1));
        }
        let (number, earlier) = (history.number(), record(Incarnation([9; 16]), 4));
        history.seen_to_be(Owner::Us, 50);
        for _ in 0..2 {
            assert_eq!(history.meet(&earlier, NEXT_SEQ), Turn::Announce);
            assert!(history.has_fallen());
        }
        assert_eq!(history.number(), number + u64::from(!falls));
        let announced = history.announcing(&earlier, NEXT, 51);
        assert_eq!((announced.incarnation, announced.history), (NEXT, 6));
        assert_eq!(history.met(), (Some(OURS), 5), "what is in the backup was not met");
        assert_eq!(history.written_from(), 0);
        assert_eq!(history.meet(&announced, NEXT_SEQ), Turn::Another);
        assert_eq!((history.met(), history.written_from()), ((Some(NEXT), 6), NEXT_SEQ));
        assert_eq!(history.number(), number + u64::from(!falls));
    }
}

#[test]
fn an_announced_history_says_how_far_the_store_had_come() {
    let mut history = at_a_hundred();
    assert_eq!(history.announcing(&record(OURS, 5), NEXT, 51).announced_at, 51);
    let mut founded =
        |revision| history.founding(None, ClusterId([3; 16]), NEXT, revision, 30).announced_at;
    assert_eq!(founded(60), 30, "only the record was deleted");
    history.fell(1);
    history.founding = None;
    let mut founded =
        |revision| history.founding(None, ClusterId([3; 16]), NEXT, revision, 30).announced_at;
    assert_eq!([founded(40), founded(45), founded(2)], [40, 40, 2]);
}

#[test]
fn a_listing_from_before_a_host_had_spoken_ends_nothing_of_it() {
    let mut history = at_a_hundred();
    assert!(history.fell(1));
    history.seen_to_be(Owner::Us, 2);
    assert_eq!(history.meet(&record(NEXT, 6), NEXT_SEQ), Turn::Another);
    let secrets = ClusterSecrets::insecure();
    let key = HostKey::from_random([8; 32]);
    let (me, them) = (HostId([9; 16]), key.id());
    let sealer = Sealer::new(key, secrets.clone(), ClusterId([3; 16]));
    let mut judge = Judge::new(secrets, Some(ClusterId([3; 16])), me);
    let facts = HostFacts {
        me: them,
        name: "host".to_owned(),
        version: "0".to_owned(),
        backend: "model".to_owned(),
        boot: "boot".to_owned(),
        underlay: Vec::new(),
    };
    let path = Path::Host(them);
    let said = sealer.seal_record(&path, 1, &wanted::host_record(&facts, NEXT));
    judge.put(&path.to_string(), &said, 6);
    let mut split = |revision| history.split_missing(vec![path.clone()], revision, &judge, me);
    assert_eq!(split(5), (vec![], vec![path.clone()]));
    assert_eq!(split(6), (vec![path.clone()], vec![]));
}

#[test]
fn what_a_held_listing_lacks_is_missing_until_it_is_believed() {
    let mut history = at_a_hundred();
    let (path, owner) = (Path::Host(HostId([8; 16])), HostId([8; 16]));
    history.hold([(path.clone(), owner)].into_iter());
    assert_eq!(history.still_missing("hosts/", &BTreeSet::new()), std::slice::from_ref(&path));
    history.is_back(&path.to_string());
    assert!(history.still_missing("hosts/", &BTreeSet::new()).is_empty());
}

#[test]
fn a_host_founds_the_same_until_it_keeps_to_another_cluster() {
    let [met, first, second] = [1, 2, 3].map(|number| ClusterId([number; 16]));
    let mut history = History::new(None, 0, 0, 0);
    let tried = history.founding(None, first, OURS, 1, 0);
    assert_eq!(history.founding(None, second, NEXT, 1, 0), tried);
    assert_eq!(history.founding(Some(first), second, NEXT, 1, 0), tried);
    assert_eq!(history.founding(Some(met), second, NEXT, 1, 0).cluster, met);
}

#[test]
fn others_store_in_place_of_ours_and_back_is_no_other_history() {
    for (theirs, falls_going, falls_coming) in [(50, true, false), (500, false, true)] {
        let mut history = at_a_hundred();
        let number = history.number();
        if falls_going {
            assert!(history.fell(1));
        }
        assert!(history.seen_to_be(Owner::Others, theirs));
        assert!(!history.is_ours() && !history.is_certain() && !history.has_fallen());
        assert!(!history.seen_to_be(Owner::Others, theirs + 1), "it is told once");
        if falls_coming {
            assert!(!history.fell(1), "leaving others' store is no fall of ours");
        }
        history.seen_to_be(Owner::Us, 100);
        assert_eq!(history.meet(&record(OURS, 5), NEXT_SEQ), Turn::Returned);
        assert_eq!(history.meet(&record(OURS, 5), NEXT_SEQ), Turn::Same);
        assert!(history.is_ours() && history.number() > number);
    }
}

#[test]
fn a_store_that_came_back_older_than_it_was_left_has_fallen() {
    let mut history = at_a_hundred();
    history.seen_to_be(Owner::Others, 500);
    history.seen_to_be(Owner::Us, 60);
    assert_eq!(history.meet(&record(OURS, 5), NEXT_SEQ), Turn::Announce);
}

#[test]
fn what_is_kept_of_a_network_ends_with_the_network() {
    let mut history = at_a_hundred();
    let (network, owner) = (NetworkKey::swarm(&"a".repeat(25).parse().unwrap()), HostId([8; 16]));
    let member = Path::Member(network.clone(), owner);
    let scope = Path::Network(network.clone()).to_string();
    history.hold([(member, owner)].into_iter());
    assert!(history.give_up(owner), "the next listing will end it");
    history.forget(&network, &scope);
    assert!(!history.give_up(owner), "no listing will come");
}
