//! Follows scopes of the store: a complete listing of each, then its changes in order, through
//! compaction, restarts, missing leaders and other histories. Knows nothing of records.

mod bearings;
mod scope;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::{Change, Entry, Revision, Store};
use bearings::{Bearings, Gate};
use scope::{Report, ScopeTask, Told};

/// The scope that names the history. Where it is followed, it is told before any other one is listed
/// or watched, so that nobody takes what another history lacks for gone.
pub const FIRST: &str = "cluster";

/// What the follower tells, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Every followed scope is listed and watched.
    Connected,
    /// Some followed scope cannot be listed or watched: what is known may be old. Hold it.
    Disconnected { error: String },
    /// The store's revision fell: it was wiped or restored. Every revision known before is void,
    /// and each scope's `Listed` follows.
    History { revision: Revision, highest: Revision },
    /// A complete picture of a scope: what is missing from it is gone.
    Listed { scope: String, revision: Revision, entries: Vec<Entry> },
    /// What happened in a scope since the last `Listed` or `Changed`, up to this revision.
    Changed { scope: String, revision: Revision, changes: Vec<Change> },
}

#[derive(Debug, Clone)]
pub struct FollowerOptions {
    /// How often it is compared with jitter what of a scope has changed, and how many keys it has,
    /// with what was told.
    pub audit: Duration,
    /// How far the store had come when it was last seen, by an earlier process: if it is behind that
    /// now, it has another history.
    pub known: Revision,
}

impl Default for FollowerOptions {
    fn default() -> Self {
        Self { audit: Duration::from_secs(600), known: 0 }
    }
}

/// A running follower; dropping it ends it.
pub struct Follower {
    events: mpsc::Receiver<Followed>,
    scopes: Scopes,
    _stop: DropGuard,
}

/// Says which scopes are followed (see [`crate::store`] for what a scope is); cheap to clone.
#[derive(Clone)]
pub struct Scopes {
    commands: mpsc::UnboundedSender<Command>,
    restarts: Arc<AtomicU64>,
}

enum Command {
    Follow(String),
    Unfollow(String),
    ListAgain,
}

/// How many events may wait for whoever follows; then the watches wait, too.
const EVENTS: usize = 1024;

impl Follower {
    /// Starts with no scope. Ends with `cancel`, too.
    pub fn start<S: Store>(store: S, options: FollowerOptions, cancel: &CancellationToken) -> Self {
        let cancel = cancel.child_token();
        let (commands, received) = mpsc::unbounded_channel();
        let (telling, events) = mpsc::channel(EVENTS);
        let (reporting, reports) = mpsc::channel(EVENTS);
        let restarts = Arc::<AtomicU64>::default();
        let bearings = Arc::new(Bearings::at(options.known));
        let owner = Owner {
            store,
            options,
            cancel: cancel.clone(),
            events: telling,
            reporting,
            scopes: BTreeMap::new(),
            restarts: Arc::clone(&restarts),
            failures: 0,
            bearings,
            gate: Arc::default(),
            tasks: 0,
            told: None,
        };
        tokio::spawn(cancel.clone().run_until_cancelled_owned(owner.run(received, reports)));
        Self { events, scopes: Scopes { commands, restarts }, _stop: cancel.drop_guard() }
    }

    /// The next event; `None` once cancelled. Cancel-safe.
    pub async fn next(&mut self) -> Option<Followed> {
        self.events.recv().await
    }

    pub fn scopes(&self) -> Scopes {
        self.scopes.clone()
    }
}

/// The follower's end is seen by whoever reads its events; a command to it is then of no use.
impl Scopes {
    /// Follows a scope from now on, beginning with its `Listed`; no effect if it is followed.
    pub fn follow(&self, scope: impl Into<String>) {
        let _ = self.commands.send(Command::Follow(scope.into()));
    }

    /// Stops following; an event that is under way may still come.
    pub fn unfollow(&self, scope: &str) {
        let _ = self.commands.send(Command::Unfollow(scope.to_owned()));
    }

    /// Lists every scope again: for one who learns of another history by other means, such as a
    /// new incarnation in the `cluster` record.
    pub fn list_again(&self) {
        let _ = self.commands.send(Command::ListAgain);
    }

