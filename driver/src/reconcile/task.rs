//! One network's loop: derive, look, plan, apply, report.

mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};
use wgnet_core::orphan::Orphans;
use wgnet_core::watchdog::Watchdog;
use wgnet_core::{
    ClusterView, Desired, Hints, LocalNetwork, Namespace, NetworkView, Observed, RouteTarget, Seen,
    Step, model,
};
use wgnet_proto::status::Problem;
use wgnet_proto::{DockerNetworkId, EndpointId, IfName, NetworkKey};

use super::Context;
use super::runtime::Runtime;
use crate::applied::Report;
use crate::dataplane::{Dataplane, DataplaneError, ErrorKind, Joined};

/// A full look repairs what no event told of.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// While a peer has not shaken hands yet: its keepalive is to be taken back once it has.
const LOOK_FOR_HANDSHAKES_EVERY: Duration = Duration::from_secs(2);

/// How long peers without a handshake are looked at that often; a dead host stays without one.
const HANDSHAKES_WITHIN: Duration = Duration::from_secs(30);

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(15);

/// Events come in bursts (one removed link is several): look once after the burst.
const SETTLE: Duration = Duration::from_millis(50);

/// After Join dockerd moves and configures the interface; helping it would only be in its way.
const DOCKER_AT_WORK: Duration = Duration::from_secs(10);

pub(super) struct NetworkTask<D> {
    context: Context<D>,
    network: DockerNetworkId,
    namespace: Namespace,
    looked_at: Arc<Notify>,
    memory: Memory,
}

/// What one pass leaves for the next.
struct Memory {
    /// The last picture, brought up to date by every applied step.
    believed: Seen<Observed>,
    /// The picture may be wrong: look before planning.
    stale: bool,
    looked: Instant,
    hints: Hints,
    watchdog: Watchdog,
    orphans: Orphans,
    /// Since when each veth is known to be joined.
    joined_since: BTreeMap<IfName, Instant>,
    /// What was wanted in the last pass that ended in sync.
    settled: Option<Option<Desired>>,
    failures: u32,
    /// When to look because the kernel told of a change.
    look_due: Option<Instant>,
    young_peers_since: Option<Instant>,
    repairs: u64,
}

/// How a pass ended.
struct Outcome {
    error: Option<DataplaneError>,
    /// The first failure that concerns this host's own containers: what Docker waits for.
    local_error: Option<String>,
    /// Nothing of the network is left and nothing is wanted.
    absent: bool,
    awaiting_handshakes: bool,
}

impl<D: Dataplane> NetworkTask<D> {
    pub(super) fn new(
        context: Context<D>,
        network: DockerNetworkId,
        looked_at: Arc<Notify>,
    ) -> Self {
        let memory = Memory {
            believed: Seen::Unknown,
            stale: true,
            looked: Instant::now(),
            hints: Hints::default(),
            watchdog: Watchdog::default(),
            orphans: Orphans::default(),
            joined_since: BTreeMap::new(),
            settled: None,
            failures: 0,
            look_due: None,
            young_peers_since: None,
            repairs: 0,
        };
        Self { namespace: Namespace::of(&network), context, network, looked_at, memory }
    }

