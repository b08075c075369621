//! A data plane in memory: the planner's model kernel, for every network of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgnet_core::model::{self, ModelError};
use wgnet_core::observed::{ContainerEnd, ContainerInterface};
use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{Namespace, Observed, Seen, Step};
use wgnet_proto::IfName;

use super::changes::{Changed, Changes};
use super::{Claimed, Dataplane, DataplaneError, ErrorKind, Joined, Swept};

/// Clones are the same kernel, as after a restart of the driver.
#[derive(Clone, Default)]
pub struct Model {
    host: Arc<Mutex<Host>>,
    changes: Changes,
}

#[derive(Default)]
struct Host {
    /// Shared with whoever looks.
    kernels: BTreeMap<Namespace, Arc<Seen<Observed>>>,
    /// Namespaces that are only called as ours are: without our mark.
    strange: BTreeSet<Namespace>,
    containers: BTreeSet<PathBuf>,
    /// In which container the other end of a veth is.
    ends: BTreeMap<(Namespace, IfName), PathBuf>,
    /// UDP ports that belong to others.
    ports: BTreeSet<u16>,
    engines: Engines,
}

impl Model {
    /// Does to a network what somebody does by hand, or makes it unreadable.
    pub fn tamper(&self, namespace: &Namespace, change: impl FnOnce(&mut Seen<Observed>)) {
        change(self.host().kernel_mut(namespace));
        self.changes.report(namespace);
    }

    /// What the kernel, or somebody, does that nobody is told of.
    pub fn quietly(&self, namespace: &Namespace, change: impl FnOnce(&mut Observed)) {
        if let Some(kernel) = self.host().present_mut(namespace) {
            change(kernel);
        }
    }

    pub fn start_container(&self, sandbox: &Path) {
        self.host().containers.insert(sandbox.to_owned());
    }

    /// Ends a container, and with it the veth pairs it had an end of.
    pub fn end_container(&self, sandbox: &Path) {
        let mut host = self.host();
        host.containers.remove(sandbox);
        let ended = host.ends.iter().filter(|(_, path)| *path == sandbox);
        let ended: Vec<_> = ended.map(|(end, _)| end.clone()).collect();
        for (namespace, name) in ended {
            host.remove_veth(&namespace, name);
            self.changes.report(&namespace);
        }
    }

    /// Docker takes a container's name away, and leaves its process.
    pub fn forget_container(&self, sandbox: &Path) {
        self.host().containers.remove(sandbox);
    }

    /// Moves a veth's other end into a container, as Docker does.
    ///
    /// # Panics
    ///
    /// When there is no such veth.
    pub fn move_into(
        &self,
        namespace: &Namespace,
        name: &IfName,
        sandbox: &Path,
        interface: ContainerInterface,
    ) {
        let mut host = self.host();
        let Some(kernel) = host.present_mut(namespace) else { panic!("no namespace {namespace}") };
        let veth = kernel.veths.get_mut(name).expect("the veth was made");
        veth.container = ContainerEnd::InContainer(Seen::Present(interface));
        host.ends.insert((namespace.clone(), name.clone()), sandbox.to_owned());
    }

    /// What a network looks like, containers included.
    pub fn look(&self, namespace: &Namespace) -> Arc<Seen<Observed>> {
        self.host().kernels.get(namespace).cloned().unwrap_or_else(absent)
    }

    /// The container that has the other end of a veth.
    pub fn container_of(&self, namespace: &Namespace, name: &IfName) -> Option<PathBuf> {
        self.host().ends.get(&(namespace.clone(), name.clone())).cloned()
    }

    /// Somebody makes a namespace that is called as ours are.
    pub fn make_strange(&self, namespace: &Namespace, kernel: Observed) {
        let mut host = self.host();
        host.strange.insert(namespace.clone());
        host.kernels.insert(namespace.clone(), Arc::new(Seen::Present(kernel)));
    }

