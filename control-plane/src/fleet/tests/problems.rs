use std::io::Write as _;
use std::net::IpAddr;

use wgnet_proto::record::StatusRecord;
use wgnet_proto::status::Problem;
use wgnet_proto::{ClusterSecrets, Incarnation, Path, Record};

use super::planted::{Planted, id, network, slot};
use crate::fleet::HostReport;
use crate::fleet::problems::{OUT_OF_SYNC, Severity};
use crate::fleet::rows::Filter;

/// The codes of all problems after something was planted.
fn codes(plant: impl FnOnce(&mut Planted)) -> Vec<String> {
    let mut planted = Planted::healthy();
    plant(&mut planted);
    let problems = planted.fleet().problems(&Filter::default());
    for problem in &problems {
        assert!(!problem.cause.is_empty() && !problem.next_step.is_empty(), "{problem:?}");
    }
    problems.into_iter().map(|problem| problem.code).collect()
}

#[test]
fn each_fault_has_its_code() {
    assert_eq!(codes(|it| it.remove(&Path::Alive(id(2)))), ["host-gone"]);
    assert_eq!(codes(|it| it.remove(&Path::Host(id(2)))), ["host-unrecorded"]);
    assert_eq!(codes(|it| it.change_host(2, |host| host.underlay.clear())), ["no-underlay"]);
    let upgraded = codes(|it| it.change_host(2, |host| host.version = "0.2.0".to_owned()));
    assert_eq!(upgraded, ["versions-differ"]);
    assert_eq!(codes(|it| it.change_host(2, |host| host.name = "h1".to_owned())), ["same-name"]);
    let stale =
        |it: &mut Planted| it.change_host(2, |host| host.incarnation = Incarnation([7; 16]));
    assert_eq!(codes(stale), ["not-republished"]);
    assert_eq!(codes(|it| it.remove(&Path::Network(network("blue")))), ["network-unrecorded"]);
    let without_member = |it: &mut Planted| it.remove(&Path::Member(network("blue"), id(2)));
    assert_eq!(codes(without_member), ["endpoint-without-member"]);
    assert_eq!(codes(|it| it.member(2, "blue", vec![slot(2, 1)])), ["keys-behind"]);
    assert_eq!(codes(|it| it.remove(&Path::Cluster))[0], "no-cluster");
}

#[test]
fn a_foreign_secret_is_one_problem_and_not_one_for_each_record() {
    let mut fleet = Planted::healthy().fleet_with(ClusterSecrets::generate([8; 32]));
    let driver_says = Problem {
        code: "wrong-secret".to_owned(),
        object: "cluster secret".to_owned(),
        cause: "it is so".to_owned(),
        next_step: "copy it".to_owned(),
    };
    let report = HostReport { problems: vec![driver_says], ..HostReport::default() };
    fleet.hear(id(1), HostReport { is_direct: true, ..report });
    let problems = fleet.problems(&Filter::default());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code, "wrong-secret");
    assert_eq!(fleet.endpoint_rows(&Filter::default()), []);
}

#[test]
fn many_records_refused_for_one_reason_are_counted() {
    let told = codes(|it| {
        for number in 10..90 {
            let path = it.endpoint(2, "blue", [10, 0, 0, number]);
            it.secrets.insert(path, ClusterSecrets::generate([66; 32]));
        }
    });
    assert_eq!(told.len(), 21);
}

#[test]
fn problems_are_filtered_by_host_and_network() {
    let mut planted = Planted::healthy();
    planted.remove(&Path::Alive(id(2)));
    planted.remove(&Path::Member(network("blue"), id(3)));
    planted.change_host(1, |host| host.underlay = vec![IpAddr::from([127, 0, 0, 1])]);
    let fleet = planted.fleet();
    let of = |host, network| {
        let problems = fleet.problems(&Filter { host, network });
        problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!(of(Some(id(2)), None), ["host-gone"]);
    assert_eq!(of(None, Some(network("blue"))), ["endpoint-without-member"]);
    assert_eq!(of(Some(id(1)), None), Vec::<String>::new());
}

#[test]
fn what_a_driver_solved_itself_is_a_note_below_what_is_wrong() {
    let problem = |code: &str| Problem {
        code: code.to_owned(),
        object: "network blue".to_owned(),
        cause: "it is so".to_owned(),
        next_step: "nothing".to_owned(),
    };
    let mut planted = Planted::healthy();
    let problems = vec![problem("port-taken"), problem("peer-unusable")];
    let record = StatusRecord { problems, ..StatusRecord::default() };
    planted.put(2, Path::Status(id(2)), Record::Status(Box::new(record)));
    let told = planted.fleet().problems(&Filter::default());
    let told: Vec<_> = told.iter().map(|it| (it.severity, it.code.as_str())).collect();
    assert_eq!(told, [(Severity::Error, "peer-unusable"), (Severity::Note, "port-taken")]);
}

#[test]
fn a_network_that_a_host_cannot_bring_where_it_should_be_is_told_with_its_cause() {
    let mut planted = Planted::healthy();
    planted.report(2, |network| {
        network.in_sync = false;
        network.error = Some("fix container interface: no".to_owned());
    });
    let fleet = planted.fleet();
    let told = |host, network| fleet.problems(&Filter { host, network });
    let all = told(None, None);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].code.as_str(), all[0].severity), (OUT_OF_SYNC, Severity::Error));
    assert!(all[0].cause.contains("fix container interface: no"), "{all:?}");
    assert_eq!(all[0].told_by.as_deref(), Some("h2"));
    assert_eq!(told(Some(id(2)), Some(network("blue"))), all);
    assert_eq!(told(Some(id(1)), None), []);
    assert_eq!(codes(|it| it.report(2, |network| network.in_sync = false)), [""; 0], "at work");
}

#[test]
fn a_secret_is_not_replaced_before_the_record_of_the_cluster_is_sealed_with_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let [old, new] = ["CQkJ", "CAgI"].map(|part| part.repeat(10) + &part[..3] + "=");
    write!(file, "wgnet-cluster-secret v1\nepoch 1 {old}\nepoch 2 {new}\n").unwrap();
    let secrets = ClusterSecrets::load(file.path()).unwrap();
    let mut planted = Planted::healthy();
    let codes = |planted: &Planted| {
        let problems = planted.fleet_with(secrets.clone()).problems(&Filter::default());
        problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert!(codes(&planted).is_empty(), "all have the old one");
    let paths: Vec<_> = planted.records.keys().filter(|path| **path != Path::Cluster).collect();
    planted.secrets = paths.into_iter().map(|path| (path.clone(), secrets.clone())).collect();
    assert_eq!(codes(&planted), ["secret-epochs-differ"]);
    planted.secrets.insert(Path::Cluster, secrets.clone());
    assert!(codes(&planted).is_empty(), "all have the new one");
}
