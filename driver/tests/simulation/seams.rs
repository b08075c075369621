//! The seams of one driver's life with faults in them: its line to the store, its kernel, its disk.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use wgnet_control_plane::store::memory::MemoryWatch;
use wgnet_control_plane::store::{
    Audit, CALL_DEADLINE, Committed, LeaseId, Listing, MemoryStore, Revision, Store, StoreError,
    Txn, Watch, WatchEvent,
};
use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{Namespace, Observed, Seen, Step};
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::dataplane::{Claimed, Dataplane, DataplaneError, ErrorKind, Joined, Swept};
use wgnet_driver::journal::{Gate, MemoryDisk, State};

use super::checks::{Witness, claims_all, journal_told};
use super::dice;
use super::life::Life;
use super::trace::{note, wrong};
use super::world::world;

/// What goes wrong by itself, in a thousand tries, and how slow things are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) call_fails: u64,
    pub(crate) answer_lost: u64,
    /// A write that nobody waits for any more happens all the same, later.
    pub(crate) late_write: u64,
    pub(crate) call_ms: u64,
    pub(crate) event_ms: u64,
    pub(crate) step_fails: u64,
    pub(crate) look_fails: u64,
    /// A look for a container's namespace.
    pub(crate) sandbox_fails: u64,
    pub(crate) disk_fails: u64,
    pub(crate) disk_ms: u64,
}

thread_local! {
    static WEATHER: Cell<Weather> = const { Cell::new(Weather {
        call_fails: 0, answer_lost: 0, late_write: 0, call_ms: 0, event_ms: 0,
        step_fails: 0, look_fails: 0, sandbox_fails: 0, disk_fails: 0, disk_ms: 0,
    }) };
}

pub(crate) fn set_weather(weather: Weather) {
    WEATHER.set(weather);
}

async fn wait_up_to(ms: u64) {
    if ms > 0 {
        sleep(dice::millis(0, ms)).await;
    }
}

#[derive(Clone)]
pub(crate) struct SimStore {
    pub(crate) inner: MemoryStore,
    pub(crate) life: Life,
    pub(crate) host: usize,
}

impl SimStore {
    async fn call<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.life.seam(operation).await;
        let weather = WEATHER.get();
        let there_and_back = async {
            wait_up_to(weather.call_ms).await;
            if dice::happens(weather.call_fails) {
                return Err(unreachable(operation));
            }
            let result = work.await;
            if dice::happens(weather.answer_lost) {
                note(format!("the answer of {operation} is lost"));
                return Err(unreachable(operation));
            }
            wait_up_to(weather.call_ms).await;
            result
        };
        let result = timeout(CALL_DEADLINE, there_and_back).await;
        self.life.seam(operation).await;
        result.unwrap_or(Err(StoreError::Deadline { operation }))
    }
}

fn unreachable(operation: &'static str) -> StoreError {
    StoreError::Unreachable {
        operation,
        endpoints: "simulated".to_owned(),
        source: "the weather".into(),
    }
}

