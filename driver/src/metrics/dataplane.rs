//! A data plane whose steps are counted.

use std::collections::BTreeSet;
use std::path::Path;

use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{Namespace, Observed, Seen, Step};

use super::Metrics;
use crate::dataplane::{Claimed, Dataplane, DataplaneError, Joined, Swept};

#[derive(Clone)]
pub struct Metered<D> {
    inner: D,
    metrics: Metrics,
}

impl<D> Metered<D> {
    pub fn new(inner: D, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

impl<D: Dataplane> Dataplane for Metered<D> {
    type Events = D::Events;

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    async fn namespaces(&self) -> Result<BTreeSet<Namespace>, DataplaneError> {
        self.inner.namespaces().await
    }

    async fn sweep(
        &self,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> Result<Swept, DataplaneError> {
        self.inner.sweep(claimed).await
    }

    async fn observe(&self, namespace: &Namespace, joined: &Joined) -> Seen<Observed> {
        self.inner.observe(namespace, joined).await
    }

    async fn sandbox(&self, path: &Path) -> Sandbox {
        self.inner.sandbox(path).await
    }

    async fn engines(&self) -> Seen<Engines> {
        self.inner.engines().await
    }

    async fn apply(&self, namespace: &Namespace, step: &Step) -> Result<(), DataplaneError> {
        let result = self.inner.apply(namespace, step).await;
        self.metrics.stepped(kind(step), result.is_ok());
        result
    }

    async fn apply_all(
        &self,
        namespace: &Namespace,
        steps: &[Step],
    ) -> Vec<Result<(), DataplaneError>> {
        let results = self.inner.apply_all(namespace, steps).await;
        for (step, result) in steps.iter().zip(&results) {
            self.metrics.stepped(kind(step), result.is_ok());
        }
        results
    }

    fn events(&self) -> Self::Events {
        self.inner.events()
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.inner.port_is_free(port).await
    }
}

fn kind(step: &Step) -> &'static str {
    match step {
        Step::CreateNamespace => "create_namespace",
        Step::Prepare => "prepare_namespace",
        Step::DeleteNamespace => "delete_namespace",
        Step::AddGateway(_) => "add_gateway",
        Step::RemoveGateway(_) => "remove_gateway",
        Step::CreateWireguard { .. } => "create_wireguard",
        Step::RaiseWireguard { .. } => "raise_wireguard",
        Step::RemoveWireguard { .. } => "remove_wireguard",
        Step::AddPeer { .. } => "add_peer",
        Step::UpdatePeer { .. } => "update_peer",
        Step::RemovePeer { .. } => "remove_peer",
        Step::AddAllowed { .. } => "add_allowed",
        Step::RemoveAllowed { .. } => "remove_allowed",
        Step::CreateVeth { .. } => "create_veth",
        Step::FixVeth { .. } => "fix_veth",
        Step::RestoreVeth { .. } => "restore_veth",
        Step::FixContainer { .. } => "fix_container",
        Step::RemoveVeth { .. } => "remove_veth",
        Step::SetRoute { .. } => "set_route",
        Step::RemoveRoute { .. } => "remove_route",
        Step::SetGuard { .. } => "set_guard",
        Step::RemoveGuard => "remove_guard",
    }
}
