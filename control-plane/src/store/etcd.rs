//! etcd as the store. A scope becomes one key range; what the range holds beyond the scope
//! (`networks/blue-2` in that of `networks/blue`) is left out here.

mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    PutOptions, SortOrder, SortTarget, TlsOptions, TxnOp,
};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{
    CALL_DEADLINE, Committed, Condition, Entry, LeaseId, Listing, MAX_OPS, Op, Revision, Store,
    StoreError, Txn, covers,
};
pub use watch::EtcdWatch;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WITHIN: Duration = Duration::from_secs(3);

/// So that one answer stays far below gRPC's limit of 4 MiB, whatever the records.
const PAGE: i64 = 1000;

/// gRPC's codes (<https://grpc.io/docs/guides/status-codes/>).
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const OUT_OF_RANGE: i32 = 11;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Where etcd is and how to speak to it.
#[derive(Clone)]
pub struct EtcdOptions {
    pub endpoints: Vec<String>,
    /// Without a slash at the end.
    pub prefix: String,
    pub tls: Option<EtcdTls>,
}

/// PEM texts.
#[derive(Clone)]
pub struct EtcdTls {
    pub ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, where it is not the endpoint's.
    pub domain: Option<String>,
}

/// A client of etcd; clones share its connections.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    options: ConnectOptions,
    endpoints: Vec<String>,
    prefix: String,
    client: OnceCell<Client>,
}

impl EtcdStore {
    /// Prepares the client; connects with the first call, so that it may be made while etcd is down.
    ///
    /// # Errors
    ///
    /// When there is no endpoint.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Config { what: "no endpoint is named".to_owned(), source: "at least one is needed".into() });
        }
        let mut connect = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(CONNECT_WITHIN)
            .with_keep_alive(PING_EVERY, PING_WITHIN)
            .with_keep_alive_while_idle(true);
        if let Some(tls) = options.tls {
            connect = connect.with_tls(tls_options(tls));
        }
        let prefix = format!("{}/", options.prefix.trim_end_matches('/'));
        let shared = Shared { options: connect, endpoints: options.endpoints, prefix, client: OnceCell::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn client(&self) -> Result<Client, StoreError> {
        let shared = &self.shared;
        let connect = || Client::connect(&shared.endpoints, Some(shared.options.clone()));
        let client = shared.client.get_or_try_init(connect).await;
        client.cloned().map_err(|error| self.failed("connect", error))
    }

    /// One call under the deadline.
    async fn call<T, F>(&self, operation: &'static str, call: impl FnOnce(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let called = async { call(self.client().await?).await.map_err(|error| self.failed(operation, error)) };
        timeout(CALL_DEADLINE, called).await.unwrap_or(Err(StoreError::Deadline { operation }))
    }

    fn failed(&self, operation: &'static str, error: Error) -> StoreError {
        let endpoints = self.shared.endpoints.join(", ");
        if error.to_string().contains("no leader") {
            return StoreError::NoLeader { endpoints };
        }
        match code(&error) {
            Some(DEADLINE_EXCEEDED | UNAVAILABLE | UNAUTHENTICATED) => StoreError::Unreachable { operation, endpoints, source: error.into() },
            Some(_) => StoreError::Refused { operation, source: error.into() },
            None => StoreError::Unreachable { operation, endpoints, source: error.into() },
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.shared.prefix)
    }

    /// The first key of a scope, and the first one after it.
    fn range(&self, scope: &str) -> (Vec<u8>, Vec<u8>) {
        let start = self.full(scope).into_bytes();
        let mut end = start.clone();
        if scope.is_empty() || scope.ends_with('/') {
            // '0' follows '/'.
            *end.last_mut().expect("it ends with a slash") = b'0';
        } else {
            end.push(b'0');
        }
        (start, end)
    }

    /// The entry, if it belongs to the scope.
    fn entry(&self, scope: &str, pair: &KeyValue) -> Option<Entry> {
        let key = self.key(pair.key())?;
        let belongs = covers(scope, &key);
        belongs.then(|| Entry { key, value: pair.value().to_vec(), mod_revision: pair.mod_revision() })
    }

    /// Keys that are no text are nobody's of ours.
    fn key(&self, full: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(full).ok()?;
        text.strip_prefix(&self.shared.prefix).map(str::to_owned)
    }

    /// One page of a listing, at a revision once it is known.
    async fn page(&self, from: Vec<u8>, end: Vec<u8>, at: Revision, keys_only: bool) -> Result<Page, StoreError> {
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE).with_sort(SortTarget::Key, SortOrder::Ascend);
        if at > 0 {
            options = options.with_revision(at);
        }
        if keys_only {
            options = options.with_keys_only();
        }
        let got = self.call("a listing", |mut client| async move { client.get(from, Some(options)).await });
        match got.await {
            Ok(mut got) => {
                let revision = got.header().map_or(0, |header| header.revision());
                let more = got.more();
                Ok(Page::Got { pairs: got.take_kvs(), revision, more })
            }
            Err(StoreError::Refused { source, .. }) if at > 0 && is_compacted(source.as_ref()) => Ok(Page::Compacted),
            Err(error) => Err(error),
        }
    }

    /// All pairs of a scope's range at one revision; begins again when that is compacted meanwhile.
    async fn pages(&self, scope: &str, keys_only: bool) -> Result<(Vec<KeyValue>, Revision), StoreError> {
        'again: loop {
            let (mut from, end) = self.range(scope);
            let (mut all, mut at) = (Vec::new(), 0);
            loop {
                match self.page(from, end.clone(), at, keys_only).await? {
                    Page::Compacted => continue 'again,
                    Page::Got { pairs, revision, more } => {
                        if at == 0 {
                            at = revision;
                        }
                        let last = pairs.last().map(|pair| pair.key().to_vec());
                        all.extend(pairs);
                        let (true, Some(mut next)) = (more, last) else { return Ok((all, at)) };
                        next.push(0);
                        from = next;
                    }
                }
            }
        }
    }
}

