//! Networks that Docker forgot without telling.

use std::sync::Arc;
use std::time::Duration;

use wgnet_control_plane::store::{MemoryStore, Store};
use wgnet_core::{Namespace, Seen};
use wgnet_driver::journal::{FREED_LINGER, State};
use wgnet_proto::{DockerNetworkId, NetworkKey};

use crate::world::{Host, network_id, seconds, until};

const SOON: Duration = Duration::from_secs(10);

fn plain_id() -> DockerNetworkId {
    "4f".repeat(32).parse().unwrap()
}

fn key() -> NetworkKey {
    NetworkKey::named("blue").unwrap()
}

/// A host that has, beside its swarm's network, a plain engine's with `-o id=blue` and no endpoint.
async fn with_plain_network(store: &MemoryStore) -> Host {
    let mut host = Host::new(1).await;
    let create = |state: &mut State| {
        let mut network = (*state.networks[&network_id()]).clone();
        network.definition.docker_id = plain_id();
        network.definition.key = key();
        network.definition.options.id = Some("blue".to_owned());
        network.definition.subnets[0].pool = "10.60.0.0/24".parse().unwrap();
        network.definition.subnets[0].gateway = None;
        network.slots[0].port = 51821;
        network.endpoints.clear();
        state.networks.insert(plain_id(), Arc::new(network));
    };
    host.journal.update(create).await.unwrap();
    host.plane.start_container(&host.sandbox());
    host.start(store);
    until("it is published", SOON, async || members(store).await == 1).await;
    until("it is in the kernel", SOON, async || stands(&host, &plain_id())).await;
    host
}

async fn members(store: &MemoryStore) -> usize {
    store.list("networks/n-blue/members/").await.unwrap().entries.len()
}

fn stands(host: &Host, network: &DockerNetworkId) -> bool {
    matches!(*host.plane.look(&Namespace::of(network)), Seen::Present(_))
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_network_leaves_kernel_journal_and_store_as_a_deleted_one_does() {
    let store = MemoryStore::new();
    let host = with_plain_network(&store).await;
    seconds(600).await;
    assert!(host.journal.state().live(&plain_id()).is_some(), "nobody else ever ends it");

    let forgotten = host.forget("4f4f4f").await.unwrap();
    assert_eq!((forgotten.network, forgotten.docker_id), (key(), plain_id()));
    assert!(forgotten.removed && forgotten.endpoints == 0);
    assert!(!stands(&host, &plain_id()));
    assert!(host.forget("n-blue").await.unwrap().removed, "twice is once");
    let gone = async || !host.journal.state().networks.contains_key(&plain_id());
    until("key and port are free", FREED_LINGER * 2, gone).await;
    until("this host is no member", SOON, async || members(&store).await == 0).await;
    assert!(host.forget("n-blue").await.unwrap_err().contains("no network n-blue"));
    assert!(stands(&host, &network_id()) && host.has_endpoint(), "the other one is as it was");
}

#[tokio::test(start_paused = true)]
async fn a_network_whose_container_lives_is_not_forgotten_and_one_whose_container_is_gone_is() {
    let store = MemoryStore::new();
    let host = with_plain_network(&store).await;
    let id = network_id().to_string();
    let before = host.journal.state();
    assert!(host.forget(&id).await.unwrap_err().contains("lives"));
    assert_eq!(host.journal.state(), before);
    host.plane.end_container(&host.sandbox());
    assert_eq!(host.forget(&id).await.unwrap().endpoints, 1);
    assert!(host.journal.state().networks[&network_id()].lingering, "a swarm may ask for it again");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_a_call_of_dockers_is_about_is_not_forgotten() {
    let store = MemoryStore::new();
    let host = with_plain_network(&store).await;
    let call = host.applied.calls().begin(plain_id().as_str());
    assert!(host.forget("n-blue").await.unwrap_err().contains("at work"));
    drop(call);
    host.forget("n-blue").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_a_network_stays_as_it_is_and_the_reason_is_told() {
    let store = MemoryStore::new();
    let host = with_plain_network(&store).await;
    host.fill_disk();
    assert!(host.forget("n-blue").await.unwrap_err().contains("disk"));
    assert!(stands(&host, &plain_id()));
    assert!(host.journal.state().live(&plain_id()).is_some());
}
