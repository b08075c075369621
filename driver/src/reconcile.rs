//! Keeps every network's namespace as journal and cluster want it: one task a network, woken by the
//! journal, the cluster, the kernel's events and a timer.
//!
//! Knows the journal (reads intent), the planner (pure) and the data plane (does it). Nothing here
//! talks to Docker or etcd.

pub mod runtime;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use wgnet_core::{ClusterView, Namespace};
use wgnet_proto::{DockerNetworkId, HostId};

use crate::applied::Applied;
use crate::dataplane::{Dataplane, Events as _};
use crate::journal::Journal;
use crate::keyring::Keyring;
use crate::ports::Ports;
use crate::problems::Problems;
use crate::underlay::Underlay;
use runtime::Runtimes;
use task::NetworkTask;

/// What every network's task works with.
#[derive(Clone)]
pub struct Context<D> {
    pub dataplane: D,
    pub journal: Journal,
    pub view: watch::Receiver<Arc<ClusterView>>,
    pub me: HostId,
    pub keyring: Arc<Keyring>,
    pub underlay: watch::Receiver<Underlay>,
    pub ports: Ports,
    pub applied: Applied,
    pub problems: Problems,
    pub runtimes: Runtimes,
}

/// One running task and how to wake it.
struct Running {
    looked_at: Arc<Notify>,
}

/// Runs until cancelled. Tunnels and containers are left alone at the end.
pub async fn run<D: Dataplane>(context: Context<D>, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    let mut running: BTreeMap<DockerNetworkId, Running> = BTreeMap::new();
    let (finished, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let mut events = context.dataplane.events();
    let mut journal = context.journal.watch();
    remove_strangers(&context).await;
    loop {
        for network in context.journal.state().networks.keys() {
            running.entry(network.clone()).or_insert_with(|| {
                let looked_at = Arc::new(Notify::new());
                let task =
                    NetworkTask::new(context.clone(), network.clone(), Arc::clone(&looked_at));
                let (cancel, finished, network) =
                    (cancel.clone(), finished.clone(), network.clone());
                tasks.spawn(async move {
                    task.run(cancel).await;
                    // The receiver is gone only when everything ends.
                    let _ = finished.send(network);
                });
                Running { looked_at }
            });
        }
        // All arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = journal.changed() => if changed.is_err() { break },
            Some(network) = ended.recv() => { running.remove(&network); }
            event = events.next() => match event {
                Some(namespace) => wake(&running, &namespace),
                None => { warn!("The data plane tells no more events; the timers go on"); break_off(&mut events).await; }
            },
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// A stream that ended must not spin the loop.
async fn break_off<E>(_events: &mut E) {
    std::future::pending::<()>().await;
}

fn wake(running: &BTreeMap<DockerNetworkId, Running>, namespace: &Namespace) {
    let concerned = running.iter().filter(|(network, _)| Namespace::of(network) == *namespace);
    for (_, task) in concerned {
        task.looked_at.notify_one();
    }
}

/// Deletes namespaces of ours that the journal does not know: a network that was removed while the
/// driver was down, or whose journal is gone.
async fn remove_strangers<D: Dataplane>(context: &Context<D>) {
    let namespaces = match context.dataplane.namespaces().await {
        Ok(namespaces) => namespaces,
        Err(error) => {
            warn!(error = crate::chain(&error), "Cannot list this host's namespaces");
            return;
        }
    };
    let state = context.journal.state();
    let known: Vec<Namespace> = state.networks.keys().map(Namespace::of).collect();
    for namespace in namespaces.into_iter().filter(|namespace| !known.contains(namespace)) {
        let steps = [wgnet_core::Step::RemoveGuard, wgnet_core::Step::DeleteNamespace];
        for step in steps {
            if let Err(error) = context.dataplane.apply(&namespace, &step).await {
                warn!(%namespace, error = crate::chain(&error), "Cannot remove a namespace without a network");
            }
        }
        info!(%namespace, "Removed a namespace that no network has");
    }
}
