use wgnet_proto::{ClusterSecrets, Path};

use super::planted::{NOW, Planted, id, network};
use crate::fleet::Connection;
use crate::fleet::rows::{EndpointState, Filter, HostState, NetworkState};
use crate::follower::Followed;
use crate::store::{Change, Entry};

#[test]
fn a_healthy_cluster_is_listed_whole_and_has_no_problem() {
    let fleet = Planted::healthy().fleet();
    let all = Filter::default();
    assert_eq!(fleet.problems(&all), []);
    let [blue] = &fleet.network_rows(&all)[..] else { panic!("one network") };
    assert_eq!((blue.members, blue.alive, blue.endpoints), (3, 3, 3));
    assert_eq!(blue.state, NetworkState::Up);
    let names: Vec<_> = fleet.host_rows(&all).into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["h1", "h2", "h3"]);
    assert!(fleet.endpoint_rows(&all).iter().all(|row| row.state == EndpointState::Up));
    assert_eq!(fleet.peer_rows(&all, NOW).len(), 6);
}

#[test]
fn a_forged_record_is_refused_and_not_listed() {
    let mut planted = Planted::healthy();
    let path = planted.endpoint(2, "blue", [10, 0, 0, 99]);
    planted.secrets.insert(path.clone(), ClusterSecrets::generate([66; 32]));
    let fleet = planted.fleet();
    assert_eq!(fleet.endpoint_rows(&Filter::default()).len(), 3);
    assert!(fleet.refused().contains_key(&path.to_string()));
    let problems = fleet.problems(&Filter::default());
    let codes: Vec<_> = problems.iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(codes, ["refused-wrong-secret"]);
}

#[test]
fn a_revoked_host_is_told_by_its_tombstone_and_by_the_secret_that_is_sealed_with() {
    let mut planted = Planted::healthy();
    planted.revoke(1, 3);
    let fleet = planted.fleet();
    let (tombstone, epoch) = fleet.tombstone(id(3)).unwrap();
    assert_eq!((tombstone.reason.as_str(), epoch), ("stolen", 1));
    assert_eq!(fleet.state_of(id(3)), HostState::Revoked);
    assert_eq!(fleet.tombstone(id(2)), None);

    let forged = ClusterSecrets::generate([66; 32]);
    planted.secrets.insert(Path::Tombstone(id(3)), forged);
    assert_eq!(planted.fleet().tombstone(id(3)), None);
}

#[test]
fn filters_leave_what_is_asked_for() {
    let mut planted = Planted::healthy();
    planted.network("red", "10.1.0.0/24");
    planted.member(3, "red", vec![super::planted::slot(3, 1)]);
    planted.endpoint(3, "red", [10, 1, 0, 3]);
    let fleet = planted.fleet();
    let of_red = Filter { network: Some(network("red")), host: None };
    let of_h3 = Filter { network: None, host: Some(id(3)) };
    assert_eq!(fleet.network_rows(&of_red).len(), 1);
    assert_eq!(fleet.host_rows(&of_red).len(), 1);
    assert_eq!(fleet.endpoint_rows(&of_red).len(), 1);
    assert_eq!(fleet.endpoint_rows(&of_h3).len(), 2);
    assert_eq!(fleet.network_rows(&of_h3).len(), 2);
    assert_eq!(fleet.host_rows(&of_h3)[0].networks, 2);
    assert_eq!(fleet.host_rows(&of_h3)[0].endpoints, 2);
    assert_eq!(fleet.networks_named("blue"), [network("blue")]);
    assert_eq!(fleet.networks_named("n-re"), [network("red")]);
    assert_eq!(fleet.hosts_named("h2"), [id(2)]);
    assert_eq!(fleet.hosts_named(&id(2).to_string()[..8]), [id(2)]);
    assert_eq!(fleet.hosts_named(&id(2).to_string()[..7]), []);
    assert_eq!(fleet.hosts_named(""), []);
}

#[test]
fn changes_are_followed_and_a_lost_store_is_said() {
    let planted = Planted::healthy();
    let mut fleet = planted.fleet();
    let mut more = Planted::healthy();
    let path = more.endpoint(3, "blue", [10, 0, 0, 30]);
    let entry = more.entries().into_iter().find(|entry| entry.key == path.to_string()).unwrap();
    let put = Change::Put(Entry { mod_revision: 1001, ..entry });
    let scope = String::new;
    fleet.take(Followed::Changed { scope: scope(), revision: 1001, changes: vec![put] });
    assert_eq!(fleet.endpoint_rows(&Filter::default()).len(), 4);
    let delete = Change::Delete { key: path.to_string(), mod_revision: 1002 };
    fleet.take(Followed::Changed { scope: scope(), revision: 1002, changes: vec![delete] });
    assert_eq!(fleet.endpoint_rows(&Filter::default()).len(), 3);
    let alive = Path::Alive(id(2)).to_string();
    let delete = Change::Delete { key: alive, mod_revision: 1003 };
    fleet.take(Followed::Changed { scope: scope(), revision: 1003, changes: vec![delete] });
    assert_eq!(fleet.state_of(id(2)), HostState::Gone);
    fleet.take(Followed::Disconnected { error: "gone".to_owned() });
    assert_eq!(fleet.connection(), &Connection::Lost("gone".to_owned()));
    assert_eq!(fleet.problems(&Filter::default())[0].code, "etcd-away");
}

#[test]
fn another_history_is_looked_at_afresh() {
    let mut fleet = Planted::healthy().fleet();
    fleet.take(Followed::History { revision: 1, highest: 1000 });
    let mut planted = Planted::healthy();
    planted.remove(&Path::Alive(id(3)));
    let entries = planted.entries();
    fleet.take(Followed::Listed { scope: String::new(), revision: 50, entries });
    assert_eq!(fleet.refused().len(), 0);
    assert_eq!(fleet.state_of(id(3)), HostState::Gone);
}
