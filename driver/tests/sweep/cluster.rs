//! Records that nobody claims.

use std::collections::BTreeMap;
use std::time::Duration;

use wgnet_control_plane::admin::{ForgetHost, Release};
use wgnet_control_plane::session::LEASE_TTL;
use wgnet_control_plane::store::{Committed, MemoryStore, Op, Store, Txn};
use wgnet_driver::journal::State;
use wgnet_proto::record::{NetworkRecord, TombstoneRecord};
use wgnet_proto::{Path, Record, Sealer, seal};

use crate::world::{GRACE, Host, endpoint_id, keys_of, network_id, seconds, secrets, until};

const SOON: Duration = Duration::from_secs(30);

/// The last turn of three hosts, and a little.
const TURNS: Duration = Duration::from_secs(60);

async fn three(store: &MemoryStore) -> [Host; 3] {
    let mut hosts = [Host::new(1).await, Host::new(2).await, Host::new(3).await];
    for host in &mut hosts {
        host.plane.start_container(&host.sandbox());
        host.start(store);
    }
    let complete = async || {
        let mut all = true;
        for host in &hosts {
            all &= keys_of(store, host).await.len() == 4 && host.members() == 2;
        }
        all
    };
    until("three hosts know each other", SOON, complete).await;
    // Until what they know of each other is durable.
    seconds(30).await;
    hosts
}

async fn put(store: &MemoryStore, key: String, value: Vec<u8>) {
    let txn = Txn { conditions: vec![], ops: vec![Op::Put { key, value }] };
    assert!(matches!(store.commit(txn).await, Ok(Committed::Done { .. })));
}

/// Writes a record as a host would that is gone since.
async fn put_record(store: &MemoryStore, host: &Host, path: &Path, record: &Record) {
    let cluster = host.journal.state().cluster.unwrap();
    let sealer = Sealer::new(host.journal.host_key().clone(), secrets(), cluster);
    put(store, path.to_string(), sealer.seal_record(path, 1 << 40, record)).await;
}