    /// Runs until cancelled, or until the network is gone from journal and kernel.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let span = info_span!("network", id = self.network.short());
        async {
            let mut journal = self.context.journal.watch();
            let mut view = self.context.view.clone();
            let mut underlay = self.context.underlay.clone();
            let started = Instant::now();
            loop {
                journal.mark_unchanged();
                view.mark_unchanged();
                underlay.mark_unchanged();
                let revision = self.context.journal.state().revision;
                let outcome = self.pass(started).await;
                self.report(revision, &outcome);
                if outcome.absent
                    && !self.context.journal.state().networks.contains_key(&self.network)
                {
                    break;
                }
                let regular = self.next_look(&outcome, started);
                let mut look = self.memory.look_due.map_or(regular, |due| regular.min(due));
                // All arms are cancel-safe; nothing is awaited inside an arm.
                loop {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        _ = journal.changed() => break,
                        _ = view.changed() => break,
                        _ = underlay.changed() => break,
                        // Intent that comes before the burst is over must not wait for it.
                        () = self.looked_at.notified() => {
                            let due = *self.memory.look_due.get_or_insert(Instant::now() + SETTLE);
                            look = look.min(due);
                        }
                        () = tokio::time::sleep_until(look) => { self.memory.stale = true; break }
                    }
                }
                if self.memory.look_due.is_some_and(|due| due <= Instant::now()) {
                    self.memory.stale = true;
                }
            }
            self.context.applied.forget(&self.network);
            self.context.runtimes.remove(&self.network);
            debug!("The network is gone");
        }
        .instrument(span)
        .await;
    }

    async fn pass(&mut self, started: Instant) -> Outcome {
        let (view, told) = self.view();
        let keyring = Arc::clone(&self.context.keyring);
        let families = crate::status::families(&self.context.underlay.borrow());
        let local = self.context.journal.state().networks.get(&self.network).cloned();
        let none = NetworkView::default();
        let network = local
            .as_ref()
            .and_then(|local| view.networks.get(&local.definition.key))
            .unwrap_or(&none);
        let mut desired = local.as_ref().and_then(|local| {
            let keys =
                |generation, peer| keyring.preshared_key(&local.definition.key, generation, peer);
            wgnet_core::derive(local, network, &view, self.context.me, families, &keys)
        });

        let looked = self.memory.stale;
        if looked {
            self.memory.look_due = None;
            self.memory.looked = Instant::now();
            let joined = self.joined(desired.as_ref());
            self.memory.believed = self.context.dataplane.observe(&self.namespace, &joined).await;
            self.memory.stale = matches!(self.memory.believed, Seen::Unknown);
            if let Some(local) = local.as_ref().filter(|local| !local.lingering) {
                self.give_up_orphans(local, started.elapsed().as_secs()).await;
            }
        }
        if let Some(desired) = &mut desired {
            // Docker may be about to make the container that is not there.
            let calls = self.context.applied.calls();
            let is_gone = |endpoint: &EndpointId| {
                self.memory.orphans.is_gone(endpoint) && !calls.is_running(endpoint.as_str())
            };
            orphans::leave_out(desired, is_gone);
        }
        if let (true, Seen::Present(observed)) = (looked, &self.memory.believed) {
            self.memory.hints.remake =
                self.memory.watchdog.feed(started.elapsed().as_secs(), observed);
        }
        let remade = !self.memory.hints.remake.is_empty();
        let steps = wgnet_core::plan(desired.as_ref(), &self.memory.believed, &self.memory.hints);
        if let (true, Some(desired), Seen::Present(observed)) =
            (looked, &desired, &self.memory.believed)
        {
            self.memory.hints.adopt(desired, observed);
        }

        let unchanged = self.memory.settled.as_ref() == Some(&desired);
        let repairs = steps.iter().filter(|step| !is_upkeep(step)).count() as u64;
        if unchanged && repairs > 0 && self.memory.failures == 0 && !remade {
            self.memory.repairs += repairs;
            info!(
                steps = repairs,
                first = name(&steps[0]),
                "Putting right what was changed from outside"
            );
        }
        let (error, local_error) = self.apply(steps).await;
        let in_sync = error.is_none() && !self.memory.stale;
        self.memory.settled = in_sync.then(|| desired.clone());
        if let (true, Some((key, revision))) = (in_sync, told) {
            self.context.progress.followed(&key, revision);
        }
        if let Some(error) = &error
            && error.kind == ErrorKind::PortTaken
            && let Some(local) = &local
        {
            self.take_another_port(local, &error.object).await;
        }
        Outcome {
            error,
            local_error,
            absent: desired.is_none() && matches!(self.memory.believed, Seen::Absent),
            awaiting_handshakes: awaiting_handshakes(&self.memory.believed),
        }
    }

    /// The cluster, and up to which revision it tells of this network.
    fn view(&self) -> (Arc<ClusterView>, Option<(NetworkKey, i64)>) {
        let state = self.context.journal.state();
        let key = state.networks.get(&self.network).map(|local| local.definition.key.clone());
        // Held while asking, so that no later view comes between.
        let view = self.context.view.borrow();
        let told = key.and_then(|key| {
            let revision = self.context.progress.revision(&key)?;
            Some((key, revision))
        });
        (Arc::clone(&view), told)
    }

    /// Carries the steps out; goes on past failures, so that one bad object harms no other.
    async fn apply(&mut self, steps: Vec<Step>) -> (Option<DataplaneError>, Option<String>) {
        let (mut first, mut first_local, mut gone) = (None, None, BTreeSet::new());
        // No way leads to a pair that cannot be made.
        let leads_there = |step: &Step, gone: &BTreeSet<IfName>| match step {
            Step::SetRoute { target: RouteTarget::Link(link), .. } => gone.contains(link),
            _ => false,
        };
        for step in steps {
            // What a failed step should have made is missing: the step that needs it would fail, too.
            if leads_there(&step, &gone) {
                continue;
            }
            if first.is_some() && model::apply(&mut self.memory.believed.clone(), &step).is_err() {
                continue;
            }
            // With the namespace gone nobody would look for a guard that could not be removed.
            if step == Step::DeleteNamespace
                && matches!(&self.memory.believed, Seen::Present(seen) if !seen.guard.is_empty())
            {
                continue;
            }
            debug!(step = name(&step), "Applying");
            match self.context.dataplane.apply(&self.namespace, &step).await {
                Ok(()) => self.applied(&step),
                Err(error) => {
                    if let (
                        ErrorKind::ContainerGone,
                        Step::RestoreVeth { name, veth, .. } | Step::FixContainer { name, veth },
                    ) = (error.kind, &step)
                    {
                        // It ended since this pass looked; the next look counts it as gone.
                        info!(endpoint = veth.endpoint.short(), "The container is gone");
                        gone.insert(name.clone());
                        continue;
                    }
                    self.memory.stale = true;
                    warn!(step = name(&step), error = crate::chain(&error), "A step failed");
                    if !is_remote(&step) {
                        first_local.get_or_insert_with(|| crate::chain(&error));
                    }
                    first.get_or_insert(error);
                }
            }
        }
        (first, first_local)
    }

    fn applied(&mut self, step: &Step) {
        if model::apply(&mut self.memory.believed, step).is_err() {
            self.memory.stale = true;
        }
        self.memory.hints.applied(step);
    }

    /// Where the containers are that may be looked into: not of those that dockerd is still at work on.
    fn joined(&mut self, desired: Option<&Desired>) -> Joined {
        let veths = desired.iter().flat_map(|desired| &desired.veths);
        let joined: Joined =
            veths.filter_map(|(name, veth)| Some((name.clone(), veth.sandbox.clone()?))).collect();
        let since = &mut self.memory.joined_since;
        since.retain(|name, _| joined.contains_key(name));
        for name in joined.keys() {
            since.entry(name.clone()).or_insert_with(Instant::now);
        }
        joined.into_iter().filter(|(name, _)| since[name].elapsed() >= DOCKER_AT_WORK).collect()
    }

    async fn take_another_port(&self, local: &LocalNetwork, object: &str) {
        let taken = self.context.journal.state().ports(None);
        for slot in &local.slots {
            if self.context.dataplane.port_is_free(slot.port).await {
                continue;
            }
            let picked = match self.context.ports.pick(None, &taken).await {
                Ok(port) => port,
                Err(error) => {
                    warn!(%error, "No other port for WireGuard");
                    return;
                }
            };
            let (network, generation) = (self.network.clone(), slot.generation);
            let changed = self.context.journal.update(move |state| {
                let slots = state.network_mut(&network).map(|network| &mut network.slots);
                if let Some(slot) = slots
                    .and_then(|slots| slots.iter_mut().find(|slot| slot.generation == generation))
                {
                    slot.port = picked;
                }
            });
            if let Err(error) = changed.await {
                warn!(error = crate::chain(&error), "Cannot note another port");
                return;
            }
            info!(
                was = slot.port,
                now = picked,
                "The port belongs to somebody else; taking another"
            );
            self.context.problems.set(Problem {
                code: "port-taken".to_owned(),
                object: format!("network {}", self.network.short()),
                cause: format!("UDP port {} of {object} belongs to another program; {picked} is used instead", slot.port),
                next_step: format!("nothing, or free it (ss -lunp sport = :{}) if the firewall allows only that port", slot.port),
            });
        }
    }

    fn report(&mut self, revision: u64, outcome: &Outcome) {
        let error = outcome.error.as_ref().map(|error| crate::chain(error).to_string());
        let blind = self.memory.stale && error.is_none();
        let error = error.or_else(|| {
            blind.then(|| format!("cannot read the state of namespace {}", self.namespace))
        });
        self.memory.failures =
            if error.is_some() { self.memory.failures.saturating_add(1) } else { 0 };
        let previous = self.context.applied.get(&self.network).and_then(|report| report.applied);
        let for_docker = if blind { error.clone() } else { outcome.local_error.clone() };
        let applied = if for_docker.is_none() { Some(revision) } else { previous };
        self.context.applied.report(
            &self.network,
            Report {
                applied,
                tried: revision,
                failures: if for_docker.is_some() { self.memory.failures } else { 0 },
                error: for_docker,
            },
        );
        self.context.runtimes.set(
            &self.network,
            Runtime {
                observed: self.memory.believed.clone(),
                in_sync: error.is_none(),
                error,
                repairs: self.memory.repairs,
            },
        );
    }

    /// When to look, if nothing tells of a change. What happens in between without a look does not
    /// put it off: in a busy cluster there would be none.
    fn next_look(&mut self, outcome: &Outcome, started: Instant) -> Instant {
        let now = Instant::now();
        if self.memory.failures > 0 {
            let doublings = (self.memory.failures - 1).min(10);
            return now + (RETRY_FIRST * 2u32.pow(doublings)).min(RETRY_LAST);
        }
        let regular = self.memory.looked + LOOK_EVERY;
        let at = |due: u64| {
            (started + Duration::from_secs(due)).max(self.memory.looked + Duration::from_secs(1))
        };
        let orphan = self.memory.orphans.due().map_or(regular, at);
        if !outcome.awaiting_handshakes {
            self.memory.young_peers_since = None;
            let suspect = self.memory.watchdog.due().map_or(regular, at);
            return suspect.min(orphan).min(regular);
        }
        let since = *self.memory.young_peers_since.get_or_insert(now);
        let young = now - since < HANDSHAKES_WITHIN;
        let pause = if young { LOOK_FOR_HANDSHAKES_EVERY } else { LOOK_EVERY / 4 };
        (self.memory.looked + pause).min(orphan)
    }
}

