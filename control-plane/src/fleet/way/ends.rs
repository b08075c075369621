//! Which two endpoints are meant.

use std::net::IpAddr;

use wgnet_proto::record::EndpointRecord;
use wgnet_proto::text::clipped;
use wgnet_proto::{MacAddr, NetworkKey};

use super::{End, Steps};
use crate::fleet::Fleet;

pub(super) enum Ends {
    Both {
        network: NetworkKey,
        from: End,
        to: End,
    },
    /// Not both were found in one network.
    Some {
        from: Option<End>,
        to: Option<End>,
    },
}

/// What a person calls an endpoint by.
enum Name {
    Address(IpAddr),
    Mac(MacAddr),
    /// The beginning of its id.
    Id(String),
}

/// Fewer digits than that would be met by chance.
const SHORTEST_ID: usize = 4;

impl Name {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        if let Ok(mac) = text.parse() {
            return Some(Self::Mac(mac));
        }
        let is_id = (SHORTEST_ID..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| Self::Id(text.to_ascii_lowercase()))
    }

    fn is_of(&self, endpoint: &EndpointRecord) -> bool {
        match self {
            Self::Address(address) => endpoint.addresses.contains(address),
            Self::Mac(mac) => endpoint.mac == *mac,
            Self::Id(id) => endpoint.endpoint.as_str().starts_with(id.as_str()),
        }
    }
}

impl Fleet {
    pub(super) fn ends(
        &self,
        from: &str,
        to: &str,
        network: Option<&NetworkKey>,
        steps: &mut Steps,
    ) -> Ends {
        let starts = self.named(from, network, steps);
        let goals = self.named(to, network, steps);
        let mut pairs: Vec<(NetworkKey, End, End)> = Vec::new();
        for (network, start) in &starts {
            let same = goals.iter().filter(|(other, goal)| other == network && goal != start);
            pairs.extend(same.map(|(_, goal)| (network.clone(), start.clone(), goal.clone())));
        }
        match <[_; 1]>::try_from(pairs) {
            Ok([(network, from, to)]) => {
                for end in [&from, &to] {
                    let id = end.endpoint.short();
                    steps.good(
                        "endpoint",
                        format!("{} is endpoint {id} on {}", end.address, end.host_name),
                    );
                }
                Ends::Both { network, from, to }
            }
            Err(pairs) => {
                if !starts.is_empty() && !goals.is_empty() {
                    one_network(&pairs, &starts, &goals, steps);
                }
                let only = |ends: Vec<(NetworkKey, End)>| match <[_; 1]>::try_from(ends) {
                    Ok([(_, end)]) => Some(end),
                    Err(_) => None,
                };
                Ends::Some { from: only(starts), to: only(goals) }
            }
        }
    }

    fn named(
        &self,
        text: &str,
        network: Option<&NetworkKey>,
        steps: &mut Steps,
    ) -> Vec<(NetworkKey, End)> {
        let shown = clipped(text, 80);
        let Some(name) = Name::parse(text) else {
            steps.broken(
                "endpoint",
                format!("{shown} is no address, no MAC address, not the beginning of an endpoint's id, and no container here that is on one network of wgnet"),
                "list them: wgnetctl endpoints",
            );
            return Vec::new();
        };
        let networks = self.view().networks.iter();
        let networks = networks.filter(|(key, _)| network.is_none_or(|wanted| wanted == *key));
        let all =
            networks.flat_map(|(key, network)| network.endpoints.values().map(move |it| (key, it)));
        let found = all.filter(|(_, endpoint)| name.is_of(endpoint)).map(|(key, endpoint)| {
            let address = match name {
                Name::Address(address) => address,
                Name::Mac(_) | Name::Id(_) => endpoint.addresses[0],
            };
            let end = End {
                address,
                endpoint: endpoint.endpoint.clone(),
                host: endpoint.host,
                host_name: self.host_name(endpoint.host),
            };
            (key.clone(), end)
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            self.why_not(&shown, &name, network, steps);
        }
        found
    }

    fn why_not(&self, shown: &str, name: &Name, network: Option<&NetworkKey>, steps: &mut Steps) {
        let place = network.map_or_else(|| "any network".to_owned(), ToString::to_string);
        let refused =
            self.refused().iter().find(|(key, _)| match (name, wgnet_proto::Path::parse(key)) {
                (Name::Address(address), Some(wgnet_proto::Path::Endpoint(key, ip))) => {
                    ip == *address && network.is_none_or(|wanted| *wanted == key)
                }
                _ => false,
            });
        match refused {
            Some((key, refusal)) => steps.broken(
                "endpoint",
                format!("the record of {shown} ({key}) is not believed: {}", refusal.detail),
                "find out who wrote it: wgnetctl problems",
            ),
            None => steps.broken(
                "endpoint",
                format!("no endpoint in {place} is {shown}"),
                "see whether its container runs, and whether its host has published it: wgnetctl endpoints; wgnetctl status, there",
            ),
        }
    }
}

fn one_network(
    pairs: &[(NetworkKey, End, End)],
    starts: &[(NetworkKey, End)],
    goals: &[(NetworkKey, End)],
    steps: &mut Steps,
) {
    let networks = |ends: &mut dyn Iterator<Item = &NetworkKey>| {
        let mut keys: Vec<&str> = ends.map(NetworkKey::as_str).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.join(", ")
    };
    if pairs.is_empty() {
        let (from, to) = (
            networks(&mut starts.iter().map(|(key, _)| key)),
            networks(&mut goals.iter().map(|(key, _)| key)),
        );
        steps.broken(
            "network",
            format!("they share no network: one is in {from}, the other in {to}"),
            "attach one of them to the other's network: docker network connect, or the service's networks",
        );
    } else {
        let among = networks(&mut pairs.iter().map(|(key, ..)| key));
        steps.broken(
            "endpoint",
            format!("several endpoints are meant, in {among}"),
            "name the network with --network, or endpoints by their ids",
        );
    }
}
