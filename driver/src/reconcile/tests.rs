//! What goes wrong in the driver itself, against a data plane in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep;
use tokio_util::sync::DropGuard;
use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{
    LocalNetwork, LocalSlot, NetworkDefinition, NetworkOptions, Observed, Seen, Step, Subnet,
};
use wgnet_proto::{ClusterSecrets, Generation, NetworkKey, PrivateKey};

use super::*;
use crate::dataplane::model::Model;
use crate::dataplane::{DataplaneError, Events, Joined};
use crate::journal::{Gate, MemoryDisk, Random};

const PORT: u16 = 51820;

const LONG: Duration = Duration::from_secs(300);

/// A look at everything comes by then.
const LOOK: Duration = Duration::from_secs(60);

/// The model, which panics when it is looked at or a namespace is deleted, as often as it is told to,
/// and tells of no change.
#[derive(Clone, Default)]
struct Flawed {
    model: Model,
    panics: Arc<AtomicUsize>,
}

impl Flawed {
    fn may_panic(&self) {
        let (get, set) = (Ordering::SeqCst, Ordering::SeqCst);
        let left = self.panics.fetch_update(set, get, |left| left.checked_sub(1));
        assert!(left.is_err(), "as it was told to");
    }
}

struct Over;

impl Events for Over {
    async fn next(&mut self) -> Option<Namespace> {
        None
    }
}

impl Dataplane for Flawed {
    type Events = Over;

    fn backend(&self) -> &'static str {
        self.model.backend()
    }

    async fn namespaces(&self) -> Result<BTreeSet<Namespace>, DataplaneError> {
        self.model.namespaces().await
    }

    async fn observe(&self, namespace: &Namespace, joined: &Joined) -> Seen<Observed> {
        self.may_panic();
        self.model.observe(namespace, joined).await
    }

    async fn sandbox(&self, path: &std::path::Path) -> Sandbox {
        self.model.sandbox(path).await
    }

    async fn engines(&self) -> Seen<Engines> {
        self.model.engines().await
    }

    async fn apply(&self, namespace: &Namespace, step: &Step) -> Result<(), DataplaneError> {
        if matches!(step, Step::DeleteNamespace) {
            self.may_panic();
        }
        self.model.apply(namespace, step).await
    }

    fn events(&self) -> Over {
        Over
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.model.port_is_free(port).await
    }
}

struct Rig {
    plane: Flawed,
    context: Context<Flawed>,
    /// Whoever tells of these lives as long as whoever listens.
    _told: (watch::Sender<Arc<ClusterView>>, watch::Sender<Underlay>),
    _stop: DropGuard,
}

fn id() -> DockerNetworkId {
    "a".repeat(25).parse().unwrap()
}

