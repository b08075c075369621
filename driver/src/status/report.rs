//! Keeps this host's status in etcd: looks, and writes when something changed or it is time.
//!
//! Beside the publisher, whose records must be in the store as they are wanted: this one is of the
//! moment, nobody waits for it, and no driver reads it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wgnet_control_plane::store::{Committed, Condition, LeaseId, Op, Store, Txn};
use wgnet_core::ClusterView;
use wgnet_proto::record::{Record, StatusRecord};
use wgnet_proto::seal::Opener;
use wgnet_proto::status::DriverStatus;
use wgnet_proto::{ClusterId, ClusterSecrets, Path, Sealer};

use super::pace::Pace;
use super::summary::{Whole, gist};
use super::{SharedPeers, Status};
use crate::admin::Source;
use crate::clock::{self, Clock};
use crate::cluster::ClusterStatus;
use crate::dataplane::Dataplane;
use crate::journal::Journal;
use crate::problems::Problems;
use crate::progress::Progress;

/// Without any event. Silent peers and problems of others' making are found by looking.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Events come in bursts.
const LOOK_APART: Duration = Duration::from_secs(1);

/// What the report is made from, and where it goes.
pub struct Report<S, L> {
    pub store: S,
    pub source: Arc<L>,
    pub journal: Journal,
    pub secrets: ClusterSecrets,
    pub cluster: watch::Receiver<ClusterStatus>,
    pub view: watch::Receiver<Arc<ClusterView>>,
    pub problems: Problems,
    pub progress: Progress,
    pub peers: SharedPeers,
    pub kernel: String,
    pub clock: Clock,
}

/// What was written of what is not written at every look.
#[derive(PartialEq)]
struct Written {
    gist: StatusRecord,
    lease: LeaseId,
    history: u64,
}

/// What is remembered from look to look.
#[derive(Default)]
struct Memory {
    written: Option<Written>,
    /// When it was last tried to write.
    tried: Duration,
    /// Since when the store would take a record.
    able: Option<Duration>,
    /// Since when there is something to tell.
    news: Option<Duration>,
    is_above: bool,
}

impl Memory {
    /// When to write next.
    fn due(&mut self, pace: Pace, has_news: bool, now: Duration) -> Duration {
        // A clock that was set back must not silence the host.
        let since = self.tried.max(*self.able.get_or_insert(now));
        let since = if since > now { now } else { since };
        let news = has_news.then(|| *self.news.get_or_insert(now)).filter(|news| *news <= now);
        let without = pace.after(since, false);
        news.map_or(without, |news| without.min(pace.after(since.max(news), true)))
    }
}

impl<S: Store, D: Dataplane> Report<S, Status<D>> {
    /// Of what a status is made from, by the host's own clock.
    pub fn of(status: &Arc<Status<D>>, store: S, secrets: ClusterSecrets) -> Self {
        Self {
            store,
            source: Arc::clone(status),
            journal: status.journal.clone(),
            secrets,
            cluster: status.cluster.clone(),
            view: status.view.clone(),
            problems: status.problems.clone(),
            progress: status.progress.clone(),
            peers: status.peers.clone(),
            kernel: kernel(),
            clock: clock::of_host(),
        }
    }
}

