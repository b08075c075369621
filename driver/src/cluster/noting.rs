//! What the cluster task has the journal write down. A disk that hangs must not keep a host from
//! following the others: it is waited for a moment, then gone on without.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use crate::journal::{Journal, JournalError, State};

/// A disk that works answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// One piece of work at a time, so that things are written down in their order. What was not waited
/// for is done all the same; meanwhile all else is refused, and asked for again at the next look.
pub(super) struct Noting {
    journal: Journal,
    working: JoinSet<bool>,
}

impl Noting {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, working: JoinSet::new() }
    }

    /// Whether all is done that was begun.
    pub(super) fn is_free(&mut self) -> bool {
        while self.working.try_join_next().is_some() {}
        self.working.is_empty()
    }

    /// Changes the state; whether that is durable now.
    pub(super) async fn update(
        &mut self,
        what: &'static str,
        change: impl FnOnce(&mut State) + Send + 'static,
    ) -> bool {
        let journal = self.journal.clone();
        self.work(what, async move { journal.update(change).await.map(drop) }).await
    }

    /// Only when free: what is refused here nobody asks for again.
    pub(super) async fn keep(&mut self, records: Vec<(String, Option<Vec<u8>>)>) {
        let journal = self.journal.clone();
        let kept = async move { journal.keep_records(records).await };
        self.work("keep the last known records", kept).await;
    }

    /// Whether this host's next number is above one that was seen.
    pub(super) async fn raise_seq_above(&mut self, seen: u64) -> bool {
        if self.journal.next_unused_seq() > seen {
            return true;
        }
        let journal = self.journal.clone();
        let raised = async move { journal.raise_seq_above(seen).await };
        self.work("continue above this host's own records", raised).await
    }

    pub(super) async fn top_up_seqs(&mut self) {
        if self.journal.is_low_on_seqs() {
            let journal = self.journal.clone();
            let reserved = async move { journal.top_up_seqs().await };
            self.work("reserve sequence numbers", reserved).await;
        }
    }

    async fn work(
        &mut self,
        what: &'static str,
        work: impl Future<Output = Result<(), JournalError>> + Send + 'static,
    ) -> bool {
        if !self.is_free() {
            return false;
        }
        self.working.spawn(async move {
            let done = work.await;
            if let Err(error) = &done {
                warn!(error = crate::chain(error), "Cannot {what}");
            }
            done.is_ok()
        });
        matches!(timeout(PATIENCE, self.working.join_next()).await, Ok(Some(Ok(true))))
    }
}
