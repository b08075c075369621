//! What the calls about networks do and answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wgnet_core::ClusterView;
use wgnet_driver::api::Scope;
use wgnet_driver::journal::FREED_LINGER;
use wgnet_proto::record::HostRecord;
use wgnet_proto::{HostId, Incarnation, NetworkKey};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn allocate_network_echoes_every_option_and_depends_on_nothing_else() {
    let asked =
        json!({"mtu": "1370", "com.docker.network.advertise_addr_nmsgs": "1", "no.such": "x"});
    let mut answers = Vec::new();
    for _ in 0..2 {
        let dir = TempDir::new().unwrap();
        let driver = Driver::start(dir.path());
        let body = json!({"NetworkID": SWARM_NETWORK, "Options": asked, "IPv6Data": null,
            "IPv4Data": [{"AddressSpace": "", "Pool": "10.0.9.0/24", "Gateway": "10.0.9.1/24"}]});
        let first = driver.call("AllocateNetwork", &body).await;
        assert_eq!(first.succeeds(), &json!({"Options": asked}));
        // Another leader asks with what the first one answered.
        let body = json!({"NetworkID": SWARM_NETWORK, "Options": first.body["Options"]});
        assert_eq!(driver.call("AllocateNetwork", &body).await, first);
        answers.push(first);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn allocate_network_answers_a_map_when_there_are_no_options() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for options in [json!({"Options": null}), json!({}), json!({"Options": {}})] {
        let mut body = json!({"NetworkID": SWARM_NETWORK});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        assert_eq!(driver.call("AllocateNetwork", &body).await.succeeds(), &json!({"Options": {}}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_option_fails_create_network_by_name_and_is_a_problem_until_mended() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (options, part) in [
        (json!({"colour": "red"}), "colour"),
        (json!({"mtu": "12"}), "mtu"),
        (json!({"id": "blue"}), "id"),
    ] {
        let reply = driver
            .call("AllocateNetwork", &json!({"NetworkID": SWARM_NETWORK, "Options": options}))
            .await;
        assert_eq!(
            reply.succeeds(),
            &json!({"Options": options}),
            "AllocateNetwork never fails for options"
        );
        assert!(driver.problems.list()[0].cause.contains(part));
        let reply = driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &options)).await;
        reply.fails_with(part);
        let problems = driver.problems.list();
        assert_eq!((problems.len(), problems[0].code.as_str()), (1, "bad-option"));
        assert_eq!(problems[0].object, format!("network {}", &SWARM_NETWORK[..12]));
    }
    let reply = driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"colour": "red"})))
        .await;
    for known in ["mtu", "port", "keepalive", "gwbridge", "id"] {
        reply.fails_with(known);
    }
    assert!(driver.state().networks.is_empty());
    driver
        .call(
            "CreateNetwork",
            &create_network(SWARM_NETWORK, &json!({"com.docker.network.x": "y"})),
        )
        .await
        .succeeds();
    assert!(driver.problems.list().is_empty());
}

