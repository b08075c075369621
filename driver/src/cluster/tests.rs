//! One host's cluster task against a store in memory; the others are written by hand.

mod another_secret;
mod ended;
mod hanging;
mod mute;
mod refused;
mod remember;
mod rubbish;
mod secret;
mod taking;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_control_plane::store::{
    Audit, Committed, LeaseId, Listing, MemoryStore, Op, Revision, Store, StoreError, Txn,
};
use wgnet_core::{ClusterView, LocalNetwork, NetworkDefinition, NetworkOptions, Subnet};
use wgnet_proto::record::{ClusterRecord, EndpointRecord, MemberRecord, Slot};
use wgnet_proto::{
    Claim, ClusterId, ClusterSecrets, DockerNetworkId, Generation, HostId, HostKey, Incarnation,
    MacAddr, NetworkKey, Path, PrivateKey, Record, Sealer,
};

use super::*;
use crate::journal::MemoryDisk;
use mute::Mute;

/// Well below the time that the brake holds a listing.
const SOON: Duration = Duration::from_secs(10);

/// A network that was left is followed until no write of this host can be under way any more.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(80);

/// A claim that nobody puts back has had its time.
const YIELDED: Duration = Duration::from_secs(40);

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 50, 0, 7));

const ANOTHER: Incarnation = Incarnation([9; 16]);

/// A store whose networks are listed late, so that everything else is known before.
#[derive(Clone)]
struct Late(MemoryStore, Arc<Mute>);

