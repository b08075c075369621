//! The seam to the kernel: one network's namespace is observed and changed step by step.
//!
//! # Guarantees
//!
//! - [`Dataplane::apply`] of a step that already holds is success; a removal of what is gone is success.
//! - Nothing that is not ours (by mark, never by name alone) is changed.
//! - [`Dataplane::observe`] reports what could not be read as `Unknown`, never as absent.
//! - No thread of the runtime ever changes its namespace.

mod changes;
pub mod conformance;
pub mod linux;
pub mod model;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;

use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{Namespace, Observed, Seen, Step};
use wgnet_proto::EndpointId;

/// What the planner's steps are carried out by.
pub trait Dataplane: Clone + Send + Sync + 'static {
    /// Yields the namespaces whose objects somebody changed, so that they are looked at again.
    type Events: Events;

    /// `kernel` or `userspace`.
    fn backend(&self) -> &'static str;

    /// The namespaces of ours on this host.
    fn namespaces(
        &self,
    ) -> impl Future<Output = Result<BTreeSet<Namespace>, DataplaneError>> + Send;

    /// Removes what is ours and nobody claims. `claimed` is asked after everything was listed, so
    /// that what is made meanwhile is not taken for a stray: its claim came before it.
    ///
    /// A namespace that a container still uses stays, and is told.
    fn sweep(
        &self,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> impl Future<Output = Result<Swept, DataplaneError>> + Send {
        async move {
            let there = self.namespaces().await?;
            let claimed = claimed();
            let mut swept = Swept::default();
            for namespace in there.into_iter().filter(|of| !claimed.namespaces.contains(of)) {
                for step in [Step::RemoveGuard, Step::DeleteNamespace] {
                    self.apply(&namespace, &step).await?;
                }
                swept.removed.push(format!("namespace {namespace}"));
            }
            Ok(swept)
        }
    }

    /// What the namespace looks like. `joined` names the veths whose container is to be looked into,
    /// with the path of its namespace.
    fn observe(
        &self,
        namespace: &Namespace,
        joined: &Joined,
    ) -> impl Future<Output = Seen<Observed>> + Send;

    /// What there is at the path that Join named.
    fn sandbox(&self, path: &Path) -> impl Future<Output = Sandbox> + Send;

    /// The dockerds that this host has now, each by a name that it has from its start on.
    fn engines(&self) -> impl Future<Output = Seen<Engines>> + Send;

    fn apply(
        &self,
        namespace: &Namespace,
        step: &Step,
    ) -> impl Future<Output = Result<(), DataplaneError>> + Send;

    /// Applies steps in order, all of them whatever becomes of the others; one result for each.
    fn apply_all(
        &self,
        namespace: &Namespace,
        steps: &[Step],
    ) -> impl Future<Output = Vec<Result<(), DataplaneError>>> + Send {
        async move {
            let mut results = Vec::with_capacity(steps.len());
            for step in steps {
                results.push(self.apply(namespace, step).await);
            }
            results
        }
    }

    /// Subscribes to changes: others', and perhaps ours.
    fn events(&self) -> Self::Events;

    /// Whether a UDP port can be bound on this host now.
    fn port_is_free(&self, port: u16) -> impl Future<Output = bool> + Send;
}

/// What the networks of this host claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    pub namespaces: BTreeSet<Namespace>,
    pub endpoints: BTreeSet<EndpointId>,
}

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// In words.
    pub removed: Vec<String>,
    /// Unclaimed, and left for the containers that use them.
    pub in_use: BTreeSet<Namespace>,
}

/// Where the containers of joined veths are.
pub type Joined = std::collections::BTreeMap<wgnet_proto::IfName, std::path::PathBuf>;

pub trait Events: Send + 'static {
    /// Waits for the next namespace that changed; `None` when there will be no more.
    fn next(&mut self) -> impl Future<Output = Option<Namespace>> + Send;
}

/// What could not be done to which object.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}")]
pub struct DataplaneError {
    /// A verb: `create WireGuard interface`.
    pub operation: &'static str,
    /// The object's name, with its namespace.
    pub object: String,
    pub kind: ErrorKind,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What the reconciler can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The UDP port belongs to somebody else: take another.
    PortTaken,
    /// The container's namespace is gone: nothing to repair.
    ContainerGone,
    /// The kernel cannot do this at all (no WireGuard, no nftables).
    Unsupported,
    /// Anything else: try again with back-off.
    Other,
}
