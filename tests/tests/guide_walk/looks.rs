//! What the guide says in words, between the commands, and whether it is so.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use wgnet_tests::guide::services;
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{CONFIG, Host, LabError, Result, wait_for};
use wgnet_tests::swarm::{SOON, eventually, only_network};

use super::instead::copy;
use super::plan::on;
use crate::{At, Walk};

/// As the guide's table has it, but for WireGuard's ports.
const FIREWALL: &str = "nft 'table inet filter { chain input { \
    type filter hook input priority 0; policy drop; \
    ct state established,related accept; iifname lo accept; \
    meta l4proto { icmp, ipv6-icmp } accept; \
    tcp dport { 2377, 2379, 2380, 7946 } accept; udp dport 7946 accept; }; }'";

/// An image that was not fetched, and that stays.
const NGINX: &str = "docker create --name made bb sh -c 'trap exit TERM; sleep 1000000 & wait'; \
    docker commit made nginx; docker rm made";

const THIRD: usize = 3;

/// "The first ones wait in the last line until most of them are there."
pub(crate) fn etcd_answers(walk: &mut Walk) -> Result<()> {
    let urls: Vec<_> =
        walk.lab.hosts().iter().map(|host| format!("https://{}:2379", host.address())).collect();
    let ask = format!(
        "ETCDCTL_API=3 etcdctl --cacert=/etc/etcd/ca.pem --cert=/etc/etcd/server.pem \
         --key=/etc/etcd/server-key.pem --endpoints={} endpoint health",
        urls.join(",")
    );
    wait_for("all of etcd", 2 * SOON, || walk.lab.host(1).sh(&ask)).map(drop)
}

/// Puts the package of a version where it is typed, alone.
pub(crate) fn bring_package(walk: &mut Walk, version: &str) -> Result<()> {
    let unread =
        |error: std::io::Error| LabError::Machine(format!("{}: {error}", walk.packages.display()));
    let entries = fs::read_dir(&walk.packages).map_err(unread)?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut wanted = names.filter(|name| name.starts_with(&format!("wgnet_{version}_")));
    let name = wanted.next().expect("it was made of each version");
    let package = fs::read(walk.packages.join(&name)).map_err(unread)?;
    walk.lab.on_all_hosts(|host| {
        host.sh("rm -f /root/wgnet_*.deb")?;
        host.write(&format!("/root/{name}"), &package)
    })
}

/// "Take over the lines of etcd-for-wgnet/wgnet/driver.toml into /etc/wgnet/driver.toml."
pub(crate) fn take_over_settings(walk: &mut Walk) -> Result<()> {
    let made = walk.desk.join("etcd-for-wgnet/wgnet/driver.toml");
    let made = fs::read_to_string(&made)
        .map_err(|error| LabError::Machine(format!("{}: {error}", made.display())))?;
    let setting = |line: &str| line.split_once(" = ").map(|(name, _)| name.to_owned());
    let names: BTreeSet<_> = made.lines().filter_map(setting).collect();
    walk.lab.on_all_hosts(|host| {
        let old = host.read(CONFIG)?;
        let is_kept = |line: &&str| setting(line).is_none_or(|name| !names.contains(&name));
        let kept: Vec<_> = old.lines().filter(is_kept).collect();
        host.write(CONFIG, format!("{made}{}\n", kept.join("\n")))
    })
}

/// "Copy it to all others": the guide shows it for one.
pub(crate) fn secret_to_the_third(walk: &mut Walk) -> Result<()> {
    copy(walk, on(1), "scp -p /etc/wgnet/secret root@h3:/etc/wgnet/secret")
}

/// "Copy it to /etc/wgnet/secret on every host", of the first so many.
pub(crate) fn secret_to(walk: &mut Walk, hosts: usize) -> Result<()> {
    (1..=hosts).try_for_each(|number| {
        copy(walk, on(1), &format!("scp -p /root/secret.next root@h{number}:/etc/wgnet/secret"))
    })
}

/// A host that lets in nothing but what it has to, so that the guide's rule is missed.
pub(crate) fn close_firewalls(walk: &mut Walk) -> Result<()> {
    walk.lab.on_all_hosts(|host| host.sh(FIREWALL).map(drop))?;
    walk.wrong.insert("firewall-closed");
    doctor_finds(walk, on(1)).map(drop)
}

