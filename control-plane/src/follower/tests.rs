use std::collections::{BTreeMap, BTreeSet};

use tokio::time::timeout;

use super::*;
use crate::store::{MemoryStore, Op, Txn};

/// A follower and what it is believed to show by one who only applies its events.
struct Reader {
    follower: Follower,
    keys: BTreeMap<String, Revision>,
    /// What happened, in short words.
    log: Vec<String>,
    _cancel: DropGuard,
}

impl Reader {
    fn of(store: &MemoryStore, scopes: &[&str]) -> Self {
        let cancel = CancellationToken::new();
        let follower = Follower::start(store.clone(), FollowerOptions::default(), &cancel);
        scopes.iter().for_each(|scope| follower.scopes().follow(*scope));
        let (keys, log) = (BTreeMap::new(), Vec::new());
        Self { follower, keys, log, _cancel: cancel.drop_guard() }
    }

    async fn read(&mut self) {
        let next = timeout(Duration::from_secs(3600), self.follower.next()).await;
        let said = match next.expect("something happens").expect("it goes on") {
            Followed::Connected => "connected".to_owned(),
            Followed::Disconnected { error } => format!("disconnected: {error}"),
            Followed::History { revision, highest } => {
                assert!(revision < highest);
                self.keys.clear();
                "history".to_owned()
            }
            Followed::Listed { scope, entries, .. } => {
                self.keys.retain(|key, _| !crate::store::covers(&scope, key));
                self.keys.extend(entries.into_iter().map(|entry| (entry.key, entry.mod_revision)));
                format!("listed {scope}")
            }
            Followed::Changed { changes, revision, .. } => {
                assert_eq!(changes.last().map(Change::mod_revision), Some(revision));
                for change in &changes {
                    match change {
                        Change::Put(entry) => {
                            let last = self.keys.insert(entry.key.clone(), entry.mod_revision);
                            assert!(last.is_none_or(|last| last < entry.mod_revision), "told once");
                        }
                        Change::Delete { key, .. } => assert!(self.keys.remove(key).is_some()),
                    }
                }
                let keys: Vec<_> = changes.iter().map(Change::key).collect();
                format!("changed {}", keys.join(" "))
            }
        };
        self.log.push(said);
    }

    /// Reads until something that begins with `word` was said.
    async fn until(&mut self, word: &str) {
        let from = self.log.len();
        while !self.log[from..].iter().any(|said| said.starts_with(word)) {
            self.read().await;
        }
    }

    async fn until_holds(&mut self, keys: &[&str]) {
        let keys: BTreeSet<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        while self.keys.keys().cloned().collect::<BTreeSet<_>>() != keys {
            self.read().await;
        }
    }

    fn count(&self, word: &str) -> usize {
        self.log.iter().filter(|said| said.starts_with(word)).count()
    }
}

async fn write(store: &MemoryStore, ops: Vec<Op>) {
    store.commit(Txn { conditions: vec![], ops }).await.unwrap();
}

fn put_op(key: &str) -> Op {
    Op::Put { key: key.into(), value: vec![] }
}

