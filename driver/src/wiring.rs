//! Joins a driver's parts to each other, in the program and in tests alike.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::store::Store;
use wgnet_core::ClusterView;
use wgnet_proto::ClusterSecrets;

use crate::api::{self, Api, PickedPort};
use crate::applied::Applied;
use crate::clock::Clock;
use crate::cluster::{self, ClusterStatus, HostFacts};
use crate::dataplane::Dataplane;
use crate::forget::Forgetter;
use crate::journal::{self, Journal, Random};
use crate::keyring::Keyring;
use crate::ports::Ports;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::reconcile;
use crate::reconcile::runtime::Runtimes;
use crate::status::{SharedPeers, Status};
use crate::underlay::Underlay;

/// What a driver is made of.
pub struct Given<S, D> {
    pub store: S,
    pub dataplane: D,
    pub journal: Journal,
    pub secrets: ClusterSecrets,
    pub facts: HostFacts,
    pub underlay: watch::Receiver<Underlay>,
    /// Where the UDP ports of networks come from.
    pub ports: RangeInclusive<u16>,
    pub random: Random,
    pub clock: Clock,
    pub problems: Problems,
    /// How long another host must be seen absent before its records are removed.
    pub dead_host_grace: Duration,
}

/// A driver whose tasks are not running yet.
pub struct Wired<D> {
    /// What must run until it is cancelled, with its name.
    pub tasks: Vec<(&'static str, Task)>,
    /// Answers Docker.
    pub api: Api,
    /// Answers operators.
    pub status: Status<D>,
    /// Which calls wait for the data plane.
    pub applied: Applied,
}

pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<S: Store, D: Dataplane> Given<S, D> {
    pub fn wire(self, cancel: &CancellationToken) -> Wired<D> {
        let Self { store, dataplane, journal, secrets, facts, underlay, .. } = self;
        let Self { random, clock, problems, dead_host_grace, .. } = self;
        let me = journal.host_id();
        let (view, views) = watch::channel(Arc::new(ClusterView::default()));
        let (status, statuses) = watch::channel(ClusterStatus::default());
        let (remembered, remembering) = oneshot::channel();
        let (remember, is_remembered) = watch::channel(false);
        let (orderer, orders) = cluster::orders();
        let keyring = Arc::new(Keyring::new(secrets.clone(), me));
        let ports = Ports::new(self.ports, dataplane.clone());
        let (applied, runtimes) = (Applied::default(), Runtimes::default());
        let progress = Progress::default();

        let inputs = cluster::Inputs {
            store,
            journal: journal.clone(),
            host_key: journal.host_key().clone(),
            secrets,
            facts: facts.clone(),
            underlay: underlay.clone(),
            random: Arc::clone(&random),
            problems: problems.clone(),
            dead_host_grace,
            orders,
            progress: progress.clone(),
        };
        let outputs = cluster::Outputs { view, status, remembered };
        let context = reconcile::Context {
            dataplane: dataplane.clone(),
            journal: journal.clone(),
            view: views.clone(),
            me,
            keyring,
            underlay: underlay.clone(),
            ports: ports.clone(),
            applied: applied.clone(),
            problems: problems.clone(),
            runtimes: runtimes.clone(),
            progress: progress.clone(),
        };
        let stop = cancel.clone();
        let reconciling = async move {
            // Before the last known records are in, a running network would look as if it had no peers.
            if remembering.await.is_err() {
                return;
            }
            remember.send_replace(true);
            reconcile::run(context, stop).await;
        };
        let sweeping = journal::sweep(journal.clone(), views.clone(), cancel.clone());
        let tasks: Vec<(_, Task)> = vec![
            ("the cluster task", Box::pin(cluster::run(inputs, outputs, cancel.clone()))),
            ("the journal's sweep", Box::pin(sweeping)),
            ("reconcile", Box::pin(reconciling)),
        ];

        let mtu = underlay.clone();
        let api = Api::new(api::Context {
            journal: journal.clone(),
            applied: applied.clone(),
            view: views.clone(),
            remembered: is_remembered,
            me,
            underlay_mtu: Arc::new(move || mtu.borrow().mtu),
            random,
            clock,
            ports: port_picker(ports),
            problems: problems.clone(),
            apply_within: api::APPLY_WITHIN,
        });
        let forgetter = Forgetter {
            journal: journal.clone(),
            dataplane: dataplane.clone(),
            applied: applied.clone(),
            problems: problems.clone(),
        };
        let status = Status {
            facts,
            dataplane,
            journal,
            view: views,
            cluster: statuses,
            runtimes,
            problems,
            underlay,
            orderer,
            forgetter,
            progress,
            peers: SharedPeers::default(),
        };
        Wired { tasks, api, status, applied }
    }
}

fn port_picker(ports: Ports) -> api::PortPicker {
    Arc::new(move |wanted, taken: BTreeSet<u16>| -> PickedPort {
        let ports = ports.clone();
        Box::pin(async move { ports.pick(wanted, &taken).await.map_err(|error| error.to_string()) })
    })
}
