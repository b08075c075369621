//! One watch on a stream of its own: a stream that dies takes no other watch with it.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, timeout_at};

use super::EtcdStore;
use crate::store::{Change, Revision, StoreError, Watch, WatchEvent, covers};

/// A silent watch is asked how far it is this often, ...
const ASK_EVERY: Duration = Duration::from_secs(10);
/// ... and has to answer within this: without a leader, or behind a dead path, it never would.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct EtcdWatch {
    store: EtcdStore,
    scope: String,
    stream: WatchStream,
    ready: VecDeque<WatchEvent>,
    /// What is expected next: to ask, or the answer.
    due: Instant,
    asked: bool,
}

/// Opens the watch and waits until etcd has confirmed it.
pub(super) async fn open(store: EtcdStore, scope: String, from: Revision) -> Result<EtcdWatch, StoreError> {
    let (start, end) = store.range(&scope);
    let options = WatchOptions::new().with_range(end).with_start_revision(from.max(1)).with_progress_notify();
    let mut client = store.client().await?;
    let mut stream = client.watch(start, Some(options)).await.map_err(|error| store.failed("a watch", error))?;
    let mut ready = VecDeque::new();
    // `created` comes first; a compacted start is told right after it.
    match stream.message().await.map_err(|error| ended(&store, error))? {
        Some(message) if message.canceled() => ready.push_back(canceled(&message)?),
        Some(_) => {}
        None => return Err(closed()),
    }
    Ok(EtcdWatch { store, scope, stream, ready, due: Instant::now() + ASK_EVERY, asked: false })
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match timeout_at(self.due, self.stream.message()).await {
                Ok(Ok(Some(message))) => {
                    self.asked = false;
                    self.due = Instant::now() + ASK_EVERY;
                    self.take(&message)?;
                }
                Ok(Ok(None)) => return Err(closed()),
                Ok(Err(error)) => return Err(ended(&self.store, error)),
                Err(_elapsed) if self.asked => return Err(StoreError::WatchEnded { source: "it is silent and does not answer".into() }),
                Err(_elapsed) => {
                    // Before the await: when this is dropped in it, the next call still expects an answer.
                    self.asked = true;
                    self.due = Instant::now() + ANSWER_WITHIN;
                    self.stream.request_progress().await.map_err(|error| ended(&self.store, error))?;
                }
            }
        }
    }
}

impl EtcdWatch {
    fn take(&mut self, message: &WatchResponse) -> Result<(), StoreError> {
        if message.canceled() {
            self.ready.push_back(canceled(message)?);
            return Ok(());
        }
        let revision = message.header().map_or(0, |header| header.revision());
        let changes: Vec<Change> = message.events().iter().filter_map(|event| {
            let pair = event.kv()?;
            match event.event_type() {
                EventType::Put => self.store.entry(&self.scope, pair).map(Change::Put),
                EventType::Delete => {
                    let key = self.store.key(pair.key()).filter(|key| covers(&self.scope, key))?;
                    Some(Change::Delete { key, mod_revision: pair.mod_revision() })
                }
            }
        }).collect();
        // The header may be ahead of the events: more of the same revision is still to come.
        let reached = message.events().last().and_then(|event| event.kv()).map_or(revision, |pair| pair.mod_revision());
        self.ready.push_back(if changes.is_empty() {
            WatchEvent::Progress { revision: reached }
        } else {
            WatchEvent::Changes { revision: reached, changes }
        });
        Ok(())
    }
}

fn canceled(message: &WatchResponse) -> Result<WatchEvent, StoreError> {
    match message.compact_revision() {
        0 => Err(StoreError::WatchEnded { source: message.cancel_reason().to_owned().into() }),
        compact_revision => Ok(WatchEvent::Compacted { compact_revision }),
    }
}

fn closed() -> StoreError {
    StoreError::WatchEnded { source: "etcd closed it".into() }
}

fn ended(store: &EtcdStore, error: etcd_client::Error) -> StoreError {
    match store.failed("a watch", error) {
        no_leader @ StoreError::NoLeader { .. } => no_leader,
        StoreError::Unreachable { source, .. } | StoreError::Refused { source, .. } => StoreError::WatchEnded { source },
        other => other,
    }
}
