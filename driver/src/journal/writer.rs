//! What changes the journal: takes all updates that wait, applies them in order, syncs once. On a
//! thread of its own since a commit blocks; a journal in memory needs none and runs on the runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::disk::Disk;
use super::kept::Kept;
use super::memory::Gate;
use super::{JournalError, State};

/// How long kept records may stay without a sync when nothing else is written.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// So many updates share a sync at most: the first must not wait for an endless queue.
const BATCH: usize = 256;

/// Tells the caller how its update ended, given the batch's revision or failure.
type Finish = Box<dyn FnOnce(Result<u64, JournalError>) + Send>;
/// Changes the state, or leaves it (`false`).
type Change = Box<dyn FnOnce(&mut State) -> (bool, Finish) + Send>;
type KeptRecords = Result<Vec<(String, Vec<u8>)>, JournalError>;

pub(super) enum Job {
    Update(Change),
    Keep(Vec<(String, Option<Vec<u8>>)>, oneshot::Sender<Result<(), JournalError>>),
    Records(oneshot::Sender<KeptRecords>),
}

impl Job {
    pub(super) fn update<T, E, F>(change: F, reply: oneshot::Sender<Result<(T, u64), E>>) -> Self
    where
        T: Send + 'static,
        E: From<JournalError> + Send + 'static,
        F: FnOnce(&mut State) -> Result<T, E> + Send + 'static,
    {
        Self::Update(Box::new(move |state| {
            let outcome = change(state);
            let keep = outcome.is_ok();
            // A refusal waits for the sync too: it may rest on changes that are not durable yet.
            let finish: Finish = Box::new(move |committed| {
                let outcome = match committed {
                    Ok(revision) => outcome.map(|value| (value, revision)),
                    Err(error) => Err(error.into()),
                };
                // The caller may have gone; the update stands.
                let _ = reply.send(outcome);
            });
            (keep, finish)
        }))
    }
}

/// Where a journal is kept.
pub(super) trait Storage: Send + 'static {
    /// The content, if it had to be read again after a failed write.
    fn reopen_if_closed(&mut self) -> Result<Option<State>, JournalError>;
    fn write(&mut self, old: &State, new: &State) -> Result<(), JournalError>;
    fn keep(&mut self, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), JournalError>;
    fn flush(&mut self) -> Result<(), JournalError>;
    fn records(&mut self) -> KeptRecords;
}

impl Storage for Disk {
    fn reopen_if_closed(&mut self) -> Result<Option<State>, JournalError> {
        self.reopen_if_closed()
    }

    fn write(&mut self, old: &State, new: &State) -> Result<(), JournalError> {
        self.write(old, new)
    }

    fn keep(&mut self, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), JournalError> {
        self.keep(changes)
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        self.flush()
    }

    fn records(&mut self) -> KeptRecords {
        self.records()
    }
}

pub(super) enum Writer {
    Thread { jobs: Option<Sender<Job>>, thread: Option<JoinHandle<()>> },
    Task(mpsc::UnboundedSender<Job>),
}

impl Writer {
    pub(super) fn start(disk: Disk, states: watch::Sender<Arc<State>>) -> Self {
        let (jobs, queue) = channel();
        let run = move || Loop::new(disk, states).run(&queue);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(run)
            .expect("a thread can be started");
        Self::Thread { jobs: Some(jobs), thread: Some(thread) }
    }

    /// For a journal that never blocks; `gate` is awaited before and after whatever reaches it.
    pub(super) fn start_on_runtime(
        disk: impl Storage,
        states: watch::Sender<Arc<State>>,
        gate: Gate,
    ) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        tokio::spawn(Loop::new(disk, states).run_on_runtime(queue, gate));
        Self::Task(jobs)
    }

    pub(super) fn send(&self, job: Job) {
        // When the loop is gone the job's reply is dropped, which its caller sees.
        match self {
            Self::Thread { jobs, .. } => {
                let _ = jobs.as_ref().expect("taken on drop only").send(job);
            }
            Self::Task(jobs) => {
                let _ = jobs.send(job);
            }
        }
    }
}

impl Drop for Writer {
    /// Waits for what was sent, so that the file is closed when the last handle is gone.
    fn drop(&mut self) {
        let Self::Thread { jobs, thread } = self else {
            return;
        };
        drop(jobs.take());
        let thread = thread.take().expect("taken here only");
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            error!("the journal's thread panicked");
        }
    }
}

