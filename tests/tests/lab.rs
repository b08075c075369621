//! The lab itself: what tests that use it rely on. Needs root.

// tests/run: long

use std::{
    process::Command,
    time::{Duration, Instant},
};

use wgnet_tests::lab::{
    Lab, LabOptions, Result,
    checks::{self, Container},
    wait_until,
};
use wgnet_tests::swarm::NAMED;

fn options(name: &str, hosts: u8) -> LabOptions {
    LabOptions { name: name.into(), hosts, ..LabOptions::default() }
}

#[test]
fn containers_of_a_swarm_on_three_hosts_reach_each_other_and_the_capture_sees_it() -> Result<()> {
    let lab = Lab::start(options("t-swarm", 3))?;
    lab.load_images()?;
    lab.swarm_init()?;
    lab.host(1).docker(&["network", "create", "-d", "overlay", "--attachable", "blue"])?;
    let mut boxes = Vec::new();
    for host in lab.hosts() {
        let name = format!("box-{}", host.name());
        let run = ["run", "-d", "--restart=always", "--network", "blue", "--name", &name];
        host.docker(&[&run[..], &["bb", "sleep", "100000"]].concat())?;
        boxes.push(Container { host, name });
    }
    wait_until("every name to answer on every host", NAMED, || {
        checks::ping_matrix(&boxes).values().all(Result::is_ok)
    })?;

    boxes[0].serve("/tmp")?;
    let transfer = checks::transfer(&boxes[0], &boxes[1], 10)?;
    assert_eq!(transfer.sent, transfer.received);
    let seen = checks::readable_frames(&lab, &boxes[0], &boxes[1], "a text to be found again")?;
    assert!(seen.readable > 0, "{seen:?}");
    let idle = lab.capture()?.stop()?;
    assert_eq!(idle.frames_with(b"a text to be found again")?, 0);

    let answers = |target: usize| boxes[0].ping(&boxes[target].name).is_ok();
    lab.host(2).unplug()?;
    assert!(!answers(1));
    lab.host(2).plug()?;
    wait_until("an answer after the cable is back", NAMED, || answers(1))?;
    lab.host(2).drop_silently()?;
    assert!(!answers(1));
    assert!(answers(2), "another host's frames are lost as well");
    lab.host(2).undrop()?;
    wait_until("an answer after the loss ended", NAMED, || answers(1))?;
    lab.host(3).freeze()?;
    assert!(boxes[0].host.exec(&["ping", "-c1", "-W1", &lab.host(2).address()]).is_ok());
    lab.host(3).thaw()?;
    wait_until("an answer after the thaw", NAMED, || answers(2))?;

    lab.host(3).power_off()?;
    assert!(lab.host(3).exec(&["true"]).is_err());
    // A host that is back before its manager missed it may wait in vain for its network: Docker 20.10 loses the request.
    wait_until("the manager's notice that h3 is down", NAMED, || {
        let state = lab.host(1).docker(&["node", "inspect", "h3", "-f", "{{.Status.State}}"]);
        state.is_ok_and(|state| state == "down")
    })?;
    lab.host(3).boot()?;
    lab.host(3).engine_start()?;
    wait_until("an answer of the booted host's container", NAMED, || {
        // A booting Docker gives up on a container whose address the swarm is late to give.
        let _ = lab.host(3).try_docker(&["start", &boxes[2].name]);
        answers(2)
    })?;
    Ok(())
}

