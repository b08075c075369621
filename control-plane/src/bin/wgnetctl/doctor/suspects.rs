//! What may only be on its way up or down: suspected at a first look, and found if every look of the
//! next seconds shows it, too.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wgnet_proto::status::DriverStatus;
use wgnet_proto::{DockerNetworkId, NetworkKey};

use super::{Area, host, networks, seen};
use crate::driver::Driver;

/// A driver takes a network down within that.
const GONE_WITHIN: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What one look shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspects {
    /// Namespaces that no network of the driver uses.
    namespaces: BTreeSet<String>,
    /// Networks of the driver that Docker does not list, or why that cannot be told.
    networks: Result<BTreeSet<DockerNetworkId>, &'static str>,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.networks.as_ref().map_or(true, BTreeSet::is_empty)
    }

    /// Only what a later look shows, too.
    fn and(self, later: &Self) -> Self {
        let networks = match (self.networks, &later.networks) {
            (Ok(none), _) if none.is_empty() => Ok(none),
            (Ok(first), Ok(later)) => Ok(&first & later),
            (Err(why), _) | (Ok(_), &Err(why)) => Err(why),
        };
        Self { namespaces: &self.namespaces & &later.namespaces, networks }
    }
}

/// The areas of both suspicions, leftovers and networks. The namespaces were seen before the driver
/// was asked for its status: what it makes, it has written down first.
pub(super) async fn areas(
    docker: &Path,
    driver: &Driver,
    namespaces: &BTreeSet<String>,
    status: Option<&DriverStatus>,
    standing: &BTreeSet<NetworkKey>,
) -> (Area, Area) {
    let Some(status) = status else {
        return (
            Area::unseen(host::LEFTOVERS, "the driver does not say which namespaces it uses"),
            Area::unseen(networks::AREA, "the driver does not say which it has"),
        );
    };
    let unlisted = networks::unlisted(docker, status, standing).await;
    let first = Suspects {
        namespaces: host::unused(namespaces, status),
        networks: unlisted.map_err(|()| "Docker does not say which it has"),
    };
    let lasting = lasting(first, async || {
        let namespaces = seen::namespaces();
        match driver.get::<DriverStatus>("/status").await {
            Ok(status) => Suspects {
                namespaces: host::unused(&namespaces, &status),
                networks: networks::unlisted(docker, &status, standing)
                    .await
                    .map_err(|()| "Docker does not say any more which it has"),
            },
            Err(_) => Suspects {
                namespaces,
                networks: Err("the driver does not say any more which it has"),
            },
        }
    });
    let Suspects { namespaces, networks: unlisted } = lasting.await;
    let leftovers = Area::new(host::LEFTOVERS, host::leftovers(&namespaces));
    let networks = match unlisted {
        Ok(unlisted) => Area::new(networks::AREA, networks::findings(&unlisted, status)),
        Err(why) => Area::unseen(networks::AREA, why),
    };
    (leftovers, networks)
}

/// Looks again until nothing is left, or what is has lasted.
async fn lasting(mut suspects: Suspects, mut look: impl AsyncFnMut() -> Suspects) -> Suspects {
    let end = Instant::now() + GONE_WITHIN;
    while !suspects.is_empty() && Instant::now() < end {
        sleep(LOOK_EVERY).await;
        suspects = suspects.and(&look().await);
    }
    suspects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspects(namespaces: &[&str], networks: &[&str]) -> Suspects {
        let networks = networks.iter().map(|id| id.repeat(32).parse().unwrap()).collect();
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        Suspects { namespaces, networks: Ok(networks) }
    }

    /// What lasts of the first look where these are the later ones, the last one again and again; and
    /// how long that took.
    async fn looked(first: Suspects, later: &[Suspects]) -> (Suspects, Duration) {
        let begun = Instant::now();
        let mut count = 0;
        let last = lasting(first, async || {
            count += 1;
            later[count.min(later.len()) - 1].clone()
        });
        (last.await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_nothing_is_suspected() {
        let (none, far) =
            (suspects(&[], &[]), Suspects { networks: Err("x"), ..suspects(&[], &[]) });
        for first in [none, far] {
            let later = [suspects(&["wgnet-a"], &["ab"])];
            assert_eq!(looked(first.clone(), &later).await, (first, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_as_soon_as_both_suspicions_are_gone() {
        let later =
            [suspects(&["wgnet-a"], &["ab"]), suspects(&[], &["ab"]), suspects(&["wgnet-a"], &[])];
        let (last, took) = looked(suspects(&["wgnet-a"], &["ab"]), &later).await;
        assert_eq!(last, suspects(&[], &[]), "what comes back is another one");
        assert!(took < 4 * LOOK_EVERY, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_is_found_within_one_wait_and_nothing_that_came_later() {
        let first = suspects(&["wgnet-a"], &["ab"]);
        let later = [suspects(&["wgnet-a", "wgnet-b"], &["ab", "cd"])];
        let (last, took) = looked(first.clone(), &later).await;
        assert_eq!(last, first);
        assert!((GONE_WITHIN..GONE_WITHIN + LOOK_EVERY).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspicion_that_cannot_be_looked_into_any_more_is_no_finding() {
        let later = [Suspects { networks: Err("gone"), ..suspects(&["wgnet-a"], &[]) }];
        let (last, _) = looked(suspects(&["wgnet-a"], &["ab"]), &later).await;
        assert_eq!(last, later[0]);
        let (last, _) = looked(suspects(&["wgnet-a"], &[]), &later).await;
        assert_eq!(last, suspects(&["wgnet-a"], &[]), "there was none");
    }
}
