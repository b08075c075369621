//! What is left at rest of networks without members, and of hosts that are dead or locked out.

use wgnet_control_plane::store::Listing;
use wgnet_core::Seen;
use wgnet_proto::{Path, Refused};

use super::Picture;
use crate::schedule::History;

impl Picture {
    /// A host that is locked out stays out, and is nobody's peer.
    pub(super) fn revoked(&self, history: &History, found: &mut Vec<String>) {
        let revoked = &self.fresh.view().revoked;
        let cluster = self.fresh.cluster().map(|record| record.cluster);
        for (host, _) in history.revoked.iter().filter(|(_, of)| Some(**of) == cluster) {
            if !revoked.contains(host) {
                found.push(format!("the tombstone of {} is not in the store", host.short()));
            }
        }
        for out in revoked.iter() {
            let keys = self.witness.keys_of(*out);
            for host in &self.hosts {
                for network in &self.networks {
                    let Seen::Present(kernel) = &*host.plane.look(&network.namespace()) else {
                        continue;
                    };
                    let mut peers = kernel.wireguards.values().flat_map(|it| it.peers.keys());
                    if peers.any(|key| keys.contains(key)) {
                        found.push(format!(
                            "{} is revoked, and a peer of host {} in network {}",
                            out.short(),
                            host.number,
                            network.number
                        ));
                    }
                }
            }
        }
    }

    /// Whether what goes after the grace is gone now. Not where a backup brought a dead host's own record
    /// back: who saw it go refuses it as an old one, counts nobody by it and leaves it and what hangs on it.
    fn is_swept(&self, history: &History, listing: &Listing) -> bool {
        let is_back = |host| {
            let own = Path::Host(host).to_string();
            let mut old = listing.entries.iter().filter(|it| it.mod_revision <= history.restored);
            old.any(|entry| entry.key == own)
        };
        self.is_grace_short && !self.lost.iter().copied().any(is_back)
    }

    /// Nothing of a host that was absent for the grace, or is revoked, is in the store.
    pub(super) fn left_of_dead(
        &self,
        history: &History,
        listing: &Listing,
        found: &mut Vec<String>,
    ) {
        let fresh = self.fresh.view();
        for host in fresh.revoked.iter() {
            let own = Path::Host(*host).to_string();
            if listing.entries.iter().any(|entry| entry.key == own) {
                found.push(format!("{} is revoked, and in the store", host.short()));
            }
        }
        if !self.is_swept(history, listing) || self.hosts.is_empty() {
            return;
        }
        for host in &self.lost {
            let is_member = fresh.networks.values().any(|it| it.members.contains_key(host));
            let mut endpoints = fresh.networks.values().flat_map(|it| it.endpoints.values());
            let has_endpoint = endpoints.any(|endpoint| endpoint.host == *host);
            if fresh.hosts.contains_key(host) || is_member || has_endpoint {
                found.push(format!("{} is dead for long, and in the store", host.short()));
            }
        }
    }

    fn is_foreign(&self, key: &str) -> bool {
        let held = Path::parse(key).and_then(|path| self.fresh.in_store(&path));
        held.is_some_and(|held| held.refused == Some(Refused::ForeignCluster))
    }

    /// A network without members is gone from the store. Where the grace is longer than a run, some of
    /// it stays: what a backup brought back, what a host left while it still kept the membership of a
    /// lost one from an earlier history, what operators left when they removed its last member, and what
    /// the last member, which was lost, or its journal, had begun to remove. What is sealed for a former
    /// cluster stays until people take it out.
    pub(super) fn left_over(&self, history: &History, listing: &Listing, found: &mut Vec<String>) {
        let fresh = self.fresh.view();
        let is_swept = self.is_swept(history, listing);
        for network in &self.networks {
            let record = fresh.networks.get(&network.key()).and_then(|it| it.record.as_ref());
            let is_begun = record.is_some_and(|record| record.freed);
            let may_stay = history.another_history || history.is_cleared || is_begun;
            let may_stay = may_stay && self.witness.wrote_in(&network.key(), &self.lost);
            let may_stay = may_stay || self.witness.wrote_in(&network.key(), &self.forgetful);
            if may_stay && !is_swept {
                continue;
            }
            let prefix = format!("networks/{}", network.key());
            let keys: Vec<_> = listing
                .entries
                .iter()
                .filter(|entry| is_swept || entry.mod_revision > history.restored)
                .filter(|entry| entry.key.starts_with(&prefix) && !self.is_foreign(&entry.key))
                .map(|entry| entry.key.as_str())
                .collect();
            let members = fresh.networks.get(&network.key()).map_or(0, |n| n.members.len());
            if members == 0 && !keys.is_empty() {
                found.push(format!(
                    "nobody has network {}, and the store holds {keys:?}",
                    network.number
                ));
            }
        }
    }
}
