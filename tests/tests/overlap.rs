//! Two networks of one subnet on the same hosts, through the plugin's socket: swarm's allocator would
//! refuse, the driver does not mind.

use serde_json::json;
use wgnet_tests::lab::{Lab, LabError, LabOptions, Result, Running, wait_for};
use wgnet_tests::plugin::{Dockerless, Pretended};
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

    both_carry_traffic_at_once_and_each_its_own(&red, &blue)?;

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

/// The same address answers as another container in each network, and counts what reaches it: a
/// packet that strays is one too few here and one too many there.
fn both_carry_traffic_at_once_and_each_its_own(
    red: &[Pretended<'_>; 3],
    blue: &[Pretended<'_>; 3],
) -> Result<()> {
    let flows = [
        Flow { from: &red[0], to: &red[1], packets: 400 },
        Flow { from: &blue[0], to: &blue[1], packets: 300 },
    ];
    let before = counts(&flows)?;
    let pings: Vec<_> = flows.iter().map(Flow::start).collect::<Result<_>>()?;
    let mut seen = before;
    // Both counters grow between two looks, over and over.
    for look in 0..LOOKS {
        wait_for(&format!("packets in both networks, look {look}"), SOON, || {
            let now = counts(&flows).map_err(|error| error.to_string())?;
            let grew = now.iter().zip(&seen).all(|(now, seen)| now.asked > seen.asked);
            if !grew {
                return Err(format!("{seen:?} became {now:?}"));
            }
            seen = now;
            Ok(())
        })?;
    }
    for ping in pings {
        ping.finish(SOON)?.text()?;
    }
    for ((flow, before), after) in flows.iter().zip(&before).zip(&counts(&flows)?) {
        let name = &flow.to.name;
        assert_eq!(after.asked - before.asked, flow.packets, "{name} was asked so often");
        assert_eq!(after.answered - before.answered, flow.packets, "{name}'s answers came back");
    }
    Ok(())
}

/// So many times both are seen to have traffic.
const LOOKS: usize = 5;

struct Flow<'s> {
    from: &'s Pretended<'s>,
    to: &'s Pretended<'s>,
    packets: u64,
}

impl Flow<'_> {
    fn start(&self) -> Result<Running> {
        let (from, to, packets) = (&self.from.name, &self.to.address, self.packets);
        self.from.host.spawn(&[
            "sh",
            "-ec",
            &format!("exec ip netns exec c-{from} ping -q -i 0.01 -c {packets} {to}"),
        ])
    }
}

/// Echo requests that reached the one, echo replies that reached the other.
#[derive(Debug, Clone, Copy)]
struct Counts {
    asked: u64,
    answered: u64,
}

fn counts(flows: &[Flow<'_>; 2]) -> Result<[Counts; 2]> {
    let of = |flow: &Flow<'_>| -> Result<Counts> {
        let asked = icmp(flow.to, "InEchos")?;
        Ok(Counts { asked, answered: icmp(flow.from, "InEchoReps")? })
    };
    Ok([of(&flows[0])?, of(&flows[1])?])
}

/// A counter of the kernel's for one namespace, from a line of names and one of numbers.
fn icmp(of: &Pretended<'_>, counter: &str) -> Result<u64> {
    let said = of.sh("cat /proc/net/snmp")?;
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let mut columns = || lines.next().unwrap_or_default().split(' ').collect::<Vec<_>>();
    let (names, numbers) = (columns(), columns());
    let at = names.iter().position(|name| *name == counter).unwrap_or(usize::MAX);
    let number = numbers.get(at).and_then(|number| number.parse().ok());
    number.ok_or_else(|| LabError::Machine(format!("{}: no {counter} in {said}", of.name)))
}