impl<S: Store, L: Source> Report<S, L> {
    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let started = (self.clock)();
        let mut memory = Memory::default();
        let mut journal = self.journal.watch();
        let mut problems = self.problems.watch();
        loop {
            let looked = Instant::now();
            journal.mark_unchanged();
            problems.mark_unchanged();
            let status = self.source.status().await;
            self.peers.lock().look(&status, looked);
            let cluster = self.cluster.borrow_and_update().clone();
            let pace = self.pace();
            let now = (self.clock)();
            let record = self.record(&status, &cluster, pace, started, now);
            let pause = self.tell(&mut memory, record, &cluster, pace, now).await;
            // All arms are cancel-safe; nothing is awaited inside an arm.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause.min(LOOK_EVERY)) => continue,
                _ = journal.changed() => {}
                _ = problems.changed() => {}
                _ = self.cluster.changed() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(looked + LOOK_APART) => {}
            }
        }
    }

    /// Writes the record if it is time; how long until it is again.
    async fn tell(
        &self,
        memory: &mut Memory,
        record: StatusRecord,
        cluster: &ClusterStatus,
        pace: Pace,
        now: Duration,
    ) -> Duration {
        let pinned = self.journal.state().cluster;
        let (Some(lease), Some(id), Some(proof)) = (cluster.lease, pinned, &cluster.proof) else {
            memory.able = None;
            return LOOK_EVERY;
        };
        if !cluster.store.connected {
            memory.able = None;
            return LOOK_EVERY;
        }
        let this = Written { gist: gist(&record), lease, history: cluster.history };
        let has_news = memory.written.as_ref() != Some(&this);
        let due = memory.due(pace, has_news, now);
        if due > now {
            return due - now;
        }
        memory.is_above = memory.is_above || self.raise_above(id).await;
        // What failed is tried again at this host's next moment.
        memory.tried = now;
        if memory.is_above && self.write(id, lease, proof, record).await {
            memory.written = Some(this);
            memory.news = None;
        } else {
            // What was looked at may have been another cluster's.
            memory.is_above = false;
        }
        pace.turn()
    }

    fn record(
        &self,
        status: &DriverStatus,
        cluster: &ClusterStatus,
        pace: Pace,
        started: Duration,
        now: Duration,
    ) -> StatusRecord {
        let view = Arc::clone(&self.view.borrow());
        let peers = self.peers.lock();
        let whole = Whole {
            status,
            peers: &peers,
            view: &view,
            progress: &self.progress,
            unpublished: &cluster.unpublished,
            kernel: &self.kernel,
            started: started.as_secs(),
            written: now.as_secs(),
            now: Instant::now(),
        };
        let within = (pace.round() + LOOK_EVERY).as_secs() + 1;
        let next_within = u32::try_from(within).unwrap_or(u32::MAX);
        StatusRecord { next_within, ..whole.summary() }
    }

    /// This host's place among those that write.
    fn pace(&self) -> Pace {
        let (view, me) = (self.view.borrow(), self.journal.host_id());
        let rank = view.hosts.keys().filter(|host| **host < me).count();
        let is_known = view.hosts.contains_key(&me);
        Pace::new(view.hosts.len() + usize::from(!is_known), rank)
    }

    /// Once: a host that lost its journal, not its key, goes on above what it wrote before.
    async fn raise_above(&self, cluster: ClusterId) -> bool {
        let path = Path::Status(self.journal.host_id());
        let Ok(listing) = self.store.list(&path.to_string()).await else {
            return false;
        };
        let opener = Opener::new(self.secrets.clone(), Some(cluster));
        let before =
            listing.entries.first().and_then(|entry| opener.open(&path, &entry.value).ok());
        match before {
            Some(opened) => self.journal.raise_seq_above(opened.seq).await.is_ok(),
            None => true,
        }
    }

    async fn write(
        &self,
        cluster: ClusterId,
        lease: LeaseId,
        proof: &Condition,
        record: StatusRecord,
    ) -> bool {
        let path = Path::Status(self.journal.host_id());
        let record = Record::Status(Box::new(record));
        if let Err(error) = record.check(&path) {
            debug!(%error, "The status is not fit to be written");
            return false;
        }
        let Some(seq) = self.journal.take_seq() else {
            return false;
        };
        let sealer = Sealer::new(self.journal.host_key().clone(), self.secrets.clone(), cluster);
        let value = sealer.seal_record(&path, seq, &record);
        let put = Op::PutLeased { key: path.to_string(), value, lease };
        match self.store.commit(Txn { conditions: vec![proof.clone()], ops: vec![put] }).await {
            Ok(Committed::Done { .. }) => true,
            Ok(Committed::Refused { .. }) => {
                debug!("The status is not written: this host's own record is not as it was");
                false
            }
            Err(error) => {
                debug!(error = crate::chain(&error), "Cannot write the status");
                false
            }
        }
    }
}

/// The kernel's release.
pub fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
