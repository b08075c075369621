//! The riskiest part, first: the plugin with a driver that is absent when it is enabled, when the
//! engine starts, when the host boots, or comes ten seconds late.

// tests/run: long

use std::thread;
use std::time::{Duration, Instant};

use wgnet_tests::lab::{Lab, LabOptions, Result};
use wgnet_tests::swarm::{SOON, eventually};

/// Enabling takes a second; with a plugin that waits for its driver it would be 53.
const ENABLED_WITHIN: Duration = Duration::from_secs(30);

const LATE: Duration = Duration::from_secs(10);

/// Docker's own start takes one or two seconds here, and waits for what the manager's allocator asks
/// the driver; with a plugin that waits in GetCapabilities it would be 54.
const ENGINE_WITHIN: Duration = Duration::from_secs(35);

#[test]
fn an_absent_or_late_driver_costs_its_own_delay_and_no_container() -> Result<()> {
    let lab =
        Lab::start(LabOptions { name: "e2e-boot".into(), hosts: 1, ..LabOptions::default() })?;
    let host = lab.host(1);
    lab.make_secret()?;
    lab.load_images()?;

    // Absent at enable: the plugin is enabled at once and its driver registered.
    let started = Instant::now();
    host.plugin_install()?;
    assert!(started.elapsed() < ENABLED_WITHIN, "enabled after {:?}", started.elapsed());
    assert!(
        host.wgnetctl(&["plugin", "install", "--shim", "/opt/wgnet/wgnet-shim"])?
            .contains("nothing to do")
    );
    lab.swarm_init()?;
    host.driver_start(&lab.driver_config())?;
    host.docker(&["network", "create", "-d", "wgnet:latest", "--attachable", "blue"])?;
    host.docker(&[
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        "steady",
        "--network",
        "blue",
        "bb",
        "sleep",
        "1000000",
    ])?;
    assert!(is_up(&lab));

    // Absent when the engine starts, and ten seconds late.
    host.engine_stop()?;
    host.driver_stop()?;
    engine_comes_before_the_driver(&lab, "after a stop of the engine")?;

    // The same at the host's boot after a power cut.
    host.driver_stop()?;
    host.power_off()?;
    host.boot()?;
    engine_comes_before_the_driver(&lab, "after a power cut")?;

    // Absent until the engine has answered: that is up all the same, and may have given the container up.
    host.engine_stop()?;
    host.driver_stop()?;
    let started = Instant::now();
    host.engine_launch()?;
    host.engine_wait(2 * SOON)?;
    let absent = started.elapsed();
    assert!(absent < ENGINE_WITHIN, "without a driver the engine answered after {absent:?}");
    host.driver_resume()?;
    eventually("the container, started by hand if it was given up", SOON, || {
        host.docker(&["start", "steady"]).is_ok() && is_up(&lab)
    })?;

    // The shim is killed: its directory is emptied and made again, the driver finds it.
    let shim = host.sh("pgrep -x wgnet-shim")?;
    host.sh(&format!("kill -9 {}", shim.trim()))?;
    host.docker(&["run", "--rm", "--network", "blue", "bb", "true"])?;
    assert!(is_up(&lab));

    // Without its driver a start fails with a sentence that says where to look.
    host.driver_stop()?;
    let failed = host.try_docker(&["run", "--rm", "--network", "blue", "bb", "true"])?;
    assert!(!failed.success());
    let said = format!("{failed:?}");
    assert!(said.contains("wgnet-driver"), "{said}");
    host.driver_resume()?;
    eventually("a container, once the driver is back", SOON, || {
        host.docker(&["run", "--rm", "--network", "blue", "bb", "true"]).is_ok()
    })?;

    // Another shim is not put in its place unasked.
    host.sh("cp /opt/wgnet/wgnet-shim /tmp/shim; echo >> /tmp/shim")?;
    let asked = host.try_wgnetctl(&["plugin", "install", "--shim", "/tmp/shim"])?;
    let said = format!("{asked:?}");
    assert!(!asked.success() && said.contains("--replace") && said.contains("blue"), "{said}");
    host.wgnetctl(&["plugin", "install", "--shim", "/tmp/shim", "--replace"])?;
    eventually("a container behind the other shim", SOON, || {
        host.docker(&["run", "--rm", "--network", "blue", "bb", "true"]).is_ok()
    })
}

fn engine_comes_before_the_driver(lab: &Lab, when: &str) -> Result<()> {
    let host = lab.host(1);
    let started = Instant::now();
    let late = thread::scope(|scope| -> Result<()> {
        let late = scope.spawn(|| {
            // The drill is a driver that comes ten seconds late; there is no state to wait for.
            thread::sleep(LATE);
            host.driver_resume()
        });
        host.engine_launch()?;
        host.engine_wait(2 * SOON)?;
        assert!(
            started.elapsed() < ENGINE_WITHIN,
            "{when}: the engine answered after {:?}",
            started.elapsed()
        );
        late.join().expect("it does not panic")
    });
    late?;
    eventually(&format!("the container that restarts always, {when}"), SOON, || is_up(lab))
}

fn is_up(lab: &Lab) -> bool {
    lab.host(1)
        .docker(&["exec", "steady", "ip", "addr", "show", "eth0"])
        .is_ok_and(|said| said.contains("inet "))
}