/// As 20.10 and 26.1 ask: the allocator has all pools as IPv4, each host its own of IPv6.
#[tokio::test(flavor = "multi_thread")]
async fn a_swarms_network_with_ipv6_is_refused_and_shown_until_it_is_removed() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let [four, six] = [("10.53.0.0/24", "10.53.0.1/24"), ("fd00:53::/64", "fd00:53::1/64")]
        .map(|(pool, gateway)| json!({"AddressSpace": "", "Pool": pool, "Gateway": gateway}));
    let of_leader = json!({"NetworkID": SWARM_NETWORK, "Options": {}, "IPv4Data": [six, four],
        "IPv6Data": null});
    let of_host = json!({"NetworkID": SWARM_NETWORK, "IPv4Data": [four], "IPv6Data": [six],
        "Options": {"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {}}});
    let only = json!({"NetworkID": SWARM_NETWORK});
    for last in ["FreeNetwork", "DeleteNetwork"] {
        driver.call("AllocateNetwork", &of_leader).await.succeeds();
        let told = driver.problems.list();
        assert_eq!((told.len(), told[0].code.as_str()), (1, "bad-option"));
        driver.call("CreateNetwork", &of_host).await.fails_with("without --ipv6");
        assert!(driver.state().networks.is_empty());
        let told = driver.problems.list();
        assert_eq!((told.len(), told[0].code.as_str()), (1, "bad-option"));
        let twice = told[0].cause.contains(&told[0].object);
        assert!(told[0].cause.starts_with("--ipv6 does not work in a swarm") && !twice, "{told:?}");
        driver.call(last, &only).await.succeeds();
        assert!(driver.problems.list().is_empty(), "{last}");
    }
    let mut plain = of_host;
    plain["NetworkID"] = json!(plain_network(1));
    driver.call("CreateNetwork", &plain).await.succeeds();
    assert_eq!(driver.state().networks[&id(&plain_network(1))].definition.subnets.len(), 2);
}

/// Nobody tells a host whose swarm removed a network that it refused; Docker has nothing of one that a
/// plain engine refused.
#[tokio::test]
async fn a_refused_network_is_no_problem_any_more_once_nobody_wants_it() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let red = json!({"colour": "red"});
    driver
        .call("CreateNetwork", &create_network(&plain_network(1), &red))
        .await
        .fails_with("colour");
    assert!(driver.problems.list().is_empty(), "its user has read it");
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &red)).await.fails_with("colour");
    assert_eq!(driver.problems.list().len(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(119)).await;
    assert_eq!(driver.problems.list().len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(driver.problems.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn create_network_twice_is_one_network() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let before = driver.state();
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    assert_eq!(driver.state(), before);
    let network = &before.networks[&id(SWARM_NETWORK)];
    assert_eq!(
        (network.slots.len(), network.slots[0].port, network.definition.mtu),
        (1, 51820, 1420)
    );
    assert_eq!(network.slots[0].made, Some(MADE.as_secs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_replaces_a_network_without_endpoints_only() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let key = driver.state().networks[&id(SWARM_NETWORK)].slots[0].private_key.clone();
    driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"mtu": "1300"})))
        .await
        .succeeds();
    let network = driver.state().networks[&id(SWARM_NETWORK)].clone();
    assert_eq!(network.definition.mtu, 1300);
    assert!(network.slots[0].private_key == key, "the key stays");
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"mtu": "1400"})))
        .await
        .fails_with("1 endpoints");
    driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"mtu": "1300"})))
        .await
        .succeeds();
    assert_eq!(driver.state().networks[&id(SWARM_NETWORK)].endpoints.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_missing_null_and_empty_parts_are_understood() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let data = json!([{"AddressSpace": "LocalDefault", "Pool": "10.0.9.0/24"}]);
    let generic = |generic: Value| json!({"com.docker.network.enable_ipv4": true, "com.docker.network.generic": generic});
    let requests = [
        json!({"IPv4Data": data}),
        json!({"IPv4Data": data, "IPv6Data": null, "Options": null}),
        json!({"IPv4Data": data, "IPv6Data": [], "Options": {}, "New": {"field": [1, 2]}}),
        json!({"IPv4Data": data, "IPv6Data": null, "Options": generic(Value::Null)}),
        json!({"IPv4Data": data, "IPv6Data": null, "Options": generic(json!({}))}),
        json!({"IPv4Data": [], "IPv6Data": [{"Pool": "fd00:53::/64", "Gateway": "fd00:53::1/64", "AuxAddresses": {"r": "fd00:53::9/64"}}]}),
        json!({"IPv4Data": null, "IPv6Data": [{"Pool": "fd00:53::/64", "Gateway": null}]}),
        json!({"IPv4Data": data, "Options": {"com.docker.network.internal": true, "com.docker.network.enable_ipv6": null}}),
    ];
    for (n, mut request) in requests.into_iter().enumerate() {
        let network = plain_network(n as u8 + 1);
        request["NetworkID"] = json!(network);
        driver.call("CreateNetwork", &request).await.succeeds();
        let made = driver.state().networks[&id(&network)].clone();
        assert_eq!(made.definition.subnets.len(), 1);
        assert_eq!(made.definition.internal, n == 7);
    }
    for request in
        [json!({"NetworkID": SWARM_NETWORK, "IPv4Data": []}), json!({"NetworkID": SWARM_NETWORK})]
    {
        driver.call("CreateNetwork", &request).await.fails_with("no subnet");
    }
    let request = json!({"NetworkID": SWARM_NETWORK, "IPv4Data": [{"Pool": "10.0.9.0/40"}]});
    driver.call("CreateNetwork", &request).await.fails_with("10.0.9.0/40");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_and_create_of_a_network_keep_its_key_and_port() {
    let dir = TempDir::new().unwrap();
    let driver = with_network(&dir).await;
    let slots = driver.state().networks[&id(SWARM_NETWORK)].slots.clone();
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(1), "10.0.9.5/24"))
        .await
        .succeeds();
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
    let state = driver.state();
    let network = &state.networks[&id(SWARM_NETWORK)];
    assert!(network.lingering && network.endpoints.is_empty());
    driver
        .call("CreateEndpoint", &create_endpoint(SWARM_NETWORK, &endpoint(2), "10.0.9.6/24"))
        .await
        .fails_with("not known");
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
    driver.call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({}))).await.succeeds();
    let network = driver.state().networks[&id(SWARM_NETWORK)].clone();
    assert!(!network.lingering && network.slots == slots);
}

