//! A revoked host stays out: for a host that was off meanwhile and boots without etcd, for an etcd that
//! lost the tombstone, for a journal of before.

use serde_json::{Value, json};
use wgnet_proto::{HostId, Path};
use wgnet_tests::lab::{Host, Lab, LabOptions, Result};
use wgnet_tests::plugin::Dockerless;
use wgnet_tests::swarm::{SOON, eventually, only_network, status};

const PREFIX: &str = "/wgnet/v1";
const NETWORK: &str = "gone000000000000000000001";
const JOURNAL: &str = "/var/lib/wgnet/journal.redb";

#[test]
fn no_boot_no_old_etcd_and_no_old_journal_brings_a_revoked_host_back() -> Result<()> {
    let lab = Lab::start(LabOptions {
        name: "e2e-revoked".into(),
        hosts: 3,
        engines: false,
        ..LabOptions::default()
    })?;
    lab.make_secret()?;
    let [one, two, three] = [lab.host(1), lab.host(2), lab.host(3)];
    for host in [one, two, three] {
        host.driver_start(&(lab.driver_config() + "legacy_socket = true\n"))?;
        run(host)?;
    }
    eventually("everybody", SOON, || reaches(two, one) && reaches(two, three))?;
    let revoked = status(three)?.host_id;
    let etcd = lab.etcd();

    // While h2 is off h3 is revoked; h2 boots and cannot be told.
    two.driver_stop()?;
    let old = std::fs::read(two.path(JOURNAL)).expect("a journal");
    two.power_off()?;
    refuses(one, &["revoke", one.name(), "--yes"], "this very host")?;
    refuses(one, &["revoke", three.name()], "--yes")?;
    assert_eq!(revoke(one, three.name())?, (revoked, false));
    eventually("h1 to drop it", SOON, || !knows(one, revoked))?;
    assert_eq!(revoke(one, three.name())?, (revoked, true), "twice is once");
    etcd.stop()?;
    two.boot()?;
    two.driver_resume()?;
    run(two)?;
    eventually("the last known peers, without etcd", SOON, || reaches(two, one))?;
    etcd.start()?;
    eventually("h2 to be told", SOON, || connected(two) && !knows(two, revoked))?;
    assert!(reaches(two, one));

    // An etcd that knows nothing of it, while h3 still runs.
    etcd.stop()?;
    etcd.wipe()?;
    etcd.start()?;
    let tombstone = format!("{PREFIX}/{}", Path::Tombstone(revoked));
    eventually("the tombstone to be back", SOON, || {
        etcd.get(&tombstone).is_ok_and(|found| found.is_some())
    })?;
    eventually("h1 and h2 to be published again", SOON, || {
        [one, two].iter().all(|host| connected(host)) && reaches(two, one)
    })?;
    assert!(!knows(one, revoked) && !knows(two, revoked));

    // A boot without etcd again: the journal has it. Then with a journal of before the revocation.
    etcd.stop()?;
    for journal in [None, Some(old)] {
        two.driver_stop()?;
        two.power_off()?;
        if let Some(journal) = &journal {
            two.write(JOURNAL, journal)?;
            etcd.start()?;
        }
        two.boot()?;
        two.driver_resume()?;
        run(two)?;
        eventually("the last known peers", SOON, || reaches(two, one))?;
        if journal.is_some() {
            eventually("h2 to be told again", SOON, || connected(two) && !knows(two, revoked))?;
        }
        assert!(!knows(two, revoked) && !reaches(two, three));
    }
    Ok(())
}

/// The network and one container.
fn run(host: &Host) -> Result<()> {
    let driver = Dockerless { host };
    eventually("the network", SOON, || {
        driver.create_network(NETWORK, "10.93.0.0/24", "10.93.0.1/24", &json!({})).is_ok()
    })?;
    let number = &host.name()[1..];
    driver.run(&format!("a{number}"), NETWORK, &format!("10.93.0.1{number}/24")).map(drop)
}

fn reaches(from: &Host, to: &Host) -> bool {
    let (from_number, to) = (&from.name()[1..], &to.name()[1..]);
    from.sh(&format!("ip netns exec c-a{from_number} ping -c1 -W1 10.93.0.1{to}")).is_ok()
}

fn knows(host: &Host, other: HostId) -> bool {
    let members = only_network(host).map(|network| network.members).unwrap_or_default();
    members.iter().any(|member| member.host_id == other)
}

fn connected(host: &Host) -> bool {
    status(host).is_ok_and(|said| said.store.connected && said.store.unpublished == 0)
}

/// As an operator does; whom it was, and whether it was revoked before.
fn revoke(at: &Host, name: &str) -> Result<(HostId, bool)> {
    let done = at.wgnetctl(&["revoke", name, "--yes", "--json"])?;
    let done: Value = serde_json::from_str(&done).expect("JSON");
    let host = done["host"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    Ok((host, done["was_revoked"].as_bool().expect("yes or no")))
}

fn refuses(at: &Host, order: &[&str], told: &str) -> Result<()> {
    let refused = at.try_wgnetctl(order)?;
    assert!(!refused.success() && refused.stderr.contains(told), "{refused}");
    Ok(())
}
