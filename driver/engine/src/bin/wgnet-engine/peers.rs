//! Who owns which address: the configuration of a device's peers, as far as WireGuard must not
//! be asked for it. Pure.
//!
//! The WireGuard implementation moves a packet to the last peer that was given an address, but
//! leaves it in the list of the one before, which takes it back when next changed. So ownership is
//! decided here and the lists of all peers it touches are written again.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

pub(crate) type Key = [u8; 32];

#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<Key, Peer>,
    owners: BTreeMap<IpNet, Key>,
}

#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) has_preshared_key: bool,
    pub(crate) has_keepalive: bool,
    allowed_ips: BTreeSet<IpNet>,
}

impl Peer {
    pub(crate) fn allowed_ips(&self) -> impl Iterator<Item = IpNet> {
        self.allowed_ips.iter().copied()
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device has no such peer")]
pub(crate) struct UnknownPeer;

impl Peers {
    pub(crate) fn get(&self, key: &Key) -> Option<&Peer> {
        self.peers.get(key)
    }

    pub(crate) fn get_or_add(&mut self, key: Key) -> &mut Peer {
        self.peers.entry(key).or_default()
    }

    /// Frees its addresses; `false` if there is none.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some(peer) = self.peers.remove(key) else {
            return false;
        };
        for net in peer.allowed_ips {
            self.owners.remove(&net);
        }
        true
    }

    /// Makes the peer the one owner of addresses; returns those peers whose lists changed.
    pub(crate) fn give(
        &mut self,
        key: Key,
        nets: impl IntoIterator<Item = IpNet>,
    ) -> Result<BTreeSet<Key>, UnknownPeer> {
        let mut changed = BTreeSet::new();
        if !self.peers.contains_key(&key) {
            return Err(UnknownPeer);
        }
        for net in nets {
            let before = self.owners.insert(net, key);
            if before == Some(key) {
                continue;
            }
            if let Some(before) = before {
                self.list(&before).remove(&net);
                changed.insert(before);
            }
            self.list(&key).insert(net);
            changed.insert(key);
        }
        Ok(changed)
    }

    /// Takes from the peer those of the addresses it owns; returns whether there were any.
    pub(crate) fn take(
        &mut self,
        key: Key,
        nets: impl IntoIterator<Item = IpNet>,
    ) -> Result<bool, UnknownPeer> {
        let peer = self.peers.get_mut(&key).ok_or(UnknownPeer)?;
        let mut changed = false;
        for net in nets {
            if peer.allowed_ips.remove(&net) {
                self.owners.remove(&net);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Makes exactly these the peer's addresses; returns those peers whose lists changed.
    pub(crate) fn replace(
        &mut self,
        key: Key,
        nets: impl IntoIterator<Item = IpNet>,
    ) -> Result<BTreeSet<Key>, UnknownPeer> {
        let wanted: BTreeSet<IpNet> = nets.into_iter().collect();
        let owned = &self.peers.get(&key).ok_or(UnknownPeer)?.allowed_ips;
        let surplus: Vec<IpNet> = owned.difference(&wanted).copied().collect();
        let taken = self.take(key, surplus)?;
        let mut changed = self.give(key, wanted)?;
        if taken {
            changed.insert(key);
        }
        Ok(changed)
    }

    fn list(&mut self, key: &Key) -> &mut BTreeSet<IpNet> {
        let peer = self.peers.get_mut(key).expect("owners are peers");
        &mut peer.allowed_ips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Key = [1; 32];
    const B: Key = [2; 32];

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn owned(peers: &Peers, key: &Key) -> Vec<IpNet> {
        peers.get(key).unwrap().allowed_ips().collect()
    }

    fn two_peers() -> Peers {
        let mut peers = Peers::default();
        peers.get_or_add(A);
        peers.get_or_add(B);
        peers
    }

    #[test]
    fn giving_an_address_takes_it_from_its_owner_and_changes_both() {
        let mut peers = two_peers();
        peers.give(A, [net("10.0.0.1/32"), net("10.0.0.2/32")]).unwrap();
        let changed = peers.give(B, [net("10.0.0.1/32")]).unwrap();
        assert_eq!(changed, BTreeSet::from([A, B]));
        assert_eq!(owned(&peers, &A), [net("10.0.0.2/32")]);
        assert_eq!(owned(&peers, &B), [net("10.0.0.1/32")]);
    }

    #[test]
    fn giving_what_it_owns_changes_nobody() {
        let mut peers = two_peers();
        peers.give(A, [net("fd00::1/128")]).unwrap();
        let changed = peers.give(A, [net("fd00::1/128")]).unwrap();
        assert_eq!(changed, BTreeSet::new());
    }

    #[test]
    fn taking_leaves_what_others_own() {
        let mut peers = two_peers();
        peers.give(A, [net("10.0.0.1/32")]).unwrap();
        assert_eq!(peers.take(B, [net("10.0.0.1/32")]), Ok(false));
        assert_eq!(owned(&peers, &A), [net("10.0.0.1/32")]);
    }

    #[test]
    fn replacing_frees_the_rest_for_others() {
        let mut peers = two_peers();
        peers.give(A, [net("10.0.0.1/32"), net("10.0.0.2/32")]).unwrap();
        let changed = peers.replace(A, [net("10.0.0.2/32")]).unwrap();
        assert_eq!(changed, BTreeSet::from([A]));
        assert_eq!(peers.give(B, [net("10.0.0.1/32")]), Ok(BTreeSet::from([B])));
    }

    #[test]
    fn removing_a_peer_frees_its_addresses() {
        let mut peers = two_peers();
        peers.give(A, [net("10.0.0.1/32")]).unwrap();
        assert!(peers.remove(&A));
        assert_eq!(peers.give(B, [net("10.0.0.1/32")]), Ok(BTreeSet::from([B])));
    }

    #[test]
    fn an_unknown_peer_owns_nothing() {
        let mut peers = two_peers();
        let unknown = [9; 32];
        assert_eq!(peers.give(unknown, [net("10.0.0.1/32")]), Err(UnknownPeer));
        assert_eq!(peers.take(unknown, []), Err(UnknownPeer));
        assert_eq!(peers.replace(unknown, []), Err(UnknownPeer));
        assert_eq!(peers.give(A, [net("10.0.0.1/32")]), Ok(BTreeSet::from([A])));
    }
}
