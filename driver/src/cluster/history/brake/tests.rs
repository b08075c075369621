use std::collections::BTreeMap;

use wgnet_proto::record::{MemberRecord, NetworkRecord};
use wgnet_proto::{Incarnation, NetworkKey, Record};

use super::*;
use crate::cluster::taking::Pace;
use crate::cluster::{HostFacts, wanted};

const SCOPE: &str = "hosts/";

fn host(number: u8) -> HostId {
    HostId([number; 16])
}

fn without(numbers: &[u8]) -> Vec<Path> {
    numbers.iter().map(|number| Path::Host(host(*number))).collect()
}

fn five_hosts() -> ClusterView {
    let mut view = ClusterView::default();
    for me in (1..=5).map(host) {
        let facts = HostFacts {
            me,
            name: "host".to_owned(),
            version: "0".to_owned(),
            backend: "model".to_owned(),
            boot: "boot".to_owned(),
            underlay: Vec::new(),
        };
        let record = wanted::host_record(&facts, Incarnation([1; 16]));
        let Record::Host(record) = record else { panic!("{record:?}") };
        view.hosts.insert(me, record);
    }
    view
}

fn nobody(_: &HostId) -> bool {
    false
}

/// Time passes, in which etcd is seen to take changes.
async fn takes_changes(taking: &mut Taking, time: Duration) {
    let end = Instant::now() + time;
    taking.need(Instant::now(), Pace::new(1, 0));
    taking.taken(Instant::now());
    while Instant::now() < end {
        tokio::time::advance(ASK_AGAIN.min(end - Instant::now())).await;
        taking.taken(Instant::now());
    }
}

fn held(numbers: &[u8], of: usize, whole: bool) -> Option<Held> {
    Some(Held { vanishing: numbers.iter().map(|number| host(*number)).collect(), of, whole })
}

#[tokio::test(start_paused = true)]
async fn a_listing_without_most_hosts_is_held_until_it_is_released() {
    let (mut history, view) = (History::new(None, 0, 0, 0), five_hosts());
    let mut taking = Taking::default();
    let most = without(&[2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most[1..], &view, &taking), None);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, true));
    let told = history.held().map(|(scope, them, of)| (scope, them.len(), of));
    assert_eq!(told.collect::<Vec<_>>(), [(SCOPE, 3, 5)]);
    history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
    takes_changes(&mut taking, BRAKE).await;
    assert!(history.brake_is_due(&taking, &view, nobody), "what else is missing is believed now");
    for _ in 0..10 {
        assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, false));
        tokio::time::advance(BRAKE * 100).await;
        assert!(!history.brake_is_due(&taking, &view, nobody));
    }
    assert!(!history.is_certain());
    history.release(SCOPE);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), None);
    assert_eq!(history.held().count(), 0);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, true), "once");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_live_and_put_nothing_back_are_believed_to_be_gone() {
    let (mut history, view) = (History::new(None, 0, 0, 0), five_hosts());
    let mut taking = Taking::default();
    let most = without(&[1, 2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[1, 2, 3, 4], 5, true));
    history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
    let two_lives = |it: &HostId| *it == host(2);
    assert!(!history.brake_is_due(&taking, &view, two_lives), "it has time to put its record back");
    takes_changes(&mut taking, BRAKE).await;
    assert!(history.brake_is_due(&taking, &view, two_lives));
    assert!(!history.brake_is_due(&taking, &view, two_lives), "not at every look");
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[1, 3, 4], 4, false));

    // Another one comes up, and puts its record back.
    let these_live = |it: &HostId| [host(2), host(3)].contains(it);
    tokio::time::advance(ASK_AGAIN).await;
    assert!(!history.brake_is_due(&taking, &view, these_live));
    history.is_back(&Path::Host(host(3)).to_string());
    assert!(history.brake_is_due(&taking, &view, these_live));
    let mut view = view;
    view.hosts.remove(&host(2));
    assert_eq!(history.brake(SCOPE, &without(&[1, 4]), &view, &taking), None, "half may go");
}

/// A listing without most hosts that was just held.
fn braked(view: &ClusterView) -> History {
    let mut history = History::new(None, 0, 0, 0);
    let most = without(&[2, 3, 4]);
    assert!(history.brake(SCOPE, &most, view, &Taking::default()).is_some());
    history.hold(most.iter().filter_map(|path| Some((path.clone(), host_of(path)?))));
    history
}

#[tokio::test(start_paused = true)]
async fn time_in_which_etcd_takes_no_changes_is_no_time_to_put_a_record_back() {
    let view = five_hosts();
    let (mut history, all) = (braked(&view), |_: &HostId| true);
    let mut taking = Taking::default();
    assert!(!history.brake_is_due(&taking, &view, all));
    for _ in 0..10 {
        takes_changes(&mut taking, BRAKE / 2).await;
        taking.refused();
        assert!(!history.brake_is_due(&taking, &view, all));
    }
    let most = without(&[2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, true));
    takes_changes(&mut taking, BRAKE).await;
    assert!(history.brake_is_due(&taking, &view, all));
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), None);
}

