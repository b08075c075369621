use std::net::SocketAddr;

use crate::record::status::{NetworkState, PeerState, StatusTotals, StoreState};
use crate::status::Problem;

use super::*;

prop_compose! {
    fn any_peer()(
        host in any::<[u8; 16]>(),
        generation in any::<u32>(),
        (handshake, received_bytes, sent_bytes) in any::<(Option<u64>, u64, u64)>(),
        underlay in proptest::option::of((unicast(), any::<u16>())),
        (underlay_changes, silent) in any::<(u64, bool)>(),
    ) -> PeerState {
        let underlay = underlay.map(|(ip, port)| SocketAddr::new(ip, port));
        let host = HostId(host);
        PeerState { host, generation, handshake, received_bytes, sent_bytes, underlay, underlay_changes, silent }
    }
}

prop_compose! {
    fn any_network()(
        id in "[0-9a-z]{25}",
        error in "[ -~]{0,99}",
        numbers in any::<[u32; 8]>(),
        amounts in any::<[u64; 4]>(),
        (revision, applied, mtu, in_sync, key_made) in any::<(i64, i64, u16, bool, Option<u64>)>(),
        unpublished in distinct_addresses(0),
        peers in vec(any_peer(), 0..4),
    ) -> NetworkState {
        let docker_id: crate::DockerNetworkId = id.parse().unwrap();
        let [generation, members, endpoints, endpoints_here, endpoints_unpublished, peers_total, peers_silent, _] = numbers;
        let [lag_ms, repairs, received_bytes, sent_bytes] = amounts;
        NetworkState {
            key: NetworkKey::swarm(&docker_id), docker_id, in_sync, error, revision, applied,
            lag_ms, mtu, generation, key_made, members, endpoints, endpoints_here, endpoints_unpublished,
            unpublished, repairs, peers_total, peers_silent, received_bytes, sent_bytes, peers,
        }
    }
}

prop_compose! {
    pub(super) fn any_status()(
        (written, next_within, started) in any::<(u64, u32, u64)>(),
        (name, version, backend, kernel) in ("[ -~]{0,64}", "[ -~]{0,64}", "[ -~]{0,64}", "[ -~]{0,64}"),
        underlay in distinct_addresses(0),
        (revision, unpublished, watch_restarts) in any::<(i64, u64, u64)>(),
        numbers in any::<[u32; 8]>(),
        (received_bytes, sent_bytes) in any::<(u64, u64)>(),
        networks in vec(any_network(), 0..4),
        problems in vec(("[a-z-]{1,40}", "\\PC{0,60}", "\\PC{0,60}", "\\PC{0,60}"), 0..4),
        refused in btree_map("[a-z-]{1,40}", any::<u64>(), 0..4),
    ) -> StatusRecord {
        let problem = |(code, object, cause, next_step)| Problem { code, object, cause, next_step };
        let [total, networks_out_of_sync, endpoints, endpoints_unpublished, peers, peers_silent, open, _] = numbers;
        StatusRecord {
            written, next_within, started, name, version, backend, kernel, underlay,
            store: StoreState { revision, unpublished, watch_restarts, error: String::new() },
            totals: StatusTotals {
                networks: total, networks_out_of_sync, endpoints, endpoints_unpublished, peers,
                peers_silent, received_bytes, sent_bytes, problems: open,
            },
            networks, problems: problems.into_iter().map(problem).collect(), refused,
        }
    }
}

fn field(record: StatusRecord) -> &'static str {
    refused_field(&Path::Status(HOST), Record::Status(Box::new(record)))
}

fn problem(code: &str, cause: &str) -> StatusRecord {
    let text = String::new;
    let problem = Problem {
        code: code.to_owned(),
        object: text(),
        cause: cause.to_owned(),
        next_step: text(),
    };
    StatusRecord { problems: vec![problem], ..StatusRecord::default() }
}

#[test]
fn a_status_that_breaks_a_rule_is_refused() {
    assert_eq!(field(StatusRecord { name: "a\nb".to_owned(), ..Default::default() }), "name");
    assert_eq!(field(StatusRecord { kernel: "6".repeat(65), ..Default::default() }), "kernel");
    let loopback = vec!["0.0.0.0".parse().unwrap()];
    assert_eq!(field(StatusRecord { underlay: loopback, ..Default::default() }), "underlay");
    assert_eq!(field(problem("", "no code")), "problems");
    assert_eq!(field(problem("a", "\u{1b}[2J")), "problems");
    assert_eq!(field(problem("a", &"x".repeat(513))), "problems");
    let refused = BTreeMap::from([("bad\nreason".to_owned(), 1)]);
    assert_eq!(field(StatusRecord { refused, ..Default::default() }), "refused");
}

#[test]
fn a_status_that_is_too_large_is_refused_before_it_is_taken_apart() {
    let long = problem("a", &"x".repeat(512)).problems;
    let problems = |count| long.iter().cycle().take(count).cloned().collect();
    let of = |count| {
        Record::Status(Box::new(StatusRecord { problems: problems(count), ..Default::default() }))
    };
    of(60).check(&Path::Status(HOST)).unwrap();
    assert_eq!(of(64).check(&Path::Status(HOST)).unwrap_err().field, "status");
    let rubbish = vec![0xff; rules::MAX_STATUS + 1];
    assert_eq!(Record::decode(&Path::Status(HOST), &rubbish).unwrap_err().field, "status");
}
