//! Puts the status together from journal, cluster and the last look at the kernel.

mod pace;
pub(crate) mod peers;
pub mod report;
mod summary;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use wgnet_control_plane::admin::{ForgetNetwork, ForgottenNetwork, HeldListing};
use wgnet_core::{ClusterView, Families, LocalNetwork, NetworkView, Observed, ObservedPeer, Seen};
use wgnet_proto::status::{
    DriverStatus, EndpointStatus, MemberStatus, NetworkStatus, PeerHost, Problem, SlotStatus,
};
use wgnet_proto::{HostId, IfName, PublicKey, Refused};

use self::peers::Peers;
use crate::admin;
use crate::clock;
use crate::cluster::{ClusterStatus, HostFacts, Orderer};
use crate::dataplane::{Dataplane, Joined};
use crate::forget::Forgetter;
use crate::journal::Journal;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::reconcile::runtime::{Runtime, Runtimes};
use crate::underlay::Underlay;

/// Where everything for the status is found.
pub struct Status<D> {
    pub facts: HostFacts,
    pub dataplane: D,
    pub journal: Journal,
    pub view: watch::Receiver<Arc<ClusterView>>,
    pub cluster: watch::Receiver<ClusterStatus>,
    pub runtimes: Runtimes,
    pub problems: Problems,
    pub underlay: watch::Receiver<Underlay>,
    pub orderer: Orderer,
    pub forgetter: Forgetter<D>,
    pub progress: Progress,
    pub peers: SharedPeers,
}

/// What only shows over time, looked at by whoever reads the kernel. Cheap to clone.
#[derive(Clone, Default)]
pub struct SharedPeers(Arc<Mutex<Peers>>);

impl SharedPeers {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Peers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dataplane> admin::Source for Status<D> {
    fn held(&self) -> Vec<HeldListing> {
        self.cluster.borrow().held.clone()
    }

    fn orderer(&self) -> &Orderer {
        &self.orderer
    }

    async fn forget_network(&self, order: ForgetNetwork) -> Result<ForgottenNetwork, String> {
        self.forgetter.forget(&order.network).await
    }

    async fn status(&self) -> DriverStatus {
        let view = Arc::clone(&self.view.borrow());
        let cluster = self.cluster.borrow().clone();
        let underlay = self.underlay.borrow().addresses.clone();
        let state = self.journal.state();
        let (mut networks, mut lingering) = (Vec::new(), Vec::new());
        for (id, local) in &state.networks {
            if local.lingering {
                lingering.push(id.clone());
                continue;
            }
            // Handshakes and counters of now, not of the last look.
            let observed = self.dataplane.observe(&local.namespace(), &Joined::new()).await;
            let runtime = self.runtimes.get(id);
            networks.push(self.network(local, &view, &observed, runtime));
        }
        let mut problems = self.problems.list();
        problems.extend(refusals(&cluster));
        DriverStatus {
            host_id: self.facts.me,
            name: self.facts.name.clone(),
            version: self.facts.version.clone(),
            backend: self.dataplane.backend().to_owned(),
            underlay,
            store: cluster.store,
            networks,
            lingering,
            hosts: hosts(&view, self.facts.me),
            problems,
            refused: cluster.refused,
        }
    }
}

impl<D: Dataplane> Status<D> {
    fn network(
        &self,
        local: &LocalNetwork,
        view: &ClusterView,
        observed: &Seen<Observed>,
        runtime: Option<Runtime>,
    ) -> NetworkStatus {
        let none = NetworkView::default();
        let network = view.networks.get(&local.definition.key).unwrap_or(&none);
        let slot = |slot: &wgnet_core::LocalSlot| SlotStatus {
            interface: IfName::wireguard(slot.generation),
            generation: slot.generation,
            public_key: slot.private_key.public(),
            key_made: slot.made,
            port: slot.port,
        };
        NetworkStatus {
            key: local.definition.key.clone(),
            docker_id: local.definition.docker_id.clone(),
            namespace: local.namespace().to_string(),
            subnets: local.definition.subnets.iter().map(|subnet| subnet.pool).collect(),
            mtu: local.definition.mtu,
            slots: local.slots.iter().map(slot).collect(),
            members: self.members(network, view, observed),
            endpoints: self.endpoints(local, network, view),
            in_sync: runtime.as_ref().is_some_and(|runtime| runtime.in_sync),
            repairs: runtime.as_ref().map_or(0, |runtime| runtime.repairs),
            error: runtime.and_then(|runtime| runtime.error),
        }
    }

    fn members(
        &self,
        network: &NetworkView,
        view: &ClusterView,
        observed: &Seen<Observed>,
    ) -> Vec<MemberStatus> {
        let peers: BTreeMap<PublicKey, &ObservedPeer> = match observed {
            Seen::Present(observed) => observed
                .wireguards
                .values()
                .flat_map(|wg| wg.peers.iter().map(|(key, peer)| (*key, peer)))
                .collect(),
            Seen::Absent | Seen::Unknown => BTreeMap::new(),
        };
        // The userspace engine tells ages, of which the data plane makes times of the steady clock.
        let is_steady = self.facts.backend == "userspace";
        let now = if is_steady { clock::steady() } else { clock::of_host()() }.as_secs();
        let others = network.members.iter().filter(|(host, _)| **host != self.facts.me);
        let slots =
            others.flat_map(|(host, member)| member.slots.iter().map(move |slot| (*host, slot)));
        let members = slots.map(|(host, slot)| {
            let peer = peers.get(&slot.public_key);
            MemberStatus {
                host_id: host,
                name: host_name(view, host),
                public_key: slot.public_key,
                underlay: peer.and_then(|peer| peer.underlay),
                handshake_age: peer
                    .and_then(|peer| peer.last_handshake)
                    .map(|at| now.saturating_sub(at)),
                received_bytes: peer.map_or(0, |peer| peer.received_bytes),
                sent_bytes: peer.map_or(0, |peer| peer.sent_bytes),
            }
        });
        members.collect()
    }

