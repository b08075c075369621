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
    ClusterView, Derivation, Difference, Hints, Inputs, LocalNetwork, Namespace, NetworkView,
    Observed, RouteTarget, Seen, Step, model,
};
use wgnet_proto::{DockerNetworkId, EndpointId, IfName, NetworkKey};

use super::runtime::Runtime;
use super::{Context, TASK_FAILED};
use crate::applied::Report;
use crate::dataplane::{Dataplane, DataplaneError, ErrorKind, Joined};
use crate::ports::{note_taken, note_wanted};

/// A full look repairs what no event told of.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// While a peer has not shaken hands yet: its keepalive is to be taken back once it has.
const LOOK_FOR_HANDSHAKES_EVERY: Duration = Duration::from_secs(2);

/// How long peers without a handshake are looked at that often; a dead host stays without one.
const HANDSHAKES_WITHIN: Duration = Duration::from_secs(30);

/// How long a task that follows one that failed has to work before that is told no more.
const PROVEN: Duration = Duration::from_secs(60);

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
    /// The one before it failed, and that is told.
    is_on_trial: bool,
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
    /// What is wanted.
    derivation: Derivation,
    /// Endpoints that were left out of it, in the last pass.
    left_out: BTreeSet<EndpointId>,
    /// Whether the last pass ended with everything as it is wanted.
    settled: bool,
    failures: u32,
    /// When to look because the kernel told of a change.
    look_due: Option<Instant>,
    young_peers_since: Option<Instant>,
    repairs: u64,
}

