//! Follows scopes of the store: a complete listing of each, then its changes in order, through
//! compaction, restarts, missing leaders and other histories. Knows nothing of records.

mod scope;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::{Change, Entry, Revision, Store};
use scope::ScopeTask;

/// What the follower tells, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Every followed scope is listed and watched.
    Connected,
    /// Some followed scope cannot be listed or watched: what is known may be old. Hold it.
    Disconnected { error: String },
    /// The store's revision fell: it was wiped or restored. Every revision known before is void,
    /// and each scope's `Listed` follows.
    History {
        revision: Revision,
        highest: Revision,
    },
    /// A complete picture of a scope: what is missing from it is gone.
    Listed {
        scope: String,
        revision: Revision,
        entries: Vec<Entry>,
    },
    /// What happened in a scope since the last `Listed` or `Changed`, up to this revision.
    Changed {
        scope: String,
        revision: Revision,
        changes: Vec<Change>,
    },
}

#[derive(Debug, Clone)]
pub struct FollowerOptions {
    /// How often a scope's number of keys and newest revision are compared with what is believed,
    /// with jitter.
    pub audit: Duration,
}

impl Default for FollowerOptions {
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(600),
        }
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
        let (events_in, events) = mpsc::channel(EVENTS);
        tokio::spawn(run(store, options, received, events_in, cancel.clone()));
        Self { events, scopes: Scopes { commands }, _stop: cancel.drop_guard() }
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
}

/// What a scope's task tells the follower.
enum Told {
    Event(Followed),
    /// Listed and watched.
    Healthy(String),
    Failing(String, String),
}

/// What all scopes share: where the history is.
#[derive(Clone)]
struct History {
    highest: Arc<Mutex<Revision>>,
    /// Counts the orders to list again.
    listings: watch::Sender<u64>,
}

impl History {
    /// Takes a revision in that a linearizable answer showed; the former highest one, if it fell.
    fn reached(&self, revision: Revision) -> Option<Revision> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *highest, revision);
        if revision >= former {
            return None;
        }
        self.listings.send_modify(|listings| *listings += 1);
        Some(former)
    }

    /// Takes a revision in that a watch showed, which may come late.
    fn heard(&self, revision: Revision) {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        *highest = revision.max(*highest);
    }
}

async fn run<S: Store>(
    store: S,
    options: FollowerOptions,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Followed>,
    cancel: CancellationToken,
) {
    let history = History { highest: Arc::default(), listings: watch::Sender::new(0) };
    let (told, mut telling) = mpsc::channel(EVENTS);
    let mut scopes: BTreeMap<String, Following> = BTreeMap::new();
    let mut connected = None;
    loop {
        // All arms are cancel-safe; what they lead to is awaited after the select.
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            command = commands.recv() => {
                match command {
                    Some(Command::Follow(scope)) => {
                        scopes.entry(scope.clone()).or_insert_with(|| {
                            let stop = cancel.child_token();
                            let task = ScopeTask::new(store.clone(), scope, history.clone(), told.clone(), options.audit);
                            tokio::spawn(stop.clone().run_until_cancelled_owned(task.run()));
                            Following { _stop: stop.drop_guard(), health: None }
                        });
                    }
                    Some(Command::Unfollow(scope)) => _ = scopes.remove(&scope),
                    Some(Command::ListAgain) => history.listings.send_modify(|listings| *listings += 1),
                    None => return,
                }
                None
            }
            Some(told) = telling.recv() => match told {
                Told::Event(event) => Some(event),
                Told::Healthy(scope) => { note(&mut scopes, &scope, Ok(())); None }
                Told::Failing(scope, error) => { note(&mut scopes, &scope, Err(error)); None }
            },
        };
        let changed = health(&scopes).filter(|now| connected.as_ref() != Some(now));
        for event in event.into_iter().chain(changed.clone().map(|health| match health {
            Ok(()) => Followed::Connected,
            Err(error) => Followed::Disconnected { error },
        })) {
            let sent = tokio::select! {
                () = cancel.cancelled() => return,
                sent = events.send(event) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
        connected = changed.or(connected);
    }
}

struct Following {
    _stop: DropGuard,
    health: Option<Result<(), String>>,
}

fn note(scopes: &mut BTreeMap<String, Following>, scope: &str, health: Result<(), String>) {
    if let Some(following) = scopes.get_mut(scope) {
        following.health = Some(health);
    }
}

/// Failing if one scope does, well if all are; `None` while some scope has not said yet.
fn health(scopes: &BTreeMap<String, Following>) -> Option<Result<(), String>> {
    let failing = scopes.values().find_map(|following| match &following.health {
        Some(Err(error)) => Some(error.clone()),
        Some(Ok(())) | None => None,
    });
    if let Some(error) = failing {
        return Some(Err(error));
    }
    let all = !scopes.is_empty() && scopes.values().all(|following| following.health.is_some());
    all.then_some(Ok(()))
}