#[tokio::test(start_paused = true)]
async fn who_was_back_has_a_minute_again_when_it_is_missing_once_more() {
    let view = five_hosts();
    let (mut history, two_lives) = (braked(&view), |it: &HostId| *it == host(2));
    let mut taking = Taking::default();
    assert!(!history.brake_is_due(&taking, &view, two_lives));
    history.is_back(&Path::Host(host(2)).to_string());
    assert!(history.brake_is_due(&taking, &view, two_lives));
    takes_changes(&mut taking, BRAKE * 2).await;
    let most = without(&[2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, false));
}

#[tokio::test(start_paused = true)]
async fn what_else_was_missing_is_asked_for_again_after_the_store_was_away() {
    let view = five_hosts();
    let (mut history, mut taking) = (braked(&view), Taking::default());
    takes_changes(&mut taking, BRAKE).await;
    assert!(history.brake_is_due(&taking, &view, nobody));
    taking.refused();
    assert!(!history.brake_is_due(&taking, &view, nobody));
    let most = without(&[2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, true));
    takes_changes(&mut taking, BRAKE).await;
    assert!(history.brake_is_due(&taking, &view, nobody));
}

#[tokio::test]
async fn a_hold_outlives_a_listing_from_before_this_host_put_its_own_record_back() {
    let mut view = five_hosts();
    view.hosts.retain(|it, _| [host(1), host(2), host(3)].contains(it));
    let (mut history, taking) = (History::new(None, 0, 0, 0), Taking::default());
    assert_eq!(
        history.brake(SCOPE, &without(&[1, 2, 3]), &view, &taking),
        held(&[1, 2, 3], 3, true)
    );
    // Its own is deleted in its view, so that it knows that it is missing.
    view.hosts.remove(&host(1));
    assert_eq!(history.brake(SCOPE, &without(&[2, 3]), &view, &taking), held(&[2, 3], 3, true));
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_when_those_it_is_about_are_revoked_or_their_network_is_freed() {
    let mut view = five_hosts();
    let (mut history, taking) = (braked(&view), Taking::default());
    assert!(!history.brake_is_due(&taking, &view, nobody));
    view.revoked.extend([host(2), host(3)]);
    assert!(history.brake_is_due(&taking, &view, nobody));
    assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view, &taking), None);
}

#[tokio::test]
async fn during_the_minute_everything_is_kept_and_then_what_the_vanishing_own() {
    let of = |whole| Held { vanishing: BTreeSet::from([host(2)]), of: 3, whole };
    assert!(of(true).keeps(host(1)) && of(true).keeps(host(2)));
    assert!(!of(false).keeps(host(1)) && of(false).keeps(host(2)));
}

#[tokio::test]
async fn the_members_of_a_network_that_is_freed_may_go_at_once_and_of_no_other() {
    let key: NetworkKey = "s-0123456789abcdefghijklmno".parse().unwrap();
    let scope = format!("networks/{key}");
    let (mut history, taking) = (History::new(None, 0, 0, 0), Taking::default());
    let gone: Vec<Path> = (2..=5).map(|number| Path::Member(key.clone(), host(number))).collect();
    let mut view = ClusterView::default();
    let network = view.networks.entry(key.clone()).or_default();
    network.members.extend((1..=5).map(|number| (host(number), MemberRecord::default())));
    let four = || held(&[2, 3, 4, 5], 5, true);
    assert_eq!(history.brake(&scope, &gone, &view, &taking), four());
    let mut is_freed = |freed| {
        let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed };
        view.networks.get_mut(&key).unwrap().record = Some(record);
        history.brake(&scope, &gone, &view, &taking)
    };
    assert_eq!(is_freed(false), four());
    assert_eq!(is_freed(true), None);
}

#[tokio::test]
async fn hosts_that_were_revoked_or_given_up_are_not_held() {
    let (mut history, mut view) = (History::new(None, 0, 0, 0), five_hosts());
    let taking = Taking::default();
    view.revoked.insert(host(2));
    assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view, &taking), None);
    history.hold([(Path::Host(host(3)), host(3))].into_iter());
    assert!(history.give_up(host(3)));
    assert_eq!(history.brake(SCOPE, &without(&[2, 3, 4]), &view, &taking), None);
    let most = history.brake(SCOPE, &without(&[2, 3, 4, 5]), &view, &taking);
    assert_eq!(most, held(&[4, 5], 3, true));
}

#[tokio::test(start_paused = true)]
async fn etcd_needs_to_take_changes_until_the_time_of_all_that_live_is_over() {
    let view = five_hosts();
    let (mut history, mut taking) = (History::new(None, 0, 0, 0), Taking::default());
    assert!(!history.needs_changes(&taking), "nothing is held");
    history = braked(&view);
    assert!(history.needs_changes(&taking));
    takes_changes(&mut taking, BRAKE).await;
    assert!(!history.needs_changes(&taking), "an operator decides of those that do not live");
    taking.rest();
    let two_lives = |it: &HostId| *it == host(2);
    assert!(history.brake_is_due(&taking, &view, two_lives));
    assert!(history.needs_changes(&taking), "one of them came up");
    let most = without(&[2, 3, 4]);
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), held(&[2, 3, 4], 5, false));
    takes_changes(&mut taking, BRAKE).await;
    assert!(!history.needs_changes(&taking));
    assert_eq!(history.brake(SCOPE, &most, &view, &taking), None);
}