enum Page {
    Got { pairs: Vec<KeyValue>, revision: Revision, more: bool },
    Compacted,
}

impl Store for EtcdStore {
    type Watch = EtcdWatch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        let (pairs, revision) = self.pages(scope, false).await?;
        let entries = pairs.iter().filter_map(|pair| self.entry(scope, pair)).collect();
        Ok(Listing { revision, entries })
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<EtcdWatch, StoreError> {
        let opened = timeout(CALL_DEADLINE, watch::open(self.clone(), scope.to_owned(), from)).await;
        opened.unwrap_or(Err(StoreError::Deadline { operation: "the start of a watch" }))
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        if txn.ops.len() > MAX_OPS || txn.conditions.len() > MAX_OPS {
            return Err(StoreError::TooManyOps(txn.ops.len().max(txn.conditions.len())));
        }
        let lease = txn.ops.iter().find_map(|op| match op {
            Op::PutLeased { lease, .. } => Some(*lease),
            Op::Put { .. } | Op::Delete { .. } => None,
        });
        let compares: Vec<Compare> = txn.conditions.iter().map(|condition| self.compare(condition)).collect();
        let ops: Vec<TxnOp> = txn.ops.into_iter().map(|op| self.op(op)).collect();
        let request = etcd_client::Txn::new().when(compares).and_then(ops);
        let committed = self.call("a transaction", |mut client| async move { client.txn(request).await });
        match committed.await {
            Ok(answer) => {
                let revision = answer.header().map_or(0, |header| header.revision());
                Ok(if answer.succeeded() { Committed::Done { revision } } else { Committed::Refused { revision } })
            }
            Err(StoreError::Refused { source, .. }) if is_lease_lost(source.as_ref()) => Err(StoreError::LeaseLost(lease.unwrap_or(0))),
            Err(error) => Err(error),
        }
    }

    async fn count(&self, scope: &str) -> Result<(u64, Revision), StoreError> {
        let (pairs, _) = self.pages(scope, true).await?;
        let entries = pairs.iter().filter_map(|pair| self.entry(scope, pair));
        Ok(entries.fold((0, 0), |(count, newest), entry| (count + 1, newest.max(entry.mod_revision))))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let key = self.full("cluster");
        let options = GetOptions::new().with_count_only();
        let got = self.call("a look at the revision", |mut client| async move { client.get(key, Some(options)).await }).await?;
        Ok(got.header().map_or(0, |header| header.revision()))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = self.call("a lease", |mut client| async move { client.lease_grant(seconds, None).await }).await?;
        Ok(granted.id())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let kept = self.call("a lease's renewal", |mut client| async move {
            let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        });
        match kept.await {
            Ok(Some(answer)) if answer.ttl() > 0 => Ok(()),
            // A lease that is gone is answered with ttl 0; the client library may make that an error.
            Ok(_) => Err(StoreError::LeaseLost(lease)),
            Err(StoreError::Refused { source, .. } | StoreError::Unreachable { source, .. }) if is_lease_lost(source.as_ref()) => {
                Err(StoreError::LeaseLost(lease))
            }
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.call("a lease's end", |mut client| async move { client.lease_revoke(lease).await });
        match revoked.await {
            Ok(_) => Ok(()),
            Err(StoreError::Refused { source, .. }) if is_lease_lost(source.as_ref()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl EtcdStore {
    fn compare(&self, condition: &Condition) -> Compare {
        match condition {
            Condition::Absent(key) => Compare::create_revision(self.full(key), CompareOp::Equal, 0),
            Condition::Unchanged { key, mod_revision } => Compare::mod_revision(self.full(key), CompareOp::Equal, *mod_revision),
            // Over a range the comparison holds if it does for every key in it: none has this one.
            Condition::NonePrefixed(prefix) => Compare::create_revision(self.full(prefix), CompareOp::Equal, 0).with_prefix(),
        }
    }

    fn op(&self, op: Op) -> TxnOp {
        match op {
            Op::Put { key, value } => TxnOp::put(self.full(&key), value, None),
            Op::PutLeased { key, value, lease } => TxnOp::put(self.full(&key), value, Some(PutOptions::new().with_lease(lease))),
            Op::Delete { key } => TxnOp::delete(self.full(&key), None),
        }
    }
}

fn tls_options(tls: EtcdTls) -> TlsOptions {
    let mut options = TlsOptions::new();
    if let Some(ca) = tls.ca {
        options = options.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = tls.client {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(domain) = tls.domain {
        options = options.domain_name(domain);
    }
    options
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::GRpcStatus(status) => Some(status.code() as i32),
        _ => None,
    }
}

fn is_compacted(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<Error>().and_then(code) == Some(OUT_OF_RANGE)
}

fn is_lease_lost(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<Error>() else { return false };
    matches!(error, Error::LeaseKeepAliveError(_)) || (code(error) == Some(NOT_FOUND) && error.to_string().contains("lease"))
}
