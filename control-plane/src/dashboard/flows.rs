//! How much goes through the tunnels, by what hosts count: differences between two of their reports.

use std::collections::BTreeMap;

use wgnet_proto::{HostId, NetworkKey};

use crate::fleet::HostReport;

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    pub sent: f64,
    pub received: f64,
}

impl Rate {
    pub fn sum(self) -> f64 {
        self.sent + self.received
    }
}

impl std::ops::AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// What every host's last report says beside the one before it.
#[derive(Debug, Default)]
pub struct Flows {
    hosts: BTreeMap<HostId, Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// By the host's own clock, in seconds.
    written: u64,
    networks: BTreeMap<NetworkKey, Counter>,
    peers: BTreeMap<(NetworkKey, HostId), Counter>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    sent: u64,
    received: u64,
    rate: Option<Rate>,
}

impl Counter {
    fn next(sent: u64, received: u64, before: Option<&Self>, seconds: u64) -> Self {
        // Counters begin anew with a peer or a driver: what was counted before is not known then.
        let rate = before
            .filter(|old| old.sent <= sent && old.received <= received && seconds > 0)
            .map(|old| Rate {
                sent: (sent - old.sent) as f64 / seconds as f64,
                received: (received - old.received) as f64 / seconds as f64,
            });
        Self { sent, received, rate }
    }
}

impl Flows {
    /// Takes in a host's report, or that there is none any more.
    pub fn take(&mut self, host: HostId, report: Option<&HostReport>) {
        let Some((report, written)) = report.and_then(|it| Some((it, it.written?))) else {
            self.hosts.remove(&host);
            return;
        };
        let before = self.hosts.get(&host);
        if before.is_some_and(|before| before.written == written) {
            // The same second: too short for a difference. The next report has a longer one.
            return;
        }
        let seconds = before.map_or(0, |before| written.saturating_sub(before.written));
        let mut counted = Counted { written, ..Counted::default() };
        for (key, network) in &report.networks {
            let old = before.and_then(|before| before.networks.get(key));
            let next = Counter::next(network.sent_bytes, network.received_bytes, old, seconds);
            counted.networks.insert(key.clone(), next);
            for peer in &network.peers {
                let key = (key.clone(), peer.host);
                let old = before.and_then(|before| before.peers.get(&key));
                let next = Counter::next(peer.sent_bytes, peer.received_bytes, old, seconds);
                counted.peers.insert(key, next);
            }
        }
        self.hosts.insert(host, counted);
    }

    /// What a host counts towards one peer in a network.
    pub fn between(&self, network: &NetworkKey, host: HostId, peer: HostId) -> Option<Rate> {
        self.hosts.get(&host)?.peers.get(&(network.clone(), peer))?.rate
    }

    /// What a host counts in one network.
    pub fn in_network(&self, network: &NetworkKey, host: HostId) -> Option<Rate> {
        self.hosts.get(&host)?.networks.get(network)?.rate
    }

    pub fn of_host(&self, host: HostId) -> Option<Rate> {
        let rates = self.hosts.get(&host)?.networks.values().filter_map(|it| it.rate);
        rates.reduce(|mut sum, rate| {
            sum += rate;
            sum
        })
    }

    /// What all hosts count in each network.
    pub fn of_networks(&self) -> BTreeMap<&NetworkKey, Rate> {
        let mut sums: BTreeMap<&NetworkKey, Rate> = BTreeMap::new();
        for (key, counter) in self.hosts.values().flat_map(|host| &host.networks) {
            if let Some(rate) = counter.rate {
                *sums.entry(key).or_default() += rate;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::report::NetworkReport;

    fn report(written: u64, sent_bytes: u64) -> HostReport {
        let blue = NetworkReport { sent_bytes, ..NetworkReport::default() };
        HostReport {
            written: Some(written),
            networks: [("n-blue".parse().unwrap(), blue)].into(),
            ..HostReport::default()
        }
    }

    #[test]
    fn rates_are_differences_by_the_hosts_own_clock_and_unknown_after_a_restart() {
        let (mut flows, host) = (Flows::default(), HostId([1; 16]));
        flows.take(host, Some(&report(1000, 500)));
        assert_eq!(flows.of_host(host), None);
        flows.take(host, Some(&report(1010, 1500)));
        assert_eq!(flows.of_host(host).unwrap().sent, 100.0);
        flows.take(host, Some(&report(1010, 9999)));
        assert_eq!(flows.of_host(host).unwrap().sent, 100.0);
        flows.take(host, Some(&report(1020, 10)));
        assert_eq!(flows.of_host(host), None);
        flows.take(host, Some(&report(900, 20)));
        assert_eq!(flows.of_host(host), None);
        flows.take(host, None);
        assert!(flows.of_networks().is_empty());
    }
}