struct Loop<S> {
    disk: S,
    states: watch::Sender<Arc<State>>,
    kept: Kept,
}

impl<S: Storage> Loop<S> {
    fn new(disk: S, states: watch::Sender<Arc<State>>) -> Self {
        Self { disk, states, kept: Kept::default() }
    }

    async fn run_on_runtime(mut self, mut queue: mpsc::UnboundedReceiver<Job>, gate: Gate) {
        loop {
            let first = if self.kept.is_due() {
                match tokio::time::timeout(FLUSH_AFTER, queue.recv()).await {
                    Ok(job) => job,
                    Err(_) => {
                        gate().await;
                        self.flush();
                        continue;
                    }
                }
            } else {
                queue.recv().await
            };
            let Some(first) = first else { break };
            gate().await;
            self.batch(first, || queue.try_recv().ok());
            gate().await;
        }
        if self.kept.is_due() {
            self.flush();
        }
    }

    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let first = if self.kept.is_due() {
                match queue.recv_timeout(FLUSH_AFTER) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.flush();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                let Ok(job) = queue.recv() else { break };
                job
            };
            self.batch(first, || queue.try_recv().ok());
        }
        if self.kept.is_due() {
            self.flush();
        }
    }

    fn batch(&mut self, first: Job, mut waiting: impl FnMut() -> Option<Job>) {
        let mut updates = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Update(change) => updates.push(change),
                other => self.side_job(other),
            }
            if updates.len() < BATCH {
                next = waiting();
            }
        }
        if !updates.is_empty() {
            self.apply(updates);
        }
    }

    fn apply(&mut self, updates: Vec<Change>) {
        let reopened = self.reopen().and_then(|()| self.kept.put_again(&mut self.disk));
        let before = self.states.borrow().clone();
        let mut after = State::clone(&before);
        let mut finishes = Vec::with_capacity(updates.len());
        for change in updates {
            let kept = after.clone();
            // A panic drops its reply, and its caller is told; the others go on.
            match catch_unwind(AssertUnwindSafe(|| change(&mut after))) {
                Ok((keep, finish)) => {
                    if !keep {
                        after = kept;
                    }
                    finishes.push(finish);
                }
                Err(_) => after = kept,
            }
        }
        let committed = reopened.and_then(|()| self.commit(&before, after));
        for finish in finishes {
            finish(committed.clone());
        }
    }

    fn commit(&mut self, before: &State, mut after: State) -> Result<u64, JournalError> {
        if after == *before {
            return Ok(before.revision);
        }
        let written = self.disk.write(before, &after);
        if let Err(error) = &written {
            warn!("{}", error.sentence());
            return Err(error.clone());
        }
        self.kept.synced();
        after.stamp(before);
        let revision = after.revision;
        self.states.send_replace(Arc::new(after));
        Ok(revision)
    }

    /// After a failed write the file is the truth, whatever of the write it holds.
    fn reopen(&mut self) -> Result<(), JournalError> {
        let Some(mut found) = self.disk.reopen_if_closed()? else {
            return Ok(());
        };
        self.kept.lost();
        let before = self.states.borrow().clone();
        found.revision = before.revision;
        found.changed = before.changed.clone();
        for (id, until) in &before.lingers_until {
            found.lingers_until.entry(id.clone()).and_modify(|found| *found = *until);
        }
        found.deleted = Arc::new(
            found
                .deleted
                .iter()
                .map(|(id, until)| (id.clone(), before.deleted.get(id).copied().unwrap_or(*until)))
                .collect(),
        );
        if found != *before {
            found.stamp(&before);
            self.states.send_replace(Arc::new(found));
        }
        Ok(())
    }

    fn side_job(&mut self, job: Job) {
        match job {
            Job::Update(_) => unreachable!("updates are collected"),
            Job::Keep(changes, reply) => {
                let reopened = self.reopen();
                let kept = self.kept.put(changes, reopened.map(|()| &mut self.disk));
                let _ = reply.send(kept);
            }
            Job::Records(reply) => {
                let reopened = self.reopen();
                // There may be another place than the file.
                let records = self.disk.records().map_err(|error| reopened.err().unwrap_or(error));
                let _ = reply.send(records);
            }
        }
    }

    fn flush(&mut self) {
        let reopened = self.reopen().and_then(|()| self.kept.put_again(&mut self.disk));
        match reopened.and_then(|()| self.disk.flush()) {
            Ok(()) => self.kept.synced(),
            Err(error) => self.kept.failed(&error),
        }
    }
}