impl Store for SimStore {
    type Watch = SimWatch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        self.call("list", self.inner.list(scope)).await
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<SimWatch, StoreError> {
        let inner = self.call("watch", self.inner.watch(scope, from)).await?;
        Ok(SimWatch { inner, life: self.life.clone(), pending: None })
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        if dice::happens(WEATHER.get().late_write) && !self.life.is_dead() {
            let (store, host) = (self.inner.clone(), self.host);
            note("a write is late");
            let journals = move || world(|world| world.hosts[host].journals);
            let before = journals();
            tokio::spawn(async move {
                sleep(dice::millis(0, 20_000)).await;
                // A host that lost its journal looks in the store for what it does not know of, once.
                if journals() == before && store.commit(txn).await.is_ok() {
                    note("the late write happened");
                }
            });
            return self.call("commit", std::future::pending()).await;
        }
        self.call("commit", self.inner.commit(txn)).await
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        self.call("audit", self.inner.audit(scope, since)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.call("revision", self.inner.revision()).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.call("grant", self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("keep alive", self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("revoke", self.inner.revoke(lease)).await
    }
}

pub(crate) struct SimWatch {
    inner: MemoryWatch,
    life: Life,
    /// On its way, and when it arrives.
    pending: Option<(WatchEvent, Instant)>,
}

impl Watch for SimWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        if self.pending.is_none() {
            let event = self.inner.next().await?;
            let way = Duration::from_millis(dice::below(WEATHER.get().event_ms + 1));
            self.pending = Some((event, Instant::now() + way));
        }
        if let Some((_, due)) = &self.pending {
            sleep_until(*due).await;
        }
        self.life.seam("watch event").await;
        Ok(self.pending.take().expect("put there above").0)
    }
}

#[derive(Clone)]
pub(crate) struct SimPlane {
    pub(crate) inner: Model,
    pub(crate) life: Life,
    pub(crate) host: usize,
    pub(crate) witness: Arc<Witness>,
    pub(crate) known: Known,
}

/// The kernels of which a driver knows all: nobody else changed them since it looked, and no step of
/// its own failed there, or seemed to. Only the task of a network may look there, or it is not its
/// knowledge.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Mutex<BTreeMap<Namespace, Arc<Seen<Observed>>>>>);

impl Known {
    fn learn(&self, namespace: &Namespace, kernel: Option<Arc<Seen<Observed>>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kernel {
            Some(kernel) => known.insert(namespace.clone(), kernel),
            None => known.remove(namespace),
        };
    }

    fn is(&self, namespace: &Namespace, kernel: &Arc<Seen<Observed>>) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(namespace).is_some_and(|known| Arc::ptr_eq(known, kernel) || known == kernel)
    }
}

impl SimPlane {
    fn failed(namespace: &Namespace) -> DataplaneError {
        DataplaneError {
            operation: "change",
            object: namespace.to_string(),
            kind: ErrorKind::Other,
            source: "the weather".into(),
        }
    }
}

impl Dataplane for SimPlane {
    type Events = <Model as Dataplane>::Events;

    fn backend(&self) -> &'static str {
        "model"
    }

    async fn namespaces(&self) -> Result<std::collections::BTreeSet<Namespace>, DataplaneError> {
        self.life.seam("list namespaces").await;
        self.inner.namespaces().await
    }

    /// Which namespaces are to go the model decides; each step of it passes here, and may fail.
    async fn sweep(
        &self,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> Result<Swept, DataplaneError> {
        let claimed = || {
            let claimed = claimed();
            if let Some(journal) = told_by(self.host, &self.life) {
                claims_all(self.host, &journal, &claimed);
            }
            claimed
        };
        let swept = self.inner.sweep_by(self, claimed).await?;
        for removed in &swept.removed {
            note(format!("host {}: {removed} is swept", self.host));
        }
        Ok(swept)
    }

    async fn observe(&self, namespace: &Namespace, joined: &Joined) -> Seen<Observed> {
        self.life.seam("look").await;
        tokio::task::yield_now().await;
        let seen = self.inner.observe(namespace, joined).await;
        self.known.learn(namespace, Some(self.inner.look(namespace)));
        self.life.seam("look").await;
        if dice::happens(WEATHER.get().look_fails) { Seen::Unknown } else { seen }
    }

    async fn sandbox(&self, path: &std::path::Path) -> Sandbox {
        self.life.seam("look").await;
        let weather = WEATHER.get();
        if dice::happens(weather.look_fails) || dice::happens(weather.sandbox_fails) {
            return Sandbox::Unknown;
        }
        self.inner.sandbox(path).await
    }

    async fn engines(&self) -> Seen<Engines> {
        self.life.seam("look").await;
        if dice::happens(WEATHER.get().look_fails) {
            return Seen::Unknown;
        }
        self.inner.engines().await
    }

    async fn apply(&self, namespace: &Namespace, step: &Step) -> Result<(), DataplaneError> {
        self.life.seam("kernel step").await;
        tokio::task::yield_now().await;
        if *namespace == strange() {
            wrong(format!("host {}: {step:?} in a namespace that is not ours", self.host));
        }
        let weather = WEATHER.get();
        if dice::happens(weather.step_fails) {
            self.known.learn(namespace, None);
            return Err(Self::failed(namespace));
        }
        let before = self.inner.look(namespace);
        let is_known = self.known.is(namespace, &before);
        let done = self.inner.apply(namespace, step).await;
        if let Err(refused) = &done
            && is_known
            && needs_its_link(step)
        {
            wrong(format!("host {} {namespace}: {step:?} was planned: {refused:?}", self.host));
        }
        if *before == Seen::Absent && *step == Step::CreateNamespace {
            self.inner.quietly(namespace, somebody_elses);
        }
        let after = self.inner.look(namespace);
        self.witness.stepped(self.host, namespace, step, &before, &after);
        self.known.learn(namespace, Some(after).filter(|_| is_known && done.is_ok()));
        self.life.seam("kernel step").await;
        if dice::happens(weather.step_fails) {
            self.known.learn(namespace, None);
            return Err(Self::failed(namespace));
        }
        done
    }

    fn events(&self) -> Self::Events {
        self.inner.events()
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.life.seam("probe port").await;
        self.inner.port_is_free(port).await
    }
}

