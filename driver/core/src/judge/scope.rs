//! Parts of the store: `networks/blue` is that key and everything below it, a text that ends with
//! `/` only what is below, the empty text everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wgnet_proto::{HostId, NetworkKey, Path};

pub(super) fn covers(scope: &str, key: &str) -> bool {
    match key.strip_prefix(scope) {
        Some(rest) => {
            scope.is_empty() || scope.ends_with('/') || rest.is_empty() || rest.starts_with('/')
        }
        None => false,
    }
}

/// Everything that may be covered by a scope: much less than everything for a network's.
pub(super) fn within<'p, T>(
    places: &'p BTreeMap<Path, T>,
    scope: &str,
) -> Box<dyn Iterator<Item = (&'p Path, &'p T)> + 'p> {
    let key = scope.strip_prefix("networks/").and_then(|rest| rest.split('/').next());
    match key.and_then(|key| key.parse().ok()) {
        Some(network) => Box::new(of_network(places, &network)),
        None => Box::new(places.iter()),
    }
}

pub(super) fn of_network<'p, T>(
    places: &'p BTreeMap<Path, T>,
    network: &NetworkKey,
) -> impl Iterator<Item = (&'p Path, &'p T)> + use<'p, T> {
    let member = |host| Path::Member(network.clone(), HostId(host));
    let alone = [Path::Network(network.clone()), Path::Generation(network.clone())];
    let alone = alone.into_iter().filter_map(|path| places.get_key_value(&path));
    alone
        .chain(places.range(member([0; 16])..=member([u8::MAX; 16])))
        .chain(endpoints(places, network))
}

pub(super) fn endpoints<'p, T>(
    places: &'p BTreeMap<Path, T>,
    network: &NetworkKey,
) -> impl Iterator<Item = (&'p Path, &'p T)> + use<'p, T> {
    let first = Path::Endpoint(network.clone(), IpAddr::V4(Ipv4Addr::from_bits(0)));
    let last = Path::Endpoint(network.clone(), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
    places.range(first..=last)
}
