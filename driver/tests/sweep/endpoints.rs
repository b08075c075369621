//! Endpoints that Docker never deletes.

use std::path::PathBuf;
use std::time::Duration;

use wgnet_control_plane::store::MemoryStore;
use wgnet_core::observed::ContainerInterface;
use wgnet_core::orphan::{GONE_FOR, IDLE_FOR, UNJOINED_FOR};
use wgnet_core::{Namespace, Seen};
use wgnet_driver::dataplane::{Dataplane, Joined};
use wgnet_proto::IfName;

use crate::world::{Host, endpoint_id, keys_of, network_id, seconds, until};

const SOON: Duration = Duration::from_secs(10);

/// A host whose container runs.
async fn running(store: &MemoryStore) -> Host {
    let mut host = Host::new(1).await;
    host.plane.start_container(&host.sandbox());
    host.start(store);
    until("the pair is there", SOON, async || veths(&host).await == 1).await;
    host
}

async fn veths(host: &Host) -> usize {
    match host.plane.observe(&Namespace::of(&network_id()), &Joined::new()).await {
        Seen::Present(observed) => observed.veths.len(),
        _ => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_container_is_gone_leaves_journal_kernel_and_store() {
    let store = MemoryStore::new();
    let host = running(&store).await;
    until("it is published", SOON, async || keys_of(&store, &host).await.len() == 4).await;
    host.plane.end_container(&host.sandbox());
    let after = until("it is withdrawn", Duration::from_secs(40), async || !host.has_endpoint());
    let after = after.await;
    assert!(after >= Duration::from_secs(GONE_FOR) - Duration::from_secs(2), "{after:?}");
    until("it is taken back", SOON, async || keys_of(&store, &host).await.len() == 3).await;
    assert_eq!(veths(&host).await, 0);
    assert!(host.journal.state().deleted.contains_key(&endpoint_id(1)), "nor may it come late");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_lives_is_left_alone_whatever_docker_does() {
    let store = MemoryStore::new();
    let mut host = running(&store).await;
    seconds(4 * IDLE_FOR).await;
    host.kill().await;
    host.start(&store);
    seconds(4 * IDLE_FOR).await;
    assert!(host.has_endpoint());
    assert_eq!(veths(&host).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_a_call_is_about_is_left_alone() {
    let store = MemoryStore::new();
    let host = running(&store).await;
    let call = host.applied.calls().begin(endpoint_id(1).as_str());
    host.plane.end_container(&host.sandbox());
    seconds(4 * GONE_FOR).await;
    assert!(host.has_endpoint());
    drop(call);
    until("it is withdrawn", Duration::from_secs(2 * GONE_FOR), async || !host.has_endpoint())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_was_away_when_the_container_ended_finds_out() {
    let store = MemoryStore::new();
    let mut host = running(&store).await;
    host.kill().await;
    host.plane.end_container(&host.sandbox());
    seconds(5).await;
    host.start(&store);
    seconds(GONE_FOR / 2).await;
    assert!(host.has_endpoint(), "it has to see it for itself");
    until("it is withdrawn", Duration::from_secs(GONE_FOR), async || !host.has_endpoint()).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_end_docker_put_back_without_a_word_goes_within_a_minute() {
    let store = MemoryStore::new();
    let host = running(&store).await;
    let (namespace, name) = (Namespace::of(&network_id()), IfName::veth_host(&endpoint_id(1)));
    seconds(2 * GONE_FOR).await;
    assert_eq!(host.plane.container_of(&namespace, &name), Some(host.sandbox()));
    // The plugin was removed by force: dockerd cannot tell the driver of the container's end, and
    // tries for 15 s before it takes the namespace down.
    host.plane.move_out(&namespace, &name);
    seconds(15).await;
    host.plane.end_container(&host.sandbox());
    let after = until("it is withdrawn", Duration::from_secs(60), async || !host.has_endpoint());
    let after = after.await;
    assert!(after >= Duration::from_secs(GONE_FOR) - Duration::from_secs(2), "{after:?}");
    until("its pair is gone", SOON, async || veths(&host).await == 0).await;
    until("it is taken back", SOON, async || keys_of(&store, &host).await.len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_no_container_ever_joined_goes_before_long() {
    let store = MemoryStore::new();
    let mut host = Host::new(1).await;
    note_sandbox(&host, None).await;
    host.start(&store);
    seconds(UNJOINED_FOR - 5).await;
    assert!(host.has_endpoint() && veths(&host).await == 1);
    until("it is withdrawn", Duration::from_secs(20), async || !host.has_endpoint()).await;
    until("its pair is gone", SOON, async || veths(&host).await == 0).await;
}

/// What Join and Leave note.
async fn note_sandbox(host: &Host, sandbox: Option<PathBuf>) {
    let note = move |state: &mut wgnet_driver::journal::State| {
        let network = state.network_mut(&network_id()).unwrap();
        let set = |endpoint: &mut wgnet_core::LocalEndpoint| endpoint.sandbox = sandbox.clone();
        network.endpoints.values_mut().for_each(set);
    };
    host.journal.update(note).await.unwrap();
}

/// A host on which Join came, and the container's namespace has yet to come. Its pair was made before.
async fn joining(store: &MemoryStore) -> Host {
    let mut host = Host::new(1).await;
    host.plane.engine("dockerd", true);
    note_sandbox(&host, None).await;
    host.start(store);
    until("the pair waits", SOON, async || veths(&host).await == 1).await;
    note_sandbox(&host, Some(host.sandbox())).await;
    host
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_dockerd_was_killed_right_after_join_goes_within_a_minute() {
    let store = MemoryStore::new();
    let host = joining(&store).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.plane.engine("dockerd", false);
    seconds(3).await;
    host.plane.engine("its successor", true);
    until("it is withdrawn", Duration::from_secs(57), async || !host.has_endpoint()).await;
    until("its pair is gone", SOON, async || veths(&host).await == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_container_docker_forgot_goes_while_its_process_lives() {
    let store = MemoryStore::new();
    let mut host = joining(&store).await;
    let (namespace, name) = (Namespace::of(&network_id()), IfName::veth_host(&endpoint_id(1)));
    host.plane.start_container(&host.sandbox());
    host.plane.move_into(&namespace, &name, &host.sandbox(), ContainerInterface::default());
    seconds(2 * IDLE_FOR).await;
    assert!(host.has_endpoint() && veths(&host).await == 1);
    host.plane.forget_container(&host.sandbox());
    // A driver that starts only now knows no more of it than what there is.
    host.kill().await;
    host.start(&store);
    until("it is withdrawn", Duration::from_secs(60), async || !host.has_endpoint()).await;
    until("its pair is gone", SOON, async || veths(&host).await == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_docker_builds_slowly_is_waited_for() {
    let store = MemoryStore::new();
    let host = joining(&store).await;
    seconds(IDLE_FOR / 2).await;
    assert!(host.has_endpoint() && veths(&host).await == 1);
    host.plane.start_container(&host.sandbox());
    let (namespace, name) = (Namespace::of(&network_id()), IfName::veth_host(&endpoint_id(1)));
    host.plane.move_into(&namespace, &name, &host.sandbox(), ContainerInterface::default());
    seconds(2 * IDLE_FOR).await;
    assert!(host.has_endpoint() && veths(&host).await == 1);
}