fn awaiting_handshakes(observed: &Seen<Observed>) -> bool {
    let Seen::Present(observed) = observed else {
        return false;
    };
    let mut peers = observed.wireguards.values().flat_map(|wireguard| wireguard.peers.values());
    peers.any(|peer| peer.last_handshake.is_none())
}

/// Whether a step concerns other hosts only: a bad peer must not keep a container here from starting.
fn is_remote(step: &Step) -> bool {
    match step {
        Step::AddPeer { .. }
        | Step::UpdatePeer { .. }
        | Step::RemovePeer { .. }
        | Step::AddAllowed { .. }
        | Step::RemoveAllowed { .. } => true,
        Step::SetRoute { target: RouteTarget::Link(link), .. } => {
            link.as_str().starts_with("wg") && !link.as_str().starts_with("wgv")
        }
        _ => false,
    }
}

/// Whether a step is the ordinary course of things and not the repair of something.
fn is_upkeep(step: &Step) -> bool {
    matches!(step, Step::UpdatePeer { .. })
}

/// The step's kind, for logs: never its content, which may be secret.
fn name(step: &Step) -> &'static str {
    match step {
        Step::CreateNamespace => "create namespace",
        Step::Prepare => "prepare namespace",
        Step::DeleteNamespace => "delete namespace",
        Step::AddGateway(_) => "add gateway",
        Step::RemoveGateway(_) => "remove gateway",
        Step::CreateWireguard { .. } => "create WireGuard interface",
        Step::RaiseWireguard { .. } => "raise WireGuard interface",
        Step::RemoveWireguard { .. } => "remove WireGuard interface",
        Step::AddPeer { .. } => "add peer",
        Step::UpdatePeer { .. } => "update peer",
        Step::RemovePeer { .. } => "remove peer",
        Step::AddAllowed { .. } => "add allowed addresses",
        Step::RemoveAllowed { .. } => "remove allowed addresses",
        Step::CreateVeth { .. } => "create veth pair",
        Step::FixVeth { .. } => "fix veth pair",
        Step::RestoreVeth { .. } => "restore veth pair",
        Step::FixContainer { .. } => "fix container interface",
        Step::RemoveVeth { .. } => "remove veth pair",
        Step::SetRoute { .. } => "set route",
        Step::RemoveRoute { .. } => "remove route",
        Step::SetGuard { .. } => "set guard",
        Step::RemoveGuard => "remove guard",
    }
}
