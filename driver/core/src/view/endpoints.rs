//! The endpoints of one network, and what they are looked for by.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as Turned;
use imbl::{OrdMap, OrdSet};
use wgnet_proto::Claim;
use wgnet_proto::record::EndpointRecord;

/// Records by the address under which they stand in the store. A copy shares what neither of both
/// changed since, so that it is made at once and the difference of two costs what they differ in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    records: OrdMap<IpAddr, Arc<EndpointRecord>>,
    /// Where else than under itself an address is claimed.
    beside: OrdSet<(IpAddr, IpAddr)>,
    /// How many records have a claim.
    claims: OrdMap<Claim, usize>,
    /// Where a record stands only because a backup brought it back.
    weak: OrdSet<IpAddr>,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl Endpoints {
    pub fn get(&self, at: &IpAddr) -> Option<&EndpointRecord> {
        self.records.get(at).map(|record| &**record)
    }

    pub fn contains_key(&self, at: &IpAddr) -> bool {
        self.records.contains_key(at)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&IpAddr, &EndpointRecord)> {
        self.records.iter().map(|(at, record)| (at, &**record))
    }

    pub fn keys(&self) -> impl Iterator<Item = &IpAddr> {
        self.records.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.records.values().map(|record| &**record)
    }

    /// Puts a record in another's place, which is returned.
    pub fn insert(&mut self, at: IpAddr, record: EndpointRecord) -> Option<Arc<EndpointRecord>> {
        let old = self.remove(&at);
        *self.claims.entry(record.claim).or_default() += 1;
        self.beside.extend(beside(at, &record));
        self.records.insert(at, Arc::new(record));
        old
    }

    /// The record that stands there is known from a backup of the store alone, and may have ended since:
    /// all others' claims come before its. As long as it stands there.
    pub fn weaken(&mut self, at: IpAddr) {
        if self.contains_key(&at) {
            self.weak.insert(at);
        }
    }

    pub fn is_weak(&self, at: &IpAddr) -> bool {
        self.weak.contains(at)
    }

    pub fn remove(&mut self, at: &IpAddr) -> Option<Arc<EndpointRecord>> {
        let old = self.records.remove(at)?;
        self.weak.remove(at);
        for pair in beside(*at, &old) {
            self.beside.remove(&pair);
        }
        if let Some(count) = self.claims.get_mut(&old.claim) {
            *count -= 1;
            if *count == 0 {
                self.claims.remove(&old.claim);
            }
        }
        Some(old)
    }

    pub fn retain(&mut self, mut is_kept: impl FnMut(&IpAddr, &EndpointRecord) -> bool) {
        let gone = self.iter().filter(|(at, record)| !is_kept(at, record));
        let gone: Vec<IpAddr> = gone.map(|(at, _)| *at).collect();
        for at in gone {
            self.remove(&at);
        }
    }

    /// The highest claim of all.
    pub fn highest_claim(&self) -> Option<Claim> {
        self.claims.get_max().map(|(claim, _)| *claim)
    }

    /// The records that claim an address, under whatever address they stand, and perhaps one that
    /// stands under it and does not.
    pub(crate) fn on(&self, address: IpAddr) -> impl Iterator<Item = (IpAddr, &EndpointRecord)> {
        let lowest = (address, IpAddr::V4(Ipv4Addr::from_bits(0)));
        let highest = (address, IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        let elsewhere = self.beside.range(lowest..=highest).map(|(_, at)| *at);
        let found = [address].into_iter().chain(elsewhere);
        found.filter_map(|at| Some((at, self.get(&at)?)))
    }

    /// Every address of the records that only one of both has, or both have otherwise.
    pub(crate) fn addresses_that_differ(&self, other: &Self) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for item in self.weak.diff(&other.weak) {
            let (Turned::Add(at) | Turned::Remove(at)) = item;
            addresses.insert(*at);
            let records = [self.get(at), other.get(at)].into_iter().flatten();
            addresses.extend(records.flat_map(|record| &record.addresses));
        }
        for item in self.records.diff(&other.records) {
            let (old, new) = match item {
                DiffItem::Add(at, new) => (None, Some((at, new))),
                DiffItem::Remove(at, old) => (Some((at, old)), None),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
            };
            for (at, record) in old.into_iter().chain(new) {
                addresses.insert(*at);
                addresses.extend(&record.addresses);
            }
        }
        addresses
    }
}

