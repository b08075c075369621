//! Notices peers that somebody changed by hand: WireGuard announces nothing, so it is asked.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use wgnet_core::{Namespace, ObservedWireguard};

use super::Shared;
use super::space::{Network, Space};
use super::wireguard::Backend;

/// A repair is to be done within two seconds of the damage.
const PERIOD: Duration = Duration::from_secs(1);

/// Where asking takes long (many peers, a slow machine), no more than this part of the time goes into it.
const PART: u32 = 20;

/// Asks until the data plane is gone.
pub(super) fn watch(shared: Weak<Shared>) -> AbortHandle {
    let task = tokio::spawn(async move {
        let mut known = BTreeMap::new();
        let mut wait = PERIOD;
        loop {
            tokio::time::sleep(wait).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let began = Instant::now();
            look(&shared, &mut known).await;
            wait = PERIOD.max(began.elapsed() * PART);
        }
    });
    task.abort_handle()
}

async fn look(shared: &Shared, known: &mut BTreeMap<Namespace, u64>) {
    let touched = std::mem::take(&mut *shared.touched());
    let spaces = shared.spaces().clone();
    known.retain(|namespace, _| spaces.contains_key(namespace));
    for (namespace, space) in spaces {
        let now = fingerprint(&shared.backend, &namespace, space).await;
        // What cannot be read now is looked at again soon.
        let before = now.and_then(|now| known.insert(namespace.clone(), now));
        let changed = before.is_some() && before != now;
        // What somebody undid of our own change looks as it did before it.
        if changed || touched.contains(&namespace) {
            shared.changes.report(&namespace);
        }
    }
}

async fn fingerprint(backend: &Backend, namespace: &Namespace, space: Arc<Space>) -> Option<u64> {
    let namespace = namespace.clone();
    let network = Network { namespace, space };
    let mut hasher = DefaultHasher::new();
    for link in network.space.rtnl.links().await.ok()? {
        if link.is_our_wireguard() {
            link.name.hash(&mut hasher);
            hash(&backend.observe(&network, &link).await.ok()?, &mut hasher);
        }
    }
    Some(hasher.finish())
}

/// What only we are to change: not what roams, and not what counts.
fn hash(wireguard: &ObservedWireguard, hasher: &mut DefaultHasher) {
    (wireguard.public_key, wireguard.port).hash(hasher);
    for (key, peer) in &wireguard.peers {
        let preshared_key = peer.preshared_key.as_ref().map(|key| key.expose());
        (key, preshared_key, peer.keepalive, &peer.allowed).hash(hasher);
    }
}