/// What became of the steps.
struct Done {
    error: Option<DataplaneError>,
    local_error: Option<String>,
    /// Every step was carried out.
    all: bool,
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
        is_on_trial: bool,
    ) -> Self {
        let memory = Memory {
            believed: Seen::Unknown,
            stale: true,
            looked: Instant::now(),
            hints: Hints::default(),
            watchdog: Watchdog::default(),
            orphans: Orphans::default(),
            joined_since: BTreeMap::new(),
            derivation: Derivation::default(),
            left_out: BTreeSet::new(),
            settled: false,
            failures: 0,
            look_due: None,
            young_peers_since: None,
            repairs: 0,
        };
        let namespace = Namespace::of(&network);
        Self { namespace, context, network, looked_at, is_on_trial, memory }
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
                let began = Instant::now();
                let outcome = self.pass(started).await;
                let in_sync = outcome.error.is_none() && !self.memory.stale;
                self.context.progress.passed(began.elapsed(), in_sync);
                self.report(revision, &outcome);
                if self.is_on_trial && in_sync && started.elapsed() >= PROVEN {
                    self.is_on_trial = false;
                    self.context.problems.clear(TASK_FAILED, &super::object(&self.network));
                }
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
            self.context.problems.clear_object(&super::object(&self.network));
            debug!("The network is gone");
        }
        .instrument(span)
        .await;
    }

    async fn pass(&mut self, started: Instant) -> Outcome {
        let (view, told) = self.view();
        let local = self.context.journal.state().networks.get(&self.network).cloned();
        let looked = self.memory.stale;
        let difference = self.derive(local.as_ref(), &view, looked);

        if looked {
            self.memory.look_due = None;
            self.memory.looked = Instant::now();
            let joined = self.joined();
            self.memory.believed = self.context.dataplane.observe(&self.namespace, &joined).await;
            self.memory.stale = matches!(self.memory.believed, Seen::Unknown);
            match local.as_ref().filter(|local| !local.lingering) {
                Some(local) => {
                    self.give_up_orphans(local, started.elapsed().as_secs()).await;
                    self.note_port(local);
                }
                None => self.memory.orphans = Orphans::default(),
            }
        }
        let left_out = self.orphaned();
        let same_left_out = self.memory.left_out == left_out;
        self.memory.left_out = left_out;
        let reduced = self.without_those_left_out();
        let desired = reduced.as_ref().or(self.memory.derivation.desired());
        if let (true, Seen::Present(observed)) = (looked, &self.memory.believed) {
            self.memory.hints.remake =
                self.memory.watchdog.feed(started.elapsed().as_secs(), observed);
        }
        let remade = !self.memory.hints.remake.is_empty();
        let settled = self.memory.settled;
        let of_parts = match (&difference, desired, &self.memory.believed) {
            (Difference::Parts(parts), Some(desired), Seen::Present(observed))
                if settled && !looked && same_left_out && reduced.is_none() && !remade =>
            {
                wgnet_core::plan_parts(desired, observed, parts, &self.memory.hints)
            }
            _ => None,
        };
        let steps = of_parts.unwrap_or_else(|| {
            wgnet_core::plan(desired, &self.memory.believed, &self.memory.hints)
        });
        if let (true, Some(desired), Seen::Present(observed)) =
            (looked, desired, &self.memory.believed)
        {
            self.memory.hints.adopt(desired, observed);
        }
        let is_wanted = desired.is_some();

        let unchanged = settled && difference.is_none() && same_left_out;
        let repairs = steps.iter().filter(|step| !is_upkeep(step)).count() as u64;
        if unchanged && repairs > 0 && self.memory.failures == 0 && !remade {
            self.memory.repairs += repairs;
            info!(
                steps = repairs,
                first = name(&steps[0]),
                "Putting right what was changed from outside"
            );
        }
        let Done { error, local_error, all } = self.apply(steps).await;
        let in_sync = error.is_none() && !self.memory.stale;
        self.memory.settled = in_sync && all;
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
            absent: !is_wanted && matches!(self.memory.believed, Seen::Absent),
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

    /// Brings what is wanted up to date. What is looked at as a whole is compared with what is
    /// derived as a whole.
    fn derive(
        &mut self,
        local: Option<&Arc<LocalNetwork>>,
        view: &ClusterView,
        looked: bool,
    ) -> Difference {
        let Context { keyring, me, underlay, .. } = &self.context;
        let none = NetworkView::default();
        let definition = local.map(|local| &local.definition);
        let network = definition.and_then(|d| view.networks.get(&d.key)).unwrap_or(&none);
        let keys = |generation, peer| {
            definition.and_then(|d| keyring.preshared_key(&d.key, generation, peer))
        };
        let families = crate::status::families(&underlay.borrow());
        let (cluster, me, keys) = (view, *me, &keys);
        let inputs = local.map(|local| Inputs { local, network, cluster, me, families, keys });
        let derivation = &mut self.memory.derivation;
        if looked { derivation.renew(inputs) } else { derivation.update(inputs) }
    }

    /// Carries the steps out, those at once that can be; goes on past failures, so that one bad
    /// object harms no other.
    async fn apply(&mut self, steps: Vec<Step>) -> Done {
        let mut done = Done { error: None, local_error: None, all: true };
        let mut gone = BTreeSet::new();
        let mut outline = None;
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            let mut batch = vec![step];
            while let Some(next) = steps.next_if(|next| goes_with(&batch[0], next)) {
                batch.push(next);
            }
            let count = batch.len();
            batch.retain(|step| !self.is_futile(step, &gone, done.error.is_some(), &mut outline));
            done.all &= batch.len() == count;
            let results = match batch.as_slice() {
                [] => continue,
                [step] => {
                    debug!(step = name(step), "Applying");
                    vec![self.context.dataplane.apply(&self.namespace, step).await]
                }
                steps => {
                    debug!(step = name(&steps[0]), count = steps.len(), "Applying");
                    self.context.dataplane.apply_all(&self.namespace, steps).await
                }
            };
            let (made, failed): (Vec<_>, Vec<_>) =
                batch.into_iter().zip(results).partition(|(_, result)| result.is_ok());
            let made: Vec<Step> = made.into_iter().map(|(step, _)| step).collect();
            self.applied(&made);
            for (step, error) in failed.into_iter().filter_map(|(s, r)| Some((s, r.err()?))) {
                outline = None;
                done.all = false;
                self.failed(&step, error, &mut gone, &mut done);
            }
        }
        done
    }

    /// Whether a step leads nowhere for what failed before it.
    fn is_futile(
        &self,
        step: &Step,
        gone: &BTreeSet<IfName>,
        has_failed: bool,
        outline: &mut Option<Seen<Observed>>,
    ) -> bool {
        match step {
            // No way leads to a pair that cannot be made.
            Step::SetRoute { target: RouteTarget::Link(link), .. } if gone.contains(link) => true,
            // A pair that could not be removed keeps its guard.
            Step::RemoveGuard if has_failed => {
                matches!(&self.memory.believed, Seen::Present(seen) if !seen.veths.is_empty())
            }
            // With the namespace gone nobody would look for a guard that could not be removed.
            Step::DeleteNamespace => {
                matches!(&self.memory.believed, Seen::Present(seen) if !seen.guard.is_empty())
            }
            // What a failed step should have made is missing: the step that needs it would fail, too.
            step if has_failed => {
                let outline = outline.get_or_insert_with(|| model::outline(&self.memory.believed));
                model::apply(outline, step).is_err()
            }
            _ => false,
        }
    }

    fn failed(
        &mut self,
        step: &Step,
        error: DataplaneError,
        gone: &mut BTreeSet<IfName>,
        done: &mut Done,
    ) {
        if let (
            ErrorKind::ContainerGone,
            Step::RestoreVeth { name, veth, .. } | Step::FixContainer { name, veth },
        ) = (error.kind, step)
        {
            // It ended since this pass looked; the next look counts it as gone.
            info!(endpoint = veth.endpoint.short(), "The container is gone");
            gone.insert(name.clone());
            return;
        }
        self.memory.stale = true;
        warn!(step = name(step), error = crate::chain(&error), "A step failed");
        if !is_remote(step) && !is_inside(step) {
            done.local_error.get_or_insert_with(|| crate::chain(&error));
        }
        done.error.get_or_insert(error);
    }

    fn applied(&mut self, steps: &[Step]) {
        if !model::apply_all(&mut self.memory.believed, steps) {
            self.memory.stale = true;
        }
        steps.iter().for_each(|step| self.memory.hints.applied(step));
    }

    /// Where the containers are that may be looked into: not of those that dockerd is still at work on.
    fn joined(&mut self) -> Joined {
        let veths = self.memory.derivation.desired().into_iter().flat_map(|desired| &desired.veths);
        let joined: Joined =
            veths.filter_map(|(name, veth)| Some((name.clone(), veth.sandbox.clone()?))).collect();
        let since = &mut self.memory.joined_since;
        since.retain(|name, _| joined.contains_key(name));
        for name in joined.keys() {
            since.entry(name.clone()).or_insert_with(Instant::now);
        }
        joined.into_iter().filter(|(name, _)| since[name].elapsed() >= DOCKER_AT_WORK).collect()
    }

    /// A driver that starts finds the network with the port that an earlier one took for it.
    fn note_port(&self, local: &LocalNetwork) {
        let wanted = local.definition.options.port;
        if let (Some(_), Some(slot)) = (wanted, local.slots.last()) {
            let object = super::object(&self.network);
            note_wanted(&self.context.problems, object, wanted, slot.port);
        }
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
            let interface = format!("of {object} ");
            let network = super::object(&self.network);
            note_taken(&self.context.problems, network, &interface, slot.port, picked);
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
            Runtime { in_sync: error.is_none(), error, repairs: self.memory.repairs },
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

/// Whether steps may be carried out at once: neither needs the other.
fn goes_with(step: &Step, next: &Step) -> bool {
    match (step, next) {
        (Step::SetRoute { .. }, Step::SetRoute { .. })
        | (Step::RemoveRoute { .. }, Step::RemoveRoute { .. }) => true,
        _ => changes_peer(step) && changes_peer(next),
    }
}

fn changes_peer(step: &Step) -> bool {
    matches!(
        step,
        Step::AddPeer { .. }
            | Step::UpdatePeer { .. }
            | Step::RemovePeer { .. }
            | Step::AddAllowed { .. }
            | Step::RemoveAllowed { .. }
    )
}

/// Whether a step concerns other hosts only: a bad peer must not keep a container here from starting.
fn is_remote(step: &Step) -> bool {
    match step {
        Step::SetRoute { target: RouteTarget::Link(link), .. } => {
            link.as_str().starts_with("wg") && !link.as_str().starts_with("wgv")
        }
        step => changes_peer(step),
    }
}

/// Whether a step repairs what a container has of ours, which it may hinder: no other one's business, nor
/// that of Docker's calls, which wait for a pair only until its container is known.
fn is_inside(step: &Step) -> bool {
    matches!(step, Step::FixContainer { .. } | Step::RestoreVeth { .. })
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