fn beside(at: IpAddr, record: &EndpointRecord) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let others = record.addresses.iter().filter(move |address| **address != at);
    others.map(move |address| (*address, at))
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = (&'a IpAddr, &'a EndpointRecord);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl FromIterator<(IpAddr, EndpointRecord)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (IpAddr, EndpointRecord)>>(records: I) -> Self {
        let mut endpoints = Self::default();
        for (at, record) in records {
            endpoints.insert(at, record);
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use wgnet_proto::{HostId, MacAddr};

    use super::*;
    use crate::testing::{endpoint_id, ipv4, ipv6};

    fn record(at: IpAddr, beside: Option<u8>, claim: Claim) -> EndpointRecord {
        let addresses = [at].into_iter().chain(beside.map(ipv6)).collect();
        EndpointRecord {
            addresses,
            endpoint: endpoint_id(0),
            host: HostId([1; 16]),
            mac: MacAddr::of_address(at),
            claim,
        }
    }

    /// An address, what comes to stand there, and whether by a backup.
    type Change = (u8, Option<(Option<u8>, Claim)>, bool);

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let there = prop::option::of((prop::option::of(0..4_u8), 0..5_u64));
        prop::collection::vec((0..60_u8, there, any::<bool>()), 0..200)
    }

    type Plain = BTreeMap<IpAddr, (EndpointRecord, bool)>;

    fn change(endpoints: &mut Endpoints, plain: &mut Plain, to: Change) {
        let at = ipv4(to.0);
        let (old, known) = match to.1.map(|(beside, claim)| record(at, beside, claim)) {
            Some(record) => {
                (endpoints.insert(at, record.clone()), plain.insert(at, (record, to.2)))
            }
            None => (endpoints.remove(&at), plain.remove(&at)),
        };
        assert_eq!(old.as_deref(), known.as_ref().map(|(record, _)| record));
        if to.2 {
            endpoints.weaken(at);
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_a_search_of_all_records_finds(first in changes(), then in changes()) {
            let (mut endpoints, mut plain) = (Endpoints::default(), BTreeMap::new());
            first.into_iter().for_each(|to| change(&mut endpoints, &mut plain, to));
            let (copy, before) = (endpoints.clone(), plain.clone());
            then.into_iter().for_each(|to| change(&mut endpoints, &mut plain, to));

            let records = |plain: &Plain| {
                plain.iter().map(|(at, (record, _))| (*at, record.clone())).collect::<Vec<_>>()
            };
            let kept = |endpoints: &Endpoints| {
                endpoints.iter().map(|(at, record)| (*at, record.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(kept(&copy), records(&before));
            prop_assert_eq!(kept(&endpoints), records(&plain));
            prop_assert_eq!(endpoints.highest_claim(), plain.values().map(|(r, _)| r.claim).max());
            for address in (0..60).map(ipv4).chain((0..4).map(ipv6)) {
                let found: BTreeSet<IpAddr> = endpoints.on(address).map(|(at, _)| at).collect();
                let claiming = plain.iter().filter(|(_, (r, _))| r.addresses.contains(&address));
                prop_assert_eq!(found, claiming.map(|(at, _)| *at).collect());
                let is_weak = plain.get(&address).is_some_and(|(_, is_weak)| *is_weak);
                prop_assert_eq!(endpoints.is_weak(&address), is_weak);
            }
            let all: BTreeSet<IpAddr> = before.keys().chain(plain.keys()).copied().collect();
            let differing = all.iter().filter(|at| before.get(at) != plain.get(at));
            let records = differing.flat_map(|at| before.get(at).into_iter().chain(plain.get(at)));
            let addresses = records.flat_map(|(r, _)| r.addresses.clone());
            prop_assert_eq!(copy.addresses_that_differ(&endpoints), addresses.collect());
        }
    }
}