#[tokio::test(flavor = "multi_thread")]
async fn free_network_is_noted_for_the_cluster() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for _ in 0..2 {
        driver.call("FreeNetwork", &only(SWARM_NETWORK)).await.succeeds();
        let freed: Vec<_> = driver.state().freed.iter().map(NetworkKey::to_string).collect();
        assert_eq!(freed, [format!("s-{SWARM_NETWORK}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_replaced_by_another_and_reported() {
    let dir = TempDir::new().unwrap();
    let options = Options { foreign_ports: vec![51900], ..Options::default() };
    let driver = Driver::start_with(dir.path(), options);
    driver
        .call("CreateNetwork", &create_network(SWARM_NETWORK, &json!({"port": "51900"})))
        .await
        .succeeds();
    assert_eq!(driver.state().networks[&id(SWARM_NETWORK)].slots[0].port, 51820);
    let problem = &driver.problems.list()[0];
    assert_eq!(problem.code, "port-taken");
    assert!(
        problem.cause.contains("51900") && problem.cause.contains("51820"),
        "{}",
        problem.cause
    );
    driver.call("DeleteNetwork", &only(SWARM_NETWORK)).await.succeeds();
    assert!(driver.problems.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_created_at_once_get_different_ports_and_keys() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let driver = &driver;
    let all = (1..=8u8).map(|n| async move {
        driver
            .call("CreateNetwork", &create_network(&plain_network(n), &json!({})))
            .await
            .succeeds();
    });
    futures::future::join_all(all).await;
    let state = driver.state();
    assert_eq!(state.ports(None).len(), 8);
    let keys: BTreeMap<_, _> =
        state.networks.values().map(|n| (*n.slots[0].private_key.expose(), ())).collect();
    assert_eq!(keys.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_network_id_names_one_network_of_a_plain_engine() {
    let dir = TempDir::new().unwrap();
    let driver =
        Driver::start_with(dir.path(), Options { scope: Scope::Local, ..Options::default() });
    let blue = json!({"id": "blue"});
    let first = plain_network(1);
    driver.call("CreateNetwork", &create_network(&first, &blue)).await.succeeds();
    let container = create_endpoint(&first, &endpoint(1), "10.0.9.5/24");
    driver.call("CreateEndpoint", &container).await.succeeds();
    let second = create_network(&plain_network(2), &blue);
    driver.call("CreateNetwork", &second).await.fails_with("blue");
    let slots = driver.state().networks[&id(&first)].slots.clone();
    driver.call("DeleteNetwork", &only(&first)).await.succeeds();
    driver.call("CreateNetwork", &second).await.succeeds();
    let state = driver.state();
    let now = &state.networks[&id(&plain_network(2))].slots;
    assert_eq!(*now, slots, "a new Docker id, the same member");
}

/// dockerd forgets a network though its driver was away and never heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_docker_removed_in_silence_is_in_nobodys_way() {
    let dir = TempDir::new().unwrap();
    let driver =
        Driver::start_with(dir.path(), Options { scope: Scope::Local, ..Options::default() });
    let blue = json!({"id": "blue"});
    for n in 1..=3 {
        driver.call("CreateNetwork", &create_network(&plain_network(n), &blue)).await.succeeds();
    }
    let state = driver.state();
    let live: Vec<_> = state.networks.values().filter(|network| !network.lingering).collect();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].definition.docker_id, id(&plain_network(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_engine_learns_at_once_that_a_network_cannot_be_set_up() {
    let dir = TempDir::new().unwrap();
    let driver =
        Driver::start_with(dir.path(), Options { scope: Scope::Local, ..Options::default() });
    driver.kernel.send_replace(Kernel::Fails(
        "cannot create WireGuard interface wg0: not supported".to_owned(),
    ));
    let create = create_network(&plain_network(1), &json!({}));
    driver.call("CreateNetwork", &create).await.fails_with("not supported");
    assert!(
        driver.state().networks.values().all(|network| network.lingering),
        "Docker will not delete it"
    );
    driver.kernel.send_replace(Kernel::Follows);
    driver.call("CreateNetwork", &create).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_engine_means_a_removal_and_a_swarm_may_create_the_network_again() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let plain = plain_network(1);
    for (network, options) in [(&*plain, json!({"id": "blue"})), (SWARM_NETWORK, json!({}))] {
        driver.call("CreateNetwork", &create_network(network, &options)).await.succeeds();
        driver.call("DeleteNetwork", &only(network)).await.succeeds();
    }
    let (state, now) = (driver.state(), driver.journal.uptime());
    assert!(state.lingers_until[&id(&plain)] <= now + FREED_LINGER);
    assert!(state.lingers_until[&id(SWARM_NETWORK)] > now + FREED_LINGER * 2);
}

/// Swarm's user reads no answer of CreateNetwork.
#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_no_network_can_have_is_refused_and_a_problem_in_a_swarm() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    for (pool, gateway, part) in
        [("127.0.0.0/16", "127.0.0.1/16", "loopback"), ("10.0.9.0/24", "10.0.8.1/24", "10.0.8.1")]
    {
        let data = json!([{"AddressSpace": "", "Pool": pool, "Gateway": gateway}]);
        for network in [SWARM_NETWORK.to_owned(), plain_network(1)] {
            let asked = json!({"NetworkID": network, "IPv4Data": data});
            driver.call("CreateNetwork", &asked).await.fails_with(part);
        }
        let asked = json!({"NetworkID": SWARM_NETWORK, "Options": {}, "IPv4Data": data});
        assert_eq!(driver.call("AllocateNetwork", &asked).await.succeeds()["Options"], json!({}));
        let told = driver.problems.list();
        assert_eq!((told.len(), told[0].code.as_str()), (1, "bad-option"));
        assert!(told[0].cause.contains(part), "{told:?}");
    }
    assert!(driver.state().networks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_holds_a_hosts_address_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let create = create_network(SWARM_NETWORK, &json!({}));
    let record = HostRecord {
        name: "other-host".to_owned(),
        underlay: vec!["10.0.9.12".parse().unwrap()],
        version: String::new(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([1; 16]),
    };
    let mut view = ClusterView::default();
    view.hosts.insert(HostId([7; 16]), record);
    driver.view.send_replace(Arc::new(view.clone()));
    let reply = driver.call("CreateNetwork", &create).await;
    for part in ["10.0.9.0/24", "10.0.9.12", "other-host", "--subnet"] {
        reply.fails_with(part);
    }
    assert!(driver.problems.list()[0].cause.contains("10.0.9.12"));
    assert!(driver.state().networks.is_empty());
    let told = driver.problems.watch();
    driver.call("CreateNetwork", &create).await.fails_with("10.0.9.12");
    assert!(!told.has_changed().unwrap(), "it is the same problem as before");

    driver.view.send_replace(Arc::default());
    driver.call("CreateNetwork", &create).await.succeeds();
    assert!(driver.problems.list().is_empty());
    // A host that came later is no reason to end what is there.
    driver.view.send_replace(Arc::new(view));
    driver.call("CreateNetwork", &create).await.succeeds();
}
