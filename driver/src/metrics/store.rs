//! A store whose requests are counted and measured.

use std::time::Duration;

use tokio::time::Instant;
use wgnet_control_plane::store::{
    Audit, Committed, LeaseId, Listing, Revision, Store, StoreError, Txn,
};

use super::Metrics;

#[derive(Clone)]
pub struct MeteredStore<S> {
    inner: S,
    metrics: Metrics,
}

impl<S: Store> MeteredStore<S> {
    pub fn new(inner: S, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    async fn measured<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = request.await;
        self.metrics.requested(operation, outcome(&result), began.elapsed());
        result
    }
}

impl<S: Store> Store for MeteredStore<S> {
    type Watch = S::Watch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        self.measured("list", self.inner.list(scope)).await
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<Self::Watch, StoreError> {
        self.measured("watch", self.inner.watch(scope, from)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.measured("commit", self.inner.commit(txn)).await
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        self.measured("audit", self.inner.audit(scope, since)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.measured("revision", self.inner.revision()).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.measured("grant", self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.measured("keep_alive", self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.measured("revoke", self.inner.revoke(lease)).await
    }
}

fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) if error.is_away() => "away",
        Err(_) => "refused",
    }
}
