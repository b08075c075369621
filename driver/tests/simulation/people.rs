//! What operators do about hosts that are lost: lock them out, have the cluster forget them, or believe
//! that they are gone.

use std::time::Duration;

use tokio::time::timeout;
use wgnet_control_plane::admin::{ForgetHost, Release};
use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::store::{Store as _, Txn};
use wgnet_control_plane::tombstone;
use wgnet_proto::{HostId, HostKey, Path, seal};

use super::dice;
use super::schedule::History;
use super::trace::{note, wrong};
use super::world::{Running, World, world};

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One that is lost is locked out, if there is one.
pub(crate) async fn revoke(history: &mut History) {
    if let Some(host) = dice::pick(&lost()) {
        lock_out(host, history).await;
    }
}

/// Nobody counts on who is revoked, from the moment on in which they know.
pub(crate) fn locked_out() {
    for by in world(running) {
        let view = by.view.borrow().clone();
        for (key, network) in &view.networks {
            let members = network.members.keys();
            let mut hosts =
                members.chain(network.endpoints.values().map(|endpoint| &endpoint.host));
            if let Some(out) = hosts.find(|host| view.revoked.contains(host)) {
                let (by, out) = (by.me.short(), out.short());
                wrong(format!("{by} knows that {out} is revoked, and counts on it in {key}"));
            }
        }
    }
}

/// The order to forget one that is lost; now and then another one is meant.
pub(crate) fn forget(history: &mut History) {
    let hosts = if dice::happens(850) { lost() } else { all() };
    if let Some(host) = dice::pick(&hosts) {
        order_to_forget(host, history);
    }
}

/// As `wgnetctl release --all` does it, on every host that runs.
pub(crate) async fn release() {
    for by in world(running) {
        let answer = tokio::select! {
            biased;
            () = by.life.death() => continue,
            answer = timeout(PATIENCE, by.orderer.release(Release { network: None })) => answer,
        };
        if !matches!(&answer, Ok(Ok(released)) if released.is_empty()) {
            note(format!("{} was told to believe what it holds: {answer:?}", by.me.short()));
        }
    }
}

/// When all is well somebody looks after what is lost.
pub(crate) async fn clear(history: &mut History) {
    for host in lost() {
        if dice::happens(300) {
            lock_out(host, history).await;
        } else if dice::happens(250) {
            order_to_forget(host, history);
        }
    }
}

fn lost() -> Vec<HostId> {
    world(|world| world.lost().into_iter().collect())
}

fn running(world: &mut World) -> Vec<Running> {
    world.hosts.iter().filter_map(|host| host.running.clone()).collect()
}

fn all() -> Vec<HostId> {
    world(|world| world.hosts.iter().filter_map(|host| host.disk.host_id()).collect())
}

/// As `wgnetctl revoke` does it.
async fn lock_out(host: HostId, history: &mut History) {
    let (store, secrets) = world(|world| (world.store.clone(), world.secrets.clone()));
    let Ok(fleet) = Fleet::read(&store, secrets.clone()).await else {
        return;
    };
    let view = fleet.view();
    let is_known = view.hosts.contains_key(&host)
        || view.networks.values().any(|network| network.members.contains_key(&host));
    let Some(cluster) = fleet.cluster().filter(|_| is_known).map(|record| record.cluster) else {
        return;
    };
    let Ok(listing) = store.list(&Path::Cluster.to_string()).await else {
        return;
    };
    let mut founders = listing.entries.iter().map(|entry| seal::claimed_writer(&entry.value));
    let has_founded = founders.any(|founder| founder == Some(host));
    let mut random = [0; 32];
    dice::bytes(&mut random);
    let reason = "revoked by an operator: simulated".to_owned();
    let op = tombstone::sealed(cluster, secrets, HostKey::from_random(random), host, reason);
    let ops = vec![op.expect("the reason can be printed")];
    world(|world| world.witness.let_go(host));
    if store.commit(Txn { conditions: vec![], ops }).await.is_ok() {
        note(format!("{} is revoked", host.short()));
        history.revoked.insert(host, cluster);
        history.is_cleared = true;
        // What it founded does not count any more: somebody else does it again.
        history.another_history |= has_founded;
    }
}

/// As `wgnetctl forget-host` does it, on some host that runs.
fn order_to_forget(host: HostId, history: &mut History) {
    let running = world(|world| {
        world.witness.let_go(host);
        running(world)
    });
    let Some(by) = dice::pick(&running).filter(|_| !world(|world| world.needs_store())) else {
        return;
    };
    history.is_cleared = true;
    note(format!("{} is told to forget {}", by.me.short(), host.short()));
    tokio::spawn(async move {
        let order = by.orderer.forget_host(ForgetHost { host: host.to_string() });
        let answer = tokio::select! {
            biased;
            () = by.life.death() => return,
            answer = timeout(PATIENCE, order) => answer,
        };
        note(format!("{} was told to forget {}: {answer:?}", by.me.short(), host.short()));
    });
}
