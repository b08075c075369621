use std::net::IpAddr;

use wgnet_proto::{ClusterSecrets, Path};

use super::planted::{NOW, Planted, id, network, slot};
use crate::fleet::way::{Verdict, Way};

fn way(plant: impl FnOnce(&mut Planted)) -> Way {
    let mut planted = Planted::healthy();
    plant(&mut planted);
    planted.fleet().way("10.0.0.1", "10.0.0.2", None, NOW)
}

/// The step that fails, and what it says.
#[track_caller]
fn breaks(at: &str, says: &str, plant: impl FnOnce(&mut Planted)) {
    let way = way(plant);
    let Some(step) = way.failing() else { panic!("nothing fails: {way:#?}") };
    assert_eq!(step.step, at, "{step:?}");
    assert!(step.says.contains(says), "{step:?}");
    assert!(step.next_step.is_some(), "{step:?}");
    assert_eq!(way.verdict, Verdict::Broken);
}

#[test]
fn a_healthy_way_is_open_and_names_hosts_and_keys() {
    let way = way(|_| {});
    assert_eq!(way.verdict, Verdict::Open, "{way:#?}");
    let said: Vec<_> = way.steps.iter().map(|step| step.says.as_str()).collect();
    let said = said.join("\n");
    for part in ["h1", "h2", "192.0.2.2:51822", &slot(1, 0).public_key.to_string()] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn an_endpoint_is_found_by_address_mac_and_the_beginning_of_its_id() {
    let planted = Planted::healthy();
    let fleet = planted.fleet();
    let way = fleet.way("02:42:0a:00:00:01", "10.0.0.2", None, NOW);
    assert_eq!(way.verdict, Verdict::Open, "{way:#?}");
    let id = way.to.unwrap().endpoint;
    let way = fleet.way("10.0.0.1", &id.as_str()[..12], None, NOW);
    assert_eq!(way.verdict, Verdict::Open, "{way:#?}");
}

#[test]
fn without_reports_a_way_is_unproven_and_not_called_open() {
    assert_eq!(way(Planted::silence).verdict, Verdict::Unproven);
}

#[test]
fn two_endpoints_of_one_host_need_no_tunnel() {
    let mut planted = Planted::healthy();
    planted.endpoint(1, "blue", [10, 0, 0, 11]);
    let way = planted.fleet().way("10.0.0.1", "10.0.0.11", None, NOW);
    assert_eq!(way.verdict, Verdict::Open, "{way:#?}");
    assert!(way.steps.iter().all(|step| step.step != "key"));
}

#[test]
fn an_address_of_two_networks_needs_the_network_named() {
    let mut planted = Planted::healthy();
    planted.network("red", "10.0.0.0/24");
    for host in [1, 2] {
        planted.member(host, "red", vec![slot(host, 1)]);
        planted.endpoint(host, "red", [10, 0, 0, host]);
    }
    let fleet = planted.fleet();
    let unclear = fleet.way("10.0.0.1", "10.0.0.2", None, NOW);
    assert!(unclear.failing().unwrap().next_step.as_ref().unwrap().contains("--network"));
    let clear = fleet.way("10.0.0.1", "10.0.0.2", Some(&network("blue")), NOW);
    assert_eq!(clear.verdict, Verdict::Open, "{clear:#?}");
}

#[test]
fn break_1_the_container_was_never_published() {
    let path = Path::Endpoint(network("blue"), IpAddr::from([10, 0, 0, 2]));
    breaks("endpoint", "no endpoint", |it| it.remove(&path));
}

#[test]
fn break_2_the_record_is_forged() {
    let path = Path::Endpoint(network("blue"), IpAddr::from([10, 0, 0, 2]));
    breaks("endpoint", "not believed", |it| {
        it.secrets.insert(path, ClusterSecrets::generate([66; 32]));
    });
}

#[test]
fn break_3_they_share_no_network() {
    breaks("network", "n-blue", |it| {
        it.remove(&Path::Endpoint(network("blue"), IpAddr::from([10, 0, 0, 2])));
        it.network("red", "10.0.0.0/24");
        it.member(2, "red", vec![slot(2, 1)]);
        it.endpoint(2, "red", [10, 0, 0, 2]);
    });
}

#[test]
fn break_4_the_network_was_given_back() {
    breaks("network", "given back", |it| it.free("blue"));
}

#[test]
fn break_5_the_other_host_is_gone() {
    breaks("host", "h2", |it| it.remove(&Path::Alive(id(2))));
}

#[test]
fn break_6_the_other_host_was_revoked() {
    // Nothing of it counts, so that its endpoint is not even known.
    breaks("endpoint", "not believed", |it| it.revoke(3, 2));
}

#[test]
fn break_7_the_other_host_has_no_record() {
    breaks("host", "no record", |it| it.remove(&Path::Host(id(2))));
}

#[test]
fn break_8_the_other_host_is_no_member() {
    breaks("member", "h2", |it| it.remove(&Path::Member(network("blue"), id(2))));
}

#[test]
fn break_9_their_keys_are_of_different_generations() {
    breaks("generation", "none in common", |it| it.member(2, "blue", vec![slot(2, 1)]));
}

#[test]
fn break_10_both_have_one_key() {
    breaks("key", "copy", |it| it.member(2, "blue", vec![slot(1, 0)]));
}

#[test]
fn break_11_no_underlay_address_fits() {
    breaks("underlay", "neither", |it| {
        it.change_host(1, |host| host.underlay = vec!["2001:db8::1".parse().unwrap()]);
        it.change_host(2, |host| host.underlay = vec!["192.0.2.2".parse().unwrap()]);
    });
}

#[test]
fn break_12_a_driver_cannot_put_it_into_its_kernel() {
    breaks("driver", "no such device", |it| {
        it.report(2, |network| {
            network.in_sync = false;
            network.error = Some("no such device".to_owned());
        });
    });
}

#[test]
fn break_13_nothing_comes_back() {
    let silent = |network: &mut wgnet_proto::status::NetworkStatus| {
        for member in &mut network.members {
            (member.handshake_age, member.received_bytes) = (None, 0);
        }
    };
    breaks("handshake", "never", |it| {
        it.report(1, silent);
        it.report(2, silent);
    });
}

#[test]
fn break_14_a_peer_is_missing() {
    breaks("handshake", "no peer h2", |it| it.report(1, |network| network.members.clear()));
}

#[test]
fn break_15_the_address_is_outside_of_the_network() {
    breaks("address", "subnets", |it| it.network("blue", "10.0.0.0/31"));
}

#[test]
fn a_session_that_ran_out_is_no_proof_and_no_fault() {
    let old = |network: &mut wgnet_proto::status::NetworkStatus| {
        network.members.iter_mut().for_each(|member| member.handshake_age = Some(4000));
    };
    let way = way(|it| {
        it.report(1, old);
        it.report(2, old);
    });
    assert_eq!(way.verdict, Verdict::Unproven, "{way:#?}");
}

#[test]
fn what_is_no_name_of_an_endpoint_is_said() {
    let fleet = Planted::healthy().fleet();
    for name in ["", "x", "10.0.0", "zz:42", "\u{1b}[2J"] {
        let way = fleet.way(name, "10.0.0.2", None, NOW);
        let step = way.failing().unwrap();
        assert_eq!(step.step, "endpoint");
        assert!(!step.says.contains('\u{1b}'));
    }
}

#[test]
fn break_16_a_host_says_that_nothing_comes_back() {
    let mut planted = Planted::healthy();
    planted.silence();
    planted.status(1, |peer| peer.silent = true);
    let way = planted.fleet().way("10.0.0.1", "10.0.0.2", None, NOW);
    let step = way.failing().unwrap();
    assert_eq!(step.step, "handshake");
    assert!(step.says.contains("nothing comes back"), "{step:?}");
}

#[test]
fn status_records_tell_as_much_as_drivers_do() {
    let mut planted = Planted::healthy();
    planted.silence();
    for host in 1..=3 {
        planted.status(host, |_| {});
    }
    let way = planted.fleet().way("10.0.0.1", "10.0.0.2", None, NOW);
    assert_eq!(way.verdict, Verdict::Open, "{way:#?}");
}
