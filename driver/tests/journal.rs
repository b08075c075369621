//! The journal keeps its word: what was acknowledged is there, whatever happens to the process or disk.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[path = "journal/damage.rs"]
mod damage;
#[path = "journal/disk.rs"]
mod disk;
#[path = "journal/kept.rs"]
mod kept;
#[path = "journal/kill.rs"]
mod kill;
#[path = "journal/plain.rs"]
mod plain;
#[path = "protocol/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wgnet_core::{
    LocalEndpoint, LocalNetwork, LocalSlot, NetworkDefinition, NetworkOptions, Subnet,
};
use wgnet_driver::journal::{Journal, JournalError, LINGER, Random, State, sweep};
use wgnet_proto::{DockerNetworkId, EndpointId, HostId, MacAddr, NetworkKey, PrivateKey};

const SWARM_NETWORK: &str = "m3v0gvk6pj5e0l1y9h3kz1v2c";

fn random() -> Random {
    let count = AtomicU64::new(1);
    Arc::new(move |bytes| bytes.fill(count.fetch_add(1, Ordering::Relaxed) as u8))
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir, "boot-1", &random()).unwrap()
}

fn id(text: &str) -> DockerNetworkId {
    text.parse().unwrap()
}

fn network(id: &DockerNetworkId) -> LocalNetwork {
    let definition = NetworkDefinition {
        docker_id: id.clone(),
        key: if id.is_swarm() { NetworkKey::swarm(id) } else { NetworkKey::local(id) },
        subnets: vec![Subnet {
            pool: "10.0.0.0/8".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
        }],
        internal: false,
        options: NetworkOptions { port: Some(51900), ..NetworkOptions::default() },
        raw_options: BTreeMap::from([("port".to_owned(), "51900".to_owned())]),
        mtu: 1420,
    };
    let slots = vec![
        LocalSlot {
            generation: 0,
            private_key: PrivateKey::from_random([7; 32]),
            made: None,
            port: 51900,
        },
        LocalSlot {
            generation: 1,
            private_key: PrivateKey::from_random([8; 32]),
            made: Some(1_780_000_000),
            port: 51901,
        },
    ];
    LocalNetwork { definition, slots, endpoints: BTreeMap::new(), lingering: false }
}

fn endpoint_id(n: u64) -> EndpointId {
    format!("{n:064x}").parse().unwrap()
}

fn endpoint(n: u64) -> LocalEndpoint {
    let [_, _, _, _, _, a, b, c] = n.to_be_bytes();
    let address = format!("10.{a}.{b}.{c}/8").parse().unwrap();
    LocalEndpoint {
        id: endpoint_id(n),
        addresses: vec![address],
        mac: MacAddr::GATEWAY,
        mac_given: n.is_multiple_of(2),
        claim: n,
        sandbox: n.is_multiple_of(3).then(|| PathBuf::from("/run/docker/netns/x")),
        superseded: n.is_multiple_of(5),
    }
}

fn add_network(state: &mut State, id: &str) {
    let id = self::id(id);
    state.networks.insert(id.clone(), Arc::new(network(&id)));
}

fn add_endpoint(state: &mut State, n: u64) {
    add_endpoint_to(state, SWARM_NETWORK, n);
}

fn add_endpoint_to(state: &mut State, network: &str, n: u64) {
    state.network_mut(&id(network)).unwrap().endpoints.insert(endpoint_id(n), endpoint(n));
}

/// The durable part: what counts or measures this process's own time is left out.
fn durable(state: &State) -> State {
    let mut state = state.clone();
    state.revision = 0;
    state.changed.clear();
    state.lingers_until.values_mut().for_each(|until| *until = LINGER);
    state.deleted = Arc::new(state.deleted.keys().map(|id| (id.clone(), LINGER)).collect());
    state
}

