use super::*;

const OURS: Incarnation = Incarnation([1; 16]);
const NEXT: Incarnation = Incarnation([2; 16]);

fn at_a_hundred() -> History {
    let mut history = History::new(Some(OURS));
    assert!(!history.seen_to_be(Owner::Us, 90));
    assert_eq!(history.meet(OURS), Turn::Same);
    history.reached(100);
    history
}

#[test]
fn a_fallen_revision_is_announced_unless_somebody_did() {
    let mut history = at_a_hundred();
    assert!(history.fell());
    history.seen_to_be(Owner::Us, 50);
    assert_eq!(history.meet(OURS), Turn::Announce);
    history.seen_to_be(Owner::Us, 51);
    assert_eq!(history.meet(NEXT), Turn::Another);
    assert!(!history.has_fallen());
    assert_eq!(history.meet(NEXT), Turn::Same);
}

#[test]
fn a_host_founds_the_same_until_it_keeps_to_another_cluster() {
    let [met, first, second] = [1, 2, 3].map(|number| ClusterId([number; 16]));
    let mut history = History::new(None);
    let tried = history.founding(None, first, OURS);
    assert_eq!(history.founding(None, second, NEXT), tried);
    assert_eq!(history.founding(Some(first), second, NEXT), tried);
    assert_eq!(history.founding(Some(met), second, NEXT).cluster, met);
}

#[test]
fn others_store_in_place_of_ours_and_back_is_no_other_history() {
    for (theirs, falls_going, falls_coming) in [(50, true, false), (500, false, true)] {
        let mut history = at_a_hundred();
        let number = history.number();
        if falls_going {
            assert!(history.fell());
        }
        assert!(history.seen_to_be(Owner::Others, theirs));
        assert!(!history.is_ours() && !history.is_certain() && !history.has_fallen());
        assert!(!history.seen_to_be(Owner::Others, theirs + 1), "it is told once");
        if falls_coming {
            assert!(!history.fell(), "leaving others' store is no fall of ours");
        }
        history.seen_to_be(Owner::Us, 100);
        assert_eq!(history.meet(OURS), Turn::Returned);
        assert_eq!(history.meet(OURS), Turn::Same);
        assert!(history.is_ours() && history.number() > number);
    }
}

#[test]
fn a_store_that_came_back_older_than_it_was_left_has_fallen() {
    let mut history = at_a_hundred();
    history.seen_to_be(Owner::Others, 500);
    history.seen_to_be(Owner::Us, 60);
    assert_eq!(history.meet(OURS), Turn::Announce);
}
