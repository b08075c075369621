use wgnet_control_plane::store::Entry;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn alone() -> Pace {
    Pace::new(1, 0)
}

/// Needed from a moment on, and a mark at it.
fn needed() -> (Taking, Instant, Mark) {
    let (mut taking, start) = (Taking::default(), Instant::now());
    let mark = taking.mark(start);
    taking.need(start, alone());
    (taking, start, mark)
}

/// A change every ten seconds, from one moment to another.
fn takes(taking: &mut Taking, from: Instant, to: Instant) {
    let mut at = from;
    while at <= to {
        taking.taken(at);
        at += TRY_EVERY;
    }
}

fn put(revision: Revision) -> Change {
    let key = "hosts/1".to_owned();
    Change::Put(Entry { key, value: vec![], mod_revision: revision })
}

fn deletion(revision: Revision) -> Change {
    Change::Delete { key: "hosts/1".to_owned(), mod_revision: revision }
}

fn changed(revision: Revision, changes: Vec<Change>) -> Followed {
    Followed::Changed { scope: "hosts/".to_owned(), revision, changes }
}

fn listed(revision: Revision) -> Followed {
    Followed::Listed { scope: "hosts/".to_owned(), revision, entries: vec![] }
}

#[tokio::test]
async fn time_counts_from_one_change_to_the_next() {
    let (mut taking, start, mark) = needed();
    takes(&mut taking, start + 5 * SECOND, start + 65 * SECOND);
    assert_eq!(taking.since(mark), MINUTE);
    let later = taking.mark(start + HOUR);
    assert_eq!((taking.since(mark), taking.since(later)), (MINUTE, Duration::ZERO));
}

#[tokio::test]
async fn two_seconds_of_each_minute_never_make_a_minute() {
    let (mut taking, start, mark) = needed();
    for minute in 0..60 {
        for second in 0..=2 {
            taking.taken(start + minute * MINUTE + second * SECOND);
        }
        assert_eq!(taking.since(mark), 2 * SECOND);
    }
}

#[tokio::test]
async fn a_minute_is_seen_at_five_moments_at_least() {
    let (mut taking, start, mark) = needed();
    taking.need(start, Pace::new(1000, 0));
    let seen = |count: u32| start + 100 * SECOND * count;
    (0..4).for_each(|count| taking.taken(seen(count)));
    assert!(taking.since(mark) < MINUTE);
    taking.taken(seen(4));
    assert_eq!(taking.since(mark), MINUTE);
}

#[tokio::test]
async fn after_a_refusal_all_begins_anew() {
    let (mut taking, start, mark) = needed();
    takes(&mut taking, start, start + 50 * SECOND);
    let in_between = taking.mark(start + 55 * SECOND);
    taking.refused();
    assert_eq!(taking.since(mark), Duration::ZERO);
    takes(&mut taking, start + MINUTE, start + MINUTE + 50 * SECOND);
    assert_eq!(taking.since(mark), 50 * SECOND);
    assert_eq!(taking.since(in_between), 50 * SECOND);
}

#[tokio::test]
async fn what_begins_between_two_changes_counts_from_there() {
    let (mut taking, start, _) = needed();
    taking.taken(start);
    let mark = taking.mark(start + 4 * SECOND);
    taking.taken(start + 10 * SECOND);
    assert_eq!(taking.since(mark), 6 * SECOND);
    // Nor does it count before that where a gap is too long.
    let mark = taking.mark(start + MINUTE);
    taking.taken(start + 2 * MINUTE);
    assert_eq!(taking.since(mark), Duration::ZERO);
    taking.taken(start + 2 * MINUTE + SECOND);
    assert_eq!(taking.since(mark), SECOND);
}

#[tokio::test]
async fn where_nobody_needs_to_know_nothing_is_counted_and_nothing_lost() {
    let (mut taking, start, mark) = needed();
    takes(&mut taking, start, start + MINUTE);
    taking.rest();
    assert_eq!(taking.due(), None);
    takes(&mut taking, start + MINUTE, start + HOUR);
    assert_eq!(taking.since(mark), MINUTE);
    let (again, later) = (start + 2 * HOUR, taking.mark(start + 2 * HOUR));
    taking.need(again, alone());
    takes(&mut taking, again, again + 10 * SECOND);
    assert_eq!((taking.since(mark), taking.since(later)), (70 * SECOND, 10 * SECOND));
}

