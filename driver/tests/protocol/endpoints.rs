//! What the calls about endpoints do and answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wgnet_core::{ClusterView, NetworkView};
use wgnet_driver::api::Scope;
use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord};
use wgnet_proto::{HostId, Incarnation, MacAddr, NetworkKey};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn create_endpoint_answers_only_what_came_empty() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let request = json!({
        "NetworkID": SWARM_NETWORK, "EndpointID": endpoint(1),
        "Interface": {"Address": "10.0.9.5/24", "AddressIPv6": "", "MacAddress": "02:11:22:33:44:55"},
        "Options": {
            "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
            "com.docker.network.portmap": [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "0.0.0.0", "HostPort": 8080, "HostPortEnd": 8080}],
            "com.docker.network.endpoint.macaddress": "AhEiM0RV",
            "com.docker.network.endpoint.dnsservers": ["9.9.9.9"],
            "my.endpoint.opt": "v", "odd": null
        }
    });
    assert_eq!(driver.call("CreateEndpoint", &request).await.succeeds(), &json!({"Interface": {}}));
    let given =
        driver.state().networks[&id(SWARM_NETWORK)].endpoints[&endpoint(1).parse().unwrap()].mac;
    assert_eq!(given.to_string(), "02:11:22:33:44:55");
    let bare = json!({"NetworkID": SWARM_NETWORK, "EndpointID": endpoint(2), "Options": null,
        "Interface": {"Address": "10.0.9.6/24", "AddressIPv6": null}});
    let expected = json!({"Interface": {"MacAddress": "02:42:0a:00:09:06"}});
    assert_eq!(driver.call("CreateEndpoint", &bare).await.succeeds(), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_endpoint_refuses_what_cannot_work_and_says_why() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let refused = [
        (json!({"Address": "", "AddressIPv6": ""}), "without an address"),
        (json!({"Address": "10.9.9.5/24"}), "10.9.9.5"),
        (json!({"Address": "10.0.9.5"}), "10.0.9.5"),
        (json!({"Address": "10.0.9.1/24"}), "gateway"),
        (json!({"Address": "10.0.9.5/24", "MacAddress": "zz"}), "zz"),
        (Value::Null, "without an address"),
    ];
    for (interface, part) in refused {
        let request =
            json!({"NetworkID": SWARM_NETWORK, "EndpointID": endpoint(1), "Interface": interface});
        driver.call("CreateEndpoint", &request).await.fails_with(part);
    }
    let request = create_endpoint(SWARM_NETWORK, "not-an-id", "10.0.9.5/24");
    driver.call("CreateEndpoint", &request).await.fails_with("not-an-id");
    assert!(driver.state().networks[&id(SWARM_NETWORK)].endpoints.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_endpoint_again_is_the_same_answer_and_another_under_its_id_is_refused() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let request = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    let first = driver.call("CreateEndpoint", &request).await;
    first.succeeds();
    let before = driver.state();
    assert_eq!(driver.call("CreateEndpoint", &request).await, first);
    assert_eq!(driver.state(), before);
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.6/24"))
        .await
        .fails_with("other addresses");
}

#[tokio::test(flavor = "multi_thread")]
async fn join_answers_the_link_and_the_halves_of_the_subnet_and_no_gateway() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let endpoint = endpoint(1);
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint, "10.0.9.5/24"))
        .await
        .succeeds();
    let reply = driver.call("Join", &join(SWARM_NETWORK, &endpoint)).await;
    let name = format!("wgc{}", &endpoint[..12]);
    assert_eq!(
        reply.succeeds(),
        &json!({
            "InterfaceName": {"SrcName": name, "DstPrefix": "eth"},
            "StaticRoutes": [
                {"Destination": "10.0.9.128/25", "RouteType": 0, "NextHop": "10.0.9.1"},
                {"Destination": "10.0.9.0/25", "RouteType": 0, "NextHop": "10.0.9.1"}
            ],
            "DisableGatewayService": false
        })
    );
    assert_eq!(
        driver.call("EndpointOperInfo", &of(SWARM_NETWORK, &endpoint)).await.succeeds(),
        &json!({"Value": {}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gwbridge_false_disables_the_gateway_service() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"gwbridge": "false"})))
        .await
        .succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    let reply = driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await;
    assert_eq!(reply.succeeds()["DisableGatewayService"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn join_leave_join_of_one_endpoint_works_and_the_sandbox_is_the_last_one() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let (network, endpoint) = (id(SWARM_NETWORK), endpoint(1));
    let sandbox =
        || driver.state().networks[&network].endpoints[&endpoint.parse().unwrap()].sandbox.clone();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint, "10.0.9.5/24"))
        .await
        .succeeds();
    assert_eq!(sandbox(), None);
    let first = driver.call("Join", &join(SWARM_NETWORK, &endpoint)).await;
    assert_eq!(sandbox().unwrap().to_str(), Some("/var/run/docker/netns/1a2b3c4d5e6f"));
    driver.call("Leave", &of(SWARM_NETWORK, &endpoint)).await.succeeds();
    assert_eq!(sandbox(), None);
    assert_eq!(driver.call("Join", &join(SWARM_NETWORK, &endpoint)).await, first);
    assert!(sandbox().is_some());
    let mut nameless = join(SWARM_NETWORK, &endpoint);
    nameless["SandboxKey"] = Value::Null;
    driver.call("Join", &nameless).await.fails_with("sandbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_endpoint_needs_no_leave_and_no_kernel() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.kernel.send_replace(Kernel::Fails("the veth pair is missing".to_owned()));
    driver.call("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    assert!(driver.state().networks[&id(SWARM_NETWORK)].endpoints.is_empty());
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_of_what_is_unknown_succeed_and_creations_on_it_fail() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    for network in [SWARM_NETWORK, &plain_network(9), "???", ""] {
        for method in ["Leave", "DeleteEndpoint"] {
            driver.call(method, &of(network, &endpoint(7))).await.succeeds();
            driver.call(method, &of(network, "???")).await.succeeds();
        }
        driver.call("Join", &join(network, &endpoint(8))).await.fails_with("");
        assert!(!driver.call("Join", &join(network, &endpoint(8))).await.err().is_empty());
    }
    for network in [&plain_network(9), "???", ""] {
        driver.call("DeleteNetwork", &only(network)).await.succeeds();
        driver.call("FreeNetwork", &only(network)).await.succeeds();
        let reply = driver
            .call("CreateEndpoint", &create_endpoint(network, &endpoint(8), "10.0.9.5/24"))
            .await;
        assert!(!reply.err().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_given_again_removes_the_endpoint_that_had_it() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.5/24"))
        .await
        .succeeds();
    let state = driver.state();
    let endpoints = &state.networks[&id(SWARM_NETWORK)].endpoints;
    assert_eq!(endpoints.keys().map(|id| id.to_string()).collect::<Vec<_>>(), [endpoint(2)]);
    assert_eq!(endpoints.values().next().unwrap().claim, 2, "and has the higher claim");
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.fails_with(&endpoint(1)[..12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_endpoint_id_is_not_taken_again_even_if_its_creation_comes_late() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let create = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    driver.call("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.call("CreateEndpoint", &create).await.fails_with("deleted already");
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .succeeds();
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .fails_with("deleted already");
}

/// Another host's records of a network.
fn view_with(key: &NetworkKey, address: &str, claim: u64, alive: bool) -> Arc<ClusterView> {
    let host = HostId([7; 16]);
    let mut view = ClusterView::default();
    let record = HostRecord {
        name: "other-host".to_owned(),
        underlay: vec!["192.0.2.12".parse().unwrap()],
        version: String::new(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([1; 16]),
    };
    view.hosts.insert(host, record);
    if alive {
        view.alive.insert(host);
    }
    let mut network = NetworkView::default();
    network.members.insert(host, MemberRecord::default());
    let address = address.parse().unwrap();
    let endpoint = EndpointRecord {
        addresses: vec![address],
        endpoint: endpoint(200).parse().unwrap(),
        host,
        mac: MacAddr::of_address(address),
        claim,
    };
    network.endpoints.insert(address, endpoint);
    view.networks.insert(key.clone(), network);
    Arc::new(view)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_above_every_claim_this_host_ever_saw() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let key = NetworkKey::swarm(&id(SWARM_NETWORK));
    driver.view.send_replace(view_with(&key, "10.0.9.5", 41, true));
    // In a swarm what its leader gave last is right, whoever else claims it.
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.view.send_replace(Arc::default());
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .succeeds();
    let claims: Vec<_> =
        driver.state().networks[&id(SWARM_NETWORK)].endpoints.values().map(|e| e.claim).collect();
    assert_eq!(claims, [42, 43]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_plain_engines_an_address_in_use_on_a_live_host_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let driver =
        Driver::start_with(dir.path(), Options { scope: Scope::Local, ..Options::default() });
    let network = plain_network(1);
    driver
        .call("CreateNetwork", &create_network(&network, &json!({"id": "blue"})))
        .await
        .succeeds();
    let key = NetworkKey::named("blue").unwrap();
    let create = create_endpoint(&network, &endpoint(1), "10.0.9.5/24");
    driver.view.send_replace(view_with(&key, "10.0.9.5", 3, true));
    let reply = driver.call("CreateEndpoint", &create).await;
    reply.fails_with("other-host");
    reply.fails_with("10.0.9.5");
    driver.view.send_replace(view_with(&key, "10.0.9.5", 3, false));
    driver.call("CreateEndpoint", &create).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_plain_engines_a_network_of_the_same_id_with_other_subnets_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let driver =
        Driver::start_with(dir.path(), Options { scope: Scope::Local, ..Options::default() });
    let network = plain_network(1);
    let create = create_network(&network, &json!({"id": "blue"}));
    driver.call("CreateNetwork", &create).await.succeeds();
    let key = NetworkKey::named("blue").unwrap();
    let create = create_endpoint(&network, &endpoint(1), "10.0.9.5/24");
    driver.view.send_replace(view_with(&key, "10.77.0.5", 3, true));
    let reply = driver.call("CreateEndpoint", &create).await;
    for word in ["10.77.0.5", "other-host", "--subnet"] {
        reply.fails_with(word);
    }
    // What a dead host left is in nobody's way.
    driver.view.send_replace(view_with(&key, "10.77.0.5", 3, false));
    driver.call("CreateEndpoint", &create).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_lost_its_address_cannot_be_joined_and_a_new_one_gets_the_address_back() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let create = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    driver.call("CreateEndpoint", &create).await.succeeds();
    let lost = endpoint(1).parse().unwrap();
    let lose = move |state: &mut wgnet_driver::journal::State| {
        state.supersede(&id(SWARM_NETWORK), &lost);
    };
    driver.journal.update(lose).await.unwrap();
    let key = NetworkKey::swarm(&id(SWARM_NETWORK));
    driver.view.send_replace(view_with(&key, "10.0.9.5", 7, true));
    driver.call("CreateEndpoint", &create).await.succeeds();
    driver
        .call("Join", &join(SWARM_NETWORK, &endpoint(1)))
        .await
        .fails_with("lost its address to a newer one");
    // Docker moves the address back, before or after it forgets the old endpoint.
    let again = create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.5/24");
    driver.call("CreateEndpoint", &again).await.succeeds();
    driver.call("Leave", &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.call("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(2))).await.succeeds();
    let state = driver.state();
    let claims: Vec<_> = state.networks[&id(SWARM_NETWORK)]
        .endpoints
        .values()
        .map(|endpoint| (endpoint.claim, endpoint.superseded))
        .collect();
    assert_eq!(claims, [(8, false)]);
}

/// Docker may forget a network before it lets go of the endpoints in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_networks_end_removes_nothing_of_its_next_life() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let create = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    driver.call("CreateEndpoint", &create).await.succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
    driver.call("CreateEndpoint", &create).await.fails_with("not known");
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.fails_with("not known");
    let network = create_network(SWARM_NETWORK, &json!({}));
    driver.call("CreateNetwork", &network).await.succeeds();
    let next = create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.5/24");
    driver.call("CreateEndpoint", &next).await.succeeds();
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(2))).await.succeeds();
    for late in ["Leave", "DeleteEndpoint", "DeleteEndpoint", "Leave"] {
        driver.call(late, &of(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    }
    driver.call("CreateEndpoint", &create).await.fails_with("deleted already");
    let state = driver.state();
    let endpoints = &state.networks[&id(SWARM_NETWORK)].endpoints;
    assert_eq!(endpoints.len(), 1);
    assert!(endpoints.values().all(|endpoint| endpoint.sandbox.is_some()));
}

/// From when the container is known, a missing pair is put right into it, and Docker makes it only
/// after Join.
#[tokio::test(flavor = "multi_thread")]
async fn join_notes_the_container_only_when_the_pair_is_there() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver.hang().await;
    let create = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    driver.call("CreateEndpoint", &create).await.succeeds();
    let before = driver.state().revision;
    let mut client = driver.connect().await;
    let body = join(SWARM_NETWORK, &endpoint(1)).to_string();
    client.send("Join", &body, "X-Wgnet-Expires-Ms: 300\r\n").await;
    client.reply().await.fails_with(&SWARM_NETWORK[..12]);
    assert_eq!(driver.state().revision, before);
    driver.kernel.send_replace(Kernel::Follows);
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.succeeds();
    driver.noted_join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn join_fails_with_the_kernels_reason_and_is_as_if_it_had_not_been() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver
        .kernel
        .send_replace(Kernel::Fails("cannot create veth pair wgv: no such device".to_owned()));
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.fails_with("no such device");
    let state = driver.state();
    assert!(
        state.networks[&id(SWARM_NETWORK)]
            .endpoints
            .values()
            .all(|endpoint| endpoint.sandbox.is_none())
    );
    driver.kernel.send_replace(Kernel::Follows);
    driver.call("Join", &join(SWARM_NETWORK, &endpoint(1))).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_is_claimed_before_the_last_known_records_are_in() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver.remembered.send_replace(false);
    let body = create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24");
    let creating = driver.call("CreateEndpoint", &body);
    let remembering = async {
        // The call listens for what the records say: it has come as far as that.
        let waits = async {
            while driver.remembered.receiver_count() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WITHIN, waits).await.expect("the call waits for the records");
        let key = NetworkKey::swarm(&id(SWARM_NETWORK));
        driver.view.send_replace(view_with(&key, "10.0.9.5", 7, true));
        driver.remembered.send_replace(true);
    };
    let (created, ()) = tokio::join!(creating, remembering);
    created.succeeds();
    let claims: Vec<_> =
        driver.state().networks[&id(SWARM_NETWORK)].endpoints.values().map(|e| e.claim).collect();
    assert_eq!(claims, [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_does_not_answer_ends_in_a_sentence_before_docker_gives_up() {
    let dir = TempDir::new().unwrap();
    let options = Options { apply_within: Duration::from_millis(300), ..Options::default() };
    let driver = Driver::start_with(dir.path(), options);
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.hang().await;
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .succeeds();
    let reply = driver.call("Join", &join(SWARM_NETWORK, &endpoint(2))).await;
    reply.fails_with(": it was not set up within");
    assert_eq!(reply.err().matches("network").count(), 1, "named once: {reply:?}");
    driver.call("DeleteEndpoint", &of(SWARM_NETWORK, &endpoint(2))).await.succeeds();
}
