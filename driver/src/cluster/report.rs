//! What people are told: status, refusals, problems.

use tracing::warn;
use wgnet_control_plane::admin;
use wgnet_control_plane::follower::Scopes;
use wgnet_control_plane::publisher::Publishing;
use wgnet_control_plane::store::{LeaseId, Revision, Store};
use wgnet_core::Verdict;
use wgnet_proto::status::{Problem, StoreStatus};
use wgnet_proto::{NetworkKey, Path, Refused};

use super::{CLUSTER, ClusterStatus, Task};

pub(super) const ADDRESS_LOST: &str = "address-lost";

impl<S: Store> Task<S> {
    pub(super) fn tell(&self, publishing: &Publishing, lease: Option<LeaseId>) {
        let connected = self.connection == Some(Ok(()));
        let error = match &self.connection {
            Some(Err(error)) => Some(error.clone()),
            Some(Ok(())) => publishing.error.clone(),
            None => None,
        };
        let store = StoreStatus {
            connected,
            error,
            revision: self.seen.values().copied().max().unwrap_or(0),
            unpublished: if self.seen.contains_key(CLUSTER) {
                publishing.unpublished
            } else {
                self.records().len()
            },
            watch_restarts: self.scopes.as_ref().map_or(0, Scopes::watch_restarts),
        };
        let refused = self
            .judge
            .refused()
            .iter()
            .map(|(reason, count)| (reason.code().to_owned(), *count))
            .collect();
        let refusals = self.refused.told(self.now()).cloned().collect();
        let status = ClusterStatus {
            store,
            refused,
            refusals,
            untold: self.refused.untold(self.now()),
            held: self.held(),
            unpublished: publishing.endpoints.clone(),
            lease,
            proof: self.own_store_proof(),
            history: self.history.number(),
            has_wrong_secret: self.has_wrong_secret(),
        };
        self.status.send_if_modified(|old| {
            *old != status && {
                *old = status;
                true
            }
        });
    }

    /// Whether it is this host's secret that is another than the others'. Rubbish in the place of the
    /// cluster's record is not: what the other hosts wrote opens all the same.
    pub(super) fn has_wrong_secret(&self) -> bool {
        let is_accepted =
            |path: &Path| self.judge.in_store(path).map(|held| held.accepted.is_some());
        let hosts = self.judge.view().hosts.keys();
        let mut others = hosts.filter(|host| **host != self.inputs.facts.me);
        self.cluster_refused == Some(Refused::WrongSecret)
            && is_accepted(&Path::Cluster) == Some(false)
            && !others.any(|host| is_accepted(&Path::Host(*host)) == Some(true))
    }

    /// Says what was refused and why; in the log once.
    pub(super) fn judged(&mut self, key: &str, verdict: &Verdict) {
        if key == CLUSTER {
            self.cluster_refused = match verdict {
                Verdict::Refused(refusal) => Some(refusal.reason),
                _ => None,
            };
        }
        let Verdict::Refused(refusal) = verdict else {
            self.refused_no_more(|refused| refused == key);
            return;
        };
        self.refused.stands(self.now(), refusal);
        if refusal.path == CLUSTER && refusal.reason == Refused::ForeignCluster {
            self.inputs.problems.set(Problem {
                code: "foreign-cluster".to_owned(),
                object: "etcd".to_owned(),
                cause: "this etcd belongs to another cluster than this host".to_owned(),
                next_step: "correct `etcd` or `etcd_prefix` in the driver's settings; nothing is read or written until then".to_owned(),
            });
        }
        if !refusal.first_time {
            return;
        }
        let writer =
            refusal.writer.map_or_else(|| "unknown".to_owned(), |writer| writer.to_string());
        warn!(
            key,
            writer,
            reason = refusal.reason.code(),
            detail = refusal.detail,
            "Ignored a record of etcd"
        );
    }

    /// What was refused at these keys is not there any more.
    pub(super) fn refused_no_more(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.refused.gone(self.now(), is_gone);
    }

    /// Seconds that this task has run.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    pub(super) fn problem_of_connection(&self, error: &str) {
        self.inputs.problems.set(Problem {
            code: "etcd-away".to_owned(),
            object: "etcd".to_owned(),
            cause: format!("not connected: {error}"),
            next_step: "start etcd, or correct `etcd` in the driver's settings (wgnetctl doctor looks closer); until then running traffic goes on, and what changes on this host is told to the others afterwards".to_owned(),
        });
    }

    pub(super) fn problem_of_history(&self, revision: Revision, highest: Revision) {
        self.inputs.problems.set(Problem {
            code: "store-history".to_owned(),
            object: "etcd".to_owned(),
            cause: format!("etcd's revision fell from {highest} to {revision}: it was wiped or restored from a backup"),
            next_step: "nothing: every host publishes its records again; look at who restored it and why".to_owned(),
        });
    }

    /// A backup may be of a higher revision than the history that it replaces.
    pub(super) fn problem_of_earlier_history(&self) {
        self.inputs.problems.set(Problem {
            code: "store-history".to_owned(),
            object: "etcd".to_owned(),
            cause: "etcd holds an earlier history than this host has met: it was restored from a backup".to_owned(),
            next_step: "nothing: every host publishes its records again; look at who restored it and why".to_owned(),
        });
    }

    /// What a host is told that did not see the revision fall itself.
    pub(super) fn problem_of_announced_history(&self) {
        self.inputs.problems.set(Problem {
            code: "store-history".to_owned(),
            object: "etcd".to_owned(),
            cause: "another host saw that etcd was wiped or restored from a backup".to_owned(),
            next_step:
                "nothing: every host publishes its records again; look at who restored it and why"
                    .to_owned(),
        });
    }

    pub(super) fn problem_of_brake(&self, scope: &str, vanishing: usize, of: usize) {
        let (name, those) = admin::called(scope);
        self.inputs.problems.set(Problem {
            code: "mass-delete-held".to_owned(),
            object: scope.to_owned(),
            cause: format!("etcd lists {vanishing} of {of} {those} no more, all at once"),
            next_step: format!("look at etcd; if they were removed on purpose, wgnetctl release {name} believes it; until then those that do not put their records back stay as they were known"),
        });
    }

    /// Returns the problem's object.
    pub(super) fn problem_of_claim(
        &self,
        address: Option<std::net::IpAddr>,
        endpoint: &str,
        key: &NetworkKey,
    ) -> String {
        let object = format!("endpoint {endpoint} of network {key}");
        let address =
            address.map_or_else(|| "an address".to_owned(), |address| address.to_string());
        self.inputs.problems.set(Problem {
            code: ADDRESS_LOST.to_owned(),
            object: object.clone(),
            cause: format!(
                "{address} was given to a newer endpoint on another host; this one is cut off"
            ),
            next_step: "remove the older container; on plain engines give each its own --ip-range"
                .to_owned(),
        });
        object
    }
}