impl Store for Late {
    type Watch = <MemoryStore as Store>::Watch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        if scope.starts_with("networks/") {
            sleep(Duration::from_millis(100)).await;
        }
        self.0.list(scope).await
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<Self::Watch, StoreError> {
        self.0.watch(scope, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.1.answers(&txn).await?;
        self.0.commit(txn).await
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        self.0.audit(scope, since).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.1.answers_at_all("grant").await?;
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
}

struct Rig {
    store: MemoryStore,
    /// Its way to the store.
    line: MemoryStore,
    /// Whether nothing that it writes there is answered.
    mute: Arc<Mute>,
    me: HostId,
    journal: Journal,
    /// Whether the journal's disk hangs.
    hang: watch::Sender<bool>,
    problems: Problems,
    view: watch::Receiver<Arc<ClusterView>>,
    status: watch::Receiver<ClusterStatus>,
    others: Vec<HostKey>,
    secrets: ClusterSecrets,
    random: Random,
    seq: u64,
    _stop: DropGuard,
}

fn network() -> NetworkKey {
    NetworkKey::swarm(&docker_id())
}

fn docker_id() -> DockerNetworkId {
    "a".repeat(25).parse().unwrap()
}

fn private_key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

fn with_one_network(state: &mut crate::journal::State) {
    let definition = NetworkDefinition {
        docker_id: docker_id(),
        key: network(),
        subnets: vec![Subnet { pool: "10.50.0.0/24".parse().unwrap(), gateway: None }],
        internal: false,
        options: NetworkOptions::default(),
        raw_options: BTreeMap::new(),
        mtu: 1420,
    };
    let slot = wgnet_core::LocalSlot {
        generation: Generation::default(),
        private_key: private_key(1),
        made: None,
        port: 51820,
    };
    let endpoints = BTreeMap::new();
    let network = LocalNetwork { definition, slots: vec![slot], endpoints, lingering: false };
    state.networks.insert(docker_id(), Arc::new(network));
}

/// What a driver tells, and what ends it.
type Running = (watch::Receiver<Arc<ClusterView>>, watch::Receiver<ClusterStatus>, DropGuard);

fn launch(
    store: Late,
    journal: &Journal,
    random: Random,
    secrets: ClusterSecrets,
    problems: Problems,
) -> Running {
    let facts = HostFacts {
        me: journal.host_id(),
        name: "me".to_owned(),
        version: "0".to_owned(),
        backend: "model".to_owned(),
        boot: "boot".to_owned(),
        underlay: Vec::new(),
    };
    let (underlay, addresses) = watch::channel(Underlay::default());
    let (view, views) = watch::channel(Arc::new(ClusterView::default()));
    let inputs = Inputs {
        store,
        host_key: journal.host_key().clone(),
        journal: journal.clone(),
        secrets,
        facts,
        underlay: addresses,
        random,
        problems,
        dead_host_grace: Duration::from_secs(7 * 86_400),
        orders: Orders::default(),
        progress: Progress::default(),
    };
    let (status, told) = watch::channel(ClusterStatus::default());
    let outputs = Outputs { view, status, remembered: oneshot::channel().0 };
    let cancel = CancellationToken::new();
    let running = run(inputs, outputs, cancel.clone());
    tokio::spawn(async move {
        // Whoever tells of the underlay lives as long as whoever listens.
        let _underlay = underlay;
        running.await;
    });
    (views, told, cancel.drop_guard())
}

impl Rig {
    /// A host with one network, which two others share.
    async fn start() -> Self {
        Self::with(ClusterSecrets::generate([7; 32])).await
    }

    async fn with(secrets: ClusterSecrets) -> Self {
        let count = AtomicU8::new(100);
        let random: Random =
            Arc::new(move |bytes| bytes.fill(count.fetch_add(1, Ordering::SeqCst)));
        let (hang, hangs) = watch::channel(false);
        let gate: crate::journal::Gate = Arc::new(move || {
            let mut hangs = hangs.clone();
            Box::pin(async move { drop(hangs.wait_for(|is_so| !is_so).await) })
        });
        let journal =
            Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
        journal.update(with_one_network).await.unwrap();
        let (store, me) = (MemoryStore::new(), journal.host_id());
        let (line, mute) = (store.client(), Arc::<Mute>::default());
        let problems = Problems::default();
        let late = Late(line.clone(), Arc::clone(&mute));
        let (view, status, _stop) =
            launch(late, &journal, random.clone(), secrets.clone(), problems.clone());
        let others = [2, 3].map(|number| HostKey::from_random([number; 32])).to_vec();
        let seq = 1;
        let mut rig = Self {
            store,
            line,
            mute,
            me,
            journal,
            hang,
            problems,
            view,
            status,
            others,
            secrets,
            random,
            seq,
            _stop,
        };
        rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
        let cluster = rig.founded(None).await;
        for number in 0..rig.others.len() {
            rig.write(number, cluster.cluster, rig.member(number)).await;
            rig.write(number, cluster.cluster, rig.host(number, cluster.incarnation)).await;
        }
        rig.until("three members", |rig| Box::pin(async { rig.members() == 3 })).await;
        rig
    }

    /// The driver ends, and starts again when this is done.
    async fn restart_after(&mut self, meanwhile: impl AsyncFnOnce(&mut Self)) {
        self._stop = CancellationToken::new().drop_guard();
        meanwhile(self).await;
        let late = Late(self.line.clone(), Arc::clone(&self.mute));
        self.problems = Problems::default();
        (self.view, self.status, self._stop) = launch(
            late,
            &self.journal,
            self.random.clone(),
            self.secrets.clone(),
            self.problems.clone(),
        );
    }

    fn has(&self, code: &str) -> bool {
        self.problems.list().iter().any(|problem| problem.code == code)
    }

    /// Whether the journal would bring any network's records back at the next start.
    async fn remembers_networks(&self) -> bool {
        let records = self.journal.records().await.unwrap();
        records.iter().any(|(key, _)| key.starts_with("networks/"))
    }

    fn members(&self) -> usize {
        let view = self.view.borrow();
        view.networks.get(&network()).map_or(0, |network| network.members.len())
    }

    fn member(&self, number: usize) -> (Path, Record) {
        let public_key = private_key(u8::try_from(10 + number).unwrap()).public();
        let generation = Generation::default();
        let slot = Slot { generation, public_key, port: 51820, underlay: Vec::new() };
        let record = MemberRecord { slots: vec![slot], ready_generation: generation, floor: 0 };
        (Path::Member(network(), self.others[number].id()), Record::Member(record))
    }

    fn host(&self, number: usize, incarnation: Incarnation) -> (Path, Record) {
        let me = self.others[number].id();
        let facts = HostFacts {
            me,
            name: format!("other{number}"),
            version: "0".to_owned(),
            backend: "model".to_owned(),
            boot: "boot".to_owned(),
            underlay: Vec::new(),
        };
        (Path::Host(me), wanted::host_record(&facts, incarnation))
    }

    fn endpoint(&self, number: usize, claim: Claim) -> (Path, Record) {
        let digit = char::from_digit(u32::try_from(number).unwrap(), 10).unwrap();
        let record = EndpointRecord {
            addresses: vec![ADDRESS],
            endpoint: digit.to_string().repeat(64).parse().unwrap(),
            host: self.others[number].id(),
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            claim,
        };
        (Path::Endpoint(network(), ADDRESS), Record::Endpoint(record))
    }

    /// Which of the others has the address.
    fn owner(&self) -> Option<usize> {
        let view = self.view.borrow();
        let host = view.networks.get(&network())?.endpoints.get(&ADDRESS)?.host;
        self.others.iter().position(|other| other.id() == host)
    }

    async fn write(&mut self, number: usize, cluster: ClusterId, (path, record): (Path, Record)) {
        self.seq += 1;
        let sealer = Sealer::new(self.others[number].clone(), self.secrets.clone(), cluster);
        let value = sealer.seal_record(&path, self.seq, &record);
        let put = Op::Put { key: path.to_string(), value };
        let txn = Txn { conditions: vec![], ops: vec![put] };
        assert!(matches!(self.store.commit(txn).await, Ok(Committed::Done { .. })));
    }

    /// The record of the cluster; with another incarnation if one is named.
    async fn founded(&self, incarnation: Option<Incarnation>) -> ClusterRecord {
        let listing = self.store.list(CLUSTER).await.unwrap();
        let mut judge = Judge::new(self.secrets.clone(), None, HostId([0; 16]));
        for entry in listing.entries {
            judge.put(&entry.key, &entry.value, entry.mod_revision);
        }
        let record = judge.cluster().unwrap();
        ClusterRecord { incarnation: incarnation.unwrap_or(record.incarnation), ..record }
    }

    /// Another history, founded by one of the others while this host's line is cut.
    async fn wiped(&mut self) -> ClusterId {
        let cluster = self.founded(Some(ANOTHER)).await;
        self.line.cut();
        self.store.wipe();
        let id = cluster.cluster;
        self.write(0, id, (Path::Cluster, Record::Cluster(cluster))).await;
        id
    }

    /// Another store, with nothing in it but this record of a cluster.
    async fn elsewhere(&mut self, cluster: &ClusterRecord) {
        self.line.cut();
        self.store.wipe();
        self.write(0, cluster.cluster, (Path::Cluster, Record::Cluster(cluster.clone()))).await;
        self.line.mend();
    }

    async fn revision_of(&self, path: Path) -> Option<Revision> {
        let listing = self.store.list(&path.to_string()).await.unwrap();
        listing.entries.first().map(|entry| entry.mod_revision)
    }

    async fn has_written(&self) -> bool {
        let member = self.revision_of(Path::Member(network(), self.me)).await;
        member.is_some() && self.revision_of(Path::Host(self.me)).await.is_some()
    }

    async fn until(
        &self,
        what: &str,
        is_so: impl for<'r> Fn(&'r Self) -> futures::future::BoxFuture<'r, bool>,
    ) {
        self.within(SOON, what, is_so).await;
    }

    async fn within(
        &self,
        limit: Duration,
        what: &str,
        is_so: impl for<'r> Fn(&'r Self) -> futures::future::BoxFuture<'r, bool>,
    ) {
        let begun = Instant::now();
        while !is_so(self).await {
            assert!(begun.elapsed() < limit, "{what} did not come within {limit:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_restored_while_the_driver_was_down_is_noticed() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await;
    let stands = rig.store.list("cluster").await.unwrap().entries.remove(0).value;
    rig.write(0, cluster.cluster, rig.host(0, cluster.incarnation)).await;
    rig.within(Duration::from_secs(601), "a note of how far it has come", |rig| {
        Box::pin(async {
            rig.journal.state().store_revision
                >= rig.revision_of(Path::Host(rig.others[0].id())).await.unwrap()
        })
    })
    .await;
    let noted = rig.journal.state().store_revision;
    // A backup from before everything but the cluster.
    rig.restart_after(async |rig| {
        rig.store.wipe();
        let key = Path::Cluster.to_string();
        let put = Txn { conditions: vec![], ops: vec![Op::Put { key, value: stands.clone() }] };
        rig.store.commit(put).await.unwrap();
    })
    .await;
    rig.until("another history", |rig| {
        let before = cluster.incarnation;
        Box::pin(async move { rig.founded(None).await.incarnation != before })
    })
    .await;
    assert!(rig.has("store-history"));
    assert_eq!(rig.members(), 3, "the others have not spoken since");
    rig.until("the new one in the journal", |rig| {
        Box::pin(async move { rig.journal.state().store_revision < noted })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_address_is_told_as_long_as_it_is_there() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    let id: wgnet_proto::EndpointId = "e".repeat(64).parse().unwrap();
    let made = id.clone();
    let endpoint = wgnet_core::LocalEndpoint {
        id: id.clone(),
        addresses: vec![ADDRESS.into()],
        mac: MacAddr([2, 0, 0, 0, 0, 7]),
        mac_given: false,
        claim: 1,
        sandbox: None,
        superseded: false,
    };
    let make = move |state: &mut crate::journal::State| {
        state.network_mut(&docker_id()).unwrap().endpoints.insert(made, endpoint);
    };
    rig.journal.update(make).await.unwrap();
    let endpoint = Path::Endpoint(network(), ADDRESS);
    rig.until("its record", |rig| {
        let endpoint = endpoint.clone();
        Box::pin(async move { rig.revision_of(endpoint).await.is_some() })
    })
    .await;
    rig.write(0, cluster, rig.endpoint(0, 9)).await;
    let is_told = |rig: &Rig| rig.has("address-lost");
    rig.until("the loss", |rig| Box::pin(async move { is_told(rig) })).await;
    // Of the paused clock: longer than whatever passes by itself is shown.
    sleep(Duration::from_secs(3600)).await;
    assert!(is_told(&rig));
    rig.restart_after(async |_| {}).await;
    rig.until("the loss once more", |rig| Box::pin(async move { is_told(rig) })).await;
    let remove = move |state: &mut crate::journal::State| {
        state.network_mut(&docker_id()).unwrap().endpoints.remove(&id);
    };
    rig.journal.update(remove).await.unwrap();
    rig.until("no loss", |rig| Box::pin(async move { !is_told(rig) })).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_puts_its_own_records_back_while_most_others_are_missing() {
    let mut rig = Rig::start().await;
    let cluster = rig.wiped().await;
    for number in 0..2 {
        // They say that all of theirs is there, and it is not.
        rig.write(number, cluster, rig.host(number, ANOTHER)).await;
    }
    rig.line.mend();
    rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
    assert_eq!(rig.members(), 3, "the brake holds what the listing lacks of others");
}

#[tokio::test(start_paused = true)]
async fn what_was_known_of_a_network_that_was_left_is_forgotten_here_and_in_the_journal() {
    let mut rig = Rig::start().await;
    assert!(rig.remembers_networks().await);
    let cluster = rig.wiped().await;
    for number in 0..2 {
        rig.write(number, cluster, rig.host(number, ANOTHER)).await;
    }
    rig.line.mend();
    rig.until("a listing that is held", |rig| Box::pin(async { rig.has("mass-delete-held") }))
        .await;
    rig.journal.update(|state| state.forget(&docker_id())).await.unwrap();
    rig.within(FORGOTTEN_WITHIN, "nothing remembered", |rig| {
        Box::pin(async { !rig.remembers_networks().await && rig.members() == 0 })
    })
    .await;
    assert!(!rig.has("mass-delete-held"), "nobody can release it any more");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_others_still_have_is_followed_no_more_once_it_is_left() {
    let rig = Rig::start().await;
    rig.journal.update(|state| state.forget(&docker_id())).await.unwrap();
    rig.within(FORGOTTEN_WITHIN, "nothing known of it", |rig| {
        Box::pin(async { rig.members() == 0 && !rig.remembers_networks().await })
    })
    .await;
    let others = [rig.member(0).0, rig.member(1).0];
    for path in [Path::Member(network(), rig.me), others[0].clone(), others[1].clone()] {
        assert_eq!(rig.revision_of(path.clone()).await.is_some(), others.contains(&path));
    }
}

#[tokio::test(start_paused = true)]
async fn the_claim_of_a_network_that_was_left_is_remembered_until_it_is_freed() {
    let rig = Rig::start().await;
    let leave = |state: &mut crate::journal::State| {
        state.raise_claim(&network(), 7);
        state.forget(&docker_id());
    };
    rig.journal.update(leave).await.unwrap();
    rig.until("its member record gone", |rig| {
        Box::pin(async { rig.revision_of(Path::Member(network(), rig.me)).await.is_none() })
    })
    .await;
    assert_eq!(rig.journal.state().claims.get(&network()), Some(&7), "it may come back");
    rig.journal.update(|state| state.freed.insert(network())).await.unwrap();
    rig.until("the end of it", |rig| Box::pin(async { rig.journal.state().freed.is_empty() }))
        .await;
    assert!(rig.journal.state().claims.is_empty(), "nobody can ask for it again");
}

#[tokio::test(start_paused = true)]
async fn another_clusters_store_is_said_each_time_it_is_met() {
    let mut rig = Rig::start().await;
    let ours = rig.founded(None).await;
    let theirs = ClusterRecord { cluster: ClusterId([8; 16]), ..ours.clone() };
    for _ in 0..2 {
        rig.elsewhere(&theirs).await;
        rig.until("the problem", |rig| Box::pin(async { rig.has("foreign-cluster") })).await;
        rig.elsewhere(&ours).await;
        rig.until("its end", |rig| Box::pin(async { !rig.has("foreign-cluster") })).await;
        rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_history_is_announced_once() {
    let mut rig = Rig::start().await;
    // The new record stands at the revision of the old one.
    rig.wiped().await;
    rig.line.mend();
    rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
    assert_eq!(rig.founded(None).await.incarnation, ANOTHER);
}

#[tokio::test(start_paused = true)]
async fn a_host_says_that_its_records_are_in_a_history_when_they_are() {
    let mut rig = Rig::start().await;
    rig.wiped().await;
    rig.line.mend();
    rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
    let member = rig.revision_of(Path::Member(network(), rig.me)).await.unwrap();
    let host = rig.revision_of(Path::Host(rig.me)).await.unwrap();
    assert!(member < host, "hosts/ at {host}, the member at {member}");
    assert_eq!(rig.members(), 3, "the others have not spoken yet");
}

#[tokio::test(start_paused = true)]
async fn a_lost_hosts_claim_of_an_earlier_history_gives_way_to_whom_the_store_names() {
    let mut rig = Rig::start().await;
    let cluster = rig.founded(None).await.cluster;
    rig.write(0, cluster, rig.endpoint(0, 5)).await;
    rig.until("the first claim", |rig| Box::pin(async { rig.owner() == Some(0) })).await;
    let cluster = rig.wiped().await;
    // It has never seen the claim of the one that is no more.
    rig.write(1, cluster, rig.member(1)).await;
    rig.write(1, cluster, rig.endpoint(1, 2)).await;
    rig.write(1, cluster, rig.host(1, ANOTHER)).await;
    rig.line.mend();
    rig.until("its own records", |rig| Box::pin(rig.has_written())).await;
    assert_eq!(rig.owner(), Some(0), "it has time to put its claim back");
    let moved = "the address's new owner";
    rig.within(YIELDED, moved, |rig| Box::pin(async { rig.owner() == Some(1) })).await;
}
