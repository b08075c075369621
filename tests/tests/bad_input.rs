//! Bad input and bad surroundings: each a sentence with object, cause and next step, and the driver
//! stays up where Docker could still need it. (A kernel without WireGuard: `vm_drivers.rs`.)

use serde_json::{Value, json};
use wgnet_tests::lab::{DRIVER_LOG, Host, Lab, LabOptions, Result, SECRET};
use wgnet_tests::plugin::Dockerless;
use wgnet_tests::swarm::{SOON, eventually, status};

const NETWORK: &str = "bad0000000000000000000001";

fn lab(name: &str, hosts: u8, etcd: bool) -> Result<Lab> {
    Lab::start(LabOptions {
        name: name.into(),
        hosts,
        etcd,
        engines: false,
        ..LabOptions::default()
    })
}

fn config(lab: &Lab) -> String {
    lab.driver_config() + "legacy_socket = true\n"
}

/// What CreateNetwork answers, once the driver answers at all.
fn create(host: &Host, options: &Value) -> Result<String> {
    let body = json!({
        "NetworkID": NETWORK,
        "Options": { "com.docker.network.generic": options },
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.90.0.0/24", "Gateway": "10.90.0.1/24" }],
        "IPv6Data": [],
    });
    let mut answer = Value::Null;
    eventually("an answer", SOON, || {
        answer = Dockerless { host }.call("CreateNetwork", &body).unwrap_or_default();
        let starting = answer["Err"].as_str().is_some_and(|error| error.contains("is starting"));
        answer.is_object() && !starting
    })?;
    Ok(answer["Err"].as_str().unwrap_or_default().to_owned())
}

/// The error names all of these, and the driver lives.
fn says(host: &Host, error: &str, words: &[&str]) {
    for word in words {
        assert!(
            error.contains(word),
            "{word:?} is missing in {error:?}; log: {}",
            host.driver_log()
        );
    }
    assert!(host.driver_pid().is_some(), "the driver ended: {}", host.driver_log());
}

fn problem(host: &Host, code: &str, words: &[&str]) -> Result<()> {
    let mut problems = Vec::new();
    let found = eventually(&format!("the problem {code}"), SOON, || {
        problems = status(host).map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| {
            let text = format!("{} {} {}", problem.object, problem.cause, problem.next_step);
            problem.code == code && words.iter().all(|word| text.contains(word))
        })
    });
    found.map_err(|error| wgnet_tests::lab::LabError::Machine(format!("{error}: {problems:?}")))
}

#[test]
fn a_secret_that_others_can_read_or_that_is_missing_is_refused_until_it_is_mended() -> Result<()> {
    let lab = lab("bad-secret", 1, true)?;
    let host = lab.host(1);
    host.driver_start(&config(&lab))?;
    says(host, &create(host, &json!({}))?, &[SECRET, "does not exist", "wgnetctl secret new"]);
    lab.make_secret()?;
    host.sh(&format!("chmod 0644 {SECRET}"))?;
    host.driver_crash()?;
    says(host, &create(host, &json!({}))?, &[SECRET, "0644", "chmod 0600"]);
    host.sh(&format!("chmod 0600 {SECRET}"))?;
    eventually("the network, without a restart", SOON, || {
        create(host, &json!({})).is_ok_and(|error| error.is_empty())
    })
}

#[test]
fn a_host_with_another_secret_is_refused_by_name_and_harms_nobody() -> Result<()> {
    let lab = lab("bad-other", 3, true)?;
    lab.make_secret()?;
    let stranger = lab.host(3);
    stranger.sh(&format!("rm {SECRET}; /opt/wgnet/wgnetctl secret new {SECRET}"))?;
    let drivers: Vec<_> = lab.hosts().iter().map(|host| Dockerless { host }).collect();
    for (driver, name) in drivers.iter().zip(["a1", "a2", "a3"]) {
        driver.host.driver_start(&config(&lab))?;
        eventually("the network", SOON, || {
            create(driver.host, &json!({})).is_ok_and(|error| error.is_empty())
        })?;
        let address = format!("10.90.0.1{}/24", &name[1..]);
        driver.run(name, NETWORK, &address)?;
    }
    eventually("the two that agree", SOON, || {
        lab.host(1).sh("ip netns exec c-a1 ping -c1 -W1 10.90.0.12").is_ok()
    })?;
    assert!(
        lab.host(1).sh("ip netns exec c-a1 ping -c1 -W1 10.90.0.13").is_err(),
        "a stranger was let in"
    );
    // Whoever founded the cluster, the other side names the stranger's records.
    let refused =
        |host: &Host| status(host).map(|status| status.refused.values().sum::<u64>()).unwrap_or(0);
    eventually("the refusal", SOON, || refused(lab.host(1)) > 0 || refused(stranger) > 0)?;
    problem(stranger, "wrong-secret", &["secret", "copy it from there"])?;
    let told = status(stranger)?.problems;
    assert_eq!(told.len(), 1, "one cause: {told:?}");
    Ok(())
}

