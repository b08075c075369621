//! Gathers what goes into the archive. What cannot be had is said in its place.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;
use wgnet_control_plane::admin::HeldListing;
use wgnet_control_plane::fleet::rows::Filter;
use wgnet_control_plane::fleet::{Fleet, HostReport};
use wgnet_proto::status::DriverStatus;

use super::Piece;
use super::scrub::Scrub;
use crate::doctor;
use crate::driver::Driver;
use crate::list::now;
use crate::settings::{Cluster, ClusterArgs};

/// For one command.
const PATIENCE: Duration = Duration::from_secs(15);

/// Of each file the end is kept.
const LARGEST: usize = 16 << 20;

/// On the host; each is a file of its own.
const HOST: [(&str, &[&str]); 17] = [
    ("kernel", &["uname", "-a"]),
    ("release", &["cat", "/etc/os-release"]),
    ("links", &["ip", "-d", "-s", "link"]),
    ("addresses", &["ip", "address"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    ("rules", &["ip", "rule"]),
    ("namespaces", &["ip", "netns"]),
    ("nft", &["nft", "list", "ruleset"]),
    ("iptables", &["iptables-save"]),
    ("udp", &["ss", "-anup"]),
    ("clock", &["timedatectl"]),
    ("memory", &["cat", "/proc/meminfo"]),
    ("disk", &["df", "-h"]),
    ("modules", &["cat", "/proc/modules"]),
    ("unit", &["systemctl", "status", "--no-pager", "wgnet-driver"]),
    ("docker-version", &["docker", "version"]),
    ("docker-networks", &["docker", "network", "ls", "--no-trunc"]),
];

/// In each network's namespace. wg hides keys unless told otherwise.
const NAMESPACE: [&[&str]; 5] = [
    &["ip", "-d", "-s", "link"],
    &["ip", "address"],
    &["ip", "route", "show", "table", "all"],
    &["nft", "list", "ruleset"],
    &["wg", "show"],
];

pub(super) struct Collected {
    pub(super) pieces: Vec<Piece>,
    pub(super) scrub: Scrub,
}

pub(super) async fn all(args: &ClusterArgs, driver: &Driver, docker: &Path) -> Collected {
    let mut pieces = Vec::new();
    let mut scrub = Scrub::default();
    let mut add = |name: &str, text: String| pieces.push(Piece { name: name.to_owned(), text });

    add("version.txt", format!("wgnetctl {}\n", env!("CARGO_PKG_VERSION")));
    let status = driver.get::<DriverStatus>("/status").await;
    add("status.json", json(&status));
    add("held.json", json(&driver.get::<Vec<HeldListing>>("/held").await));
    if let Ok(status) = &status {
        scrub.know_status(status);
    }
    if let Some(path) = args.file() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| missing(&error));
        add("settings.toml", text);
    }
    match args.load() {
        Ok(cluster) => {
            for path in secret_files(&cluster) {
                scrub.hide_file(&path);
            }
            add("doctor.json", pretty(&doctor::look(&cluster, driver, docker).await));
            match fleet(&cluster, status.as_ref().ok()).await {
                Ok(fleet) => {
                    scrub.know_fleet(&fleet);
                    cluster_files(&fleet).into_iter().for_each(|(name, text)| add(name, text));
                }
                Err(error) => add("cluster.txt", missing(&error)),
            }
        }
        Err(error) => add("cluster.txt", missing(&error)),
    }
    let log = [
        "journalctl",
        "-u",
        "wgnet-driver",
        "--no-pager",
        "-o",
        "short-iso-precise",
        "-n",
        "20000",
    ];
    add("log.txt", run(&log).await);
    for (name, command) in HOST {
        add(&format!("host/{name}.txt"), run(command).await);
    }
    for network in status.iter().flat_map(|status| &status.networks) {
        let mut text = String::new();
        for command in NAMESPACE {
            let inside = [&["ip", "netns", "exec", network.namespace.as_str()], command].concat();
            text.push_str(&run(&inside).await);
        }
        add(&format!("networks/{}.txt", network.key), text);
    }
    Collected { pieces, scrub }
}

fn secret_files(cluster: &Cluster) -> Vec<PathBuf> {
    let mut files = vec![cluster.secret.clone(), cluster.state_dir.join("host.key")];
    files.extend(cluster.client.as_ref().map(|(_, key)| key.clone()));
    files
}

async fn fleet(cluster: &Cluster, status: Option<&DriverStatus>) -> anyhow::Result<Fleet> {
    let mut fleet = Fleet::read(&cluster.store()?, cluster.secrets()?).await?;
    if let Some(status) = status {
        fleet.hear(status.host_id, HostReport::direct(status, now()));
    }
    Ok(fleet)
}

fn cluster_files(fleet: &Fleet) -> Vec<(&'static str, String)> {
    let all = Filter::default();
    let refused = fleet.refused().iter().map(|(key, refusal)| {
        serde_json::json!({
            "key": wgnet_proto::text::printable(key),
            "reason": refusal.reason.code(),
            "writer": refusal.writer,
            "detail": refusal.detail,
        })
    });
    vec![
        ("networks.json", pretty(&fleet.network_rows(&all))),
        ("hosts.json", pretty(&fleet.host_rows(&all))),
        ("endpoints.json", pretty(&fleet.endpoint_rows(&all))),
        ("peers.json", pretty(&fleet.peer_rows(&all, now()))),
        ("problems.json", pretty(&fleet.problems(&all))),
        ("refused.json", pretty(&refused.collect::<Vec<_>>())),
    ]
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| missing(&error))
}

fn json<T: Serialize>(answer: &anyhow::Result<T>) -> String {
    match answer {
        Ok(answer) => pretty(answer),
        Err(error) => missing(&format!("{error:#}")),
    }
}

fn missing(why: &impl ToString) -> String {
    format!("not to be had: {}\n", why.to_string())
}

/// What a command prints, with its command line before it.
async fn run(command: &[&str]) -> String {
    let line = command.join(" ");
    let mut process = Command::new(command[0]);
    process
        .args(&command[1..])
        .env("WG_HIDE_KEYS", "always")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let said = match timeout(PATIENCE, process.output()).await {
        Ok(Ok(output)) => {
            let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
            let end = text.len().saturating_sub(LARGEST);
            let text = String::from_utf8_lossy(&text[end..]).into_owned();
            if output.status.success() { text } else { format!("{text}({})\n", output.status) }
        }
        Ok(Err(error)) => missing(&error),
        Err(_) => missing(&format!("no end within {} s", PATIENCE.as_secs())),
    };
    format!("$ {line}\n{said}\n")
}