#[test]
fn a_boot_keeps_the_disk_empties_run_and_has_its_own_boot_id() -> Result<()> {
    let lab = Lab::start(LabOptions { engines: false, etcd: false, ..options("t-boot", 2) })?;
    let host = lab.host(1);
    let boot_id = || host.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let first = boot_id()?;
    assert_ne!(first, lab.host(2).exec(&["cat", "/proc/sys/kernel/random/boot_id"])?);
    host.write("/var/lib/wgnet/kept", "1")?;
    host.write("/run/lost", "1")?;
    host.sh("ip link add dummy0 type bridge")?;
    let before = host.inventory()?;
    host.power_off()?;
    assert!(host.path("/var/lib/wgnet/kept").exists());
    host.boot()?;
    assert_ne!(boot_id()?, first);
    assert!(host.path("/var/lib/wgnet/kept").exists());
    assert!(!host.path("/run/lost").exists());
    let changes = host.inventory()?.changes_since(&before);
    assert!(
        changes.iter().all(|line| line.contains("dummy0")) && !changes.is_empty(),
        "{changes:#?}"
    );
    let lab_v6 = lab.host(2).address_v6();
    host.exec(&["ping", "-c1", "-W2", &lab_v6])?;
    Ok(())
}

#[test]
fn a_driver_that_dies_is_started_again_within_a_second_and_a_stopped_one_is_not() -> Result<()> {
    let programs = std::env::temp_dir().join("wgnett-lab-programs");
    std::fs::create_dir_all(&programs).expect("temporary directory");
    std::fs::copy(env!("CARGO_BIN_EXE_wgnet-lab"), programs.join("wgnet-lab"))
        .expect("copy of wgnet-lab");
    std::fs::write(programs.join("wgnet-driver"), "#!/bin/sh\necho started; exec sleep 1000\n")
        .expect("a driver");
    Command::new("chmod").arg("755").arg(programs.join("wgnet-driver")).status().expect("chmod");
    let lab = Lab::start(LabOptions {
        engines: false,
        etcd: false,
        binaries: Some(programs.clone()),
        ..options("t-driver", 1)
    })?;
    let host = lab.host(1);
    host.driver_start("")?;
    let first = host.driver_pid();
    let killed = Instant::now();
    host.driver_crash()?;
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    assert_ne!(host.driver_pid(), first);
    host.driver_stop()?;
    assert_eq!(host.driver_pid(), None);
    assert_eq!(host.driver_log().lines().filter(|line| *line == "started").count(), 2);
    let _ = std::fs::remove_dir_all(programs);
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_cleared_and_another_lab_is_left_alone() -> Result<()> {
    let bystander = Lab::start(LabOptions { engines: false, ..options("t-left-2", 1) })?;
    let bare = || LabOptions { engines: false, ..options("t-left", 1) };
    let abandoned = Lab::start(bare())?;
    abandoned.host(1).write("/etc/old", "1")?;
    abandoned.host(1).freeze()?;
    let old_pid = abandoned.host(1).pid()?;
    abandoned.detach();
    let lab = Lab::start(bare())?;
    assert!(!lab.host(1).path("/etc/old").exists());
    assert_ne!(lab.host(1).pid()?, old_pid);
    bystander.host(1).exec(&["true"])?;
    bystander.etcd().etcdctl(&["put", "key", "value"])?;
    assert_eq!(lab.etcd().keys()?, Vec::<String>::new());
    assert_eq!(bystander.etcd().keys()?, ["key"]);
    Ok(())
}

#[test]
fn etcd_keeps_its_data_over_a_kill_and_forgets_it_when_wiped() -> Result<()> {
    let lab = Lab::start(LabOptions { engines: false, ..options("t-etcd", 0) })?;
    let etcd = lab.etcd();
    etcd.etcdctl(&["put", "key", "value"])?;
    etcd.kill()?;
    etcd.start()?;
    assert_eq!(etcd.keys()?, ["key"]);
    etcd.freeze()?;
    assert!(etcd.try_etcdctl(&["--command-timeout=1s", "get", "key"])?.text().is_err());
    etcd.thaw()?;
    assert_eq!(etcd.keys()?, ["key"]);
    etcd.stop()?;
    etcd.wipe()?;
    etcd.start()?;
    assert_eq!(etcd.keys()?, Vec::<String>::new());
    Ok(())
}