/// "20 s later (a node takes so long to tell what it has)."
pub(crate) fn swarm_knows_the_plugin(walk: &mut Walk) -> Result<()> {
    walk.lab.on_all_hosts(|host| host.sh(NGINX).map(drop))?;
    let format = "{{range .Description.Engine.Plugins}}{{.Name}} {{end}}";
    let ask = ["node", "inspect", "-f", format, "h1", "h2", "h3"];
    eventually("the plugin on all nodes", SOON, || {
        let said = walk.lab.host(1).docker(&ask).unwrap_or_default();
        said.lines().filter(|line| line.contains("wgnet:latest")).count() == 3
    })
}

/// The service's task, and a container on each host; they are what the guide's addresses are.
pub(crate) fn containers_reach_each_other(walk: &mut Walk) -> Result<()> {
    let listed = || rows(walk.lab.host(1), "endpoints").is_ok_and(|rows| rows.len() == 1);
    eventually("the service's endpoint", SOON, listed)?;
    for (host, name) in walk.lab.hosts().iter().zip(["near", "far", "third"]) {
        host.sh(&format!("docker run -d --name {name} --network blue perf sleep 1000000"))?;
    }
    containers_still_reach_each_other(walk)?;
    let (near, far) = pair(walk);
    let (here, there) = (address(&near)?, address(&far)?);
    // Who is silent shows only where something is said.
    near.host.docker(&["exec", "-d", "near", "ping", "-i", "0.2", &there])?;
    let namespace = only_network(near.host)?.namespace;
    let id = namespace.strip_prefix("wgnet-").unwrap_or(&namespace).to_owned();
    walk.words.extend([("10.0.3.7", here), ("10.0.3.9", there), ("ID", id)]);
    Ok(())
}

pub(crate) fn containers_still_reach_each_other(walk: &mut Walk) -> Result<()> {
    let (near, far) = pair(walk);
    wait_for("pings both ways", SOON, || near.ping("far").and_then(|_| far.ping("near"))).map(drop)
}

/// And the machine's tcpdump is there.
pub(crate) fn nothing_is_wrong(walk: &mut Walk) -> Result<()> {
    let host = walk.lab.host(1);
    services::bring(host, "tcpdump")?;
    services::user(host, "tcpdump", 102)?;
    wait_for("no problems", 2 * SOON, || host.exec(&["wgnetctl", "problems"])).map(drop)
}

/// ""Nothing to do" is the normal answer."
pub(crate) fn nothing_to_do(walk: &mut Walk) -> Result<()> {
    if walk.said.contains("nothing to do") {
        return Ok(());
    }
    Err(LabError::Machine(format!("there was something to do: {}", walk.said)))
}

/// "Stop etcd on all its nodes."
pub(crate) fn stop_etcd(walk: &mut Walk) -> Result<()> {
    walk.listed = listed(walk)?;
    walk.lab.on_all_hosts(|host| services::systemctl(host, "stop", "etcd"))
}

/// "Show everything again."
pub(crate) fn all_is_listed_again(walk: &mut Walk) -> Result<()> {
    wait_for("all that was listed before", 2 * SOON, || {
        let now = listed(walk).map_err(|error| error.to_string())?;
        if now == walk.listed { Ok(()) } else { Err(format!("{now:?}, before {:?}", walk.listed)) }
    })
    .map(drop)
}

/// "Stop what runs there."
pub(crate) fn stop_the_third(walk: &mut Walk) -> Result<()> {
    let host = walk.lab.host(THIRD);
    host.docker(&["rm", "-f", "third"])?;
    eventually("nothing to run there", SOON, || {
        host.docker(&["ps", "-q"]).is_ok_and(|ids| ids.is_empty())
    })
}

/// "Take its networks down."
pub(crate) fn third_has_no_networks(walk: &mut Walk) -> Result<()> {
    let script = "[ -z \"$(ip netns)\" ]; ! pgrep -x 'wgnet-driver|wgnet-engine'";
    walk.lab.host(THIRD).sh(script).map(drop)
}

