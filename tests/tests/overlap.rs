//! Two networks of one subnet on the same hosts, through the plugin's socket: swarm's allocator would
//! refuse, the driver does not mind.

// tests/run: any-engine

use serde_json::json;
use wgnet_tests::lab::{Lab, LabOptions, Result};
use wgnet_tests::plugin::Dockerless;
use wgnet_tests::swarm::{SOON, eventually};

const RED: &str = "red0000000000000000000001";
const BLUE: &str = "blue000000000000000000001";

#[test]
fn two_networks_of_one_subnet_carry_traffic_at_once_and_never_see_each_other() -> Result<()> {
    let lab = Lab::start(LabOptions {
        name: "e2e-overlap".into(),
        hosts: 2,
        engines: false,
        ..LabOptions::default()
    })?;
    lab.make_secret()?;
    let config = lab.driver_config() + "legacy_socket = true\n";
    lab.on_all_hosts(|host| host.driver_start(&config))?;
    let drivers: Vec<_> = lab.hosts().iter().map(|host| Dockerless { host }).collect();
    for driver in &drivers {
        for network in [RED, BLUE] {
            eventually("the driver", SOON, || {
                driver.create_network(network, "10.80.0.0/24", "10.80.0.1/24", &json!({})).is_ok()
            })?;
        }
    }
    // .2 is on h1 and .3 on h2 in both networks; .4 is only in red, .5 only in blue.
    let red = [
        drivers[0].run("a2", RED, "10.80.0.2/24")?,
        drivers[1].run("a3", RED, "10.80.0.3/24")?,
        drivers[1].run("a4", RED, "10.80.0.4/24")?,
    ];
    let blue = [
        drivers[0].run("b2", BLUE, "10.80.0.2/24")?,
        drivers[1].run("b3", BLUE, "10.80.0.3/24")?,
        drivers[1].run("b5", BLUE, "10.80.0.5/24")?,
    ];
    for (name, here, there) in [
        ("red", &red[0], "10.80.0.3"),
        ("blue", &blue[0], "10.80.0.3"),
        ("red", &red[0], "10.80.0.4"),
        ("blue", &blue[0], "10.80.0.5"),
    ] {
        eventually(&format!("{name} to {there}"), SOON, || here.reaches(there))?;
    }
    assert!(!red[0].reaches("10.80.0.5"), "red sees blue's");
    assert!(!blue[0].reaches("10.80.0.4"), "blue sees red's");

    // The same address answers as another container in each network.
    let answer = |from: &wgnet_tests::plugin::Pretended<'_>| {
        from.sh("ping -c1 -W2 -s 100 10.80.0.3").is_ok()
    };
    let received = |of: &wgnet_tests::plugin::Pretended<'_>| -> Result<u64> {
        Ok(of.sh("cat /sys/class/net/eth0/statistics/rx_packets")?.trim().parse().unwrap_or(0))
    };
    let (red_before, blue_before) = (received(&red[1])?, received(&blue[1])?);
    assert!((0..10).all(|_| answer(&red[0])));
    assert!(received(&red[1])? >= red_before + 10);
    assert!(received(&blue[1])? < blue_before + 10, "red's packets reached blue");

    for container in red.into_iter().chain(blue) {
        container.stop()?;
    }
    for driver in &drivers {
        driver.delete_network(RED)?;
        driver.delete_network(BLUE)?;
        eventually("no namespace", SOON, || {
            driver.host.sh("ls /run/netns").is_ok_and(|pins| !pins.contains("wgnet-"))
        })?;
    }
    Ok(())
}
