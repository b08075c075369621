//! What the shim adds: requests that are repeated, late, or come while the driver stops.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use tempfile::TempDir;
use wgnet_driver::journal::State;

use crate::support::*;

const OTHER_NETWORK: &str = "n4w1hwl7qk6fm2z0a4v8e9r3t";

fn request_id(id: &str) -> String {
    format!("X-Wgnet-Request-Id: {id}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_whatever_happened_since() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let create = create_network(SWARM_NETWORK, &json!({})).to_string();
    let endpoint_body = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24").to_string();
    let mut client = driver.connect().await;
    let refused = client.post_with("CreateEndpoint", &endpoint_body, &request_id("a")).await;
    refused.fails_with("not known");
    client.post_with("CreateNetwork", &create, &request_id("b")).await.succeeds();
    assert_eq!(client.post_with("CreateEndpoint", &endpoint_body, &request_id("a")).await, refused);
    let made = client.post_with("CreateEndpoint", &endpoint_body, &request_id("c")).await;
    made.succeeds();
    client.post("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    assert_eq!(client.post_with("CreateEndpoint", &endpoint_body, &request_id("c")).await, made);
    client
        .post_with("CreateEndpoint", &endpoint_body, &request_id("d"))
        .await
        .fails_with("deleted already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_while_it_runs_runs_once() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.hang().await;
    let body = join(SWARM_NETWORK, &endpoint(1)).to_string();
    let (mut first, mut lost, mut second) =
        (driver.connect().await, driver.connect().await, driver.connect().await);
    first.send("Join", &body, &request_id("join")).await;
    lost.send("Join", &body, &request_id("join")).await;
    driver.noted_join().await;
    drop(lost);
    second.send("Join", &body, &request_id("join")).await;
    driver.kernel.send_replace(Kernel::Follows);
    let answer = first.reply().await;
    answer.succeeds();
    assert_eq!(second.reply().await, answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_connection_is_lost_is_finished() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.hang().await;
    let mut client = driver.connect().await;
    client.send("Join", &join(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    driver.noted_join().await;
    drop(client);
    // Its successor waits for it: the turn is not free before the lost one is done.
    let mut next = driver.connect().await;
    next.send("Leave", &of(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    driver.kernel.send_replace(Kernel::Follows);
    next.reply().await.succeeds();
    assert!(
        driver.state().networks.values().all(|n| n.endpoints.values().all(|e| e.sandbox.is_none()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_endpoint_run_in_order_of_arrival_and_others_beside_them() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    for n in [1, 2] {
        let create = create_endpoint(SWARM_NETWORK, &endpoint(n), &format!("10.0.9.{}/24", n + 4));
        driver.call("CreateEndpoint", &create).await.succeeds();
    }
    driver.hang().await;
    let mut first = driver.connect().await;
    first.send("Join", &join(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    driver.noted_join().await;
    // These wait behind the Join ...
    let (mut second, mut third) = (driver.connect().await, driver.connect().await);
    second.send("Leave", &of(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    third.send("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    // ... and this one does not.
    driver.call("Leave", &of(SWARM_NETWORK, &endpoint(2))).await.succeeds();
    assert_eq!(driver.state().networks.values().next().unwrap().endpoints.len(), 2);
    driver.kernel.send_replace(Kernel::Follows);
    first.reply().await.succeeds();
    second.reply().await.succeeds();
    third.reply().await.succeeds();
    assert_eq!(driver.state().networks.values().next().unwrap().endpoints.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_nobody_waits_for_is_not_started() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let create = create_network(SWARM_NETWORK, &json!({})).to_string();
    let mut client = driver.connect().await;
    let late = client.post_with("CreateNetwork", &create, "X-Wgnet-Expires-Ms: 0\r\n").await;
    late.fails_with("CreateNetwork");
    assert!(driver.state().networks.is_empty());
    client.post_with("CreateNetwork", &create, "X-Wgnet-Expires-Ms: 20000\r\n").await.succeeds();
    client.post_with("CreateNetwork", &create, "X-Wgnet-Expires-Ms: soon\r\n").await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_expires_in_the_queue_is_not_started() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.hang().await;
    let (mut first, mut second) = (driver.connect().await, driver.connect().await);
    // The Join gives up when its sender does, and by then the Leave behind it is too late as well.
    first
        .send("Join", &join(SWARM_NETWORK, &endpoint(1)).to_string(), "X-Wgnet-Expires-Ms: 400\r\n")
        .await;
    driver.noted_join().await;
    second
        .send(
            "DeleteEndpoint",
            &of(SWARM_NETWORK, &endpoint(1)).to_string(),
            "X-Wgnet-Expires-Ms: 1\r\n",
        )
        .await;
    first.reply().await.fails_with("was not set up within");
    second.reply().await.fails_with("nobody waits");
    assert_eq!(driver.state().networks.values().next().unwrap().endpoints.len(), 1);
}

fn endpoints(driver: &Driver) -> usize {
    driver.state().networks.values().map(|network| network.endpoints.len()).sum()
}

/// Docker has given the address to another by then, which a newer claim would cut off.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_expires_before_the_last_known_records_are_in_is_not_made() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver.remembered.send_replace(false);
    let body = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24").to_string();
    let mut client = driver.connect().await;
    let late = client.post_with("CreateEndpoint", &body, "X-Wgnet-Expires-Ms: 300\r\n").await;
    late.fails_with("nobody waits for its answer any more");
    driver.remembered.send_replace(true);
    // What waited would go before this one.
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .succeeds();
    assert_eq!(endpoints(&driver), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_known_records_that_do_not_come_end_in_a_sentence_before_docker_gives_up() {
    let dir = TempDir::new().unwrap();
    let options = Options { apply_within: Duration::from_millis(300), ..Options::default() };
    let driver = Driver::start_with(dir.path(), options);
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver.remembered.send_replace(false);
    let body = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    driver.call("CreateEndpoint", &body).await.fails_with("not read from its journal yet");
    driver.remembered.send_replace(true);
    driver.call("CreateEndpoint", &body).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_the_journals_disk_hangs_is_not_made() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let (hangs, is_hanging) = tokio::sync::oneshot::channel();
    let (resume, resumes) = std::sync::mpsc::channel::<()>();
    let journal = driver.journal.clone();
    let hanging = tokio::spawn(async move {
        let hang = move |_: &mut State| {
            let _ = hangs.send(());
            // Also over when the test has failed.
            let _ = resumes.recv();
        };
        journal.update(hang).await
    });
    is_hanging.await.unwrap();
    let given_up = shims_clock() + Duration::from_millis(300);
    let (mut first, mut second) = (driver.connect().await, driver.connect().await);
    let body = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24").to_string();
    first.send("CreateEndpoint", &body, &expires(given_up, 300)).await;
    let body = create_network(OTHER_NETWORK, &json!({})).to_string();
    second.send("CreateNetwork", &body, &expires(given_up, 300)).await;
    while shims_clock() <= given_up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(resume);
    first.reply().await.fails_with("nobody waits for its answer any more");
    second.reply().await.fails_with("nobody waits for its answer any more");
    hanging.await.unwrap().unwrap();
    assert_eq!((driver.state().networks.len(), endpoints(&driver)), (1, 0));
}

/// As the shim says it.
fn expires(at: Duration, left: u64) -> String {
    format!("X-Wgnet-Expires-At-Ms: {}\r\nX-Wgnet-Expires-Ms: {left}\r\n", at.as_millis())
}

fn shims_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// A driver that was stopped (SIGSTOP), or got no CPU, finds in its sockets what was sent meanwhile.
#[tokio::test]
async fn a_driver_that_stood_still_does_not_start_what_its_senders_gave_up() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let body = |n| create_endpoint(SWARM_NETWORK, &endpoint(n), &format!("10.0.9.{}/24", n + 4));
    let given_up = shims_clock() + Duration::from_millis(300);
    let mut late = driver.send_unread("CreateEndpoint", &body(1), &expires(given_up, 300));
    let waits = shims_clock() + Duration::from_secs(25);
    let mut early = driver.send_unread("CreateEndpoint", &body(2), &expires(waits, 25_000));
    while shims_clock() <= given_up {
        std::thread::sleep(Duration::from_millis(10)); // Nothing of the driver runs.
    }
    late.reply().await.fails_with("nobody waits for its answer any more");
    early.reply().await.succeeds();
    let state = driver.state();
    let endpoints: Vec<_> =
        state.networks.values().flat_map(|network| network.endpoints.keys()).collect();
    assert_eq!(endpoints, [&endpoint(2).parse().unwrap()]);
}

/// Its Join waits for a kernel that does not follow.
async fn with_hanging_endpoint(dir: &TempDir) -> Driver {
    let driver = with_network(dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.hang().await;
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_runs_and_closes_idle_connections() {
    let dir = TempDir::new().unwrap();
    let driver = with_hanging_endpoint(&dir).await;
    let (mut idle, mut busy) = (driver.connect().await, driver.connect().await);
    idle.post_empty("GetCapabilities").await.succeeds();
    busy.send("Join", &join(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    let kernel = driver.kernel.clone();
    driver.noted_join().await;
    let stopping = tokio::spawn(driver.stop());
    assert!(idle.is_closed().await);
    kernel.send_replace(Kernel::Follows);
    busy.reply().await.succeeds();
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_two_seconds_for_what_hangs() {
    let dir = TempDir::new().unwrap();
    let driver = with_hanging_endpoint(&dir).await;
    let mut busy = driver.connect().await;
    busy.send("Join", &join(SWARM_NETWORK, &endpoint(1)).to_string(), "").await;
    driver.noted_join().await;
    let began = std::time::Instant::now();
    driver.stop().await;
    let took = began.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_when_the_driver_stops_is_left_to_the_next_one() {
    let dir = TempDir::new().unwrap();
    let driver = with_hanging_endpoint(&dir).await;
    let body = join(SWARM_NETWORK, &endpoint(1)).to_string();
    let mut tries = Vec::new();
    for _ in 0..50 {
        let mut one = driver.connect().await;
        one.send("Join", &body, "X-Wgnet-Request-Id: a\r\n").await;
        tries.push(one);
    }
    driver.noted_join().await;
    driver.stop().await;
    for one in &mut tries {
        assert!(one.is_closed().await, "the shim hands to Docker what it is answered");
    }
}