#[test]
fn a_host_with_a_replaced_secret_is_told_that_and_nothing_that_follows() -> Result<()> {
    let lab = lab("bad-swapped", 2, true)?;
    lab.make_secret()?;
    let drivers: Vec<_> = lab.hosts().iter().map(|host| Dockerless { host }).collect();
    let mut boxes = Vec::new();
    for (driver, name) in drivers.iter().zip(["a1", "a2"]) {
        driver.host.driver_start(&config(&lab))?;
        eventually("the network", SOON, || {
            create(driver.host, &json!({})).is_ok_and(|error| error.is_empty())
        })?;
        boxes.push(driver.run(name, NETWORK, &format!("10.90.0.1{}/24", &name[1..]))?);
    }
    eventually("the way between both", SOON, || boxes[0].reaches("10.90.0.12"))?;
    let host = lab.host(2);
    host.sh(&format!("mv {SECRET} /etc/wgnet/right; /opt/wgnet/wgnetctl secret new {SECRET}"))?;
    host.driver_crash()?;
    problem(host, "wrong-secret", &["systemctl restart wgnet-driver"])?;
    // Of the cluster, both hosts, the network, both members and both endpoints, at least.
    eventually("each record refused", SOON, || {
        status(host).is_ok_and(|said| said.refused.get("wrong-secret").is_some_and(|it| *it >= 8))
    })?;
    let codes = || -> Result<Vec<String>> {
        Ok(status(host)?.problems.into_iter().map(|problem| problem.code).collect())
    };
    assert_eq!(codes()?, ["wrong-secret"]);
    host.sh(&format!("mv /etc/wgnet/right {SECRET}"))?;
    host.driver_crash()?;
    eventually("no problem any more", SOON, || codes().is_ok_and(|codes| codes.is_empty()))?;
    eventually("the way between both", SOON, || boxes[0].reaches("10.90.0.12"))
}

#[test]
fn without_etcd_networks_and_endpoints_of_this_host_work() -> Result<()> {
    let lab = lab("bad-etcd", 1, true)?;
    lab.make_secret()?;
    lab.etcd().stop()?;
    let host = lab.host(1);
    host.driver_start(&config(&lab))?;
    assert_eq!(create(host, &json!({}))?, "");
    let driver = Dockerless { host };
    let one = driver.run("a1", NETWORK, "10.90.0.11/24")?;
    driver.run("a2", NETWORK, "10.90.0.12/24")?;
    eventually("a ping on this host", SOON, || one.reaches("10.90.0.12"))?;
    let said = status(host)?;
    assert!(!said.store.connected && said.store.unpublished > 0, "{said:?}");
    problem(host, "etcd-away", &["etcd at ", ":2379", "refused", "start etcd", "`etcd`"])?;
    lab.etcd().start()?;
    eventually("everything published, and nothing to complain of", SOON, || {
        status(host).is_ok_and(|said| {
            said.store.connected && said.store.unpublished == 0 && said.problems.is_empty()
        })
    })
}

#[test]
fn a_bad_option_is_named_with_the_known_ones_and_shows_in_the_status() -> Result<()> {
    let lab = lab("bad-option", 1, true)?;
    lab.make_secret()?;
    let host = lab.host(1);
    host.driver_start(&config(&lab))?;
    says(
        host,
        &create(host, &json!({ "speed": "fast" }))?,
        &["speed", "mtu", "port", "keepalive", "gwbridge", "id"],
    );
    problem(host, "bad-option", &["speed", "remove the network and create it with other options"])?;
    says(host, &create(host, &json!({ "mtu": "12" }))?, &["mtu", "12"]);
    assert_eq!(
        create(
            host,
            &json!({ "com.docker.network.driver.mtu": "1300", "com.docker.whatever": "x" })
        )?,
        ""
    );
    eventually("no problem any more", SOON, || {
        status(host).is_ok_and(|status| status.problems.is_empty())
    })
}