impl Rig {
    fn start() -> Self {
        let random: Random = Arc::new(|bytes| bytes.fill(7));
        let gate: Gate = Arc::new(|| Box::pin(async {}));
        let journal =
            Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
        let plane = Flawed::default();
        let me = journal.host_id();
        let (view, views) = watch::channel(Arc::default());
        let (underlay, underlays) = watch::channel(Underlay::default());
        let context = Context {
            dataplane: plane.clone(),
            journal,
            view: views,
            me,
            keyring: Arc::new(Keyring::new(ClusterSecrets::generate([7; 32]), me)),
            underlay: underlays,
            ports: Ports::new(PORT..=PORT + 9, plane.clone()),
            applied: Applied::default(),
            problems: Problems::default(),
            runtimes: Runtimes::default(),
            progress: Progress::default(),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(run(context.clone(), cancel.clone()));
        Self { plane, context, _told: (view, underlay), _stop: cancel.drop_guard() }
    }

    async fn add_network(&self) {
        self.add_network_that_wants(None).await;
    }

    /// It has [`PORT`], whatever it wants.
    async fn add_network_that_wants(&self, port: Option<u16>) {
        let definition = NetworkDefinition {
            docker_id: id(),
            key: NetworkKey::swarm(&id()),
            subnets: vec![Subnet { pool: "10.50.0.0/24".parse().unwrap(), gateway: None }],
            internal: false,
            options: NetworkOptions { port, ..NetworkOptions::default() },
            raw_options: BTreeMap::new(),
            mtu: 1420,
        };
        let slot = LocalSlot {
            generation: Generation::default(),
            private_key: PrivateKey::from_random([1; 32]),
            made: None,
            port: PORT,
        };
        let endpoints = BTreeMap::new();
        let network = LocalNetwork { definition, slots: vec![slot], endpoints, lingering: false };
        let change = move |state: &mut crate::journal::State| {
            state.networks.insert(id(), Arc::new(network));
        };
        self.context.journal.update(change).await.unwrap();
    }

    async fn forget_network(&self) {
        self.context.journal.update(|state| state.forget(&id())).await.unwrap();
    }

    fn has_namespace(&self) -> bool {
        matches!(*self.plane.model.look(&Namespace::of(&id())), Seen::Present(_))
    }

    fn is_told(&self, code: &str) -> bool {
        let network = format!("network {}", id().short());
        let open = self.context.problems.list();
        open.iter().any(|problem| problem.code == code && problem.object == network)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_whose_task_panics_is_taken_up_again_and_told_of_until_it_works() {
    let rig = Rig::start();
    rig.plane.panics.store(2, Ordering::SeqCst);
    let begun = Instant::now();
    rig.add_network().await;
    rig.until("a problem", |rig| rig.is_told(TASK_FAILED)).await;
    assert!(!rig.context.runtimes.get(&id()).unwrap().in_sync);
    rig.until("the network", Rig::has_namespace).await;
    assert!(begun.elapsed() >= 2 * REST, "no panic follows another at once");
    assert!(rig.is_told(TASK_FAILED), "it may fail again");
    rig.until("no problem", |rig| !rig.is_told(TASK_FAILED)).await;
    assert!(rig.context.runtimes.get(&id()).unwrap().in_sync);
}

#[tokio::test(start_paused = true)]
async fn a_network_whose_task_panics_while_it_is_removed_is_removed_all_the_same() {
    let rig = Rig::start();
    rig.add_network().await;
    rig.until("the network", Rig::has_namespace).await;
    rig.plane.panics.store(1, Ordering::SeqCst);
    rig.forget_network().await;
    rig.until("a problem", |rig| rig.is_told(TASK_FAILED)).await;
    rig.until("no network", |rig| !rig.has_namespace()).await;
    rig.until("no task", |rig| rig.context.runtimes.get(&id()).is_none()).await;
    assert!(!rig.is_told(TASK_FAILED));
}

#[tokio::test(start_paused = true)]
async fn a_networks_problems_end_with_it_however_it_went() {
    let rig = Rig::start();
    rig.plane.model.occupy_port(PORT, true);
    rig.add_network().await;
    rig.until("a problem", |rig| rig.is_told("port-taken")).await;
    rig.forget_network().await;
    rig.until("no problem", |rig| !rig.is_told("port-taken")).await;
    assert!(!rig.has_namespace());
}

#[tokio::test(start_paused = true)]
async fn a_network_with_another_port_than_its_user_wants_is_told_of_by_every_driver() {
    let rig = Rig::start();
    rig.add_network_that_wants(Some(PORT + 5)).await;
    rig.until("a problem", |rig| rig.is_told("port-taken")).await;

    let rig = Rig::start();
    rig.add_network_that_wants(Some(PORT)).await;
    rig.until("the network", Rig::has_namespace).await;
    sleep(2 * LOOK).await;
    assert!(!rig.is_told("port-taken"));
}

#[tokio::test(start_paused = true)]
async fn networks_come_and_go_after_the_events_ended() {
    let rig = Rig::start();
    sleep(Duration::from_secs(1)).await;
    rig.add_network().await;
    rig.until("the network", Rig::has_namespace).await;
    rig.forget_network().await;
    rig.until("no network", |rig| !rig.has_namespace()).await;
}
