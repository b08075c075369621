//! What a person should know or do, collected from everywhere for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use wgnet_proto::status::Problem;

/// The open problems; at most one for each code and object. Cheap to clone.
#[derive(Clone, Default)]
pub struct Problems {
    open: Arc<Mutex<BTreeMap<(String, String), Open>>>,
    changes: Arc<watch::Sender<u64>>,
}

struct Open {
    problem: Problem,
    since: Instant,
}

/// What happened once, and what no later event may ever close.
const PASSING: [&str; 3] = ["bad-option", "store-history", "address-lost"];

/// How long such a problem is shown after it was last met.
const SHOWN: Duration = Duration::from_secs(600);

/// A hostile peer must not fill the memory with problems of its own making.
const MOST: usize = 1000;

impl Problems {
    /// Opens a problem, or renews what it says. Logged when it is new.
    pub fn set(&self, problem: Problem) {
        let key = (problem.code.clone(), problem.object.clone());
        let mut open = self.lock();
        if !open.contains_key(&key) {
            if open.len() >= MOST {
                return;
            }
            warn!(
                code = problem.code,
                object = problem.object,
                cause = problem.cause,
                next_step = problem.next_step,
                "Problem"
            );
        }
        let old = open.insert(key, Open { problem: problem.clone(), since: Instant::now() });
        drop(open);
        if old.is_none_or(|old| old.problem != problem) {
            self.changed();
        }
    }

    /// Closes a problem, if it is open.
    pub fn clear(&self, code: &str, object: &str) {
        let key = (code.to_owned(), object.to_owned());
        let closed = self.lock().remove(&key);
        if closed.is_some() {
            info!(code, object, "Problem solved");
            self.changed();
        }
    }

    /// Closes whatever concerns an object that is gone.
    pub fn clear_object(&self, object: &str) {
        self.lock().retain(|(_, of), _| of != object);
    }

    pub fn list(&self) -> Vec<Problem> {
        let mut open = self.lock();
        open.retain(|(code, _), open| {
            !PASSING.contains(&code.as_str()) || open.since.elapsed() < SHOWN
        });
        open.values().map(|open| open.problem.clone()).collect()
    }

    /// Changes whenever a problem opens, closes or says something else.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
