//! etcd as the store. A scope becomes one key range; what the range holds beyond the scope
//! (`networks/blue-2` in that of `networks/blue`) is left out here.

pub mod health;
mod line;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Compare, CompareOp, GetOptions, GetResponse, Identity, KeyValue, PutOptions,
    ResponseHeader, TlsOptions, TxnOp,
};
use tokio::time::timeout;

use super::{
    Audit, Committed, Condition, Entry, LeaseId, Listing, MAX_OPS, Op, Revision, Store, StoreError,
    Txn, covers,
};
use line::{Fault, Line, Repeat, code};
pub use watch::EtcdWatch;
use watch::Wish;

const PAGE: i64 = 1000;

/// Of keys only; etcd reads the whole range for each.
const AUDIT_PAGE: i64 = 10_000;

/// Above what a page of the largest records can hold.
const LARGEST_ANSWER: usize = 256 << 20;

/// How often a listing whose revision is compacted under it begins again.
const LISTINGS: usize = 5;

/// After so long it is looked whether a change is still going to be answered ...
const PATIENCE: Duration = Duration::from_millis(500);
/// ... and this long after another leader did answer, it is no more expected.
const GRACE: Duration = Duration::from_millis(200);

/// Where etcd is and how to speak to it.
#[derive(Clone)]
pub struct EtcdOptions {
    pub endpoints: Vec<String>,
    /// Below which all keys of the cluster are.
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

/// A client of etcd; clones share its connection.
#[derive(Clone)]
pub struct EtcdStore {
    line: Arc<Line>,
    prefix: Arc<str>,
    /// The leader's, as the last reading has shown it.
    term: Arc<AtomicU64>,
}

impl EtcdStore {
    /// Connects with the first call, so that it can be made while etcd is down.
    ///
    /// # Errors
    ///
    /// When the options cannot work with any etcd.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        check(&options)?;
        let mut connect = line::connect_options();
        if let Some(tls) = options.tls {
            connect = connect.with_tls(tls_options(tls));
        }
        let prefix = format!("{}/", options.prefix.trim_end_matches('/')).into();
        let line = Arc::new(Line::new(connect, options.endpoints));
        Ok(Self { line, prefix, term: Arc::default() })
    }

    /// Ends the connection, and its watches as lost; the next call makes another. For a host whose
    /// address changed: what it has sent from the old one would be waited for in vain.
    pub async fn hang_up(&self) {
        self.line.hang_up().await;
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The first key of a scope's range, and the first one after it.
    fn range(&self, scope: &str) -> (Vec<u8>, Vec<u8>) {
        let start = self.full(scope).into_bytes();
        let mut end = start.clone();
        // '0' follows '/'.
        match end.last_mut() {
            Some(last) if *last == b'/' => *last = b'0',
            _ => end.push(b'0'),
        }
        (start, end)
    }

    /// What a key of etcd is called here; keys that are no text are nobody's of ours.
    fn name(&self, scope: &str, key: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(&*self.prefix)?;
        covers(scope, name).then(|| name.to_owned())
    }

    async fn get(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, StoreError> {
        let got = self
            .line
            .call("a listing", Repeat::Harmless, |connection| {
                let (key, options) = (key.clone(), options.clone());
                async move {
                    let kv = connection.client.kv_client();
                    let mut kv = kv.max_decoding_message_size(LARGEST_ANSWER);
                    kv.get(key, Some(options)).await.map_err(Fault::from)
                }
            })
            .await?;
        if let Some(header) = got.header() {
            self.term.store(header.raft_term(), Ordering::Relaxed);
        }
        Ok(got)
    }

    /// What reads more than a page reads again if its revision was compacted between two.
    async fn again_if_compacted<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match read().await {
                Err(StoreError::Refused { source, .. })
                    if tries < LISTINGS && answered(source.as_ref(), code::OUT_OF_RANGE) => {}
                other => return other,
            }
        }
    }

