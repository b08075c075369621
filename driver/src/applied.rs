//! How far the kernel follows the journal, network by network: what reconcile reports and what the
//! API's handlers wait for. And the other way round: which calls run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wgnet_proto::DockerNetworkId;

/// The last word of a network's reconcile task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything the journal held at this revision is in the kernel; `None` before the first pass
    /// that succeeded, since a journal that was opened again begins at revision 0.
    pub applied: Option<u64>,
    /// The last pass worked on this revision, whether it succeeded or not.
    pub tried: u64,
    /// Why `applied` is behind, as a sentence.
    pub error: Option<String>,
    /// How many passes in a row failed.
    pub failures: u32,
}

impl Report {
    fn follows(&self, revision: u64) -> bool {
        self.applied.is_some_and(|applied| applied >= revision)
    }
}

/// What fails so often is not cured by trying again at once.
const GIVEN_UP_AFTER: u32 = 4;

/// Shared by the reconcile tasks (writers) and the API (readers).
#[derive(Clone, Default)]
pub struct Applied {
    reports: Arc<watch::Sender<BTreeMap<DockerNetworkId, Report>>>,
    calls: Calls,
}

/// Docker's calls that wait or run, by the object they are about. Cheap to clone.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<String, usize>>>);

/// A call, until dropped.
pub struct Running {
    calls: Calls,
    object: String,
}

impl Calls {
    #[must_use]
    pub fn begin(&self, object: &str) -> Running {
        *self.lock().entry(object.to_owned()).or_default() += 1;
        Running { calls: self.clone(), object: object.to_owned() }
    }

    pub fn is_running(&self, object: &str) -> bool {
        self.lock().contains_key(object)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        if let Some(count) = calls.get_mut(&self.object) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.object);
            }
        }
    }
}

/// Why a wait ended without success.
#[derive(Debug, thiserror::Error)]
pub enum NotApplied {
    #[error("{0}")]
    Failed(String),
    #[error("it was not set up within {} s", within.as_secs())]
    Deadline { within: Duration },
}

impl Applied {
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    pub fn report(&self, network: &DockerNetworkId, report: Report) {
        self.reports.send_if_modified(|reports| {
            if reports.get(network) == Some(&report) {
                return false;
            }
            reports.insert(network.clone(), report);
            true
        });
    }

    pub fn get(&self, network: &DockerNetworkId) -> Option<Report> {
        self.reports.borrow().get(network).cloned()
    }

    pub fn forget(&self, network: &DockerNetworkId) {
        self.reports.send_if_modified(|reports| reports.remove(network).is_some());
    }

    /// Waits until the kernel follows the journal at `revision`.
    ///
    /// # Errors
    ///
    /// When passes that knew the revision failed again and again, or after `within`.
    pub async fn wait(
        &self,
        network: &DockerNetworkId,
        revision: u64,
        within: Duration,
    ) -> Result<(), NotApplied> {
        let mut reports = self.reports.subscribe();
        let settled = reports.wait_for(|reports| {
            let Some(report) = reports.get(network) else {
                return false;
            };
            report.follows(revision)
                || (report.tried >= revision && report.failures >= GIVEN_UP_AFTER)
        });
        let Ok(settled) = tokio::time::timeout(within, settled).await else {
            return Err(NotApplied::Deadline { within });
        };
        let reports = settled.expect("the sender lives in self");
        let report = reports.get(network).expect("wait_for saw it");
        if report.follows(revision) {
            return Ok(());
        }
        Err(NotApplied::Failed(report.error.clone().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_first_pass_that_failed_does_not_count_for_a_journal_that_is_as_it_was_opened() {
        let network: DockerNetworkId = "ab".repeat(32).parse().unwrap();
        let applied = Applied::default();
        let report = Report { tried: 0, error: Some("no".to_owned()), ..Report::default() };
        applied.report(&network, report.clone());
        let within = Duration::from_secs(1);
        assert!(applied.wait(&network, 0, within).await.is_err());
        applied.report(&network, Report { applied: Some(0), error: None, ..report });
        applied.wait(&network, 0, within).await.unwrap();
    }

    #[test]
    fn an_object_is_called_as_long_as_any_call_about_it_runs() {
        let calls = Calls::default();
        let (first, second) = (calls.begin("a"), calls.begin("a"));
        drop(first);
        assert!(calls.is_running("a") && !calls.is_running("b"));
        drop(second);
        assert!(!calls.is_running("a"));
    }
}