#[tokio::test]
async fn everything_comes_back_as_it_was() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let (host, key) = (journal.host_id(), *journal.host_key().expose());
    let other = HostId([9; 16]);
    let plain = id(&"ab".repeat(32));
    let lingering = plain.clone();
    let change = move |state: &mut State| {
        add_network(state, SWARM_NETWORK);
        add_network(state, plain.as_str());
        (1..=30).for_each(|n| add_endpoint(state, n));
        let key = NetworkKey::swarm(&id(SWARM_NETWORK));
        state.raise_claim(&key, 77);
        state.raise_floor(&key, other, 5);
        state.raise_floor(&key, other, 4);
        state.freed.insert(key);
        state.cluster = Some("00112233445566778899aabbccddeeff".parse().unwrap());
        state.incarnation = Some("ffeeddccbbaa99887766554433221100".parse().unwrap());
        state.history = 4711;
        state.written_from = 12;
    };
    journal.update(change).await.unwrap();
    let rotate = move |state: &mut State| {
        state.network_mut(&id(SWARM_NETWORK)).unwrap().slots.remove(0);
        state.delete_endpoint(&id(SWARM_NETWORK), &endpoint_id(3), Duration::ZERO);
        state.supersede(&id(SWARM_NETWORK), &endpoint_id(4));
        state.linger(&lingering, Duration::ZERO);
    };
    journal.update(rotate).await.unwrap();
    let before = durable(&journal.state());
    drop(journal);
    let journal = open(dir.path());
    assert_eq!((journal.host_id(), journal.host_key().expose()), (host, &key));
    assert_eq!(durable(&journal.state()), before);
    assert_eq!(before.networks[&id(SWARM_NETWORK)].endpoints.len(), 29);
    assert!(before.networks[&id(SWARM_NETWORK)].endpoints[&endpoint_id(4)].superseded);
    assert_eq!(before.floor(&NetworkKey::swarm(&id(SWARM_NETWORK)), other), 5);
}

#[tokio::test]
async fn keys_of_an_older_journal_are_of_unknown_age() {
    use redb::ReadableTable as _;
    const NETWORKS: redb::TableDefinition<'static, &str, &[u8]> =
        redb::TableDefinition::new("networks");
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
    let (path, before) = (journal.path().to_owned(), journal.state());
    drop(journal);
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut networks = transaction.open_table(NETWORKS).unwrap();
        let row = networks.get(SWARM_NETWORK).unwrap().unwrap().value().to_vec();
        let mut row: serde_json::Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(row["made"], serde_json::json!({"1": 1_780_000_000_u64}));
        row.as_object_mut().unwrap().remove("made");
        networks.insert(SWARM_NETWORK, row.to_string().as_bytes()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let mut slots = before.networks[&id(SWARM_NETWORK)].slots.clone();
    slots.iter_mut().for_each(|slot| slot.made = None);
    assert_eq!(open(dir.path()).state().networks[&id(SWARM_NETWORK)].slots, slots);
}

#[tokio::test]
async fn the_file_and_its_directory_are_for_root_only() {
    let dir = TempDir::new().unwrap();
    let state_dir = dir.path().join("a/b");
    let journal = open(&state_dir);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state_dir), mode(journal.path())), (0o700, 0o600));
    let secret = format!("{:?}", journal.state().networks) + &format!("{:?}", journal.host_key());
    assert!(!secret.contains(&hex(journal.host_key().expose())));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_second_driver_is_refused_in_words() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let error = Journal::open(dir.path(), "boot-1", &random()).err().unwrap();
    assert!(matches!(error, JournalError::Busy { .. }));
    let sentence = error.sentence();
    assert!(
        sentence.contains("journal.redb")
            && sentence.contains("another wgnet-driver")
            && sentence.contains("stop"),
        "{sentence}"
    );
    drop(journal);
    open(dir.path());
}

