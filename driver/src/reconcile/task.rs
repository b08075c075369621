//! One network's loop: derive, look, plan, apply, report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};
use wgnet_core::watchdog::Watchdog;
use wgnet_core::{Desired, Hints, LocalNetwork, Namespace, NetworkView, Observed, Seen, Step, model};
use wgnet_proto::status::Problem;
use wgnet_proto::{DockerNetworkId, IfName, PublicKey};

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
    told: BTreeMap<(IfName, PublicKey), SocketAddr>,
    watchdog: Watchdog,
    /// The intent and cluster records of the last pass that ended in sync.
    settled: Option<(Option<Arc<LocalNetwork>>, NetworkView)>,
    failures: u32,
    /// When to look because the kernel told of a change.
    look_due: Option<Instant>,
    young_peers_since: Option<Instant>,
    repairs: u64,
}

/// How a pass ended.
struct Outcome {
    error: Option<DataplaneError>,
    /// Nothing of the network is left and nothing is wanted.
    absent: bool,
    awaiting_handshakes: bool,
}

impl<D: Dataplane> NetworkTask<D> {
    pub(super) fn new(context: Context<D>, network: DockerNetworkId, looked_at: Arc<Notify>) -> Self {
        let memory = Memory {
            believed: Seen::Unknown,
            stale: true,
            told: BTreeMap::new(),
            watchdog: Watchdog::default(),
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
                if outcome.absent && !self.context.journal.state().networks.contains_key(&self.network) {
                    break;
                }
                let pause = self.pause(&outcome);
                let regular = Instant::now() + pause;
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
        let view = Arc::clone(&self.context.view.borrow());
        let keyring = Arc::clone(&self.context.keyring);
        let families = crate::status::families(&self.context.underlay.borrow());
        let local = self.context.journal.state().networks.get(&self.network).cloned();
        let none = NetworkView::default();
        let network = local.as_ref().and_then(|local| view.networks.get(&local.definition.key)).unwrap_or(&none);
        let desired = local.as_ref().and_then(|local| {
            let keys = |generation, peer| keyring.preshared_key(&local.definition.key, generation, peer);
            wgnet_core::derive(local, network, &view, self.context.me, families, &keys)
        });

        let looked = self.memory.stale;
        if looked {
            self.memory.look_due = None;
            let joined = desired.as_ref().map(joined).unwrap_or_default();
            self.memory.believed = self.context.dataplane.observe(&self.namespace, &joined).await;
            self.memory.stale = matches!(self.memory.believed, Seen::Unknown);
        }
        let mut hints = Hints { told: self.memory.told.clone(), ..Hints::default() };
        if let (true, Seen::Present(observed)) = (looked, &self.memory.believed) {
            hints.remake = self.memory.watchdog.feed(started.elapsed().as_secs(), observed);
        }
        let steps = wgnet_core::plan(desired.as_ref(), &self.memory.believed, &hints);

        let unchanged = self.memory.settled.as_ref().is_some_and(|(l, n)| *l == local && n == network);
        let repairs = steps.iter().filter(|step| !is_upkeep(step)).count() as u64;
        if unchanged && repairs > 0 && self.memory.failures == 0 && hints.remake.is_empty() {
            self.memory.repairs += repairs;
            info!(steps = repairs, first = name(&steps[0]), "Putting right what was changed from outside");
        }
        let error = self.apply(steps).await;
        let in_sync = error.is_none() && !self.memory.stale;
        let settled = in_sync.then(|| (local.clone(), network.clone()));
        self.memory.settled = settled;
        if let Some(error) = &error
            && error.kind == ErrorKind::PortTaken
            && let Some(local) = &local
        {
            self.take_another_port(local, &error.object).await;
        }
        Outcome {
            error,
            absent: desired.is_none() && matches!(self.memory.believed, Seen::Absent),
            awaiting_handshakes: awaiting_handshakes(&self.memory.believed),
        }
    }

    /// Carries the steps out; goes on past failures, so that one bad object harms no other.
    async fn apply(&mut self, steps: Vec<Step>) -> Option<DataplaneError> {
        let mut first = None;
        for step in steps {
            // What a failed step should have made is missing: the step that needs it would fail, too.
            if first.is_some() && model::apply(&mut self.memory.believed.clone(), &step).is_err() {
                continue;
            }
            debug!(step = name(&step), "Applying");
            match self.context.dataplane.apply(&self.namespace, &step).await {
                Ok(()) => self.applied(&step),
                Err(error) => {
                    warn!(step = name(&step), error = crate::chain(&error), "A step failed");
                    self.memory.stale = true;
                    first.get_or_insert(error);
                }
            }
        }
        first
    }

    fn applied(&mut self, step: &Step) {
        if model::apply(&mut self.memory.believed, step).is_err() {
            self.memory.stale = true;
        }
        match step {
            Step::AddPeer { wireguard, peer, config } => {
                if let Some(underlay) = config.underlay {
                    self.memory.told.insert((wireguard.clone(), *peer), underlay);
                }
            }
            Step::UpdatePeer { wireguard, peer, underlay: Some(underlay), .. } => {
                self.memory.told.insert((wireguard.clone(), *peer), *underlay);
            }
            Step::RemovePeer { wireguard, peer } => {
                self.memory.told.remove(&(wireguard.clone(), *peer));
            }
            Step::CreateWireguard { name, .. } | Step::RemoveWireguard { name } => {
                self.memory.told.retain(|(wireguard, _), _| wireguard != name);
            }
            Step::DeleteNamespace => self.memory.told.clear(),
            _ => {}
        }
    }

    async fn take_another_port(&self, local: &LocalNetwork, object: &str) {
        let taken = local.slots.iter().map(|slot| slot.port).collect();
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
                if let Some(slot) = slots.and_then(|slots| slots.iter_mut().find(|slot| slot.generation == generation)) {
                    slot.port = picked;
                }
            });
            if let Err(error) = changed.await {
                warn!(error = crate::chain(&error), "Cannot note another port");
                return;
            }
            info!(was = slot.port, now = picked, "The port belongs to somebody else; taking another");
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
        let error = error.or_else(|| blind.then(|| format!("cannot read the state of namespace {}", self.namespace)));
        self.memory.failures = if error.is_some() { self.memory.failures.saturating_add(1) } else { 0 };
        let previous = self.context.applied.get(&self.network).map_or(0, |report| report.applied);
        let applied = if error.is_none() { revision } else { previous };
        self.context.applied.report(&self.network, Report { applied, tried: revision, error: error.clone() });
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

    /// How long until the next look, if nothing happens.
    fn pause(&mut self, outcome: &Outcome) -> Duration {
        if self.memory.failures > 0 {
            let doublings = (self.memory.failures - 1).min(10);
            return (RETRY_FIRST * 2u32.pow(doublings)).min(RETRY_LAST);
        }
        if !outcome.awaiting_handshakes {
            self.memory.young_peers_since = None;
            return LOOK_EVERY;
        }
        let since = *self.memory.young_peers_since.get_or_insert_with(Instant::now);
        if since.elapsed() < HANDSHAKES_WITHIN { LOOK_FOR_HANDSHAKES_EVERY } else { LOOK_EVERY / 4 }
    }
}

fn joined(desired: &Desired) -> Joined {
    let joined = desired.veths.iter().filter_map(|(name, veth)| Some((name.clone(), veth.sandbox.clone()?)));
    joined.collect()
}

fn awaiting_handshakes(observed: &Seen<Observed>) -> bool {
    let Seen::Present(observed) = observed else { return false };
    let mut peers = observed.wireguards.values().flat_map(|wireguard| wireguard.peers.values());
    peers.any(|peer| peer.last_handshake.is_none())
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
