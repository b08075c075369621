mod host;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::*;
use crate::store::{Condition, MemoryStore};
use host::*;

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_put_and_what_is_not_is_withdrawn() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    let (one, two) = (endpoint(1, 1), endpoint(2, 2));
    host.wants(&[host_record(), network_record(false), one.clone(), two.clone()]);
    holds(&store, &two).await;
    host.is_settled().await;
    host.wants(std::slice::from_ref(&two));
    lacks(&store, &one.0).await;
    host.is_settled().await;
    holds(&store, &two).await;
    // It may not be wanted for a moment; others would forget where this host is.
    holds(&store, &host_record()).await;
    // What all members share is not this host's to delete.
    assert!(held(&store, &Path::Network(network())).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_goes_out_at_once() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[host_record()]);
    holds(&store, &host_record()).await;
    host.is_settled().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = Instant::now();
    host.wants(&[host_record(), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    assert!(before.elapsed() <= Duration::from_millis(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_others_delete_or_overwrite_is_put_back() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    let one = endpoint(1, 1);
    host.wants(&[host_record(), one.clone()]);
    holds(&store, &one).await;
    write(&store, Op::Delete { key: one.0.to_string() }).await;
    holds(&store, &one).await;
    write_foreign(&store, &endpoint(1, 9)).await;
    holds(&store, &one).await;
    write(&store, Op::Put { key: one.0.to_string(), value: b"rubbish".to_vec() }).await;
    holds(&store, &one).await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_is_beaten_where_wanted_and_left_alone_elsewhere() {
    let store = MemoryStore::new();
    write_foreign(&store, &endpoint(1, 1)).await;
    write_foreign(&store, &endpoint(2, 1)).await;
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 2)]);
    holds(&store, &endpoint(1, 2)).await;
    host.wants(&[]);
    lacks(&store, &endpoint(1, 2).0).await;
    host.is_settled().await;
    assert_eq!(held(&store, &endpoint(2, 1).0).await, Some((false, endpoint(2, 1).1)));
}

#[tokio::test(start_paused = true)]
async fn a_network_is_created_once_and_freed_for_good() {
    let store = MemoryStore::new();
    write_foreign(&store, &network_record(false)).await;
    let mut host = Host::on(&store);
    host.wants(&[network_record(false), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    let (path, freed) = network_record(true);
    assert_eq!(held(&store, &path).await, Some((false, network_record(false).1)));
    host.wants(&[(path.clone(), freed.clone())]);
    holds(&store, &(path.clone(), freed.clone())).await;
    host.wants(&[network_record(false), endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    assert_eq!(held(&store, &path).await, Some((true, freed)));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_records_take_few_transactions() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[host_record()]);
    holds(&store, &host_record()).await;
    host.is_settled().await;
    let (calls, revision) = (host.client.calls(), store.revision().await.unwrap());
    let all: Vec<_> = (0..1000).map(|i| endpoint(i, 1)).chain([host_record()]).collect();
    host.wants(&all);
    holds(&store, &endpoint(999, 1)).await;
    host.is_settled().await;
    assert_eq!(store.audit("networks/n-a", 0).await.unwrap().keys, 1000);
    assert_eq!(store.revision().await.unwrap() - revision, 8);
    assert!(host.client.calls() - calls <= 10);
}

#[tokio::test(start_paused = true)]
async fn one_record_that_was_overtaken_holds_no_other_up() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    // The store never tells that it was changed: the condition stays a wrong one.
    store.lose_next_change();
    write_foreign(&store, &endpoint(1, 3)).await;
    let before = Instant::now();
    let all: Vec<_> = (2..50).map(|i| endpoint(i, 1)).chain([endpoint(1, 2)]).collect();
    host.wants(&all);
    holds(&store, &endpoint(49, 1)).await;
    assert!(before.elapsed() < Duration::from_millis(50), "{:?}", before.elapsed());
    host.says("somebody else keeps changing networks/n-a/endpoints/10.1.0.1").await;
    assert!(host.publishing.borrow().misses_events);
    host.scopes.list_again();
    holds(&store, &endpoint(1, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_store_never_shows_is_put_again_though_no_listing_missed_it() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    let backup = store.backup();
    // The store tells nobody of it, and then it is gone: what is known of the store is what it holds.
    store.lose_next_change();
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    holds(&store, &endpoint(2, 1)).await;
    store.restore(&backup);
    write(&store, Op::Put { key: "elsewhere".to_owned(), value: vec![] }).await;
    assert!(!host.publishing.borrow().misses_events);
    let missed = host.publishing.wait_for(|it| it.misses_events);
    timeout(Duration::from_secs(70), missed).await.expect("it is late").unwrap();
    host.scopes.list_again();
    holds(&store, &endpoint(2, 1)).await;
    host.is_settled().await;
    assert!(!host.publishing.borrow().misses_events);
}

#[tokio::test(start_paused = true)]
async fn one_record_that_cannot_be_sealed_holds_no_other_up() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    *host.unsealable.lock().unwrap() = Some(endpoint(1, 1).0);
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    holds(&store, &endpoint(2, 1)).await;
    host.says("cannot seal networks/n-a/endpoints/10.1.0.1: no number is left").await;
    host.wants(&[endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)]);
    holds(&store, &endpoint(3, 1)).await;
    *host.unsealable.lock().unwrap() = None;
    host.is_settled().await;
}

#[tokio::test(start_paused = true)]
async fn publishing_resumes_by_itself_when_the_store_is_back() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    store.stop();
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    host.says("cannot be reached").await;
    assert_eq!(host.publishing.borrow().unpublished, 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    host.wants(&[endpoint(3, 1)]);
    store.start();
    let before = Instant::now();
    host.is_settled().await;
    assert!(before.elapsed() <= Duration::from_secs(6), "{:?}", before.elapsed());
    holds(&store, &endpoint(3, 1)).await;
    lacks(&store, &endpoint(1, 1).0).await;
    assert_eq!(held(&store, &endpoint(2, 1).0).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_unpublished_is_counted_while_the_store_does_not_answer() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    host.wants(&[endpoint(1, 1)]);
    holds(&store, &endpoint(1, 1)).await;
    host.is_settled().await;
    host.client.hold();
    host.wants(&[endpoint(1, 1), endpoint(2, 1)]);
    host.counts(1).await;
    let since = Instant::now();
    host.wants(&[endpoint(1, 1), endpoint(2, 1), endpoint(3, 1), endpoint(4, 1)]);
    host.counts(3).await;
    host.wants(&[endpoint(1, 1), endpoint(4, 1)]);
    host.counts(1).await;
    assert_eq!(since.elapsed(), Duration::ZERO, "nothing was waited for");
    host.client.mend();
    host.is_settled().await;
    holds(&store, &endpoint(4, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_no_harm() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    for i in 0..20 {
        host.client.lose_answers(usize::from(i % 3));
        host.client.fail_next(usize::from(i % 2));
        let moving = endpoint(100, u64::from(i) + 1);
        host.wants(&[endpoint(i, 1), moving.clone()]);
        holds(&store, &moving).await;
    }
    host.is_settled().await;
    assert_eq!(store.audit("networks/n-a", 0).await.unwrap().keys, 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_never_right_is_not_put_at_the_speed_of_the_line() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    // No reader takes a claim of 0, this host neither.
    host.wants(&[endpoint(1, 0), endpoint(2, 1)]);
    holds(&store, &endpoint(2, 1)).await;
    let before = store.revision().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let puts = store.revision().await.unwrap() - before;
    assert!((50..80).contains(&puts), "{puts}");
    host.wants(&[endpoint(1, 0), endpoint(3, 1)]);
    holds(&store, &endpoint(3, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn another_history_gets_everything_again() {
    let store = MemoryStore::new();
    let mut host = Host::on(&store);
    let all = [host_record(), alive(), network_record(false), endpoint(1, 1)];
    host.wants(&all);
    host.is_settled().await;
    for i in 0..10 {
        write_foreign(&store, &endpoint(7, i)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.wipe();
    for wanted in &all {
        holds(&store, wanted).await;
    }
    host.is_settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_leased_record_lives_as_long_as_its_host_and_no_longer() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[alive(), host_record()]);
    holds(&store, &alive()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    holds(&store, &alive()).await;
    let before = Instant::now();
    host.client.cut();
    lacks(&store, &alive().0).await;
    assert!(before.elapsed() <= Duration::from_secs(46), "{:?}", before.elapsed());
    host.client.mend();
    holds(&store, &alive()).await;
    drop(host);
    lacks(&store, &alive().0).await;
    assert!(held(&store, &host_record().0).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_process_takes_its_leased_record_over() {
    let store = MemoryStore::new();
    let first = Host::on(&store);
    first.wants(&[alive()]);
    holds(&store, &alive()).await;
    drop(first);
    let second = Host::on(&store);
    second.wants(&[alive()]);
    // The first one's lease ends in this time, and the record with it if it still hung on it.
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        holds(&store, &alive()).await;
        assert_eq!(held(&store, &alive().0).await, Some((true, alive().1)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_is_replaced() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[alive()]);
    holds(&store, &alive()).await;
    store.revoke(1).await.unwrap();
    lacks(&store, &alive().0).await;
    let before = Instant::now();
    holds(&store, &alive()).await;
    assert!(before.elapsed() <= Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_was_never_listed_is_left_alone() {
    let store = MemoryStore::new();
    let host = Host::on(&store);
    host.wants(&[host_record(), (Path::Status(ME), Record::Status(Box::default()))]);
    holds(&store, &host_record()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.audit("status/", 0).await.unwrap().keys, 0);
    assert_eq!(host.publishing.borrow().unpublished, 1);
}

#[test]
fn an_absent_record_is_created_and_a_present_one_replaced_only_unchanged() {
    let wants = |(path, record): (Path, Record)| (path, Wanted { record, leased: false });
    let wanted = BTreeMap::from([wants(endpoint(1, 2)), wants(endpoint(2, 2))]);
    let there = Present { mine: true, record: Some(endpoint(1, 1).1), mod_revision: 7 };
    let left = Present { mine: true, record: None, mod_revision: 8 };
    let foreign = Present { mine: false, record: None, mod_revision: 9 };
    let present = BTreeMap::from([
        (endpoint(1, 1).0, there),
        (endpoint(3, 1).0, left),
        (endpoint(4, 1).0, foreign),
    ]);
    let conditions: Vec<_> = diff(&wanted, &present, None, &BTreeMap::new())
        .into_iter()
        .map(|change| (change.condition, matches!(change.deed, Deed::Delete)))
        .collect();
    let unchanged = |number, mod_revision| Condition::Unchanged {
        key: endpoint(number, 0).0.to_string(),
        mod_revision,
    };
    let absent = Condition::Absent(endpoint(2, 0).0.to_string());
    assert_eq!(conditions, [(unchanged(1, 7), false), (absent, false), (unchanged(3, 8), true)]);
}
