//! What real engines sent to a plugin, sent to the driver's socket again in the same order.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[allow(unreachable_pub, reason = "the file belongs to a library")]
#[path = "../../tests/src/recording.rs"]
mod recording;
#[path = "protocol/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::IpNet;
use recording::{Event, our_options};
use serde_json::{Value, json};
use support::{Driver, Options};
use tempfile::TempDir;
use wgnet_driver::api::Scope;

fn recording(name: &str) -> Vec<Event> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/calls").join(name);
    recording::events(&std::fs::read_to_string(path).unwrap())
}

/// The hosts that lost power in a scene: their next start is another boot.
fn without_power(scene: &str) -> Vec<&'static str> {
    let cases: [(&str, &[&str]); 5] = [
        ("C6 host h2 power loss", &["h2"]),
        ("C8 manager power loss", &["h1"]),
        ("D4 promote h2 h3, then power-off of the leader h1", &["h1"]),
        ("D7 stop everything at once (all hosts power off)", &["h1", "h2", "h3"]),
        ("F7 power loss", &["h4"]),
    ];
    let case = cases.iter().find(|(name, _)| scene.starts_with(name));
    case.map(|(_, hosts)| hosts.to_vec()).unwrap_or_default()
}

/// What one host must have after the calls so far, kept apart from the driver's own notion of it.
#[derive(Default)]
struct Expected {
    /// Live networks with their (subnet, gateway) pairs.
    networks: BTreeMap<String, Vec<(IpNet, IpNet)>>,
    /// (network, endpoint) with the interface CreateEndpoint gave.
    endpoints: BTreeMap<(String, String), Value>,
    boots: u32,
    power_lost: bool,
}

impl Expected {
    fn reboot(&mut self) {
        self.endpoints.clear();
        // Swarm's have 25 characters, and come again.
        self.networks.retain(|id, _| id.len() == 64);
    }
}

struct Replay {
    dir: TempDir,
    drivers: BTreeMap<String, Driver>,
    expected: BTreeMap<String, Expected>,
    /// By network: what AllocateNetwork answered, which swarm hands to every host.
    allocated: BTreeMap<String, Value>,
    calls: BTreeMap<String, usize>,
    refused: Vec<String>,
}

impl Replay {
    async fn start(&mut self, host: &str) {
        if let Some(running) = self.drivers.remove(host) {
            running.kill().await;
        }
        let expected = self.expected.entry(host.to_owned()).or_default();
        if std::mem::take(&mut expected.power_lost) {
            expected.boots += 1;
            expected.reboot();
        }
        let options = Options {
            scope: if host == "h4" { Scope::Local } else { Scope::Global },
            boot: format!("boot-{}", expected.boots),
            ..Options::default()
        };
        let dir = self.dir.path().join(host);
        std::fs::create_dir_all(&dir).unwrap();
        self.drivers.insert(host.to_owned(), Driver::start_with(&dir, options));
    }