/// "A minute later."
pub(crate) fn third_is_gone(walk: &mut Walk) -> Result<()> {
    let is_gone = |row: &Value| row["name"] == "h3" && row["state"] == "gone";
    eventually("the host to be gone", 3 * SOON, || {
        rows(walk.lab.host(1), "hosts").is_ok_and(|rows| rows.iter().any(is_gone))
    })
}

/// "Deletes its keys and the secret."
pub(crate) fn third_has_no_files(walk: &mut Walk) -> Result<()> {
    let host = walk.lab.host(THIRD);
    host.sh("[ ! -e /etc/wgnet ] && [ ! -e /var/lib/wgnet ]").map(drop)
}

/// "The others drop the host's keys."
pub(crate) fn second_is_not_reached(walk: &mut Walk) -> Result<()> {
    let (near, far) = pair(walk);
    eventually("no ping to a host that is locked out", SOON, || near.ping(&far.name).is_err())
}

/// "When it has gone": not all that is wrong, since etcd was emptied.
pub(crate) fn all_use_the_new_secret(walk: &mut Walk) -> Result<()> {
    eventually("the new secret everywhere", SOON, || {
        let said = walk.lab.host(1).try_exec(&["wgnetctl", "problems", "--json"]);
        said.is_ok_and(|said| {
            said.stdout.starts_with('[') && !said.stdout.contains("secret-epochs-differ")
        })
    })
}

/// The secret opens what is in etcd.
pub(crate) fn first_is_alive(walk: &mut Walk) -> Result<()> {
    let is_alive = |row: &Value| row["name"] == "h1" && row["state"] == "alive";
    eventually("the host that is left", SOON, || {
        rows(walk.lab.host(1), "hosts").is_ok_and(|rows| rows.iter().any(is_alive))
    })
}

/// Waits until doctor finds what is wrong, and nothing else; its exit code.
pub(crate) fn doctor_finds(walk: &Walk, at: At) -> Result<i32> {
    let host = walk.host(at);
    let what = format!("doctor to find {:?} on {}", walk.wrong, host.name());
    let (code, _) = wait_for(&what, 2 * SOON, || {
        let said = host.try_exec(&["wgnetctl", "doctor", "--json"]).map_err(|it| it.to_string())?;
        let areas: Vec<Value> =
            serde_json::from_str(&said.stdout).map_err(|error| format!("{error}: {said}"))?;
        let findings = areas.iter().filter_map(|area| area["findings"].as_array()).flatten();
        let mut codes: BTreeSet<_> = findings
            .filter(|finding| finding["severity"] != "note")
            .filter_map(|finding| finding["code"].as_str())
            .collect();
        // Debian 12's etcd is; and so it stays.
        let is_old = codes.remove("etcd-old");
        if codes == walk.wrong {
            Ok(i32::from(is_old || !codes.is_empty()))
        } else {
            Err(format!("{codes:?}"))
        }
    })?;
    Ok(code)
}

/// Networks, hosts and endpoints, as h1 lists them.
fn listed(walk: &Walk) -> Result<BTreeSet<String>> {
    let mut listed = BTreeSet::new();
    for (list, fields) in [
        ("networks", ["network", "members", "state"]),
        ("hosts", ["name", "state", "endpoints"]),
        ("endpoints", ["addresses", "host_name", "state"]),
    ] {
        for row in rows(walk.lab.host(1), list)? {
            let values = fields.map(|field| row[field].to_string());
            listed.insert(format!("{list}: {}", values.join(" ")));
        }
    }
    Ok(listed)
}

fn rows(host: &Host, list: &str) -> Result<Vec<Value>> {
    let said = host.exec(&["wgnetctl", list, "--json"])?;
    serde_json::from_str(&said)
        .map_err(|error| LabError::Machine(format!("wgnetctl {list}: {error}: {said}")))
}

fn pair(walk: &Walk) -> (Container<'_>, Container<'_>) {
    let of = |number, name: &str| Container { host: walk.lab.host(number), name: name.to_owned() };
    (of(1, "near"), of(2, "far"))
}

fn address(container: &Container<'_>) -> Result<String> {
    let format = "{{.NetworkSettings.Networks.blue.IPAddress}}";
    container.host.docker(&["inspect", "-f", format, &container.name])
}
