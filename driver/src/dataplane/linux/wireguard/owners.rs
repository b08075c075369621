//! Which peer has which address, as last read and as changed since: a kernel before 6.16 does not
//! take an address from a peer but only gives it to another one, whoever has it, and reading the whole
//! interface to know that would make one address as dear as all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wgnet_proto::{IfName, PublicKey};

/// Of the interfaces of one namespace.
#[derive(Default)]
pub(crate) struct Owners(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Counts what we changed.
    changes: u64,
    /// `None` while it is not known.
    interfaces: BTreeMap<IfName, HashMap<IpAddr, PublicKey>>,
}

/// The beginning of a reading.
pub(crate) struct Reading(u64);

impl Owners {
    /// To be called before an interface is read.
    pub(crate) fn reading(&self) -> Reading {
        Reading(self.inner().changes)
    }

    /// Takes in what was read, if nothing was changed since the reading began.
    pub(crate) fn read<'a>(
        &self,
        reading: &Reading,
        name: &IfName,
        allowed: impl Iterator<Item = (PublicKey, &'a BTreeSet<IpAddr>)>,
    ) {
        let all = allowed.flat_map(|(key, addresses)| addresses.iter().map(move |a| (*a, key)));
        let all = all.collect();
        let mut inner = self.inner();
        if inner.changes == reading.0 {
            inner.interfaces.insert(name.clone(), all);
        } else {
            inner.interfaces.remove(name);
        }
    }

    /// To be called after an interface was changed in another way than [`Self::give`] and
    /// [`Self::take`] know, or perhaps was not: what is known of it is known no more.
    pub(crate) fn forget(&self, name: &IfName) {
        let mut inner = self.inner();
        inner.changes += 1;
        inner.interfaces.remove(name);
    }

    /// To be called after addresses were given to a peer.
    pub(crate) fn give(&self, name: &IfName, peer: PublicKey, addresses: &BTreeSet<IpAddr>) {
        let mut inner = self.inner();
        inner.changes += 1;
        if let Some(owners) = inner.interfaces.get_mut(name) {
            owners.extend(addresses.iter().map(|address| (*address, peer)));
        }
    }

    /// Which of these addresses a peer has; `None` if that is not known.
    pub(crate) fn of(
        &self,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> Option<BTreeSet<IpAddr>> {
        let inner = self.inner();
        let owners = inner.interfaces.get(name)?;
        Some(addresses.iter().copied().filter(|a| owners.get(a) == Some(&peer)).collect())
    }

    /// To be called after addresses were taken from whoever had them.
    pub(crate) fn take(&self, name: &IfName, addresses: &BTreeSet<IpAddr>) {
        let mut inner = self.inner();
        inner.changes += 1;
        if let Some(owners) = inner.interfaces.get_mut(name) {
            for address in addresses {
                owners.remove(address);
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);

    fn ips(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 50, 0, *last])).collect()
    }

    fn wg0() -> IfName {
        "wg0".parse().unwrap()
    }

    fn known() -> Owners {
        let owners = Owners::default();
        let read = [(A, ips(&[1, 2])), (B, ips(&[3]))];
        owners.read(&owners.reading(), &wg0(), read.iter().map(|(key, ips)| (*key, ips)));
        owners
    }

    #[test]
    fn what_was_not_read_is_not_known() {
        let owners = Owners::default();
        owners.give(&wg0(), A, &ips(&[1]));
        assert_eq!(owners.of(&wg0(), A, &ips(&[1])), None);
    }

    #[test]
    fn changes_are_followed() {
        let owners = known();
        owners.give(&wg0(), B, &ips(&[2, 4]));
        assert_eq!(owners.of(&wg0(), A, &ips(&[1, 2, 3])), Some(ips(&[1])));
        owners.take(&wg0(), &ips(&[4]));
        assert_eq!(owners.of(&wg0(), B, &ips(&[1, 2, 3, 4])), Some(ips(&[2, 3])));
        owners.forget(&wg0());
        assert_eq!(owners.of(&wg0(), B, &ips(&[2])), None);
    }

    #[test]
    fn a_reading_that_something_was_changed_during_says_nothing() {
        let owners = known();
        let reading = owners.reading();
        owners.give(&wg0(), B, &ips(&[1]));
        owners.read(&reading, &wg0(), [(A, &ips(&[1]))].into_iter());
        assert_eq!(owners.of(&wg0(), A, &ips(&[1])), None);
    }
}