    async fn call(&mut self, host: &str, method: &str, mut body: Option<Value>) {
        let network =
            body.as_ref().and_then(|body| body["NetworkID"].as_str()).unwrap_or("").to_owned();
        match (method, &mut body) {
            ("AllocateNetwork", Some(body)) => body["Options"] = our_options(&body["Options"]),
            ("CreateNetwork", Some(body)) => {
                let generic = &mut body["Options"]["com.docker.network.generic"];
                *generic =
                    self.allocated.get(&network).cloned().unwrap_or_else(|| our_options(generic));
            }
            _ => {}
        }
        let mut client = self.drivers[host].connect().await;
        let reply = match &body {
            Some(body) => client.post(method, body).await,
            None if method.starts_with("Plugin.") => client.post_empty(&format!("/{method}")).await,
            None => client.post_empty(method).await,
        };
        *self.calls.entry(method.to_owned()).or_default() += 1;
        let context = format!("{host} {method} {body:?}: {reply:?}");
        let expected = self.expected.get_mut(host).unwrap();
        let Some(body) = body else {
            match method {
                "Plugin.Activate" => {
                    assert_eq!(reply.body, json!({"Implements": ["NetworkDriver"]}), "{context}")
                }
                "GetCapabilities" => {
                    let scope = if host == "h4" { "local" } else { "global" };
                    assert_eq!(
                        reply.body,
                        json!({"Scope": scope, "ConnectivityScope": "global"}),
                        "{context}"
                    );
                }
                // dockerd repeated a lost call without its body.
                _ => {
                    assert_eq!((reply.status, reply.err().is_empty()), (400, false), "{context}");
                    self.refused.push(method.to_owned());
                }
            }
            return;
        };
        let endpoint = (network.clone(), body["EndpointID"].as_str().unwrap_or("").to_owned());
        // Each host has IPv6 addresses of its own to give, which nobody coordinates.
        let is_dual = body["IPv6Data"].as_array().is_some_and(|pools| !pools.is_empty());
        let may = match method {
            "CreateNetwork" => !is_dual || network.len() == 64,
            "CreateEndpoint" => expected.networks.contains_key(&network),
            "Join" => expected.endpoints.contains_key(&endpoint),
            _ => true,
        };
        if !may {
            reply.fails_with(&network[..12]);
            self.refused.push(method.to_owned());
            return;
        }
        assert!(reply.status == 200 && reply.err().is_empty(), "{context}");
        let answer = match method {
            "AllocateNetwork" => {
                self.allocated.insert(network, body["Options"].clone());
                json!({"Options": body["Options"]})
            }
            "CreateNetwork" => {
                expected.networks.insert(network, subnets(&body));
                json!({})
            }
            "DeleteNetwork" => {
                expected.networks.remove(&network);
                expected.endpoints.retain(|(of, _), _| *of != network);
                json!({})
            }
            "CreateEndpoint" => {
                let interface = &body["Interface"];
                // Docker's address management is right: an older endpoint with the address is gone.
                expected.endpoints.retain(|(of, _), old| {
                    *of != network || old["Address"] != interface["Address"]
                });
                expected.endpoints.insert(endpoint, interface.clone());
                match interface["MacAddress"].as_str() {
                    Some("") => json!({"Interface": {"MacAddress": mac_of(interface)}}),
                    _ => json!({"Interface": {}}),
                }
            }
            "Join" => {
                joined(&expected.networks[&network], &expected.endpoints[&endpoint], &endpoint.1)
            }
            "DeleteEndpoint" => {
                expected.endpoints.remove(&endpoint);
                json!({})
            }
            "EndpointOperInfo" => json!({"Value": {}}),
            _ => json!({}),
        };
        assert_eq!(reply.body, answer, "{context}");
    }

    /// Every driver has exactly what its host should have.
    fn check_states(&self) {
        for (host, driver) in &self.drivers {
            let (state, expected) = (driver.state(), &self.expected[host]);
            let live: BTreeSet<String> = state
                .networks
                .iter()
                .filter(|(_, network)| !network.lingering)
                .map(|(id, _)| id.to_string())
                .collect();
            assert_eq!(live, expected.networks.keys().cloned().collect(), "{host}");
            let endpoints: BTreeSet<(String, String)> = state
                .networks
                .iter()
                .flat_map(|(id, network)| {
                    network
                        .endpoints
                        .keys()
                        .map(move |endpoint| (id.to_string(), endpoint.to_string()))
                })
                .collect();
            assert_eq!(endpoints, expected.endpoints.keys().cloned().collect(), "{host}");
        }
    }
}

fn subnets(body: &Value) -> Vec<(IpNet, IpNet)> {
    let lists = [&body["IPv4Data"], &body["IPv6Data"]];
    let items = lists.into_iter().filter_map(Value::as_array).flatten();
    let net = |value: &Value| value.as_str().unwrap().parse().unwrap();
    items.map(|item| (net(&item["Pool"]), net(&item["Gateway"]))).collect()
}

