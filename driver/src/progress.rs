//! How far the kernel follows the store, network by network: the cluster task says what it told, the
//! network's task what it made of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wgnet_control_plane::store::Revision;
use wgnet_proto::NetworkKey;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Progress {
    networks: Arc<Mutex<BTreeMap<NetworkKey, Network>>>,
    listener: Arc<Mutex<Option<Listener>>>,
}

type Listener = Box<dyn Fn(Heard) + Send>;

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// How long a change took from when it came to when the kernel followed.
    Followed(Duration),
    /// How long a look at a network and what followed took, and whether all is as wanted since.
    Passed { took: Duration, in_sync: bool },
}

#[derive(Debug, Default)]
struct Network {
    told: Revision,
    followed: Revision,
    /// What was told and is not followed yet, oldest first.
    waiting: VecDeque<(Revision, Instant)>,
}

/// How one network does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The store's revision of the newest record that was told.
    pub told: Revision,
    /// Up to which the kernel follows.
    pub followed: Revision,
    /// Since when the oldest record waits that it does not follow.
    pub lag: Duration,
}

/// In trouble the middle of what waits says nothing that its ends do not.
const MOST_WAITING: usize = 1024;

impl Progress {
    /// A change up to this revision came at `since`, and is being told.
    pub fn told(&self, network: &NetworkKey, revision: Revision, since: Instant) {
        let mut networks = self.lock();
        let network = networks.entry(network.clone()).or_default();
        // A store that was wiped or restored counts anew.
        if revision < network.told {
            *network = Network::default();
        }
        network.told = revision;
        if network.waiting.len() >= MOST_WAITING {
            network.waiting.pop_back();
        }
        network.waiting.push_back((revision, since));
    }

    /// Up to this revision nothing came that the view did not say before.
    pub fn told_nothing(&self, network: &NetworkKey, revision: Revision) {
        let mut networks = self.lock();
        let network = networks.entry(network.clone()).or_default();
        if revision < network.told {
            *network = Network::default();
        }
        if network.waiting.is_empty() {
            (network.told, network.followed) = (revision, revision);
        }
    }

    /// Up to which revision a network was told.
    pub fn revision(&self, network: &NetworkKey) -> Option<Revision> {
        self.lock().get(network).map(|network| network.told)
    }

    /// The kernel is as everything up to this revision says.
    pub fn followed(&self, network: &NetworkKey, revision: Revision) {
        let mut took = Vec::new();
        if let Some(network) = self.lock().get_mut(network) {
            if revision > network.told {
                return;
            }
            network.followed = network.followed.max(revision);
            while let Some((_, since)) = network.waiting.pop_front_if(|(at, _)| *at <= revision) {
                took.push(since.elapsed());
            }
        }
        took.into_iter().for_each(|took| self.say(Heard::Followed(took)));
    }

    pub fn passed(&self, took: Duration, in_sync: bool) {
        self.say(Heard::Passed { took, in_sync });
    }

    pub fn forget(&self, network: &NetworkKey) {
        self.lock().remove(network);
    }

    pub fn get(&self, network: &NetworkKey) -> Standing {
        self.lock().get(network).map_or_else(Standing::default, |network| Standing {
            told: network.told,
            followed: network.followed,
            lag: network.waiting.front().map_or(Duration::ZERO, |(_, since)| since.elapsed()),
        })
    }

    /// Has everything told from now on.
    pub fn listen(&self, listener: impl Fn(Heard) + Send + 'static) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(listener));
    }

    fn say(&self, heard: Heard) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*listener {
            listener(heard);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkKey, Network>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blue() -> NetworkKey {
        "n-blue".parse().unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_lag_is_that_of_the_oldest_change_that_is_not_followed() {
        let (progress, blue) = (Progress::default(), blue());
        let took = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&took);
        progress.listen(move |it| heard.lock().unwrap().push(it));
        progress.told(&blue, 5, Instant::now());
        tokio::time::advance(seconds(2)).await;
        progress.told(&blue, 7, Instant::now());
        assert_eq!(progress.get(&blue), Standing { told: 7, followed: 0, lag: seconds(2) });
        progress.followed(&blue, 5);
        assert_eq!(progress.get(&blue), Standing { told: 7, followed: 5, lag: seconds(0) });
        tokio::time::advance(seconds(1)).await;
        progress.followed(&blue, 7);
        progress.followed(&blue, 7);
        assert_eq!(progress.get(&blue), Standing { told: 7, followed: 7, lag: seconds(0) });
        let expected = [seconds(2), seconds(1)].map(Heard::Followed);
        assert_eq!(*took.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn another_history_of_the_store_counts_anew() {
        let (progress, blue) = (Progress::default(), blue());
        progress.told(&blue, 50, Instant::now());
        progress.followed(&blue, 50);
        progress.told(&blue, 3, Instant::now());
        // A pass that began before.
        progress.followed(&blue, 50);
        assert_eq!(progress.get(&blue).followed, 0);
        progress.followed(&blue, 3);
        assert_eq!(progress.get(&blue).followed, 3);
        progress.told_nothing(&blue, 9);
        assert_eq!(progress.get(&blue), Standing { told: 9, followed: 9, lag: seconds(0) });
        progress.told(&blue, 10, Instant::now());
        progress.told_nothing(&blue, 11);
        assert_eq!(progress.get(&blue).followed, 9, "what waits is not forgotten");
        progress.forget(&blue);
        assert_eq!(progress.get(&blue), Standing::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_is_stuck_keeps_its_oldest_change_and_no_heap_of_them() {
        let (progress, blue) = (Progress::default(), blue());
        for revision in 0..5000 {
            progress.told(&blue, revision, Instant::now());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(progress.get(&blue).lag, seconds(5));
        assert_eq!(progress.lock()[&blue].waiting.len(), MOST_WAITING);
    }
}
