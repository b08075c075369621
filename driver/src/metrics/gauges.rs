//! What is as it is when somebody asks: made from the status.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use wgnet_proto::status::{DriverStatus, NetworkStatus};

use super::{Counters, Labels};
use crate::progress::Progress;
use crate::status::peers::Peers;

type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Of these at most, networks in order: others' records must not fill Prometheus.
const MOST_PEERS: usize = 2000;

/// The registry of one moment, `now` since the epoch.
pub(super) fn registry(
    status: &DriverStatus,
    peers: &Peers,
    progress: &Progress,
    kernel: &str,
    now: Duration,
) -> Registry {
    let mut moment = Moment { registry: Registry::with_prefix("wgnet"), status };
    moment.driver(kernel);
    moment.store();
    moment.networks(progress);
    moment.keys(now);
    moment.peers(peers);
    moment.registry
}

struct Moment<'a> {
    registry: Registry,
    status: &'a DriverStatus,
}

impl Moment<'_> {
    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let gauges = Gauges::default();
        for (labels, value) in values {
            gauges.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, gauges);
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let counters = Counters::default();
        for (labels, value) in values {
            counters.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, counters);
    }

    fn driver(&mut self, kernel: &str) {
        let status = self.status;
        let build = vec![
            ("version", status.version.clone()),
            ("backend", status.backend.clone()),
            ("kernel", kernel.to_owned()),
            ("host_id", status.host_id.to_string()),
            ("name", status.name.clone()),
        ];
        self.gauge("build_info", "This driver and where it runs; always 1", [(build, 1.0)]);
        let mut by_code: BTreeMap<&str, f64> = BTreeMap::new();
        for problem in &status.problems {
            *by_code.entry(&problem.code).or_default() += 1.0;
        }
        let problems = by_code.into_iter().map(|(code, open)| (of("code", code), open));
        self.gauge("problems", "Open problems, by their code", problems);
        let refused = status.refused.iter().map(|(why, count)| (of("reason", why), *count));
        self.counter("refused_records", "Records of etcd that were ignored", refused);
    }

    fn store(&mut self) {
        let store = &self.status.store;
        let one = |value: f64| [(Labels::new(), value)];
        self.gauge(
            "etcd_connected",
            "Whether etcd is listed and watched",
            one(bit(store.connected)),
        );
        self.gauge(
            "etcd_revision",
            "The newest of etcd's revisions seen",
            one(store.revision as f64),
        );
        let unpublished = store.unpublished as f64;
        self.gauge("etcd_unpublished_records", "Own records not in etcd yet", one(unpublished));
        let restarts = [(Labels::new(), store.watch_restarts)];
        let help = "Watches that ended and had to begin anew";
        self.counter("etcd_watch_restarts", help, restarts);
        let alive = self.status.hosts.iter().filter(|host| host.alive).count();
        self.gauge("hosts", "Other hosts known", one(self.status.hosts.len() as f64));
        self.gauge("hosts_alive", "Other hosts whose driver lives", one(alive as f64));
    }

    fn networks(&mut self, progress: &Progress) {
        let all = &self.status.networks;
        let each = |value: fn(&NetworkStatus) -> f64| {
            all.iter().map(move |network| (network_labels(network), value(network)))
        };
        self.gauge(
            "network_in_sync",
            "Whether the kernel is as wanted",
            each(|it| bit(it.in_sync)),
        );
        self.gauge("network_mtu_bytes", "MTU of its links", each(|it| it.mtu.into()));
        self.gauge("network_members", "Hosts, this one included", each(members));
        let endpoints = all.iter().flat_map(|network| {
            let local = network.endpoints.iter().filter(|endpoint| endpoint.local).count();
            let remote = network.endpoints.len() - local;
            [("local", local), ("remote", remote)].map(|(place, count)| {
                let mut labels = network_labels(network);
                labels.push(("place", place.to_owned()));
                (labels, count as f64)
            })
        });
        self.gauge("network_endpoints", "Containers, here and elsewhere", endpoints);
        let repairs = all.iter().map(|network| (network_labels(network), network.repairs));
        self.counter("network_repairs", "What others changed and was put right", repairs);
        let standing = |value: fn(&crate::progress::Standing) -> f64| {
            all.iter()
                .map(move |network| (network_labels(network), value(&progress.get(&network.key))))
        };
        self.gauge(
            "network_told_revision",
            "Of etcd, of the newest record of the network seen",
            standing(|it| it.told as f64),
        );
        self.gauge(
            "network_followed_revision",
            "Of etcd, up to which the kernel follows",
            standing(|it| it.followed as f64),
        );
        self.gauge(
            "network_lag_seconds",
            "For how long the oldest record waits that the kernel does not follow",
            standing(|it| it.lag.as_secs_f64()),
        );
    }

    fn keys(&mut self, now: Duration) {
        let all = &self.status.networks;
        let ages = all.iter().filter_map(|network| {
            let age = now.as_secs().saturating_sub(network.key_made()?);
            Some((network_labels(network), age as f64))
        });
        let help = "Since this host's key in it was made; absent where that is not known";
        self.gauge("network_key_age_seconds", help, ages);
    }

    fn peers(&mut self, peers: &Peers) {
        let now = Instant::now();
        let all = self.status.networks.iter().flat_map(|network| {
            network.members.iter().map(move |member| {
                let mut labels = network_labels(network);
                labels.push(("peer", member.name.clone()));
                labels.push(("peer_id", member.host_id.to_string()));
                (labels, member, peers.get(&network.docker_id, member.public_key))
            })
        });
        let all: Vec<_> = all.collect();
        let omitted = all.len().saturating_sub(MOST_PEERS);
        let shown = || all.iter().take(MOST_PEERS);
        self.gauge(
            "peers_omitted",
            "Peers that are not shown here",
            [(Labels::new(), omitted as f64)],
        );
        self.gauge(
            "peer_handshake_age_seconds",
            "Since the last handshake; absent without one",
            shown().filter_map(|(labels, member, _)| {
                Some((labels.clone(), member.handshake_age? as f64))
            }),
        );
        self.counter(
            "peer_received_bytes",
            "Received from the peer, with WireGuard's own",
            shown().map(|(labels, member, _)| (labels.clone(), member.received_bytes)),
        );
        self.counter(
            "peer_sent_bytes",
            "Sent to the peer, with WireGuard's own",
            shown().map(|(labels, member, _)| (labels.clone(), member.sent_bytes)),
        );
        self.counter(
            "peer_underlay_changes",
            "How often the peer's underlay address changed",
            shown().map(|(labels, _, peer)| (labels.clone(), peer.underlay_changes)),
        );
        self.gauge(
            "peer_silent",
            "Whether something was sent and nothing came back for 15 s",
            shown().map(|(labels, _, peer)| (labels.clone(), bit(peer.is_silent(now)))),
        );
    }
}

fn network_labels(network: &NetworkStatus) -> Labels {
    of("network", network.key.as_str())
}

fn members(network: &NetworkStatus) -> f64 {
    let others: std::collections::BTreeSet<_> =
        network.members.iter().map(|member| member.host_id).collect();
    (others.len() + 1) as f64
}

fn of(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn bit(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}
