//! Whose turn it is: the calls about one object run in order of arrival, a call its sender no longer
//! waits for does not start, and a repeated one gets the answer of the first.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::error::CallError;
use super::server::Answer;

/// So many finished calls are remembered with their answers.
const REMEMBERED: usize = 1024;

/// What the shim says about a request beyond what dockerd said.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    /// The same for every attempt to deliver one request.
    pub(super) id: Option<String>,
    /// When its sender gives up.
    pub(super) expires: Option<Instant>,
}

impl Delivery {
    /// How long an answer is still of use.
    pub(super) fn remaining(&self, most: Duration) -> Duration {
        let left = self.expires.map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(most, |left| left.min(most))
    }

    /// Refuses a call that nobody waits for any more. To be asked again when what it asks for becomes
    /// durable, if that may be a while later: Docker has given the address to another by then.
    pub(super) fn in_time(&self, call: &str) -> Result<(), CallError> {
        match self.late() {
            Some(late) => Err(CallError::Expired { call: call.to_owned(), late }),
            None => Ok(()),
        }
    }

    /// For how long nobody has waited any more; none while somebody does.
    fn late(&self) -> Option<Duration> {
        Instant::now().checked_duration_since(self.expires?)
    }
}

/// One queue for each object that has calls. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Turns {
    queues: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// The right to work on an object until dropped.
pub(super) struct Turn {
    turns: Turns,
    object: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Takes a place in the object's queue now; the future is ready when it is at the front.
    pub(super) fn queue(&self, object: &str) -> impl Future<Output = Turn> + Send + use<> {
        let queue = Arc::clone(lock(&self.queues).entry(object.to_owned()).or_default());
        let mut place = Box::pin(queue.lock_owned());
        // tokio's mutex is fair, but a place in its line is taken by the first poll only.
        let first = futures::FutureExt::now_or_never(&mut place);
        let (turns, object) = (self.clone(), object.to_owned());
        async move {
            let held = match first {
                Some(held) => held,
                None => place.await,
            };
            Turn { turns, object, held: Some(held) }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held.take();
        let mut queues = lock(&self.turns.queues);
        // Nobody else holds or waits for it: the map's reference is the last.
        if queues.get(&self.object).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.object);
        }
    }
}

/// The answers of identified requests, running ones included. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Answers {
    inner: Arc<Mutex<Remembered>>,
}

#[derive(Default)]
struct Remembered {
    by_id: BTreeMap<String, watch::Receiver<Option<Answer>>>,
    finished: VecDeque<String>,
}

/// What is known of a request.
pub(super) enum Known {
    /// It is new: whoever gets this runs it and tells the answer.
    New(Answering),
    /// It ran or runs; its answer comes here.
    Repeated(watch::Receiver<Option<Answer>>),
}

/// Where the runner of a request puts its answer.
pub(super) struct Answering {
    answers: Answers,
    id: String,
    sender: watch::Sender<Option<Answer>>,
}

impl Answers {
    pub(super) fn look_up(&self, id: &str) -> Known {
        let mut inner = lock(&self.inner);
        if let Some(answer) = inner.by_id.get(id) {
            return Known::Repeated(answer.clone());
        }
        let (sender, receiver) = watch::channel(None);
        inner.by_id.insert(id.to_owned(), receiver);
        Known::New(Answering { answers: self.clone(), id: id.to_owned(), sender })
    }
}

impl Answering {
    pub(super) fn finish(self, answer: Answer) {
        let mut inner = lock(&self.answers.inner);
        inner.finished.push_back(self.id.clone());
        if inner.finished.len() > REMEMBERED
            && let Some(oldest) = inner.finished.pop_front()
        {
            inner.by_id.remove(&oldest);
        }
        drop(inner);
        self.sender.send_replace(Some(answer));
    }
}

impl Drop for Answering {
    /// A request that never finished is as if it had never come.
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            lock(&self.answers.inner).by_id.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