    /// How many keys of a scope there are, and which were changed after a revision.
    async fn look(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        // etcd counts all that is in a range, so there must be nothing else in it.
        let is_folder = scope.is_empty() || scope.ends_with('/');
        let mut ranges = Vec::new();
        if is_folder {
            ranges.push(self.range(scope));
        } else {
            let key = self.full(scope).into_bytes();
            ranges.push((key.clone(), [&key[..], &[0]].concat()));
            ranges.push(self.range(&format!("{scope}/")));
        }
        let mut audit = Audit { revision: 0, keys: 0, changed: Vec::new() };
        for (start, end) in ranges {
            let mut next = Some(start);
            let mut counted = None;
            while let Some(start) = next {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(AUDIT_PAGE)
                    .with_keys_only()
                    .with_min_mod_revision(since + 1)
                    .with_revision(audit.revision);
                let page = self.get(start, options).await?;
                if audit.revision == 0 {
                    audit.revision = revision(page.header());
                }
                counted.get_or_insert(page.count());
                let changed = page.kvs().iter();
                audit.changed.extend(
                    changed.filter_map(|pair| {
                        Some((self.name(scope, pair.key())?, pair.mod_revision()))
                    }),
                );
                let last = page.kvs().last().filter(|_| page.more());
                next = last.map(|last| [last.key(), &[0]].concat());
            }
            audit.keys += counted.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        }
        Ok(audit)
    }

    /// All pairs of a scope's range at one revision.
    async fn pages(&self, scope: &str) -> Result<(Vec<KeyValue>, Revision), StoreError> {
        let (mut start, end) = self.range(scope);
        let (mut pairs, mut at) = (Vec::new(), 0);
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let mut page = self.get(start, options.with_revision(at)).await?;
            if at == 0 {
                at = revision(page.header());
            }
            pairs.extend(page.take_kvs());
            match pairs.last() {
                Some(last) if page.more() => start = [last.key(), &[0]].concat(),
                Some(_) | None => return Ok((pairs, at)),
            }
        }
    }

    /// What etcd's members hand on to a leader that has just been lost is never answered. A reading
    /// under another leader, asked for later and answered sooner, tells so.
    async fn unless_lost<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut call = Box::pin(call);
        let term = self.term.load(Ordering::Relaxed);
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut call).await {
                return answer;
            }
            let reading = timeout(2 * PATIENCE, Box::pin(self.revision()));
            let is_answered = tokio::select! {
                biased;
                answer = &mut call => return answer,
                reading = reading => matches!(reading, Ok(Ok(_))),
            };
            if is_answered && self.term.load(Ordering::Relaxed) != term {
                let late = timeout(GRACE, &mut call).await;
                return late.unwrap_or(Err(StoreError::Deadline { operation }));
            }
        }
    }

    fn compare(&self, condition: &Condition) -> Compare {
        match condition {
            Condition::Absent(key) => Compare::create_revision(self.full(key), CompareOp::Equal, 0),
            Condition::Unchanged { key, mod_revision } => {
                Compare::mod_revision(self.full(key), CompareOp::Equal, *mod_revision)
            }
            // Of a range it holds if it does for every key in it: that none has been created.
            Condition::NonePrefixed(prefix) => {
                Compare::create_revision(self.full(prefix), CompareOp::Equal, 0).with_prefix()
            }
        }
    }

    fn op(&self, op: Op) -> TxnOp {
        match op {
            Op::Put { key, value } => TxnOp::put(self.full(&key), value, None),
            Op::PutLeased { key, value, lease } => {
                let leased = PutOptions::new().with_lease(lease);
                TxnOp::put(self.full(&key), value, Some(leased))
            }
            Op::Delete { key } => TxnOp::delete(self.full(&key), None),
        }
    }
}

impl Store for EtcdStore {
    type Watch = EtcdWatch;

    async fn list(&self, scope: &str) -> Result<Listing, StoreError> {
        let (pairs, revision) = self.again_if_compacted(|| self.pages(scope)).await?;
        let entries = pairs.into_iter().filter_map(|pair| {
            let (key, mod_revision) = (self.name(scope, pair.key())?, pair.mod_revision());
            let (_, value) = pair.into_key_value();
            Some(Entry { key, value, mod_revision })
        });
        Ok(Listing { revision, entries: entries.collect() })
    }