/// Whether a step needs a link or peer that its plan has made before, if it was not there.
fn needs_its_link(step: &Step) -> bool {
    matches!(
        step,
        Step::SetRoute { .. }
            | Step::RaiseWireguard { .. }
            | Step::AddPeer { .. }
            | Step::UpdatePeer { .. }
            | Step::AddAllowed { .. }
            | Step::FixVeth { .. }
    )
}

/// What is called as the driver's namespaces are, and is not one.
pub(crate) fn strange() -> Namespace {
    Namespace::parse("wgnet-admins").expect("it is called as ours are")
}

/// Somebody makes it when a host boots.
pub(crate) fn make_strange(plane: &Model) {
    let mut kernel = Observed { pinned: true, ..Observed::default() };
    somebody_elses(&mut kernel);
    plane.make_strange(&strange(), kernel);
}

/// Whether it is as it was made.
pub(crate) fn is_strange_left_alone(plane: &Model) -> bool {
    let made = Model::default();
    make_strange(&made);
    plane.look(&strange()) == made.look(&strange())
}

/// What the driver finds in a namespace that is not its own, and must never touch.
fn somebody_elses(kernel: &mut Observed) {
    let link: wgnet_proto::IfName = "other0".parse().expect("it is a name");
    kernel.foreign.insert(link.clone());
    let target = wgnet_core::RouteTarget::Link(link);
    kernel.routes.insert("192.0.2.0/24".parse().expect("it is a network"), target);
}

/// How a disk is reached in one life of a host.
pub(crate) fn gate(host: usize, disk: &MemoryDisk, life: &Life) -> Gate {
    let (disk, life) = (disk.clone(), life.clone());
    let before = Arc::new(Mutex::new(None::<(Arc<State>, Arc<State>)>));
    Arc::new(move || {
        let (disk, life, before) = (disk.clone(), life.clone(), Arc::clone(&before));
        Box::pin(async move {
            life.seam("disk").await;
            if let Some(told) = told_by(host, &life) {
                let mut before = before.lock().expect("no holder panics");
                let now = disk.state();
                journal_told(host, &told, &now, before.as_ref());
                *before = Some((told, now));
            }
            let weather = WEATHER.get();
            wait_up_to(weather.disk_ms).await;
            if dice::happens(weather.disk_fails) {
                let written = dice::happens(500);
                note(format!("the next write of a disk fails, written: {written}"));
                disk.fail_next(written);
            }
            life.seam("disk").await;
        })
    })
}

/// What the journal of this life says, if it is not over.
fn told_by(host: usize, life: &Life) -> Option<Arc<State>> {
    world(|world| {
        let running = world.hosts[host].running.as_ref();
        running.filter(|running| running.life.is(life)).map(|running| running.journal.state())
    })
}
