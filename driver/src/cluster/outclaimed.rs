//! Claims that stay in force here though the store holds another's: as long as their owner has time to
//! put them back, and no longer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use wgnet_control_plane::store::Store;
use wgnet_proto::{HostId, Path};

use super::Task;

/// An owner puts its record back within seconds. One that does not has taken it back while this host
/// was not connected, or is no more and claimed in an earlier history; and whoever the store names has
/// the address now. An owner that comes back later claims it again, and is the stronger one.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(30);

/// Since when the store has held another claim than the one in force.
#[derive(Debug, Default)]
pub(super) struct Outclaimed(BTreeMap<Path, (HostId, Instant)>);

impl Outclaimed {
    /// Takes in where an owner's claim is not what the store holds; returns where it is over.
    fn feed(&mut self, seen: impl Iterator<Item = (Path, HostId)>, now: Instant) -> Vec<Path> {
        let before = std::mem::take(&mut self.0);
        for (path, owner) in seen {
            let known = before.get(&path).filter(|(known, _)| *known == owner);
            let since = known.map_or(now, |(_, since)| *since);
            self.0.insert(path, (owner, since));
        }
        let over = self.0.iter().filter(|(_, (_, since))| now - *since >= PUT_BACK_WITHIN);
        over.map(|(path, _)| path.clone()).collect()
    }
}

impl<S: Store> Task<S> {
    pub(super) async fn yield_claims(&mut self) {
        let over = if self.is_home() {
            let seen: Vec<_> = self.disputed().collect();
            self.outclaimed.feed(seen.into_iter(), Instant::now())
        } else {
            self.outclaimed = Outclaimed::default();
            return;
        };
        for path in &over {
            if self.judge.yield_to_store(path) {
                info!(key = %path, "Another claim stands in etcd and its better one never came back");
            }
        }
        if !over.is_empty() {
            self.keep(over.iter().map(ToString::to_string)).await;
            self.tell_view().await;
        }
    }

    /// Endpoints where the claim in force is not what the store holds, and is not our own.
    fn disputed(&self) -> impl Iterator<Item = (Path, HostId)> {
        let endpoints =
            self.judge.clobbered().iter().filter(|path| matches!(path, Path::Endpoint(..)));
        endpoints.filter_map(|path| {
            let owner = self.judge.entry(path)?.writer;
            let is_wanted =
                owner == self.inputs.facts.me && self.wanted.borrow().contains_key(path);
            let held = self.judge.in_store(path)?;
            // What a backup brought back says nothing of an owner that cannot reach etcd now.
            let is_other = held.accepted.is_some() && !held.is_weak;
            (!is_wanted && is_other).then(|| (path.clone(), owner))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: HostId = HostId([1; 16]);

    fn path() -> Path {
        Path::Endpoint("n-a".parse().unwrap(), [10, 0, 0, 1].into())
    }

    #[tokio::test]
    async fn a_claim_has_time_to_be_put_back() {
        let (mut outclaimed, start) = (Outclaimed::default(), Instant::now());
        let dispute = || [(path(), OWNER)].into_iter();
        assert!(outclaimed.feed(dispute(), start).is_empty());
        assert!(outclaimed.feed(dispute(), start + PUT_BACK_WITHIN / 2).is_empty());
        assert_eq!(outclaimed.feed(dispute(), start + PUT_BACK_WITHIN), [path()]);
        let none = std::iter::empty();
        assert!(outclaimed.feed(none, start + PUT_BACK_WITHIN).is_empty());
        assert!(outclaimed.feed(dispute(), start + PUT_BACK_WITHIN * 2).is_empty());
    }
}