    async fn watch(&self, scope: &str, from: Revision) -> Result<EtcdWatch, StoreError> {
        let (start, end) = self.range(scope);
        self.line
            .call("the start of a watch", Repeat::Harmless, |connection| {
                let (store, scope) = (self.clone(), scope.to_owned());
                let name = Box::new(move |key: &[u8]| store.name(&scope, key));
                let wish = Wish { start: start.clone(), end: end.clone(), from, name };
                let endpoints = self.line.endpoints();
                async move { connection.streams.open(wish, endpoints).await }
            })
            .await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let size = txn.ops.len().max(txn.conditions.len());
        if size > MAX_OPS {
            return Err(StoreError::TooManyOps(size));
        }
        let lease = txn.ops.iter().find_map(|op| match op {
            Op::PutLeased { lease, .. } => Some(*lease),
            Op::Put { .. } | Op::Delete { .. } => None,
        });
        let compares: Vec<_> = txn.conditions.iter().map(|it| self.compare(it)).collect();
        let ops: Vec<_> = txn.ops.into_iter().map(|op| self.op(op)).collect();
        let txn = etcd_client::Txn::new().when(compares).and_then(ops);
        let committed = self.line.call("a transaction", Repeat::OnlyIfUnsent, |mut connection| {
            let txn = txn.clone();
            async move { connection.client.txn(txn).await.map_err(Fault::from) }
        });
        let answer = self
            .unless_lost("a transaction", committed)
            .await
            .map_err(|error| lease_lost(error, lease))?;
        let revision = revision(answer.header());
        Ok(if answer.succeeded() {
            Committed::Done { revision }
        } else {
            Committed::Refused { revision }
        })
    }

    async fn audit(&self, scope: &str, since: Revision) -> Result<Audit, StoreError> {
        self.again_if_compacted(|| self.look(scope, since)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let options = GetOptions::new().with_count_only();
        let got = self.get(self.full("cluster").into_bytes(), options).await?;
        Ok(revision(got.header()))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted =
            self.line.call("a lease", Repeat::OnlyIfUnsent, |mut connection| async move {
                connection.client.lease_grant(seconds, None).await.map_err(Fault::from)
            });
        Ok(granted.await?.id())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let kept =
            self.line.call("a lease's renewal", Repeat::Harmless, |mut connection| async move {
                match connection.client.lease_keep_alive(lease).await {
                    Ok(_) => Ok(()),
                    // etcd answers with a time of 0, the client with this.
                    Err(etcd_client::Error::LeaseKeepAliveError(message)) => {
                        Err(Fault::Answered { code: code::NOT_FOUND, message })
                    }
                    Err(error) => Err(error.into()),
                }
            });
        kept.await.map_err(|error| lease_lost(error, Some(lease)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked =
            self.line.call("a lease's end", Repeat::OnlyIfUnsent, |mut connection| async move {
                connection.client.lease_revoke(lease).await.map(|_| ()).map_err(Fault::from)
            });
        revoked.await.map_err(|error| lease_lost(error, Some(lease)))
    }
}

fn check(options: &EtcdOptions) -> Result<(), StoreError> {
    let config = |what: String, source: &'static str| {
        Err(StoreError::Config { what, source: source.into() })
    };
    if options.endpoints.is_empty() {
        return config("no endpoint is named".to_owned(), "at least one is needed");
    }
    let has_ca = options.tls.as_ref().is_some_and(|tls| tls.ca.is_some());
    for endpoint in &options.endpoints {
        let (is_https, rest) =
            match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
                (Some(rest), _) => (true, rest),
                (None, Some(rest)) => (false, rest),
                (None, None) => (options.tls.is_some(), endpoint.as_str()),
            };
        let is_address = !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-_[]%/".contains(&byte));
        if !is_address {
            return config(format!("{endpoint:?}"), "it is no http or https address");
        }
        if is_https && !has_ca {
            return config(
                endpoint.clone(),
                "https needs the certificate of the authority to trust",
            );
        }
        if !is_https && options.tls.is_some() {
            return config(endpoint.clone(), "certificates are given, so it must be https");
        }
    }
    Ok(())
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

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, ResponseHeader::revision)
}

/// What etcd itself answered, for those who ask for its code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Answer {
    code: i32,
    message: String,
}

fn answered(source: &(dyn std::error::Error + Send + Sync + 'static), code: i32) -> bool {
    source.downcast_ref::<Answer>().is_some_and(|answer| answer.code == code)
}

/// Tells a lease that is gone from other refusals.
fn lease_lost(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::Refused { source, .. }, Some(lease))
            if answered(source.as_ref(), code::NOT_FOUND) =>
        {
            StoreError::LeaseLost(lease)
        }
        (error, _) => error,
    }
}