#[test]
fn a_taken_port_is_left_to_its_owner_and_said() -> Result<()> {
    let lab = lab("bad-port", 1, true)?;
    lab.make_secret()?;
    let host = lab.host(1);
    let _holder = host.spawn(&["perl", "-e", "use Socket; socket(S, AF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(51900, INADDR_ANY)) or die; sleep 1000"])?;
    eventually("the holder", SOON, || {
        host.sh("ss -Huan sport = :51900").is_ok_and(|text| !text.trim().is_empty())
    })?;
    host.driver_start(&config(&lab))?;
    assert_eq!(create(host, &json!({ "port": "51900" }))?, "");
    let words = ["UDP port 51900 was taken", "ss -lunp sport = :51900"];
    problem(host, "port-taken", &words)?;
    host.driver_crash()?;
    problem(host, "port-taken", &words)?;
    Dockerless { host }.run("a1", NETWORK, "10.90.0.11/24")?;
    let port = status(host)?.networks[0].slots[0].port;
    assert_ne!(port, 51900);
    let sockets = |port: u16| host.sh(&format!("ss -Huan sport = :{port}"));
    eventually("another port to be open", SOON, || {
        sockets(port).is_ok_and(|text| text.contains(&format!(":{port} ")))
    })?;
    assert_eq!(sockets(51900)?.lines().count(), 1, "the port's owner has it: {}", sockets(51900)?);
    Ok(())
}

#[test]
fn a_full_disk_loses_nothing_and_is_named() -> Result<()> {
    let lab = lab("bad-disk", 1, true)?;
    lab.make_secret()?;
    let host = lab.host(1);
    host.sh("mkdir -p /var/lib/wgnet; mount -t tmpfs -o size=8m tmpfs /var/lib/wgnet")?;
    host.driver_start(&config(&lab))?;
    assert_eq!(create(host, &json!({}))?, "");
    host.sh("dd if=/dev/zero of=/var/lib/wgnet/filler bs=4096 2>/dev/null || true")?;
    let driver = Dockerless { host };
    // Free pages inside the journal may take some updates; then one is refused.
    let mut error = String::new();
    for number in 0..2000 {
        let endpoint = format!("{number:064x}");
        let body = json!({ "NetworkID": NETWORK, "EndpointID": endpoint, "Options": {},
            "Interface": { "Address": format!("10.90.0.{}/24", 2 + number % 200), "AddressIPv6": "", "MacAddress": "" } });
        error =
            driver.call("CreateEndpoint", &body)?["Err"].as_str().unwrap_or_default().to_owned();
        if !error.is_empty() {
            break;
        }
    }
    says(host, &error, &["/var/lib/wgnet", "free some space on its disk"]);
    host.sh("rm /var/lib/wgnet/filler")?;
    eventually("work to go on", SOON, || driver.run("ab", NETWORK, "10.90.0.250/24").is_ok())
}

#[test]
fn without_root_it_says_so_and_ends() -> Result<()> {
    let lab = lab("bad-root", 1, false)?;
    let host = lab.host(1);
    let output = host.try_exec(&[
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "/opt/wgnet/wgnet-driver",
        "--state-dir",
        "/tmp/s",
        "--run-dir",
        "/tmp/r",
    ])?;
    assert!(!output.success());
    let text = format!("{output:?}");
    assert!(text.contains("root") && text.contains("systemctl start wgnet-driver"), "{text}");
    assert!(host.read(DRIVER_LOG).is_err(), "nothing else ran");
    Ok(())
}

#[test]
fn settings_that_are_wrong_are_named_and_change_nothing() -> Result<()> {
    let lab = lab("bad-settings", 1, false)?;
    let host = lab.host(1);
    for (text, words) in [
        ("prots = \"1-2\"\n", vec!["/etc/wgnet/driver.toml", "prots"]),
        ("ports = \"9-3\"\n", vec!["ports", "9-3", "51820-52819"]),
        ("etcd = [\"http://192.0.2.2:2379\"]\n", vec!["etcd_insecure", "https://"]),
        ("backend = \"fast\"\n", vec!["backend", "userspace"]),
    ] {
        host.write("/etc/wgnet/driver.toml", text)?;
        let output = host.try_exec(&["/opt/wgnet/wgnet-driver", "--check"])?;
        assert!(!output.success(), "{text}");
        let said = format!("{output:?}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing in {said}");
        }
    }
    Ok(())
}
