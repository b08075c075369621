//! A host's parts in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::admin::ForgottenNetwork;
use wgnet_control_plane::store::{MemoryStore, Store};
use wgnet_core::{
    ClusterView, LocalEndpoint, LocalNetwork, LocalSlot, NetworkDefinition, NetworkOptions, Subnet,
};
use wgnet_driver::applied::Applied;
use wgnet_driver::cluster::{ClusterStatus, HostFacts, Orderer};
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::forget::Forgetter;
use wgnet_driver::journal::{Journal, MemoryDisk, Random};
use wgnet_driver::problems::Problems;
use wgnet_driver::underlay::Underlay;
use wgnet_driver::wiring::Given;
use wgnet_proto::{ClusterSecrets, DockerNetworkId, EndpointId, HostId, MacAddr, PrivateKey};

pub(crate) const GRACE: Duration = Duration::from_secs(300);

pub(crate) fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate([9; 32])
}

pub(crate) fn network_id() -> DockerNetworkId {
    "b".repeat(25).parse().unwrap()
}

pub(crate) fn endpoint_id(number: u8) -> EndpointId {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

pub(crate) fn random() -> Random {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|bytes| {
        let mut seed = COUNT.fetch_add(1, Ordering::Relaxed);
        for byte in bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_le_bytes()[7];
        }
    })
}

/// One host; its disk and its kernel outlive its driver.
pub(crate) struct Host {
    number: u8,
    disk: MemoryDisk,
    pub(crate) plane: Model,
    pub(crate) applied: Applied,
    pub(crate) journal: Journal,
    running: Option<Running>,
}

struct Running {
    /// Its own line to the store.
    line: MemoryStore,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    orderer: Orderer,
    forgetter: Forgetter<Model>,
    status: watch::Receiver<ClusterStatus>,
    view: watch::Receiver<Arc<ClusterView>>,
    /// As long as it is there, the address can change.
    _address: watch::Sender<Underlay>,
}

fn open(disk: &MemoryDisk) -> Journal {
    let gate = Arc::new(|| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    });
    Journal::open_in_memory(disk, "boot", &random(), gate).expect("the disk has room")
}

impl Host {
    /// A host that has the one network, with one endpoint that has joined a container.
    pub(crate) async fn new(number: u8) -> Self {
        let disk = MemoryDisk::default();
        let journal = open(&disk);
        journal.update(move |state| with_network(state, number)).await.unwrap();
        let (plane, applied) = (Model::default(), Applied::default());
        Self { number, disk, plane, applied, journal, running: None }
    }

    pub(crate) fn id(&self) -> HostId {
        self.journal.host_id()
    }

    pub(crate) fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Where its container is.
    pub(crate) fn sandbox(&self) -> PathBuf {
        PathBuf::from(format!("/run/docker/netns/{}", self.number))
    }

    pub(crate) fn start(&mut self, store: &MemoryStore) {
        let me = self.id();
        let cancel = CancellationToken::new();
        let underlay = Underlay {
            addresses: vec![IpAddr::from([192, 0, 2, self.number])],
            ..Underlay::default()
        };
        let (address, underlay) = watch::channel(underlay);
        let line = store.client();
        let given = Given {
            store: line.clone(),
            dataplane: self.plane.clone(),
            journal: self.journal.clone(),
            secrets: secrets(),
            facts: HostFacts {
                me,
                name: self.name(),
                version: "0".to_owned(),
                backend: "model".to_owned(),
                boot: "boot".to_owned(),
                underlay: Vec::new(),
            },
            underlay,
            ports: 51820..=51829,
            random: random(),
            clock: wgnet_driver::clock::of_host(),
            problems: Problems::default(),
            dead_host_grace: GRACE,
        };
        let wired = given.wire(&cancel);
        let tasks = wired.tasks.into_iter().map(|(_, task)| tokio::spawn(task)).collect();
        let (orderer, forgetter) = (wired.status.orderer, wired.status.forgetter);
        let (status, view) = (wired.status.cluster, wired.status.view);
        self.applied = wired.applied;
        let _address = address;
        let running = Running { line, cancel, tasks, orderer, forgetter, status, view, _address };
        self.running = Some(running);
    }

