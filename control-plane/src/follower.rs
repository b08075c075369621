//! Follows scopes of the store: a complete listing of each, then its changes in order, through
//! compaction, restarts, missing leaders and other histories. Knows nothing of records.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::{Change, Entry, Revision, Store};

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

impl Follower {
    /// Starts with no scope. Ends with `cancel`, too.
    pub fn start<S: Store>(store: S, options: FollowerOptions, cancel: &CancellationToken) -> Self {
        let cancel = cancel.child_token();
        let (commands, _commands) = mpsc::unbounded_channel();
        let (_report, events) = mpsc::channel(1024);
        let _ = (store, options);
        Self {
            events,
            scopes: Scopes { commands },
            _stop: cancel.drop_guard(),
        }
    }

    /// The next event; `None` once cancelled. Cancel-safe.
    pub async fn next(&mut self) -> Option<Followed> {
        self.events.recv().await
    }

    pub fn scopes(&self) -> Scopes {
        self.scopes.clone()
    }
}

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
