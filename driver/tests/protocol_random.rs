//! Calls in any order, repeated, late, empty and senseless: never a panic, never success for a creation
//! on what is unknown, always success for removals, and the same answer to the same call.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[path = "protocol/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Action {
    CreateNetwork {
        network: usize,
        options: usize,
    },
    DeleteNetwork {
        network: usize,
    },
    FreeNetwork {
        network: usize,
    },
    AllocateNetwork {
        network: usize,
        options: usize,
    },
    CreateEndpoint {
        network: usize,
        endpoint: u8,
        address: u8,
    },
    Join {
        network: usize,
        endpoint: u8,
    },
    Leave {
        network: usize,
        endpoint: u8,
    },
    DeleteEndpoint {
        network: usize,
        endpoint: u8,
    },
    OperInfo {
        network: usize,
        endpoint: u8,
    },
    /// A call whose body is no JSON object.
    Senseless {
        method: usize,
        body: usize,
    },
    Restart,
    Boot,
}

const METHODS: [&str; 10] = [
    "AllocateNetwork",
    "FreeNetwork",
    "CreateNetwork",
    "DeleteNetwork",
    "CreateEndpoint",
    "DeleteEndpoint",
    "EndpointOperInfo",
    "Join",
    "Leave",
    "DiscoverNew",
];
const SENSELESS: [&str; 5] = ["", "\n", "null", "[1]", "{\"NetworkID\":"];

/// The last one is never created, and no id at all.
fn network_id(network: usize) -> String {
    [SWARM_NETWORK.to_owned(), plain_network(1), plain_network(9), "?".to_owned()][network].clone()
}

const OPTIONS: [&str; 3] = [r#"{}"#, r#"{"mtu":"1300"}"#, r#"{"colour":"red"}"#];
const BAD_OPTIONS: usize = 2;

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let (network, endpoint) = (0usize..4, 1u8..5);
    let action = prop_oneof![
        6 => (0usize..2, 0usize..3).prop_map(|(network, options)| Action::CreateNetwork { network, options }),
        2 => network.clone().prop_map(|network| Action::DeleteNetwork { network }),
        1 => network.clone().prop_map(|network| Action::FreeNetwork { network }),
        1 => (0usize..3, 0usize..3).prop_map(|(network, options)| Action::AllocateNetwork { network, options }),
        9 => (network.clone(), endpoint.clone(), 5u8..9)
            .prop_map(|(network, endpoint, address)| Action::CreateEndpoint { network, endpoint, address }),
        6 => (network.clone(), endpoint.clone()).prop_map(|(network, endpoint)| Action::Join { network, endpoint }),
        3 => (network.clone(), endpoint.clone()).prop_map(|(network, endpoint)| Action::Leave { network, endpoint }),
        3 => (network.clone(), endpoint.clone()).prop_map(|(network, endpoint)| Action::DeleteEndpoint { network, endpoint }),
        1 => (network, endpoint).prop_map(|(network, endpoint)| Action::OperInfo { network, endpoint }),
        1 => (0..METHODS.len(), 0..SENSELESS.len()).prop_map(|(method, body)| Action::Senseless { method, body }),
        1 => Just(Action::Restart),
        1 => Just(Action::Boot),
    ];
    prop::collection::vec(action, 1..40)
}

/// What must be there, kept without the driver's code.
#[derive(Default)]
struct Model {
    /// Live networks and which options they have.
    networks: BTreeMap<usize, usize>,
    /// (network, endpoint) and its address.
    endpoints: BTreeMap<(usize, u8), u8>,
    deleted: BTreeSet<u8>,
}

