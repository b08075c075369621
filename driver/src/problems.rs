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
    /// When it is shown no longer, if nothing closes it.
    until: Option<Instant>,
}

/// What happened once, and what no later event may ever close.
const PASSING: [&str; 2] = ["bad-option", "store-history"];

/// How long such a problem is shown after it was last met.
const SHOWN: Duration = Duration::from_secs(600);

/// A hostile peer must not fill the memory with problems of its own making.
const MOST: usize = 1000;

impl Problems {
    /// Opens a problem, or renews what it says. Logged when it is new.
    pub fn set(&self, problem: Problem) {
        let passes = PASSING.contains(&problem.code.as_str());
        self.open(problem, passes.then(|| Instant::now() + SHOWN));
    }

    /// Opens one that is shown for so long, or longer if it was to be.
    pub fn set_for(&self, shown: Duration, problem: Problem) {
        self.open(problem, Some(Instant::now() + shown));
    }

    fn open(&self, problem: Problem, until: Option<Instant>) {
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
        let before = open.get(&key).and_then(|open| open.until);
        let until = until.map(|until| before.map_or(until, |before| until.max(before)));
        let old = open.insert(key, Open { problem: problem.clone(), until });
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
        let mut open = self.lock();
        let before = open.len();
        open.retain(|(_, of), _| of != object);
        let is_closed = open.len() < before;
        drop(open);
        if is_closed {
            self.changed();
        }
    }

    pub fn list(&self) -> Vec<Problem> {
        let mut open = self.lock();
        open.retain(|_, open| open.until.is_none_or(|until| until > Instant::now()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_is_told_of_problems_that_went_with_their_object() {
        let problems = Problems::default();
        problems.set(Problem {
            code: "code".to_owned(),
            object: "network a".to_owned(),
            cause: "cause".to_owned(),
            next_step: "next step".to_owned(),
        });
        let watching = problems.watch();
        problems.clear_object("network b");
        assert!(!watching.has_changed().unwrap());
        problems.clear_object("network a");
        assert!(watching.has_changed().unwrap() && problems.list().is_empty());
    }
}