    /// Sweeps with the steps of a data plane that stands before this one.
    ///
    /// # Errors
    ///
    /// When a namespace cannot be removed; those after it are left.
    pub async fn sweep_by<D: Dataplane>(
        &self,
        plane: &D,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> Result<Swept, DataplaneError> {
        let there = plane.namespaces().await?;
        let claimed = claimed();
        let mut swept = Swept::default();
        for namespace in there.into_iter().filter(|of| !claimed.namespaces.contains(of)) {
            let mark = self.host().mark(&namespace);
            if mark == Mark::InUse {
                swept.in_use.insert(namespace.clone());
            }
            if mark != Mark::Ours {
                continue;
            }
            for step in [Step::RemoveGuard, Step::DeleteNamespace] {
                plane.apply(&namespace, &step).await?;
            }
            swept.removed.push(format!("namespace {namespace}"));
        }
        Ok(swept)
    }

    /// The host loses power: nothing of its kernel is left.
    pub fn power_off(&self) {
        let mut host = self.host();
        let ports = std::mem::take(&mut host.ports);
        *host = Host { ports, ..Host::default() };
    }

    /// Docker takes a veth's other end back out of its container.
    pub fn move_out(&self, namespace: &Namespace, name: &IfName) {
        let mut host = self.host();
        host.ends.remove(&(namespace.clone(), name.clone()));
        let kernel = host.present_mut(namespace);
        if let Some(veth) = kernel.and_then(|kernel| kernel.veths.get_mut(name)) {
            veth.container = ContainerEnd::InHost;
        }
    }

    /// A dockerd begins, or ends.
    pub fn engine(&self, name: &str, runs: bool) {
        let engines = &mut self.host().engines;
        let _ = if runs { engines.insert(name.to_owned()) } else { engines.remove(name) };
    }

    /// Makes a UDP port somebody else's, or nobody's.
    pub fn occupy_port(&self, port: u16, occupied: bool) {
        let ports = &mut self.host().ports;
        let _ = if occupied { ports.insert(port) } else { ports.remove(&port) };
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose a namespace is, by what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Strange,
    Ours,
    /// Ours, and a container has an end of it.
    InUse,
}

fn absent() -> Arc<Seen<Observed>> {
    Arc::new(Seen::Absent)
}

impl Host {
    fn kernel_mut(&mut self, namespace: &Namespace) -> &mut Seen<Observed> {
        Arc::make_mut(self.kernels.entry(namespace.clone()).or_insert_with(absent))
    }

    fn present_mut(&mut self, namespace: &Namespace) -> Option<&mut Observed> {
        match Arc::make_mut(self.kernels.get_mut(namespace)?) {
            Seen::Present(kernel) => Some(kernel),
            Seen::Absent | Seen::Unknown => None,
        }
    }

    fn mark(&self, namespace: &Namespace) -> Mark {
        if self.strange.contains(namespace) {
            return Mark::Strange;
        }
        let Some(Seen::Present(kernel)) = self.kernels.get(namespace).map(Arc::as_ref) else {
            return Mark::Ours;
        };
        let mut ends = kernel.veths.values().map(|veth| &veth.container);
        let is_used = ends.any(|end| matches!(end, ContainerEnd::InContainer(_)));
        if is_used { Mark::InUse } else { Mark::Ours }
    }

    fn port_is_free(&self, port: u16, except: Option<(&Namespace, &IfName)>) -> bool {
        let holders = self.kernels.iter().filter_map(|(namespace, seen)| match &**seen {
            Seen::Present(kernel) => {
                Some(kernel.wireguards.iter().map(move |(name, w)| (namespace, name, w.port)))
            }
            _ => None,
        });
        let mut others =
            holders.flatten().filter(|(namespace, name, _)| except != Some((*namespace, *name)));
        !self.ports.contains(&port) && others.all(|(_, _, taken)| taken != port)
    }

    fn remove_veth(&mut self, namespace: &Namespace, name: IfName) {
        if self.kernels.contains_key(namespace) {
            // There is nothing a removal is refused for.
            let _ = model::apply(self.kernel_mut(namespace), &Step::RemoveVeth { name });
        }
    }

    fn check(&self, namespace: &Namespace, step: &Step) -> Result<(), (ErrorKind, String)> {
        match step {
            Step::CreateWireguard { name, port, .. }
                if !self.port_is_free(*port, Some((namespace, name))) =>
            {
                Err((ErrorKind::PortTaken, format!("port {port} is taken")))
            }
            Step::RestoreVeth { veth, .. } | Step::FixContainer { veth, .. } => match &veth.sandbox
            {
                Some(sandbox) if self.containers.contains(sandbox) => Ok(()),
                Some(sandbox) => Err((
                    ErrorKind::ContainerGone,
                    format!("no container at {}", sandbox.display()),
                )),
                None => Err((ErrorKind::ContainerGone, "no container has joined".to_owned())),
            },
            _ => Ok(()),
        }
    }

    fn apply(&mut self, namespace: &Namespace, step: &Step) -> Result<(), (ErrorKind, String)> {
        self.check(namespace, step)?;
        model::apply(self.kernel_mut(namespace), step)
            .map_err(|error| (kind_of(&error), error.to_string()))?;
        if let Step::RestoreVeth { name, veth, .. } = step
            && let Some(sandbox) = &veth.sandbox
        {
            self.ends.insert((namespace.clone(), name.clone()), sandbox.clone());
        }
        Ok(())
    }
}

impl Dataplane for Model {
    type Events = Changed;

    fn backend(&self) -> &'static str {
        "model"
    }

    async fn namespaces(&self) -> Result<BTreeSet<Namespace>, DataplaneError> {
        let host = self.host();
        let there = host.kernels.iter().filter(|(_, seen)| ***seen != Seen::Absent);
        Ok(there.map(|(namespace, _)| namespace.clone()).collect())
    }

    async fn sweep(
        &self,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> Result<Swept, DataplaneError> {
        self.sweep_by(self, claimed).await
    }

    async fn observe(&self, namespace: &Namespace, joined: &Joined) -> Seen<Observed> {
        let host = self.host();
        let kernel = host.kernels.get(namespace);
        let mut seen = kernel.map_or(Seen::Absent, |seen| Seen::clone(seen));
        if let Seen::Present(kernel) = &mut seen {
            for (name, veth) in &mut kernel.veths {
                let ContainerEnd::InContainer(interface) = &mut veth.container else {
                    continue;
                };
                let at = host.ends.get(&(namespace.clone(), name.clone()));
                match joined.get(name) {
                    None => *interface = Seen::Unknown,
                    Some(sandbox) if at != Some(sandbox) || !host.containers.contains(sandbox) => {
                        *interface = Seen::Absent;
                    }
                    Some(_) => {}
                }
            }
        }
        seen
    }

    async fn sandbox(&self, path: &Path) -> Sandbox {
        if self.host().containers.contains(path) { Sandbox::There } else { Sandbox::Missing }
    }

    async fn engines(&self) -> Seen<Engines> {
        Seen::Present(self.host().engines.clone())
    }

    async fn apply(&self, namespace: &Namespace, step: &Step) -> Result<(), DataplaneError> {
        let applied = self.host().apply(namespace, step);
        let (kind, reason) = match applied {
            Ok(()) => {
                self.changes.report(namespace);
                return Ok(());
            }
            Err(refused) => refused,
        };
        Err(DataplaneError {
            operation: "change",
            object: namespace.to_string(),
            kind,
            source: reason.into(),
        })
    }

    fn events(&self) -> Changed {
        self.changes.subscribe()
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.host().port_is_free(port, None)
    }
}

fn kind_of(error: &ModelError) -> ErrorKind {
    match error {
        ModelError::PortTaken { .. } => ErrorKind::PortTaken,
        _ => ErrorKind::Other,
    }
}
