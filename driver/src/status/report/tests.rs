use std::sync::Mutex;

use wgnet_control_plane::admin::{ForgetNetwork, ForgottenNetwork, HeldListing};
use wgnet_control_plane::store::MemoryStore;
use wgnet_proto::status::{Problem, StoreStatus};

use super::*;
use crate::cluster::{self, Orderer};
use crate::journal::{MemoryDisk, Random};

const CLUSTER: ClusterId = ClusterId([3; 16]);

struct Told {
    status: Mutex<DriverStatus>,
    orderer: Orderer,
}

impl Source for Told {
    async fn status(&self) -> DriverStatus {
        self.status.lock().unwrap().clone()
    }

    fn held(&self) -> Vec<HeldListing> {
        Vec::new()
    }

    fn orderer(&self) -> &Orderer {
        &self.orderer
    }

    async fn forget_network(&self, _: ForgetNetwork) -> Result<ForgottenNetwork, String> {
        Err("nobody orders anything here".to_owned())
    }
}

struct Rig {
    store: MemoryStore,
    told: Arc<Told>,
    journal: Journal,
    secrets: ClusterSecrets,
    cluster: watch::Sender<ClusterStatus>,
    problems: Problems,
    _view: watch::Sender<Arc<ClusterView>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Rig {
    /// A host alone, connected to its store.
    async fn start() -> Self {
        let random: Random = Arc::new(|bytes| bytes.fill(5));
        let gate: crate::journal::Gate = Arc::new(|| Box::pin(async {}));
        let journal =
            Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
        journal.update(|state| state.cluster = Some(CLUSTER)).await.unwrap();
        journal.top_up_seqs().await.unwrap();
        let store = MemoryStore::new();
        let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
        let own = put_own(&store, journal.host_id()).await;
        let status = DriverStatus {
            host_id: journal.host_id(),
            name: "me".to_owned(),
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            underlay: Vec::new(),
            store: StoreStatus::default(),
            networks: Vec::new(),
            lingering: Vec::new(),
            hosts: Vec::new(),
            problems: Vec::new(),
            refused: Default::default(),
        };
        let told = Arc::new(Told { status: Mutex::new(status), orderer: cluster::orders().0 });
        let connected = StoreStatus { connected: true, ..StoreStatus::default() };
        let (cluster, clusters) = watch::channel(ClusterStatus {
            store: connected,
            lease: Some(lease),
            proof: Some(own),
            ..ClusterStatus::default()
        });
        let (view, views) = watch::channel(Arc::default());
        let began = Instant::now();
        let day = Duration::from_secs(1_790_000_000);
        let (secrets, problems) = (ClusterSecrets::generate([7; 32]), Problems::default());
        let report = Report {
            store: store.client(),
            source: Arc::clone(&told),
            journal: journal.clone(),
            secrets: secrets.clone(),
            cluster: clusters,
            view: views,
            problems: problems.clone(),
            progress: Progress::default(),
            peers: SharedPeers::default(),
            kernel: "6.1.0".to_owned(),
            clock: Arc::new(move || day + began.elapsed()),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(report.run(cancel.clone()));
        let _stop = cancel.drop_guard();
        Self { store, told, journal, secrets, cluster, problems, _view: view, _stop }
    }

    fn path(&self) -> Path {
        Path::Status(self.journal.host_id())
    }

    /// The record in the store and its revision, as any reader sees it.
    async fn written(&self) -> Option<(StatusRecord, i64)> {
        let listing = self.store.list(&self.path().to_string()).await.unwrap();
        let entry = listing.entries.first()?;
        let opener = Opener::new(self.secrets.clone(), Some(CLUSTER));
        let opened = opener.open(&self.path(), &entry.value).unwrap();
        match Record::decode(&self.path(), &opened.payload).unwrap() {
            Record::Status(record) => Some((*record, entry.mod_revision)),
            other => panic!("{other:?}"),
        }
    }

    /// How long until a record is there that is as wanted.
    async fn until(&self, is_wanted: impl Fn(&StatusRecord) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            if let Some((record, _)) = self.written().await
                && is_wanted(&record)
            {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(120), "it is not written");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// This host's own record; what shows that it stands there.
async fn put_own(store: &MemoryStore, me: wgnet_proto::HostId) -> Condition {
    let key = Path::Host(me).to_string();
    let put = Op::Put { key: key.clone(), value: b"own".to_vec() };
    let put = store.commit(Txn { conditions: Vec::new(), ops: vec![put] }).await.unwrap();
    let Committed::Done { revision } = put else { panic!("{put:?}") };
    Condition::Unchanged { key, mod_revision: revision }
}

#[tokio::test(start_paused = true)]
async fn another_clusters_store_is_not_written_to_not_even_before_it_is_noticed() {
    let rig = Rig::start().await;
    rig.until(|_| true).await;
    let me = rig.journal.host_id();
    let ops = [Path::Host(me), rig.path()].map(|path| Op::Delete { key: path.to_string() });
    rig.store.commit(Txn { conditions: Vec::new(), ops: ops.to_vec() }).await.unwrap();
    rig.cluster.send_modify(|status| status.history += 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.written().await, None, "nobody noticed");
    rig.cluster.send_modify(|status| status.proof = None);
    let own = put_own(&rig.store, me).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.written().await, None, "nothing shows whose it is");
    rig.cluster.send_modify(|status| status.proof = Some(own));
    assert!(rig.until(|_| true).await <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_within_two_seconds_and_without_one_every_15() {
    let rig = Rig::start().await;
    assert!(rig.until(|_| true).await <= Duration::from_secs(2));
    let (first, revision) = rig.written().await.unwrap();
    assert_eq!((first.name.as_str(), first.kernel.as_str()), ("me", "6.1.0"));
    assert!(first.next_within >= 15 && first.next_within < 60);
    tokio::time::sleep(Duration::from_secs(150)).await;
    let (later, after) = rig.written().await.unwrap();
    assert_eq!(after - revision, 10);
    assert!(later.written - first.written >= 135);

    let problem = Problem {
        code: "port-taken".to_owned(),
        object: "network blue".to_owned(),
        cause: "taken".to_owned(),
        next_step: "free it".to_owned(),
    };
    rig.told.status.lock().unwrap().problems.push(problem.clone());
    rig.problems.set(problem);
    let took = rig.until(|record| record.problems.len() == 1).await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn endless_news_is_told_once_a_second() {
    let rig = Rig::start().await;
    rig.until(|_| true).await;
    let (_, before) = rig.written().await.unwrap();
    for number in 0..600 {
        rig.told.status.lock().unwrap().name = format!("me{number}");
        rig.cluster.send_modify(|status| status.store.revision += 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, after) = rig.written().await.unwrap();
    assert!((30..=61).contains(&(after - before)), "{}", after - before);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_or_another_history_has_it_written_anew() {
    let rig = Rig::start().await;
    rig.until(|_| true).await;
    let old = rig.cluster.borrow().lease.unwrap();
    rig.cluster.send_modify(|status| status.lease = None);
    rig.store.revoke(old).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.written().await, None, "nothing is written without a lease");
    let lease = rig.store.grant(Duration::from_secs(3600)).await.unwrap();
    rig.cluster.send_modify(|status| status.lease = Some(lease));
    assert!(rig.until(|_| true).await <= Duration::from_secs(3));

    let (_, before) = rig.written().await.unwrap();
    rig.cluster.send_modify(|status| status.history += 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(rig.written().await.unwrap().1, before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_without_its_journal_goes_on_above_the_number_it_wrote_before() {
    let rig = Rig::start().await;
    let sealer = Sealer::new(rig.journal.host_key().clone(), rig.secrets.clone(), CLUSTER);
    let record = Record::Status(Box::default());
    let value = sealer.seal_record(&rig.path(), 1 << 40, &record);
    let put = Op::Put { key: rig.path().to_string(), value };
    rig.store.commit(Txn { conditions: Vec::new(), ops: vec![put] }).await.unwrap();
    rig.until(|record| record.name == "me").await;
    let listing = rig.store.list(&rig.path().to_string()).await.unwrap();
    let opener = Opener::new(rig.secrets.clone(), Some(CLUSTER));
    let opened = opener.open(&rig.path(), &listing.entries[0].value).unwrap();
    assert!(opened.seq > 1 << 40);
}