#[tokio::test]
async fn a_refused_update_leaves_no_trace_and_harms_no_other() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
    let before = journal.state();
    let refuse = |state: &mut State| {
        add_endpoint(state, 1);
        Err::<(), JournalError>(JournalError::Aborted { path: PathBuf::new() })
    };
    let panic = |state: &mut State| {
        add_endpoint(state, 2);
        if !state.networks.is_empty() {
            std::panic::resume_unwind(Box::new("a bug"));
        }
    };
    let (refused, panicked, kept) = tokio::join!(
        journal.try_update(refuse),
        journal.update(panic),
        journal.update(|state| add_endpoint(state, 3))
    );
    assert!(refused.is_err() && matches!(panicked, Err(JournalError::Aborted { .. })));
    kept.unwrap();
    let endpoints = journal.state().networks[&id(SWARM_NETWORK)].endpoints.clone();
    assert_eq!(endpoints.keys().cloned().collect::<Vec<_>>(), [endpoint_id(3)]);
    assert_eq!(journal.state().revision, before.revision + 1);
    // A change that changes nothing is no revision.
    let ((), revision) = journal.update(|_| {}).await.unwrap();
    assert_eq!(revision, before.revision + 1);
}

#[tokio::test]
async fn followers_see_every_revision_and_when_each_network_changed() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let mut watch = journal.watch();
    let plain = id(&"ab".repeat(32));
    journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
    watch.changed().await.unwrap();
    let other = plain.clone();
    let ((), revision) =
        journal.update(move |state| add_network(state, other.as_str())).await.unwrap();
    watch.changed().await.unwrap();
    let state = watch.borrow().clone();
    assert_eq!(state.revision, revision);
    assert_eq!(state.revision_of(&plain), revision);
    assert_eq!(state.revision_of(&id(SWARM_NETWORK)), revision - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_updates_at_once_share_their_syncs() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    journal.update(|state| add_network(state, SWARM_NETWORK)).await.unwrap();
    let one = Instant::now();
    for n in 1000..1020 {
        journal.update(move |state| add_endpoint(state, n)).await.unwrap();
    }
    let one = one.elapsed() / 20;
    let before = journal.state().revision;
    let all = Instant::now();
    let updates = (0..50).map(|n| {
        let journal = journal.clone();
        async move { journal.update(move |state| add_endpoint(state, n)).await.unwrap() }
    });
    futures::future::join_all(updates).await;
    let all = all.elapsed();
    let commits = journal.state().revision - before;
    println!("one update: {one:?}; 50 at once: {all:?} in {commits} commits");
    assert!((1..=25).contains(&commits), "{commits} commits");
    assert_eq!(journal.state().networks[&id(SWARM_NETWORK)].endpoints.len(), 70);
}

#[tokio::test]
async fn sequence_numbers_rise_and_are_never_used_twice() {
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let journal = open(dir.path());
        for _ in 0..1500 {
            assert!(journal.next_unused_seq() > last);
            let seq = journal.next_seq().await.unwrap();
            assert!(seq > last);
            last = seq;
        }
    }
    let journal = open(dir.path());
    journal.raise_seq_above(1_000_000).await.unwrap();
    let raised = journal.next_seq().await.unwrap();
    assert!(raised > 1_000_000 + 1000, "what was deleted since had a higher one: {raised}");
    journal.raise_seq_above(17).await.unwrap();
    assert_eq!(journal.next_seq().await.unwrap(), raised + 1);
    drop(journal);
    assert!(open(dir.path()).next_seq().await.unwrap() > raised + 1);
}

#[tokio::test]
async fn sequence_numbers_taken_at_once_differ() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let seqs = futures::future::join_all((0..3000).map(|_| journal.next_seq())).await;
    let seqs: std::collections::BTreeSet<u64> = seqs.into_iter().map(Result::unwrap).collect();
    assert_eq!(seqs.len(), 3000);
}

#[tokio::test]
async fn a_new_boot_drops_endpoints_and_voids_what_was_published() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let plain = id(&"ab".repeat(32));
    let other = plain.clone();
    let fill = move |state: &mut State| {
        add_network(state, SWARM_NETWORK);
        add_network(state, other.as_str());
        add_endpoint(state, 1);
        state.delete_endpoint(&id(SWARM_NETWORK), &endpoint_id(2), Duration::ZERO);
    };
    journal.update(fill).await.unwrap();
    let published = journal.next_seq().await.unwrap();
    let (before, me) = (journal.state(), journal.host_id());
    drop(journal);
    let journal = Journal::open(dir.path(), "boot-2", &random()).unwrap();
    let state = journal.state();
    let swarm = &state.networks[&id(SWARM_NETWORK)];
    assert!(swarm.lingering && swarm.endpoints.is_empty());
    assert!(!state.networks[&plain].lingering);
    assert_eq!(swarm.slots, before.networks[&id(SWARM_NETWORK)].slots);
    assert!(state.deleted.is_empty());
    let floor = state.floor(&swarm.definition.key, me);
    assert!(floor > published && journal.next_seq().await.unwrap() >= floor);
}