fn delete_op(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

async fn put(store: &MemoryStore, key: &str) {
    write(store, vec![put_op(key)]).await;
}

async fn delete(store: &MemoryStore, key: &str) {
    write(store, vec![delete_op(key)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_scope_is_listed_and_then_told_change_by_change() {
    let store = MemoryStore::new();
    put(&store, "hosts/1").await;
    put(&store, "networks/n/members/1").await;
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    put(&store, "networks/n/members/2").await;
    put(&store, "hosts/2").await;
    reader.until("changed").await;
    delete(&store, "hosts/1").await;
    reader.until("changed").await;
    assert_eq!(reader.log, ["listed hosts/", "connected", "changed hosts/2", "changed hosts/1"]);
    assert!(reader.keys.keys().eq(["hosts/2"]));
}

#[tokio::test(start_paused = true)]
async fn scopes_come_and_go_while_it_runs() {
    let store = MemoryStore::new();
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    reader.follower.scopes().follow("networks/n");
    reader.until("listed networks/n").await;
    put(&store, "networks/n").await;
    reader.until("changed networks/n").await;
    reader.follower.scopes().unfollow("networks/n");
    tokio::task::yield_now().await;
    put(&store, "networks/n/members/1").await;
    put(&store, "hosts/1").await;
    reader.until("changed hosts/1").await;
    assert_eq!(reader.count("changed networks/n/members/1"), 0);
    reader.follower.scopes().follow("networks/n");
    reader.until_holds(&["hosts/1", "networks/n", "networks/n/members/1"]).await;
    assert_eq!(reader.count("listed networks/n"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_is_told_and_a_watch_resumes_within_a_second_without_a_listing() {
    let store = MemoryStore::new();
    let client = store.client();
    put(&store, "hosts/1").await;
    let mut reader = Reader::of(&client, &["hosts/", "cluster"]);
    reader.until("connected").await;
    client.cut();
    reader.until("disconnected").await;
    put(&store, "hosts/2").await;
    delete(&store, "hosts/1").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    client.mend();
    let mended = tokio::time::Instant::now();
    reader.until("connected").await;
    assert!(mended.elapsed() <= Duration::from_millis(1100), "{:?}", mended.elapsed());
    reader.until_holds(&["hosts/2"]).await;
    assert_eq!(reader.count("listed hosts/"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_tried_by_one_scope_for_all() {
    let store = MemoryStore::new();
    let client = store.client();
    let scopes: Vec<_> = (0..20).map(|i| format!("networks/n{i}")).collect();
    let names: Vec<_> = scopes.iter().map(String::as_str).collect();
    let mut reader = Reader::of(&client, &names);
    reader.until("connected").await;
    client.cut();
    reader.until("disconnected").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let calls = client.calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = client.calls() - calls;
    assert!((600..=1200).contains(&tries), "{tries}");
    client.mend();
    reader.until("connected").await;
}

#[tokio::test(start_paused = true)]
async fn another_history_that_has_passed_ours_is_told_by_the_cluster_scope_first() {
    for round in 0..20 {
        let store = MemoryStore::new();
        let client = store.client();
        for key in ["cluster", "hosts/1", "networks/n"] {
            put(&store, key).await;
        }
        let mut reader = Reader::of(&client, &["cluster", "hosts/", "networks/n"]);
        reader.until("connected").await;
        client.cut();
        reader.until("disconnected").await;
        store.wipe();
        // Its record stands at the same revision as the other's.
        write(&store, vec![Op::Put { key: "cluster".into(), value: vec![1] }]).await;
        for _ in 0..10 {
            put(&store, "hosts/2").await;
        }
        tokio::time::sleep(Duration::from_millis(333 * round)).await;
        let from = reader.log.len();
        client.mend();
        reader.until_holds(&["cluster", "hosts/2"]).await;
        let told = reader.log[from..].iter().find(|said| !said.contains("connected"));
        assert_eq!(told.map(String::as_str), Some("listed cluster"), "{:?}", reader.log);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_line_and_a_missing_leader_are_told_and_survived() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut reader = Reader::of(&client, &["hosts/"]);
    reader.until("connected").await;
    client.hold();
    reader.until("disconnected").await;
    client.mend();
    reader.until("connected").await;
    store.lose_leader();
    reader.until("disconnected: etcd at memory has no leader").await;
    store.regain_leader();
    reader.until("connected").await;
    put(&store, "hosts/1").await;
    reader.until_holds(&["hosts/1"]).await;
    assert_eq!(reader.count("listed"), 1);
}

#[tokio::test(start_paused = true)]
async fn it_starts_with_the_store_absent() {
    let store = MemoryStore::new();
    store.stop();
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("disconnected").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.start();
    reader.until("connected").await;
    assert!(reader.log.last().is_some_and(|said| said == "connected"));
}

#[tokio::test(start_paused = true)]
async fn what_was_compacted_while_it_was_away_is_listed_again() {
    let store = MemoryStore::new();
    let client = store.client();
    put(&store, "hosts/1").await;
    put(&store, "hosts/2").await;
    let mut reader = Reader::of(&client, &["hosts/"]);
    reader.until("connected").await;
    client.cut();
    reader.until("disconnected").await;
    delete(&store, "hosts/1").await;
    put(&store, "hosts/3").await;
    put(&store, "hosts/3").await;
    store.compact();
    client.mend();
    reader.until_holds(&["hosts/2", "hosts/3"]).await;
    assert_eq!(reader.count("listed"), 2);
    put(&store, "hosts/4").await;
    reader.until("changed hosts/4").await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_store_is_another_history_and_every_scope_is_listed_in_it() {
    let store = MemoryStore::new();
    let mut reader = Reader::of(&store, &["cluster", "hosts/", "networks/n"]);
    reader.until("connected").await;
    for key in ["cluster", "hosts/1", "networks/n", "networks/n/members/1"] {
        put(&store, key).await;
    }
    reader.until_holds(&["cluster", "hosts/1", "networks/n", "networks/n/members/1"]).await;
    store.wipe();
    reader.until("history").await;
    let history = reader.log.len();
    put(&store, "hosts/2").await;
    reader.until_holds(&["hosts/2"]).await;
    while ["cluster", "hosts/", "networks/n"]
        .iter()
        .any(|scope| !reader.log[history..].contains(&format!("listed {scope}")))
    {
        reader.read().await;
    }
    assert_eq!(reader.count("history"), 1);
}

#[tokio::test(start_paused = true)]
async fn another_history_that_has_passed_ours_is_found_by_the_audit() {
    let store = MemoryStore::new();
    let client = store.client();
    put(&store, "hosts/1").await;
    let mut reader = Reader::of(&client, &["hosts/"]);
    reader.until("connected").await;
    client.cut();
    reader.until("disconnected").await;
    store.wipe();
    for _ in 0..10 {
        put(&store, "hosts/2").await;
    }
    client.mend();
    reader.until_holds(&["hosts/2"]).await;
    assert_eq!(reader.count("listed"), 2);
}

#[tokio::test(start_paused = true)]
async fn the_audit_finds_what_the_store_never_told() {
    let store = MemoryStore::new();
    put(&store, "hosts/1").await;
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    store.lose_next_change();
    delete(&store, "hosts/1").await;
    let lost = tokio::time::Instant::now();
    reader.until_holds(&[]).await;
    assert!(lost.elapsed() <= Duration::from_secs(610), "{:?}", lost.elapsed());
    store.lose_next_change();
    put(&store, "hosts/2").await;
    reader.until_holds(&["hosts/2"]).await;
    assert_eq!(reader.count("listed"), 3);
    assert_eq!(reader.count("disconnected"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_waits_for_the_cluster_in_vain_has_it_listed_again() {
    let store = MemoryStore::new();
    put(&store, "cluster").await;
    let mut reader = Reader::of(&store, &["cluster"]);
    reader.until("connected").await;
    store.lose_next_change();
    put(&store, "cluster").await;
    let lost = tokio::time::Instant::now();
    put(&store, "hosts/1").await;
    reader.follower.scopes().follow("hosts/");
    reader.until("listed hosts/").await;
    assert!(lost.elapsed() <= Duration::from_secs(10), "{:?}", lost.elapsed());
    assert_eq!(reader.count("listed cluster"), 2);
}

#[tokio::test(start_paused = true)]
async fn no_later_change_hides_from_the_audit_what_the_store_never_told() {
    let store = MemoryStore::new();
    for key in ["hosts/1", "hosts/2", "hosts/3"] {
        put(&store, key).await;
    }
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    for (lost, round) in [vec![put_op("hosts/1")], vec![delete_op("hosts/1"), put_op("hosts/4")]]
        .into_iter()
        .zip(1..)
    {
        store.lose_next_change();
        write(&store, lost).await;
        put(&store, "hosts/2").await;
        reader.until("changed hosts/2").await;
        let told = tokio::time::Instant::now();
        reader.until("listed hosts/").await;
        assert!(told.elapsed() <= Duration::from_secs(610), "{:?}", told.elapsed());
        assert_eq!(reader.count("listed"), 1 + round);
        let there = store.list("hosts/").await.unwrap().entries;
        let there = there.into_iter().map(|entry| (entry.key, entry.mod_revision));
        assert_eq!(reader.keys, there.collect());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_scope_that_is_whole_is_never_listed_again() {
    let store = MemoryStore::new();
    put(&store, "hosts/1").await;
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    put(&store, "hosts/2").await;
    reader.until("changed hosts/2").await;
    assert_eq!(reader.count("listed"), 1);
}

#[tokio::test(start_paused = true)]
async fn answers_that_overtake_each_other_are_no_other_history() {
    let store = MemoryStore::new();
    let scopes: Vec<_> = (0..20).map(|i| format!("networks/n{i}")).collect();
    let names: Vec<_> = scopes.iter().map(String::as_str).collect();
    let mut reader = Reader::of(&store, &names);
    for round in 0..200 {
        put(&store, &format!("networks/n{}/x{round}", round % 20)).await;
        if round % 10 == 0 {
            reader.follower.scopes().list_again();
        }
        if round % 35 == 0 {
            store.restart();
        }
    }
    let all: Vec<_> = (0..200).map(|round| format!("networks/n{}/x{round}", round % 20)).collect();
    reader.until_holds(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reader.count("history"), 0);
}

#[tokio::test(start_paused = true)]
async fn every_watch_that_begins_anew_is_counted() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut reader = Reader::of(&client, &["hosts/", "networks/n"]);
    reader.until("connected").await;
    let scopes = reader.follower.scopes();
    assert_eq!(scopes.watch_restarts(), 0, "the first ones");
    for round in 1..=3 {
        client.cut();
        reader.until("disconnected").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        client.mend();
        reader.until("connected").await;
        assert_eq!(scopes.watch_restarts(), 2 * round);
    }
    scopes.list_again();
    reader.until("listed networks/n").await;
    put(&store, "networks/n").await;
    reader.until("changed networks/n").await;
    put(&store, "hosts/1").await;
    reader.until("changed hosts/1").await;
    assert_eq!(scopes.watch_restarts(), 8, "of a listing, too");
    scopes.follow("networks/m");
    reader.until("listed networks/m").await;
    put(&store, "networks/m").await;
    reader.until("changed networks/m").await;
    assert_eq!(scopes.watch_restarts(), 8, "of a scope that is new, none");
}

#[tokio::test(start_paused = true)]
async fn dropping_it_ends_its_calls() {
    let store = MemoryStore::new();
    let mut reader = Reader::of(&store, &["hosts/"]);
    reader.until("connected").await;
    drop(reader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = store.calls();
    store.restart();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.calls(), calls);
}