    /// How often a scope's watch had to begin anew.
    pub fn watch_restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

/// Owns the tasks of the scopes and hands on what they report.
struct Owner<S> {
    store: S,
    options: FollowerOptions,
    cancel: CancellationToken,
    events: mpsc::Sender<Followed>,
    reporting: mpsc::Sender<Report>,
    scopes: BTreeMap<String, Following>,
    /// Of watches.
    restarts: Arc<AtomicU64>,
    /// How many failures were told.
    failures: u64,
    /// Of the history that the store is in.
    bearings: Arc<Bearings>,
    gate: Arc<Gate>,
    /// Counts the tasks ever started.
    tasks: u64,
    /// What was last said about the connection.
    told: Option<Result<(), String>>,
}

struct Following {
    /// Only the newest task of a scope is heard.
    task: u64,
    /// Whether there was a watch of this scope before.
    was_watched: bool,
    /// What fails, and as which report of a failure this was told.
    health: Option<Result<(), (u64, String)>>,
    _stop: DropGuard,
}

/// Whoever reads the events has gone.
struct Deaf;

impl<S: Store> Owner<S> {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        loop {
            // Both arms are cancel-safe; what they lead to is awaited after the select.
            let report = tokio::select! {
                command = commands.recv() => {
                    // The follower itself holds a sender.
                    let Some(command) = command else { return };
                    self.obey(command);
                    None
                }
                report = reports.recv() => report,
            };
            let heard = match report {
                Some(report) => self.hear(report).await,
                None => Ok(()),
            };
            if heard.is_err() || self.tell_health().await.is_err() {
                return;
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Follow(scope) if self.scopes.contains_key(&scope) => {}
            Command::Follow(scope) => self.start(scope),
            Command::Unfollow(scope) => _ = self.scopes.remove(&scope),
            Command::ListAgain => self.start_all(),
        }
    }

    /// Starts a task that lists the scope, in place of one that there may be.
    fn start(&mut self, scope: String) {
        self.tasks += 1;
        self.bearings.followed(&scope);
        let stop = self.cancel.child_token();
        let task = ScopeTask::new(
            self.tasks,
            scope.clone(),
            self.store.clone(),
            self.options.audit,
            Arc::clone(&self.bearings),
            Arc::clone(&self.gate),
            self.reporting.clone(),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(task.run()));
        let was_watched = self.scopes.get(&scope).is_some_and(|before| before.was_watched);
        let _stop = stop.drop_guard();
        let following = Following { task: self.tasks, was_watched, health: None, _stop };
        self.scopes.insert(scope, following);
    }

    fn start_all(&mut self) {
        let scopes: Vec<_> = self.scopes.keys().cloned().collect();
        scopes.into_iter().for_each(|scope| self.start(scope));
    }

    async fn hear(&mut self, report: Report) -> Result<(), Deaf> {
        let scope = report.scope;
        let following = self.scopes.get_mut(&scope).filter(|it| it.task == report.task);
        let Some(following) = following else {
            return Ok(());
        };
        match report.told {
            Told::Watching => {
                following.health = Some(Ok(()));
                if std::mem::replace(&mut following.was_watched, true) {
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                }
            }
            Told::Failing(error) => {
                self.failures += 1;
                following.health = Some(Err((self.failures, error)));
            }
            Told::FirstIsStale => {
                // Its watch may be a good one, and begin after what it should have told: the store
                // was wiped between listing and watch, and stands at the same revision again.
                let is_well = |first: &Following| first.health.as_ref().is_some_and(Result::is_ok);
                if self.scopes.get(FIRST).is_some_and(is_well) {
                    self.start(FIRST.to_owned());
                }
            }
            Told::Listed { revision, entries } => {
                self.tell(Followed::Listed { scope, revision, entries }).await?;
            }
            Told::Changed { revision, changes } => {
                self.tell(Followed::Changed { scope, revision, changes }).await?;
            }
            Told::Fell { revision, highest } => {
                // Tasks that still run hold the old history's bearings.
                self.bearings = Arc::new(Bearings::at(revision));
                self.start_all();
                self.tell(Followed::History { revision, highest }).await?;
            }
        }
        Ok(())
    }

    async fn tell_health(&mut self) -> Result<(), Deaf> {
        let Some(health) = self.health() else {
            return Ok(());
        };
        if self.told.as_ref() == Some(&health) {
            return Ok(());
        }
        self.told = Some(health.clone());
        self.tell(match health {
            Ok(()) => Followed::Connected,
            Err(error) => Followed::Disconnected { error },
        })
        .await
    }

    /// Failing if one scope does, as the last one said that does; well if all are; `None` while some
    /// scope has not said yet.
    fn health(&self) -> Option<Result<(), String>> {
        let all = || self.scopes.values().map(|following| following.health.as_ref());
        let failing = all().filter_map(|health| health?.as_ref().err());
        if let Some((_, error)) = failing.max_by_key(|(number, _)| *number) {
            return Some(Err(error.clone()));
        }
        (!self.scopes.is_empty() && all().all(|health| health.is_some())).then_some(Ok(()))
    }

    async fn tell(&self, event: Followed) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }
}