#[tokio::test]
async fn records_are_kept_without_an_update_and_forgotten_on_request() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let record = |n: u8| (format!("hosts/{n}"), Some(vec![n; 300]));
    journal.keep_records((0..100).map(record).collect()).await.unwrap();
    journal
        .keep_records(vec![("hosts/7".to_owned(), None), ("hosts/8".to_owned(), Some(vec![1]))])
        .await
        .unwrap();
    assert_eq!(journal.state().revision, 0, "they are no intent");
    drop(journal);
    let records: BTreeMap<_, _> = open(dir.path()).records().await.unwrap().into_iter().collect();
    assert_eq!((records.len(), records.get("hosts/7"), &records["hosts/8"]), (99, None, &vec![1]));
    assert_eq!(records["hosts/99"], vec![99; 300]);
}

#[tokio::test]
async fn lingering_networks_and_deleted_ids_are_forgotten_when_their_time_is_over() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let stop = tokio_util::sync::CancellationToken::new();
    let (_view, views) = tokio::sync::watch::channel(Arc::default());
    let sweeper = tokio::spawn(sweep(journal.clone(), views, stop.clone()));
    let uptime = journal.uptime();
    let fill = move |state: &mut State| {
        add_network(state, SWARM_NETWORK);
        add_endpoint(state, 1);
        state.linger(&id(SWARM_NETWORK), uptime);
        assert_eq!(state.lingers_until[&id(SWARM_NETWORK)], uptime + LINGER);
        // As if that had been long ago.
        state.lingers_until.insert(id(SWARM_NETWORK), uptime + Duration::from_millis(300));
        let long_ago = state
            .deleted
            .keys()
            .map(|id| (id.clone(), uptime + Duration::from_millis(300)))
            .collect();
        state.deleted = Arc::new(long_ago);
    };
    journal.update(fill).await.unwrap();
    assert_eq!(journal.state().deleted.len(), 1);
    let mut states = journal.watch();
    let swept = states.wait_for(|state| state.networks.is_empty() && state.deleted.is_empty());
    tokio::time::timeout(Duration::from_secs(10), swept).await.unwrap().unwrap();
    stop.cancel();
    sweeper.await.unwrap();
    drop((journal, states));
    assert!(open(dir.path()).state().networks.is_empty());
}

#[tokio::test]
async fn a_network_the_cluster_knows_to_be_freed_does_not_linger() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let stop = tokio_util::sync::CancellationToken::new();
    let (view, views) = tokio::sync::watch::channel(Arc::default());
    let sweeper = tokio::spawn(sweep(journal.clone(), views, stop.clone()));
    let uptime = journal.uptime();
    let fill = move |state: &mut State| {
        add_network(state, SWARM_NETWORK);
        state.linger(&id(SWARM_NETWORK), uptime);
    };
    journal.update(fill).await.unwrap();
    let mut cluster = wgnet_core::ClusterView::default();
    let record = wgnet_proto::record::NetworkRecord {
        subnets: Vec::new(),
        options: BTreeMap::new(),
        freed: true,
    };
    let seen = wgnet_core::NetworkView { record: Some(record), ..Default::default() };
    cluster.networks.insert(NetworkKey::swarm(&id(SWARM_NETWORK)), seen);
    view.send_replace(Arc::new(cluster));
    let mut states = journal.watch();
    let swept = states.wait_for(|state| state.networks.is_empty());
    tokio::time::timeout(Duration::from_secs(30), swept).await.unwrap().unwrap();
    stop.cancel();
    sweeper.await.unwrap();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
