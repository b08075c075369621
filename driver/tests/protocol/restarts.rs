//! The driver stops, dies and boots: what it knows afterwards.

use serde_json::json;
use tempfile::TempDir;

use crate::support::*;

/// A swarm's and a plain engine's network, each with a joined endpoint.
async fn two_networks(dir: &TempDir) -> Driver {
    let driver = Driver::start(dir.path());
    for (n, network) in [(1, SWARM_NETWORK.to_owned()), (2, plain_network(2))] {
        driver.call("CreateNetwork", &create_network(&network, &json!({}))).await.succeeds();
        driver
            .call("CreateEndpoint", &create_endpoint(&network, &endpoint(n), "10.0.9.5/24"))
            .await
            .succeeds();
        driver.call("Join", &join(&network, &endpoint(n))).await.succeeds();
    }
    driver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tears_nothing_down() {
    let dir = TempDir::new().unwrap();
    let driver = two_networks(&dir).await;
    let before = driver.state();
    driver.stop().await;
    let driver = Driver::start(dir.path());
    assert_eq!(driver.state().networks, before.networks);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_the_same_boot_every_call_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    let driver = two_networks(&dir).await;
    let before = driver.state();
    driver.kill().await;
    let driver = Driver::start(dir.path());
    assert_eq!(driver.state().networks, before.networks);
    for (n, network) in [(1, SWARM_NETWORK.to_owned()), (2, plain_network(2))] {
        let repeated = driver
            .call("CreateEndpoint", &create_endpoint(&network, &endpoint(n), "10.0.9.5/24"))
            .await;
        assert_eq!(repeated.succeeds(), &json!({"Interface": {"MacAddress": "02:42:0a:00:09:05"}}));
        driver.call("Join", &join(&network, &endpoint(n))).await.succeeds();
        driver.call("Leave", &of(&network, &endpoint(n))).await.succeeds();
        driver.call("DeleteEndpoint", &of(&network, &endpoint(n))).await.succeeds();
        driver
            .call("CreateEndpoint", &create_endpoint(&network, &endpoint(n), "10.0.9.5/24"))
            .await
            .fails_with("deleted already");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_boot_drops_endpoints_and_keeps_keys_and_plain_engines_networks() {
    let dir = TempDir::new().unwrap();
    let driver = two_networks(&dir).await;
    let before = driver.state();
    driver.kill().await;
    let boot = || Options { boot: "boot-2".to_owned(), ..Options::default() };
    let driver = Driver::start_with(dir.path(), boot());
    let state = driver.state();
    assert!(state.networks.values().all(|network| network.endpoints.is_empty()));
    for (network, was) in &before.networks {
        assert_eq!(state.networks[network].slots, was.slots);
    }
    assert!(
        !state.networks[&id(&plain_network(2))].lingering,
        "a plain engine never creates it again"
    );
    assert!(state.networks[&id(SWARM_NETWORK)].lingering, "a swarm does");

    // A plain engine cleans up what was; a swarm says nothing of it.
    let plain = plain_network(2);
    driver.call("Leave", &of(&plain, &endpoint(2))).await.succeeds();
    driver.call("DeleteEndpoint", &of(&plain, &endpoint(2))).await.succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(&plain, &endpoint(3), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.call("Join", &join(&plain, &endpoint(3))).await.succeeds();
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(4), "10.0.9.6/24"))
        .await
        .succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(4))).await.succeeds();

    // And the same boot again changes nothing.
    let now = driver.state();
    driver.kill().await;
    let driver = Driver::start_with(dir.path(), boot());
    assert_eq!(driver.state().networks, now.networks);
}

#[tokio::test(flavor = "multi_thread")]
async fn swarm_creates_its_network_again_after_a_restart_without_deleting_it() {
    let dir = TempDir::new().unwrap();
    let driver = two_networks(&dir).await;
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(9), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(9))).await.succeeds();
    let state = driver.state();
    assert_eq!(state.networks[&id(SWARM_NETWORK)].endpoints.len(), 1);
}