#[tokio::test]
async fn a_put_that_is_newer_than_all_that_was_told_is_a_change_that_was_taken() {
    let (mut taking, start, mark) = needed();
    let mut tell = |event: &Followed, second: u32| {
        taking.followed(event, start + second * SECOND);
        taking.since(mark)
    };
    tell(&listed(7), 0);
    tell(&changed(8, vec![put(8)]), 1);
    assert_eq!(tell(&changed(10, vec![put(9), deletion(10)]), 3), 2 * SECOND);
    assert_eq!(tell(&changed(11, vec![deletion(11)]), 5), 2 * SECOND, "a full etcd deletes");
    assert_eq!(tell(&changed(11, vec![put(11)]), 6), 2 * SECOND, "it was told late");
    assert_eq!(tell(&listed(20), 7), 2 * SECOND);
    assert_eq!(tell(&changed(19, vec![put(19)]), 8), 2 * SECOND, "it was told late");
    assert_eq!(tell(&changed(21, vec![put(21)]), 9), 8 * SECOND);
}

#[tokio::test]
async fn another_history_begins_anew_and_from_its_own_revision() {
    let (mut taking, start, mark) = needed();
    taking.followed(&listed(1000), start);
    takes(&mut taking, start, start + 50 * SECOND);
    taking.followed(&Followed::History { revision: 5, highest: 1000 }, start + 51 * SECOND);
    assert_eq!(taking.since(mark), Duration::ZERO);
    taking.followed(&changed(6, vec![put(6)]), start + 52 * SECOND);
    taking.followed(&changed(7, vec![put(7)]), start + 53 * SECOND);
    assert_eq!(taking.since(mark), SECOND);
}

/// When each host tries within ten minutes; all see these changes, too.
fn tries(hosts: usize, changes: &[Duration]) -> Vec<Vec<Duration>> {
    let start = Instant::now();
    let of = |rank: usize| {
        let (mut taking, mut tries) = (Taking::default(), Vec::new());
        taking.need(start, Pace::new(hosts, rank));
        let mut changes = changes.iter().map(|change| start + *change).peekable();
        while let Some(due) = taking.due().filter(|due| *due < start + 10 * MINUTE) {
            match changes.next_if(|change| *change <= due) {
                Some(change) => taking.taken(change),
                None => {
                    taking.trying(due);
                    taking.taken(due + SECOND / 10);
                    tries.push(due - start);
                }
            }
        }
        tries
    };
    (0..hosts).map(of).collect()
}

#[tokio::test]
async fn a_host_tries_every_ten_seconds_and_all_together_write_twenty_times_a_second() {
    for hosts in [1, 3, 99, 100, 101, 1000] {
        for changes in [&[][..], &[33 * SECOND, 34 * SECOND]] {
            let tries = tries(hosts, changes);
            let every = if hosts <= 100 { TRY_EVERY } else { SECOND * hosts as u32 / 10 };
            for own in &tries {
                assert!(own.len() as u32 >= (10 * MINUTE).div_duration_f64(every) as u32 - 2);
                assert!(own.windows(2).all(|two| two[1] - two[0] >= every), "{hosts}: {own:?}");
            }
            let mut all: Vec<Duration> = tries.concat();
            all.sort();
            let most = (MOST_WRITES / WRITES) as usize;
            assert!(all.windows(most + 1).all(|some| some[most] - some[0] >= SECOND), "{hosts}");
        }
    }
}

#[tokio::test]
async fn nobody_tries_while_changes_are_seen() {
    let changes: Vec<Duration> = (0..=120).map(|count| 5 * SECOND * count).collect();
    for (rank, tries) in tries(3, &changes).into_iter().enumerate() {
        assert!(tries.is_empty(), "{rank}: {tries:?}");
    }
}

#[tokio::test]
async fn whenever_a_change_is_seen_a_try_can_be_answered_before_the_time_is_lost() {
    for hosts in [1, 3, 1000] {
        let pace = Pace::new(hosts, hosts / 2);
        for tenth in 0..3000 {
            let (mut taking, start, _) = needed();
            taking.rest();
            taking.need(start, pace);
            let seen = start + tenth * SECOND / 10;
            taking.taken(seen);
            let due = taking.due().unwrap();
            assert!(due > seen && due + CALL_DEADLINE <= seen + pace.longest_gap());
        }
    }
}
