//! Tries whether etcd takes changes, while a listing is held whose time counts only then, and no change
//! of anybody's is seen.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::debug;
use wgnet_control_plane::store::{CALL_DEADLINE, Store, chain};
use wgnet_proto::HostId;

use super::taking::Pace;
use super::{LOOK_EVERY, Task};

/// It is ended at once; etcd ends it if that fails.
const LEASE: Duration = Duration::from_secs(10);

/// A try that goes on beside the task, which follows the store meanwhile, and ends with it.
#[derive(Default)]
pub(super) struct Trial(JoinSet<Option<Instant>>);

impl Trial {
    /// When a change was taken, if one was. Cancel-safe; never comes while nothing is tried.
    pub(super) async fn answer(&mut self) -> Option<Instant> {
        match self.0.join_next().await {
            Some(answer) => answer.ok().flatten(),
            None => std::future::pending().await,
        }
    }
}

impl<S: Store> Task<S> {
    /// Tries it if it is time.
    pub(super) fn try_changes(&mut self) {
        let now = Instant::now();
        if !self.history.needs_changes(&self.taking) {
            return self.taking.rest();
        }
        self.taking.need(now, self.pace());
        if self.trial.0.is_empty() && self.taking.due().is_some_and(|due| due <= now) {
            self.taking.trying(now);
            self.trial.0.spawn(takes_changes(self.inputs.store.clone()));
        }
    }

    pub(super) fn tried(&mut self, taken: Option<Instant>) {
        match taken {
            Some(at) => self.taking.taken(at),
            None => self.taking.refused(),
        }
    }

    /// The store is not there, or another one is: it says nothing, nor will a try that is under way.
    pub(super) fn lost_sight(&mut self) {
        self.taking.refused();
        self.taking.rest();
        self.trial = Trial::default();
    }

    /// After how long all is looked at though nobody tells of a change.
    pub(super) fn look_in(&self) -> Duration {
        let due = self.taking.due().filter(|_| self.trial.0.is_empty());
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        due.map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY))
    }

    /// This host among those that live: they all hold such a listing.
    fn pace(&self) -> Pace {
        let me = self.inputs.facts.me;
        let others = self.judge.view().alive.iter().filter(|host| **host != me);
        let before = |host: &&HostId| **host < me;
        Pace::new(others.clone().count() + 1, others.filter(before).count())
    }
}

/// Has etcd write what nobody sees: a lease, which it refuses as it does records.
async fn takes_changes<S: Store>(store: S) -> Option<Instant> {
    let granted = timeout(CALL_DEADLINE, store.grant(LEASE)).await.ok()?;
    let lease = granted.inspect_err(|error| debug!(error = chain(error), "No change is taken"));
    let lease = lease.ok()?;
    let taken = Instant::now();
    let ended = timeout(CALL_DEADLINE, store.revoke(lease)).await;
    if let Ok(Err(error)) = ended {
        debug!(error = chain(&error), "A lease that was only tried is left to run out");
    }
    Some(taken)
}
