//! Keeps every network's namespace as journal and cluster want it: one task a network, woken by the
//! journal, the cluster, the kernel's events and a timer.
//!
//! Knows the journal (reads intent), the planner (pure) and the data plane (does it). Nothing here
//! talks to Docker or etcd.

pub mod runtime;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use wgnet_core::{ClusterView, Namespace};
use wgnet_proto::status::Problem;
use wgnet_proto::{DockerNetworkId, HostId};

use crate::applied::Applied;
use crate::dataplane::{Claimed, Dataplane, Events as _};
use crate::journal::Journal;
use crate::keyring::Keyring;
use crate::ports::Ports;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::underlay::Underlay;
use runtime::{Runtime, Runtimes};
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
    pub progress: Progress,
}

/// How often it is looked for what no network has.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Before a network whose task failed is taken up again: it may well fail at once.
const REST: Duration = Duration::from_secs(10);

const UNCLAIMED: &str = "unclaimed-namespace";

const TASK_FAILED: &str = "network-task-failed";

/// One running task and how to wake it.
struct Running {
    looked_at: Arc<Notify>,
}

/// A task's end, and whether it was a panic.
type Ended = (DockerNetworkId, bool);

/// Tells of a task's end when dropped, so that one that panics is heard of, too.
struct Ending {
    network: DockerNetworkId,
    has_failed: bool,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Ending {
    fn well(mut self) {
        self.has_failed = false;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // The receiver is gone only when everything ends.
        let _ = self.ended.send((self.network.clone(), self.has_failed));
    }
}

/// Starts the networks' tasks.
struct Starter<D> {
    context: Context<D>,
    tasks: TaskTracker,
    ended: mpsc::UnboundedSender<Ended>,
    cancel: CancellationToken,
}

impl<D: Dataplane> Starter<D> {
    fn start(&self, network: &DockerNetworkId) -> Running {
        self.start_after(network, None)
    }

    /// Takes a network up again whose task failed, whether the journal has it still or not: what
    /// is left of it is to be removed.
    fn start_again(&self, network: &DockerNetworkId) -> Running {
        let Context { runtimes, problems, .. } = &self.context;
        let cause = "the driver met an error of its own while it looked after this network";
        let repairs = runtimes.get(network).map_or(0, |runtime| runtime.repairs);
        let error = Some(cause.to_owned());
        runtimes.set(network, Runtime { in_sync: false, error, repairs });
        problems.set(Problem {
            code: TASK_FAILED.to_owned(),
            object: object(network),
            cause: format!("{cause}; what runs goes on as it was"),
            next_step: format!(
                "nothing if it is gone in a few minutes: it begins anew after {} s; else look for `panicked` in journalctl -u wgnet-driver and report it",
                REST.as_secs()
            ),
        });
        self.start_after(network, Some(REST))
    }

    fn start_after(&self, network: &DockerNetworkId, rest: Option<Duration>) -> Running {
        let looked_at = Arc::new(Notify::new());
        let (context, id, notify) = (self.context.clone(), network.clone(), Arc::clone(&looked_at));
        let task = NetworkTask::new(context, id, notify, rest.is_some());
        let (network, ended) = (network.clone(), self.ended.clone());
        let ending = Ending { network, has_failed: true, ended };
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            if let Some(rest) = rest {
                cancel.run_until_cancelled(tokio::time::sleep(rest)).await;
            }
            if rest.is_none() || !cancel.is_cancelled() {
                task.run(cancel).await;
            }
            ending.well();
        });
        Running { looked_at }
    }
}

/// As problems name it.
fn object(network: &DockerNetworkId) -> String {
    format!("network {}", network.short())
}

/// Runs until cancelled. Tunnels and containers are left alone at the end.
pub async fn run<D: Dataplane>(context: Context<D>, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    let mut running: BTreeMap<DockerNetworkId, Running> = BTreeMap::new();
    let (ending, mut ended) = mpsc::unbounded_channel();
    let starter = Starter {
        context: context.clone(),
        tasks: tasks.clone(),
        ended: ending,
        cancel: cancel.clone(),
    };
    let mut events = context.dataplane.events();
    let mut has_events = true;
    let mut journal = context.journal.watch();
    sweep(&context, BTreeSet::new()).await;
    let mut sweeping = tokio::task::JoinSet::new();
    let mut next_sweep = Instant::now() + SWEEP_EVERY;
    loop {
        for network in context.journal.state().networks.keys() {
            running.entry(network.clone()).or_insert_with(|| starter.start(network));
        }
        // All arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = journal.changed() => if changed.is_err() { break },
            Some((network, has_failed)) = ended.recv() => {
                running.remove(&network);
                if has_failed {
                    running.insert(network.clone(), starter.start_again(&network));
                }
            }
            () = tokio::time::sleep_until(next_sweep) => {
                next_sweep = Instant::now() + SWEEP_EVERY;
                if sweeping.is_empty() {
                    let (context, working) = (context.clone(), running.keys().map(Namespace::of).collect());
                    sweeping.spawn(async move { sweep(&context, working).await });
                }
            }
            Some(_) = sweeping.join_next() => {}
            event = events.next(), if has_events => match event {
                Some(namespace) => wake(&running, &namespace),
                None => {
                    warn!("The data plane tells no more events; the timers go on");
                    has_events = false;
                }
            },
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn wake(running: &BTreeMap<DockerNetworkId, Running>, namespace: &Namespace) {
    let concerned = running.iter().filter(|(network, _)| Namespace::of(network) == *namespace);
    for (_, task) in concerned {
        task.looked_at.notify_one();
    }
}

/// Removes what is ours and no network has: left by one that was removed while the driver was down,
/// or by a journal that is gone. `working` is still taken down by its task.
async fn sweep<D: Dataplane>(context: &Context<D>, working: BTreeSet<Namespace>) {
    let journal = context.journal.clone();
    let claimed = move || {
        let state = journal.state();
        let namespaces = state.networks.keys().map(Namespace::of);
        let endpoints = state.networks.values().flat_map(|network| network.endpoints.keys());
        Claimed {
            namespaces: namespaces.chain(working.iter().cloned()).collect(),
            endpoints: endpoints.cloned().collect(),
        }
    };
    let swept = match context.dataplane.sweep(claimed).await {
        Ok(swept) => swept,
        Err(error) => {
            warn!(error = crate::chain(&error), "Cannot remove what no network has");
            return;
        }
    };
    for removed in &swept.removed {
        info!(removed, "Removed what no network has");
    }
    let open = context.problems.list();
    let open = open.iter().filter(|problem| problem.code == UNCLAIMED);
    for problem in open.filter(|problem| !is_in(&swept.in_use, &problem.object)) {
        context.problems.clear(UNCLAIMED, &problem.object);
    }
    for namespace in &swept.in_use {
        context.problems.set(Problem {
            code: UNCLAIMED.to_owned(),
            object: format!("namespace {namespace}"),
            cause: "containers are in a network that this host's journal does not know: they reach each other, but once etcd is reached no other host knows them any more".to_owned(),
            next_step: "stop all of those containers, and the namespace goes with the last of them; then start them again, on a plain engine after docker network rm and creating the network again".to_owned(),
        });
    }
}

fn is_in(namespaces: &BTreeSet<Namespace>, object: &str) -> bool {
    namespaces.iter().any(|namespace| object == format!("namespace {namespace}"))
}

#[cfg(test)]
mod tests;
