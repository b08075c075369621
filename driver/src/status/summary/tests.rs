use std::time::Duration;

use proptest::prelude::*;
use wgnet_proto::status::{EndpointStatus, MemberStatus, StoreStatus};
use wgnet_proto::{IfName, MacAddr, Path};

use super::*;

const ME: HostId = HostId([1; 16]);

fn member(number: usize, sent_bytes: u64) -> MemberStatus {
    let mut bytes = [2; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    MemberStatus {
        host_id: HostId(bytes[..16].try_into().unwrap()),
        name: format!("h{number}"),
        public_key: PublicKey(bytes),
        underlay: Some("[2001:db8::1]:51820".parse().unwrap()),
        handshake_age: Some(5),
        received_bytes: 1 << 40,
        sent_bytes,
    }
}

fn network(number: usize, members: usize) -> NetworkStatus {
    let docker_id = format!("{number:025}").parse().unwrap();
    let endpoint = |n: u8| EndpointStatus {
        id: "ab".repeat(32).parse().unwrap(),
        addresses: vec![[10, 50, 0, n].into()],
        mac: MacAddr([2; 6]),
        host_id: if n < 5 { ME } else { member(7, 0).host_id },
        host_name: if n < 5 { "me" } else { "h7" }.to_owned(),
        local: n < 5,
    };
    NetworkStatus {
        key: NetworkKey::swarm(&docker_id),
        namespace: format!("wgnet-{docker_id}"),
        docker_id,
        subnets: vec!["10.50.0.0/24".parse().unwrap()],
        mtu: 1420,
        slots: vec![wgnet_proto::status::SlotStatus {
            interface: IfName::wireguard(3),
            generation: 3,
            public_key: PublicKey([1; 32]),
            key_made: Some(1_780_000_000),
            port: 51820,
        }],
        members: (0..members).map(|n| member(n, 1000 + n as u64)).collect(),
        endpoints: (1..8).map(endpoint).collect(),
        in_sync: true,
        error: None,
        repairs: 0,
    }
}

fn problem_of(length: usize) -> Problem {
    Problem {
        code: "bad-option".to_owned(),
        object: "network blue".to_owned(),
        cause: "x\u{1b}".repeat(length),
        next_step: "y".to_owned(),
    }
}

fn status(networks: Vec<NetworkStatus>, problems: Vec<Problem>) -> DriverStatus {
    DriverStatus {
        host_id: ME,
        name: "me".to_owned(),
        version: "0.1.0".to_owned(),
        backend: "kernel".to_owned(),
        underlay: vec![[192, 0, 2, 1].into()],
        store: StoreStatus { connected: true, watch_restarts: 6, ..StoreStatus::default() },
        networks,
        lingering: Vec::new(),
        hosts: Vec::new(),
        problems,
        refused: BTreeMap::new(),
    }
}

fn summary_of(status: &DriverStatus, peers: &Peers, now: Instant) -> StatusRecord {
    let whole = Whole {
        status,
        peers,
        view: &ClusterView::default(),
        progress: &Progress::default(),
        unpublished: &BTreeMap::new(),
        kernel: "6.1.0-13-amd64",
        started: 1_789_000_000,
        written: 1_790_000_000,
        now,
    };
    whole.summary()
}

fn summary(status: &DriverStatus) -> StatusRecord {
    summary_of(status, &Peers::default(), Instant::now())
}

#[test]
fn a_small_status_names_everything() {
    let status = status(vec![network(1, 2)], vec![problem_of(1)]);
    let summary = summary(&status);
    let [network] = summary.networks.as_slice() else { panic!("{summary:?}") };
    assert_eq!((network.members, network.peers_total, network.peers.len()), (1, 2, 2));
    assert_eq!((network.endpoints, network.endpoints_here, network.generation), (7, 4, 3));
    assert_eq!((network.key_made, summary.store.watch_restarts), (Some(1_780_000_000), 6));
    assert_eq!(network.peers[0].handshake, Some(1_790_000_000 - 5));
    assert_eq!(
        (summary.totals.peers, summary.totals.endpoints, summary.totals.problems),
        (2, 4, 1)
    );
    assert_eq!(summary.problems[0].cause, "x\\u{1b}");
    Record::Status(Box::new(summary)).check(&Path::Status(ME)).unwrap();
}

#[test]
fn of_a_large_status_everything_is_counted_and_the_worst_and_the_busiest_are_named() {
    let mut networks: Vec<_> = (0..100).map(|number| network(number, 100)).collect();
    networks[70].in_sync = false;
    networks[40].members[9].sent_bytes = 1 << 50;
    let mut status = status(networks, vec![problem_of(1000); 60]);
    let (mut peers, mut now) = (Peers::default(), Instant::now());
    peers.look(&status, now);
    for sent in [5000, 6000] {
        now += Duration::from_secs(20);
        status.networks[30].members[7].sent_bytes = sent;
        peers.look(&status, now);
    }
    let summary = summary_of(&status, &peers, now);
    let record = Record::Status(Box::new(summary.clone()));
    record.check(&Path::Status(ME)).unwrap();
    assert!(record.encode().len() < MAX_STATUS);
    let totals = summary.totals;
    assert_eq!((totals.networks, totals.peers, totals.endpoints), (100, 10_000, 400));
    assert_eq!((totals.networks_out_of_sync, totals.peers_silent), (1, 1));
    // Those that were open, and the silent host.
    assert_eq!(totals.problems, 61);
    assert_eq!(summary.problems[0].code, "host-silent");
    assert!(!summary.networks[0].in_sync, "the worst network first");
    assert_eq!(summary.networks[1].peers_silent, 1);
    assert!(summary.networks[1].peers[0].silent);
    let named: Vec<_> = summary.networks.iter().flat_map(|network| &network.peers).collect();
    assert!(named.iter().any(|peer| peer.sent_bytes == 1 << 50), "the busiest peer");
    assert!(named.len() > 20);
}

/// What is said of a host to which this one sent three times, five seconds apart, for nothing.
fn told_of(silent: &MemberStatus, endpoints: Vec<EndpointStatus>) -> StatusRecord {
    let mut network = network(1, 0);
    network.endpoints = endpoints;
    let (mut peers, mut now) = (Peers::default(), Instant::now());
    let mut status = status(vec![network], Vec::new());
    for sent in 0..10 {
        let sent_bytes = silent.sent_bytes + 148 * sent;
        status.networks[0].members = vec![MemberStatus { sent_bytes, ..silent.clone() }];
        peers.look(&status, now);
        now += Duration::from_secs(5);
    }
    summary_of(&status, &peers, now)
}

#[test]
fn only_a_host_with_containers_in_the_network_is_told_to_be_silent() {
    let endpoints = network(1, 0).endpoints;
    let codes = |number: usize| {
        let record = told_of(&member(number, 1000), endpoints.clone());
        let codes: Vec<_> = record.problems.iter().map(|problem| problem.code.clone()).collect();
        (codes, record.totals.peers_silent, record.networks[0].peers[0].silent)
    };
    assert_eq!(codes(7), (vec!["host-silent".to_owned()], 1, true));
    assert_eq!(codes(8), (Vec::new(), 0, false), "its last container left");
}

#[test]
fn what_others_do_and_what_always_moves_is_no_news() {
    let quiet = status(vec![network(1, 3)], Vec::new());
    let mut busy = quiet.clone();
    busy.networks[0].members[1].sent_bytes += 500;
    busy.networks[0].members[1].handshake_age = Some(100);
    busy.networks[0].endpoints.pop();
    busy.store.revision += 9;
    busy.store.watch_restarts += 2;
    assert_eq!(gist(&summary(&quiet)), gist(&summary(&busy)));
    let mut changed = vec![quiet.clone(); 4];
    changed[0].networks[0].in_sync = false;
    changed[1].problems.push(problem_of(1));
    changed[2].networks[0].endpoints.remove(0);
    changed[3].underlay.clear();
    for changed in changed {
        assert_ne!(gist(&summary(&quiet)), gist(&summary(&changed)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_summary_may_stand_in_etcd(
        (networks, members) in (0..40usize, 0..200usize),
        problems in proptest::collection::vec((".{0,300}", ".{0,900}"), 0..50),
        name in ".{0,200}",
        refused in proptest::collection::btree_map(".{0,90}", any::<u64>(), 0..20),
        error in ".{0,2000}",
    ) {
        let problem = |(code, text): (String, String)| Problem {
            code: format!("a{code}"), object: text.clone(), cause: text.clone(), next_step: text,
        };
        let networks = (0..networks).map(|number| network(number, members));
        let networks = networks.map(|it| NetworkStatus { error: Some(error.clone()), ..it });
        let mut status = status(networks.collect(), problems.into_iter().map(problem).collect());
        status.name.clone_from(&name);
        status.refused = refused;
        let record = Record::Status(Box::new(summary(&status)));
        prop_assert_eq!(record.check(&Path::Status(ME)), Ok(()));
    }
}