fn mac_of(interface: &Value) -> String {
    let address: IpNet = interface["Address"].as_str().unwrap().parse().unwrap();
    let std::net::IpAddr::V4(v4) = address.addr() else { panic!("IPv4 comes first") };
    let [a, b, c, d] = v4.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn joined(subnets: &[(IpNet, IpNet)], interface: &Value, endpoint: &str) -> Value {
    let addresses =
        ["Address", "AddressIPv6"].into_iter().filter_map(|key| interface[key].as_str());
    let addresses =
        addresses.filter(|text| !text.is_empty()).map(|text| text.parse::<IpNet>().unwrap());
    let mut routes = Vec::new();
    for address in addresses {
        let (pool, gateway) =
            subnets.iter().find(|(pool, _)| pool.contains(&address.addr())).unwrap();
        let mut halves: Vec<IpNet> = pool.subnets(pool.prefix_len() + 1).unwrap().collect();
        halves.sort_by_key(|half| half.contains(&gateway.addr()));
        let route = |half: &IpNet| json!({"Destination": half.to_string(), "RouteType": 0, "NextHop": gateway.addr().to_string()});
        routes.extend(halves.iter().map(route));
    }
    json!({
        "InterfaceName": {"SrcName": format!("wgc{}", &endpoint[..12]), "DstPrefix": "eth"},
        "StaticRoutes": routes,
        "DisableGatewayService": false
    })
}

/// Replays a recording and returns what had to be refused in it.
async fn replay(name: &str) -> Vec<String> {
    let mut replay = Replay {
        dir: TempDir::new().unwrap(),
        drivers: BTreeMap::new(),
        expected: BTreeMap::new(),
        allocated: BTreeMap::new(),
        calls: BTreeMap::new(),
        refused: Vec::new(),
    };
    for event in recording(name) {
        match event {
            Event::Scene(scene) => {
                println!("{scene}");
                replay.check_states();
                for host in without_power(&scene) {
                    replay.expected.get_mut(host).unwrap().power_lost = true;
                }
            }
            Event::Start { host } => replay.start(&host).await,
            Event::Call { host, method, body } => replay.call(&host, &method, body).await,
        }
    }
    replay.check_states();
    println!("{name}: {:?}, refused {:?}", replay.calls, replay.refused);
    assert!(replay.calls["Join"] >= 5, "the recording is not empty");
    replay.refused
}

const NOTHING: [&str; 0] = [];

/// The one network with --ipv6, in a swarm, and its one container.
const WITH_IPV6: [&str; 3] = ["CreateNetwork", "CreateEndpoint", "Join"];

#[tokio::test(flavor = "multi_thread")]
async fn normal_life_of_20_10_is_answered() {
    assert_eq!(replay("20.10-A-normal-life.jsonl").await, WITH_IPV6);
}

#[tokio::test(flavor = "multi_thread")]
async fn normal_life_of_26_1_is_answered() {
    assert_eq!(replay("26.1-A-normal-life.jsonl").await, WITH_IPV6);
}

#[tokio::test(flavor = "multi_thread")]
async fn normal_life_of_28_5_is_answered() {
    assert_eq!(replay("28.5-A-normal-life.jsonl").await, NOTHING);
}

/// A call that was cut off came again without its body, and the Join after it has no endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_20_10_are_answered() {
    assert_eq!(replay("20.10-B-crashes.jsonl").await, ["CreateEndpoint", "Join"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_28_5_are_answered() {
    assert_eq!(replay("28.5-B-crashes.jsonl").await, ["CreateEndpoint", "Join"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_engines_of_20_10_are_answered() {
    assert_eq!(replay("20.10-C-legacy-nonswarm-liverestore.jsonl").await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_engines_of_28_5_are_answered() {
    assert_eq!(replay("28.5-C-legacy-nonswarm-liverestore.jsonl").await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_drills_of_20_10_are_answered() {
    assert_eq!(replay("20.10-D-drills.jsonl").await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_options_that_wgnet_does_not_know_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let driver = Driver::start(dir.path());
    let mut seen = 0;
    for event in recording("28.5-A-normal-life.jsonl") {
        let Event::Call { method, body: Some(body), .. } = event else {
            continue;
        };
        let generic = body["Options"]["com.docker.network.generic"].as_object();
        let Some(unknown) = generic.and_then(|options| options.keys().next()) else {
            continue;
        };
        if method == "CreateNetwork" {
            seen += 1;
            driver.call("CreateNetwork", &body).await.fails_with(unknown);
        }
    }
    assert!(seen > 5);
}