    fn endpoints(
        &self,
        local: &LocalNetwork,
        network: &NetworkView,
        view: &ClusterView,
    ) -> Vec<EndpointStatus> {
        let own = local.endpoints.values().map(|endpoint| EndpointStatus {
            id: endpoint.id.clone(),
            addresses: endpoint.addresses.iter().map(ipnet::IpNet::addr).collect(),
            mac: endpoint.mac,
            host_id: self.facts.me,
            host_name: self.facts.name.clone(),
            local: true,
        });
        let others = network.endpoints.values().filter(|endpoint| endpoint.host != self.facts.me);
        let remote = others.map(|endpoint| EndpointStatus {
            id: endpoint.endpoint.clone(),
            addresses: endpoint.addresses.clone(),
            mac: endpoint.mac,
            host_id: endpoint.host,
            host_name: host_name(view, endpoint.host),
            local: false,
        });
        let mut endpoints: Vec<_> = own.chain(remote).collect();
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        endpoints
    }
}

fn hosts(view: &ClusterView, me: HostId) -> Vec<PeerHost> {
    let others = view.hosts.iter().filter(|(host, _)| **host != me);
    let hosts = others.map(|(host, record)| PeerHost {
        host_id: *host,
        name: record.name.clone(),
        underlay: record.underlay.clone(),
        version: record.version.clone(),
        alive: view.alive.contains(host),
    });
    hosts.collect()
}

fn host_name(view: &ClusterView, host: HostId) -> String {
    view.hosts.get(&host).map_or_else(|| host.short(), |record| record.name.clone())
}

/// Records that were ignored, each said once; where all were for one cause, that is said instead.
fn refusals(cluster: &ClusterStatus) -> Vec<Problem> {
    let is_consequence = |refusal: &&wgnet_core::Refusal| {
        cluster.has_wrong_secret && refusal.reason == Refused::WrongSecret
    };
    let problem = |refusal: &wgnet_core::Refusal| {
        let writer = refusal
            .writer
            .map_or_else(|| "an unknown writer".to_owned(), |writer| format!("host {writer}"));
        Problem {
            code: format!("refused-{}", refusal.reason.code()),
            object: refusal.path.clone(),
            cause: format!("a record by {writer} was ignored: {}", refusal.detail),
            next_step: "find out who wrote it: etcd's access log, and whether that host has the right secret (wgnetctl status there)".to_owned(),
        }
    };
    let refused = cluster.refusals.iter().filter(|refusal| !is_consequence(refusal)).map(problem);
    let more = |(reason, count): (&Refused, &usize)| Problem {
        code: format!("refused-{}", reason.code()),
        object: "etcd".to_owned(),
        cause: format!("{count} more records were ignored: {reason}"),
        next_step:
            "find out who wrote them: etcd's access log; wgnetctl bundle lists all that stand"
                .to_owned(),
    };
    let is_told = |reason: &Refused| cluster.has_wrong_secret && *reason == Refused::WrongSecret;
    let untold = cluster.untold.iter().filter(|(reason, _)| !is_told(reason)).map(more);
    cluster.has_wrong_secret.then(wrong_secret).into_iter().chain(refused).chain(untold).collect()
}

fn wrong_secret() -> Problem {
    Problem {
        code: "wrong-secret".to_owned(),
        object: "cluster secret".to_owned(),
        cause: "nothing that other hosts wrote to etcd opens with this host's cluster secret: it sees no other host, and no other sees it".to_owned(),
        next_step: "compare the file `secret` of the driver's settings with that of a host that works (sha256sum /etc/wgnet/secret, on both), copy it from there, then: systemctl restart wgnet-driver".to_owned(),
    }
}

/// The families of underlay addresses this host can send to; both while it does not know its own.
pub fn families(underlay: &Underlay) -> Families {
    if underlay.addresses.is_empty() { Families::BOTH } else { Families::of(&underlay.addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_records_that_are_not_told_are_counted() {
        let untold = [(Refused::Malformed, 7), (Refused::WrongSecret, 9)].into();
        let mut cluster = ClusterStatus { untold, ..ClusterStatus::default() };
        let told = super::refusals(&cluster);
        let codes: Vec<&str> = told.iter().map(|problem| problem.code.as_str()).collect();
        assert_eq!(codes, ["refused-malformed", "refused-wrong-secret"]);
        assert!(
            told[0].object == "etcd" && told[0].cause.starts_with("7 more records"),
            "{told:?}"
        );
        cluster.has_wrong_secret = true;
        assert_eq!(
            super::refusals(&cluster).len(),
            2,
            "wrong-secret, and what does not follow from it"
        );
    }

    fn codes(has_wrong_secret: bool) -> Vec<String> {
        let refusal = |path: &str, reason| wgnet_core::Refusal {
            path: path.to_owned(),
            writer: None,
            reason,
            detail: "it is so".to_owned(),
            first_time: true,
        };
        let refusals = vec![
            refusal("cluster", Refused::WrongSecret),
            refusal("hosts/a", Refused::Malformed),
            refusal("hosts/b", Refused::WrongSecret),
        ];
        let cluster = ClusterStatus { refusals, has_wrong_secret, ..ClusterStatus::default() };
        super::refusals(&cluster).into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn a_wrong_secret_is_told_once_and_in_place_of_all_that_it_does_not_open() {
        assert_eq!(codes(true), ["wrong-secret", "refused-malformed"]);
        let each = ["refused-wrong-secret", "refused-malformed", "refused-wrong-secret"];
        assert_eq!(codes(false), each);
    }
}