    /// Ends the driver as a kill does; what is durable stays.
    pub(crate) async fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.cancel.cancel();
        for task in running.tasks {
            task.abort();
            let _ = task.await;
        }
        self.journal = open(&self.disk);
    }

    /// Its driver's line to the store.
    pub(crate) fn line(&self) -> &MemoryStore {
        &self.running.as_ref().expect("it runs").line
    }

    /// Nothing can be written to its journal any more.
    pub(crate) fn fill_disk(&self) {
        self.disk.fill(true);
    }

    pub(crate) fn orderer(&self) -> Orderer {
        self.running.as_ref().expect("it runs").orderer.clone()
    }

    pub(crate) async fn forget(&self, network: &str) -> Result<ForgottenNetwork, String> {
        self.running.as_ref().expect("it runs").forgetter.forget(network).await
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.running.as_ref().expect("it runs").status.borrow().clone()
    }

    /// Whom it takes for the owner of an address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<HostId> {
        let view = self.running.as_ref().expect("it runs").view.borrow().clone();
        let mut endpoints = view.networks.values().flat_map(|network| &network.endpoints);
        endpoints.find(|(at, _)| **at == address).map(|(_, endpoint)| endpoint.host)
    }

    /// The other hosts it knows.
    pub(crate) fn hosts(&self) -> usize {
        let view = self.running.as_ref().expect("it runs").view.borrow().clone();
        view.hosts.keys().filter(|host| **host != self.id()).count()
    }

    /// The other members it knows.
    pub(crate) fn members(&self) -> usize {
        let view = self.running.as_ref().expect("it runs").view.borrow().clone();
        let members = view.networks.values().flat_map(|network| network.members.keys());
        members.filter(|host| **host != self.id()).count()
    }

    pub(crate) fn has_endpoint(&self) -> bool {
        let state = self.journal.state();
        state.networks[&network_id()].endpoints.contains_key(&endpoint_id(self.number))
    }
}

fn with_network(state: &mut wgnet_driver::journal::State, number: u8) {
    let definition = NetworkDefinition {
        docker_id: network_id(),
        key: wgnet_proto::NetworkKey::swarm(&network_id()),
        subnets: vec![Subnet {
            pool: "10.50.0.0/24".parse().unwrap(),
            gateway: Some([10, 50, 0, 1].into()),
        }],
        internal: false,
        options: NetworkOptions::default(),
        raw_options: BTreeMap::new(),
        mtu: 1420,
    };
    let slot = LocalSlot {
        generation: 0,
        private_key: PrivateKey::from_random([number; 32]),
        made: None,
        port: 51820,
    };
    let address = IpAddr::from([10, 50, 0, 10 + number]);
    let endpoint = LocalEndpoint {
        id: endpoint_id(number),
        addresses: vec![ipnet::IpNet::new(address, 24).unwrap()],
        mac: MacAddr::of_address(address),
        mac_given: false,
        claim: u64::from(number),
        sandbox: Some(PathBuf::from(format!("/run/docker/netns/{number}"))),
        superseded: false,
    };
    let network = LocalNetwork {
        definition,
        slots: vec![slot],
        endpoints: [(endpoint.id.clone(), endpoint)].into(),
        lingering: false,
    };
    state.networks.insert(network_id(), Arc::new(network));
}

/// Keys in the store that name a host, or are an endpoint of it.
pub(crate) async fn keys_of(store: &MemoryStore, host: &Host) -> Vec<String> {
    let address = format!("/10.50.0.{}", 10 + host.number);
    let listing = store.list("").await.unwrap();
    let keys = listing.entries.into_iter().map(|entry| entry.key);
    let id = host.id().to_string();
    keys.filter(|key| key.contains(&id) || key.ends_with(&address)).collect()
}

/// Waits on simulated time; how long it took.
pub(crate) async fn until<F: Future<Output = bool>>(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> F,
) -> Duration {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < within, "{what}: not within {within:?}");
        sleep(Duration::from_millis(500)).await;
    }
    started.elapsed()
}

pub(crate) async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}