#[tokio::test(start_paused = true)]
async fn records_of_a_dead_host_go_after_the_grace_and_not_before() {
    let store = MemoryStore::new();
    let [one, two, mut dead] = three(&store).await;
    dead.kill().await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(keys_of(&store, &dead).await.len(), 3, "only the lease is over");
    let gone = async || keys_of(&store, &dead).await.is_empty();
    until("the dead host's records are gone", LEASE_TTL + TURNS, gone).await;
    until("the others forget it", SOON, async || one.members() == 1 && two.members() == 1).await;
    assert_eq!(keys_of(&store, &one).await.len(), 4);
    assert_eq!(keys_of(&store, &two).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_back_is_complete_again() {
    let store = MemoryStore::new();
    let [one, _two, mut dead] = three(&store).await;
    dead.kill().await;
    until("it is forgotten", GRACE * 2, async || one.members() == 1).await;
    dead.start(&store);
    until("it is back", SOON, async || {
        keys_of(&store, &dead).await.len() == 4 && one.members() == 2
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_away_for_less_loses_nothing_however_often() {
    let store = MemoryStore::new();
    let [one, _two, mut away] = three(&store).await;
    for _ in 0..4 {
        away.kill().await;
        tokio::time::sleep(GRACE - LEASE_TTL).await;
        assert_eq!(keys_of(&store, &away).await.len(), 3);
        away.start(&store);
        until("it is back", SOON, async || keys_of(&store, &away).await.len() == 4).await;
        assert_eq!(one.members(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn time_without_a_store_does_not_count() {
    let store = MemoryStore::new();
    let [_one, _two, mut dead] = three(&store).await;
    dead.kill().await;
    seconds(60).await;
    store.stop();
    tokio::time::sleep(GRACE * 3).await;
    store.start();
    seconds(60).await;
    assert_eq!(keys_of(&store, &dead).await.len(), 3, "nobody saw whether it was there");
    until("it is gone", GRACE + TURNS, async || keys_of(&store, &dead).await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_wiped_store_never_had_of_a_dead_host_is_forgotten_everywhere() {
    let store = MemoryStore::new();
    let [one, two, mut dead] = three(&store).await;
    dead.kill().await;
    seconds(60).await;
    store.wipe();
    until("the others are back", SOON, async || keys_of(&store, &two).await.len() == 4).await;
    assert_eq!((one.members(), two.members()), (2, 2), "it may yet speak in this history");
    let forgotten = async || one.members() == 1 && two.members() == 1;
    until("it is forgotten", GRACE + LEASE_TTL + TURNS * 2, forgotten).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_could_not_note_its_cluster_founds_the_same_in_a_wiped_store() {
    let store = MemoryStore::new();
    let mut host = Host::new(1).await;
    host.journal.top_up_seqs().await.unwrap();
    host.fill_disk();
    host.start(&store);
    until("it is published", SOON, async || keys_of(&store, &host).await.len() == 4).await;
    assert_eq!(host.journal.state().cluster, None, "its disk is full");
    store.wipe();
    assert!(keys_of(&store, &host).await.is_empty());
    until("it is back", SOON, async || keys_of(&store, &host).await.len() == 4).await;
}

/// The record of a network that nobody is a member of.
async fn put_memberless(store: &MemoryStore, by: &Host) {
    let path = Path::Network("n-red".parse().unwrap());
    let record = NetworkRecord { subnets: vec![], options: BTreeMap::new(), freed: false };
    put_record(store, by, &path, &Record::Network(record)).await;
}

async fn has_memberless(store: &MemoryStore) -> bool {
    !store.list("networks/n-red").await.unwrap().entries.is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_network_that_its_last_member_did_not_live_to_delete_goes_with_the_next_start() {
    let store = MemoryStore::new();
    let [one, mut two, _three] = three(&store).await;
    seconds(120).await;
    two.kill().await;
    put_memberless(&store, &one).await;
    let stands = async || has_memberless(&store).await;
    seconds(30).await;
    assert!(stands().await);
    two.start(&store);
    until("it is gone", SOON, async || !stands().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_nobody_has_goes_after_the_grace() {
    let store = MemoryStore::new();
    let [one, _two, _three] = three(&store).await;
    // Each has looked twice by then for what was left behind, which goes at once.
    seconds(120).await;
    put_memberless(&store, &one).await;
    let stands = async || has_memberless(&store).await;
    tokio::time::sleep(GRACE - Duration::from_secs(10)).await;
    assert!(stands().await);
    until("it is gone", GRACE, async || !stands().await).await;
}

#[tokio::test(start_paused = true)]
async fn records_of_a_revoked_host_go_at_once() {
    let store = MemoryStore::new();
    let [one, _two, mut revoked] = three(&store).await;
    revoked.kill().await;
    seconds(60).await;
    let path = Path::Tombstone(revoked.id());
    let tombstone = TombstoneRecord { reason: "stolen".to_owned() };
    put_record(&store, &one, &path, &Record::Tombstone(tombstone)).await;
    let gone = async || keys_of(&store, &revoked).await == [path.to_string()];
    until("only the tombstone is left", TURNS, gone).await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_forget_a_dead_host_and_no_living_one() {
    let store = MemoryStore::new();
    let [one, _two, mut dead] = three(&store).await;
    let order = |host: String| {
        let orderer = one.orderer();
        async move { orderer.forget_host(ForgetHost { host }).await }
    };
    assert!(order(dead.name()).await.unwrap_err().contains("alive"));
    assert!(order(one.name()).await.unwrap_err().contains("this very host"));
    assert!(order("nobody".to_owned()).await.unwrap_err().contains("no host"));
    dead.kill().await;
    tokio::time::sleep(LEASE_TTL + SOON).await;
    let forgotten = order(dead.name()).await.unwrap();
    assert_eq!((forgotten.host_id, forgotten.records), (dead.id(), 3));
    assert!(keys_of(&store, &dead).await.is_empty());
    until("it is out of the network", SOON, async || one.members() == 1).await;
    assert_eq!(order(dead.id().to_string()).await.unwrap().records, 0, "the same order again");
    let unknown = "0f".repeat(16);
    assert!(order(unknown).await.unwrap_err().contains("nothing is known"));
}

/// Three hosts of which the first, whose driver looked away meanwhile, is told no more of the keys that
/// begin so with the others.
async fn three_that_lost_two(store: &MemoryStore, scope: &str) -> [Host; 3] {
    let [mut one, mut two, mut three] = three(store).await;
    for host in [&mut one, &mut two, &mut three] {
        host.kill().await;
    }
    lose(store, scope, [&two, &three]).await;
    one.start(store);
    until("it is held", SOON, async || !one.status().held.is_empty()).await;
    [one, two, three]
}

/// The same while the first one's driver runs, cut off from the store.
async fn two_lost_behind_the_back_of_the_first(store: &MemoryStore, scope: &str) -> [Host; 3] {
    let [one, mut two, mut three] = three(store).await;
    one.line().cut();
    two.kill().await;
    three.kill().await;
    lose(store, scope, [&two, &three]).await;
    store.compact();
    one.line().mend();
    until("it is held", SOON, async || !one.status().held.is_empty()).await;
    [one, two, three]
}

/// The store loses of these hosts what begins so.
async fn lose(store: &MemoryStore, scope: &str, of: [&Host; 2]) {
    for host in of {
        let keys = keys_of(store, host).await.into_iter().filter(|key| key.starts_with(scope));
        let ops: Vec<Op> = keys.map(|key| Op::Delete { key }).collect();
        assert!(!ops.is_empty(), "{scope} of {}", host.id());
        store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_lost_most_hosts_waits_for_an_order() {
    let store = MemoryStore::new();
    let [one, two, three] = three_that_lost_two(&store, "hosts/").await;
    let held = one.status().held;
    assert_eq!((held.len(), held[0].scope.as_str()), (1, "hosts/"));
    assert_eq!((held[0].vanishing, held[0].of, one.hosts()), (2, 3, 2));
    let names = [two.name(), three.name()];
    assert!(held[0].hosts.iter().all(|name| names.contains(name)), "{held:?}");

    let order = Release { network: Some("hosts".to_owned()) };
    assert_eq!(one.orderer().release(order).await.unwrap().len(), 1);
    until("it is believed", Duration::from_secs(5), async || one.hosts() == 0).await;
    assert!(one.status().held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_lost_most_hosts_is_never_believed_without_an_order() {
    let store = MemoryStore::new();
    let [one, _two, _three] = three_that_lost_two(&store, "hosts/").await;
    tokio::time::sleep(GRACE * 3).await;
    assert_eq!((one.hosts(), one.members()), (2, 2));
    assert_eq!(one.status().held[0].vanishing, 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_held_is_forgotten_by_order_and_the_rest_may_be_believed() {
    let store = MemoryStore::new();
    let [one, two, _three] = two_lost_behind_the_back_of_the_first(&store, "hosts/").await;
    tokio::time::sleep(LEASE_TTL + SOON).await;
    let order = ForgetHost { host: two.name() };
    assert_eq!(one.orderer().forget_host(order).await.unwrap().host_id, two.id());
    until("nothing is held", SOON, async || one.status().held.is_empty()).await;
    assert_eq!((one.hosts(), one.members()), (0, 1), "one of two may go");
}

#[tokio::test(start_paused = true)]
async fn an_address_of_a_member_that_is_held_can_be_given_to_another_host() {
    let store = MemoryStore::new();
    let [one, two, _three] = two_lost_behind_the_back_of_the_first(&store, "networks/").await;
    let address = std::net::IpAddr::from([10, 50, 0, 12]);
    assert_eq!(one.owner(address), Some(two.id()));
    let adopt = move |state: &mut State| {
        let network = state.network_mut(&network_id()).unwrap();
        let endpoint = network.endpoints.get_mut(&endpoint_id(1)).unwrap();
        endpoint.addresses = vec![ipnet::IpNet::new(address, 24).unwrap()];
        endpoint.claim = 9;
    };
    one.journal.update(adopt).await.unwrap();
    let key = Path::Endpoint(wgnet_proto::NetworkKey::swarm(&network_id()), address).to_string();
    let is_ours = async || {
        let listing = store.list(&key).await.unwrap();
        let mut writers = listing.entries.iter().map(|entry| seal::claimed_writer(&entry.value));
        writers.any(|writer| writer == Some(one.id()))
    };
    until("it is published", SOON, is_ours).await;
    assert_eq!((one.owner(address), one.members()), (Some(one.id()), 2));
}

#[tokio::test(start_paused = true)]
async fn members_that_live_and_have_left_are_believed_after_a_minute() {
    let store = MemoryStore::new();
    let [mut one, mut two, mut three] = three(&store).await;
    one.kill().await;
    for host in [&mut two, &mut three] {
        host.journal.update(|state| state.forget(&network_id())).await.unwrap();
    }
    let left = async || {
        let both = [keys_of(&store, &two).await, keys_of(&store, &three).await];
        both.iter().flatten().all(|key| !key.contains("/members/"))
    };
    until("both have left", Duration::from_secs(300), left).await;
    one.start(&store);
    until("it is held", SOON, async || !one.status().held.is_empty()).await;
    seconds(40).await;
    assert_eq!(one.members(), 2, "they have time to put their records back");
    until("they are believed", SOON * 2, async || one.members() == 0).await;
    assert_eq!((one.status().held.len(), one.hosts()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn hosts_that_put_their_records_back_within_the_minute_were_never_lost() {
    let store = MemoryStore::new();
    let [one, mut two, mut three] = three_that_lost_two(&store, "hosts/").await;
    two.start(&store);
    three.start(&store);
    let mut waited = Duration::ZERO;
    while waited < Duration::from_secs(90) {
        assert_eq!((one.hosts(), one.members()), (2, 2), "after {waited:?}");
        seconds(1).await;
        waited += Duration::from_secs(1);
    }
    assert!(one.status().held.is_empty());
    for host in [&two, &three] {
        assert_eq!(keys_of(&store, host).await.len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_lost_most_members_waits_for_an_order() {
    let store = MemoryStore::new();
    let [one, two, three] = three_that_lost_two(&store, "networks/").await;
    let held = one.status().held;
    assert_eq!((held[0].vanishing, held[0].of, one.members()), (2, 3, 2));
    let names = [two.name(), three.name()];
    assert!(held[0].hosts.iter().all(|name| names.contains(name)), "{held:?}");

    let release = |network: Option<&str>| {
        let order = Release { network: network.map(str::to_owned) };
        let orderer = one.orderer();
        async move { orderer.release(order).await }
    };
    assert!(release(Some("n-green")).await.is_err());
    assert_eq!(one.members(), 2);
    assert_eq!(release(None).await.unwrap().len(), 1);
    until("it is believed", Duration::from_secs(5), async || one.members() == 0).await;
    assert!(one.status().held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_end_nobody_told_of_yields_to_the_one_in_the_store() {
    let store = MemoryStore::new();
    let [one, two, mut away] = three(&store).await;
    let address = std::net::IpAddr::from([10, 50, 0, 12]);
    assert_eq!(away.owner(address), Some(two.id()));
    away.kill().await;
    // The address moves to a host that numbers its claim lower, as one may that knows no better.
    let delete = |state: &mut State| {
        state.delete_endpoint(&network_id(), &endpoint_id(2), Duration::ZERO);
    };
    two.journal.update(delete).await.unwrap();
    let path = Path::Endpoint(wgnet_proto::NetworkKey::swarm(&network_id()), address);
    let taken_back = async || store.list(&path.to_string()).await.unwrap().entries.is_empty();
    until("it is taken back", SOON, taken_back).await;
    let adopt = move |state: &mut State| {
        let network = state.network_mut(&network_id()).unwrap();
        let endpoint = network.endpoints.get_mut(&endpoint_id(1)).unwrap();
        endpoint.addresses = vec![ipnet::IpNet::new(address, 24).unwrap()];
    };
    one.journal.update(adopt).await.unwrap();
    until("it is given anew", SOON, async || !taken_back().await).await;
    store.compact();
    away.start(&store);
    let follows = async || away.owner(address) == Some(one.id());
    until("the returned host follows", Duration::from_secs(60), follows).await;
}
