//! How the calls come: headers, connections, empty and odd bodies.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;

/// Every call with arguments, in an order in which each succeeds.
fn life() -> Vec<(&'static str, Value)> {
    let node = json!({"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.11", "BindAddress": "192.0.2.11", "Self": true}});
    let (network, endpoint) = (SWARM_NETWORK, endpoint(1));
    let allocate = json!({"NetworkID": network, "Options": {"mtu": "1370"},
        "IPv4Data": [{"AddressSpace": "", "Pool": "10.0.9.0/24", "Gateway": "10.0.9.1/24"}], "IPv6Data": null});
    vec![
        ("DiscoverNew", node.clone()),
        ("GwAllocCheck", json!({"Options": {}})),
        ("AllocateNetwork", allocate),
        ("CreateNetwork", create_network(network, &json!({"mtu": "1370"}))),
        ("CreateEndpoint", create_endpoint(network, &endpoint, "10.0.9.5/24")),
        ("EndpointOperInfo", of(network, &endpoint)),
        ("Join", join(network, &endpoint)),
        ("ProgramExternalConnectivity", of(network, &endpoint)),
        ("RevokeExternalConnectivity", of(network, &endpoint)),
        ("Leave", of(network, &endpoint)),
        ("DeleteEndpoint", of(network, &endpoint)),
        ("DeleteNetwork", only(network)),
        ("FreeNetwork", only(network)),
        ("DiscoverDelete", node),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_without_a_content_type() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (method, body) in life() {
        let reply = driver.call(method, &body).await;
        reply.succeeds();
        assert!(reply.body.is_object(), "{method} is answered with a JSON object");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_whatever_its_host_header() {
    for host in [
        "Host: \r\n",
        "Host: %2Frun%2Fdocker%2Fplugins%2Fwgnet.sock\r\n",
        "Host: no.such.host:1\r\n",
    ] {
        let dir = TempDir::new().unwrap();
        let driver = Driver::start(dir.path());
        for (method, body) in life() {
            let mut client = driver.connect().await;
            let body = body.to_string();
            let length = body.len();
            client.raw(format!("POST /NetworkDriver.{method} HTTP/1.1\r\n{host}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await;
            client.reply().await.succeeds();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_calls_can_use_one_connection() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let mut client = driver.connect().await;
    for round in 0..3 {
        for (method, body) in life() {
            // An endpoint's id that was deleted is not taken again.
            if round == 0 || (method != "CreateEndpoint" && method != "Join") {
                client.post(method, &body).await.succeeds();
            }
        }
    }
    client.post_empty("GetCapabilities").await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_connections_at_once_are_answered() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let driver = &driver;
    let lives = (1..=5u8).map(|n| async move {
        let (mut client, endpoint) = (driver.connect().await, endpoint(n));
        let create = create_endpoint(SWARM_NETWORK, &endpoint, &format!("10.0.9.{}/24", n + 10));
        client.post("CreateEndpoint", &create).await.succeeds();
        client.post("Join", &join(SWARM_NETWORK, &endpoint)).await.succeeds();
        client.post("Leave", &of(SWARM_NETWORK, &endpoint)).await.succeeds();
        client.post("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint)).await.succeeds();
    });
    futures::future::join_all(lives).await;
    assert!(driver.state().networks.values().all(|network| network.endpoints.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_is_refused_wherever_arguments_are_needed() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (method, _) in life() {
        for body in ["", "\n"] {
            let reply = driver.connect().await.post_with(method, body, "").await;
            assert_eq!(reply.status, 400, "{method} {body:?}");
            assert!(reply.err().contains(method), "{:?} names the call", reply.err());
        }
    }
    assert!(driver.state().networks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_arguments_are_refused() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (method, _) in life() {
        for body in ["null", "[]", "7", "\"x\"", "{", "{\"NetworkID\"", "\u{0}", "{} {}"] {
            let reply = driver.connect().await.post_with(method, body, "").await;
            assert_eq!(reply.status, 400, "{method} {body:?}: {reply:?}");
            assert!(!reply.err().is_empty());
        }
    }
    for body in [r#"{"NetworkID":7}"#, r#"{"NetworkID":["x"]}"#] {
        let reply = driver.connect().await.post_with("CreateNetwork", body, "").await;
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_any_of_dockers_is_refused_before_it_comes() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let head =
        "POST /NetworkDriver.CreateNetwork HTTP/1.1\r\nHost: \r\nContent-Length: 16777217\r\n\r\n";
    let mut client = driver.connect().await;
    client.raw(head.as_bytes()).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 400);
    assert!(reply.err().ends_with("its body is larger than 16 MiB"), "{}", reply.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn activation_and_capabilities_need_no_body_and_tell_the_scope() {
    for (scope, says) in
        [(wgnet_driver::api::Scope::Global, "global"), (wgnet_driver::api::Scope::Local, "local")]
    {
        let dir = TempDir::new().unwrap();
        let driver = Driver::start_with(dir.path(), Options { scope, ..Options::default() });
        let mut client = driver.connect().await;
        let reply = client.post_empty("/Plugin.Activate").await;
        assert_eq!(reply.succeeds(), &json!({"Implements": ["NetworkDriver"]}));
        let reply = client.post_empty("GetCapabilities").await;
        assert_eq!(reply.succeeds(), &json!({"Scope": says, "ConnectivityScope": "global"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_delivered_twice_gets_the_same_answer() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (method, body) in life() {
        let first = driver.call(method, &body).await;
        let second = driver.call(method, &body).await;
        first.succeeds();
        assert_eq!(first, second, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_connections_disturb_nobody() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for _ in 0..20 {
        drop(driver.connect().await);
    }
    let mut half = driver.connect().await;
    half.raw(b"POST /NetworkDriver.Leave HTTP/1.1\r\nHo").await;
    drop(half);
    driver.connect().await.post_empty("GetCapabilities").await.succeeds();
}

#[tokio::test]
async fn idle_connections_are_never_closed() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let (mut used, mut bare, mut half) =
        (driver.connect().await, driver.connect().await, driver.connect().await);
    used.post_empty("GetCapabilities").await.succeeds();
    half.raw(b"POST /NetworkDriver.GetCapabilities HTTP/1.1\r\n").await;
    tokio::time::pause();
    // Far beyond every timeout a server could have by default.
    for _ in 0..60 {
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    tokio::time::resume();
    used.post_empty("GetCapabilities").await.succeeds();
    bare.post_empty("GetCapabilities").await.succeeds();
    half.raw(b"Host: x\r\nContent-Length: 0\r\n\r\n").await;
    half.reply().await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_calls_get_404() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for path in ["/NetworkDriver.NoSuchCall", "/IpamDriver.RequestPool", "/", "/NetworkDriver.joiN"]
    {
        let reply = driver.call(path, &json!({})).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.err().is_empty());
    }
    let mut client = driver.connect().await;
    client.raw(b"GET /NetworkDriver.GetCapabilities HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_with_status_200_in_err_and_name_the_object() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let reply = driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await;
    reply.fails_with(&SWARM_NETWORK[..12]);
    let reply = driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await;
    reply.fails_with(&SWARM_NETWORK[..12]);
    assert_eq!(reply.headers["content-type"], "application/vnd.docker.plugins.v1.2+json");
}