impl Model {
    /// Whether the action must succeed; and what it does then.
    fn expect(&mut self, action: &Action) -> bool {
        match *action {
            Action::CreateNetwork { network, options } => {
                let occupied = self.endpoints.keys().any(|(of, _)| *of == network);
                let other = self.networks.get(&network).is_some_and(|now| *now != options);
                let may = options != BAD_OPTIONS && !(occupied && other);
                if may {
                    self.networks.insert(network, options);
                }
                may
            }
            Action::DeleteNetwork { network } => {
                self.networks.remove(&network);
                let gone: Vec<_> =
                    self.endpoints.keys().filter(|(of, _)| *of == network).copied().collect();
                gone.iter().for_each(|endpoint| self.delete(*endpoint));
                true
            }
            Action::CreateEndpoint { network, endpoint, address } => {
                if !self.networks.contains_key(&network) {
                    return false;
                }
                if let Some(now) = self.endpoints.get(&(network, endpoint)) {
                    return *now == address;
                }
                if self.deleted.contains(&endpoint) {
                    return false;
                }
                let stale =
                    self.endpoints.iter().find(|((of, _), has)| *of == network && **has == address);
                if let Some(stale) = stale.map(|(endpoint, _)| *endpoint) {
                    self.delete(stale);
                }
                self.endpoints.insert((network, endpoint), address);
                true
            }
            Action::Join { network, endpoint } => self.endpoints.contains_key(&(network, endpoint)),
            Action::DeleteEndpoint { network, endpoint } => {
                // An id of no network is of no endpoint either.
                if network != 3 {
                    self.delete((network, endpoint));
                }
                true
            }
            Action::Boot => {
                self.networks.remove(&0);
                self.endpoints.clear();
                self.deleted.clear();
                true
            }
            _ => true,
        }
    }

    fn delete(&mut self, endpoint: (usize, u8)) {
        self.endpoints.remove(&endpoint);
        self.deleted.insert(endpoint.1);
    }
}

fn request(action: &Action) -> Option<(&'static str, Value)> {
    let of = |network: usize, number: u8| of(&network_id(network), &endpoint(number));
    Some(match *action {
        Action::CreateNetwork { network, options } => (
            "CreateNetwork",
            create_network(&network_id(network), &serde_json::from_str(OPTIONS[options]).unwrap()),
        ),
        Action::AllocateNetwork { network, options } => {
            let options: Value = serde_json::from_str(OPTIONS[options]).unwrap();
            ("AllocateNetwork", json!({"NetworkID": network_id(network), "Options": options}))
        }
        Action::DeleteNetwork { network } => ("DeleteNetwork", only(&network_id(network))),
        Action::FreeNetwork { network } => ("FreeNetwork", only(&network_id(network))),
        Action::CreateEndpoint { network, endpoint: number, address } => (
            "CreateEndpoint",
            create_endpoint(
                &network_id(network),
                &endpoint(number),
                &format!("10.0.9.{address}/24"),
            ),
        ),
        Action::Join { network, endpoint: number } => {
            ("Join", join(&network_id(network), &endpoint(number)))
        }
        Action::Leave { network, endpoint } => ("Leave", of(network, endpoint)),
        Action::DeleteEndpoint { network, endpoint } => ("DeleteEndpoint", of(network, endpoint)),
        Action::OperInfo { network, endpoint } => ("EndpointOperInfo", of(network, endpoint)),
        Action::Senseless { .. } | Action::Restart | Action::Boot => return None,
    })
}

async fn run(actions: Vec<Action>) {
    let dir = TempDir::new().unwrap();
    let (mut model, mut boots) = (Model::default(), 0);
    let options = |boots: u32| Options { boot: format!("boot-{boots}"), ..Options::default() };
    let mut driver = Driver::start_with(dir.path(), options(boots));
    for action in actions {
        let may = model.expect(&action);
        let Some((method, body)) = request(&action) else {
            match action {
                Action::Senseless { method, body } => {
                    let reply = driver
                        .connect()
                        .await
                        .post_with(METHODS[method], SENSELESS[body], "")
                        .await;
                    assert!(reply.status == 400 && !reply.err().is_empty(), "{reply:?}");
                }
                Action::Boot => {
                    boots += 1;
                    driver.kill().await;
                    driver = Driver::start_with(dir.path(), options(boots));
                }
                _ => {
                    driver.stop().await;
                    driver = Driver::start_with(dir.path(), options(boots));
                }
            }
            continue;
        };
        let first = driver.call(method, &body).await;
        assert_eq!((first.status, first.err().is_empty()), (200, may), "{action:?}: {first:?}");
        assert_eq!(driver.call(method, &body).await, first, "{action:?} again");
    }
    let state = driver.state();
    let live =
        (0..2).filter(|network| state.live(&network_id(*network).parse().unwrap()).is_some());
    assert_eq!(live.collect::<Vec<_>>(), model.networks.keys().copied().collect::<Vec<_>>());
    let endpoints: usize = state.networks.values().map(|network| network.endpoints.len()).sum();
    assert_eq!(endpoints, model.endpoints.len());
    driver.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_is_answered_as_the_protocol_wants(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(actions));
    }
}
