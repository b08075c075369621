//! The demo: a swarm of three hosts on one wgnet network, shown to work and shown to be closed.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use super::{
    Lab, LabOptions, Suite,
    checks::{self, Container},
    command::{run, wait_for},
    error::{LabError, Result},
    host::binaries,
    interrupt,
};
use crate::swarm::NAMED;

const NAME: &str = "demo";
const KNOWN_TEXT: &str = "this sentence must not be readable between the hosts";

const OTHER_NAMES: [&str; 4] = ["web", "tasks.web", "box-alias-2", "box-alias-3"];

#[derive(Debug)]
pub struct DemoOptions {
    /// Take everything down at the end instead of waiting for Ctrl-C.
    pub once: bool,
    pub suite: Suite,
    /// The driver of the network that is shown. Any other than wgnet's own needs nothing of wgnet.
    pub network_driver: String,
}

impl DemoOptions {
    pub const DRIVER: &str = "wgnet:latest";

    fn shows_wgnet(&self) -> bool {
        self.network_driver == Self::DRIVER
    }
}

/// Builds everything, shows it, and takes it down again, whatever happened in between.
pub fn demo(options: &DemoOptions) -> Result<()> {
    interrupt::catch_signals()?;
    let shown = build(options).and_then(|lab| {
        let shown = show(&lab, options);
        match &shown {
            Ok(()) if !options.once => look_around(&lab),
            // The reason is in the drivers' logs, and those go down with the lab.
            Err(_) if options.shows_wgnet() && !interrupt::came() => print_logs(&lab),
            _ => {}
        }
        // The terminal may be gone.
        let _ = writeln!(std::io::stdout(), "\nTaking everything down");
        lab.stop()?;
        shown
    });
    if interrupt::came() && shown.is_err() {
        return Err(LabError::Machine(
            "ended by a signal before all was shown; everything is down".into(),
        ));
    }
    shown
}

fn build(options: &DemoOptions) -> Result<Lab> {
    println!(
        "Building: three hosts with Docker engines of Debian {}, one etcd",
        options.suite.name()
    );
    let lab = step("hosts, engines and etcd", || {
        Lab::start(LabOptions { name: NAME.into(), suite: options.suite, ..LabOptions::default() })
    })?;
    if options.shows_wgnet() {
        say_backend(&lab)?;
        step("the cluster's secret, on every host", || lab.make_secret())?;
        step("a driver on every host", || {
            lab.on_all_hosts(|host| host.driver_start(&lab.driver_config_with("auto")))
        })?;
        step("the Docker plugin on every host", || lab.on_all_hosts(|host| host.plugin_install()))?;
    }
    step("container images", || lab.load_images())?;
    step("one swarm: h1 manages, h2 and h3 join", || lab.swarm_init())?;
    let manager = lab.host(1);
    let network = ["network", "create", "--attachable", "-d"];
    step(
        &format!("docker network create -d {} --attachable blue", options.network_driver),
        || manager.docker(&[&network[..], &[&options.network_driver, "blue"]].concat()),
    )?;
    step("docker network create -d overlay --attachable plain (to compare with)", || {
        manager.docker(&[&network[..], &["overlay", "plain"]].concat())
    })?;
    step("a service of three tasks, one on each host", || {
        manager.docker(&[
            "service",
            "create",
            "--quiet",
            "--detach",
            "--no-resolve-image",
            "--name",
            "web",
            "--replicas",
            "3",
            "--replicas-max-per-node",
            "1",
            "--endpoint-mode",
            "dnsrr",
            "--stop-grace-period",
            "0s",
            "--network",
            "blue",
            "bb",
            "sleep",
            "1000000",
        ])?;
        checks::service_containers(&lab, "web").map(drop)
    })?;
    step("a container on each host, on each of the two networks", || {
        lab.on_all_hosts(|host| {
            for (kind, network) in [("box", "blue"), ("plain", "plain")] {
                let number = host.name().trim_start_matches('h');
                let name = format!("{kind}{number}");
                let alias = format!("{kind}-alias-{number}");
                host.docker(&[
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--network",
                    network,
                    "--network-alias",
                    &alias,
                    "perf",
                    "iperf3",
                    "-s",
                ])?;
            }
            Ok(())
        })
    })?;
    Ok(lab)
}

fn show(lab: &Lab, options: &DemoOptions) -> Result<()> {
    let named = |kind: &str, number: usize| Container {
        host: lab.host(number),
        name: format!("{kind}{number}"),
    };
    let all = |kind: &str| (1..=lab.hosts().len()).map(|number| named(kind, number)).collect();
    let (boxes, plain): (Vec<_>, Vec<_>) = (all("box"), all("plain"));
    let mut everyone = checks::service_containers(lab, "web")?;
    everyone.extend(boxes.iter().cloned());
    // What does not answer by then is in the table.
    let _ = step("until every name answers (Docker's gossip spreads them)", || {
        wait_for("every name to answer", NAMED, || {
            let unheard = checks::ping_matrix(&everyone).into_values().find_map(Result::err);
            let unheard = unheard
                .or_else(|| checks::ping_matrix(&plain).into_values().find_map(Result::err))
                .or_else(|| OTHER_NAMES.iter().find_map(|name| boxes[0].ping(name).err()));
            unheard.map_or(Ok(()), Err)
        })
    });

    let mut failures = Vec::new();

    println!(
        "\nPings by name, in ms (row pings column; the service's tasks, and single containers)"
    );
    failures.extend(print_matrix(&everyone));

    println!("\nOther names, asked from box1");
    for name in OTHER_NAMES {
        match named("box", 1).ping(name) {
            Ok(time) => println!("  {name:<12} answers in {time} ms"),
            Err(error) => {
                println!("  {name:<12} does not answer");
                failures.push(error.to_string());
            }
        }
    }

    println!("\nA transfer of 100 MB from box1 (h1) to box2 (h2)");
    named("box", 1).serve("/tmp")?;
    let transfer = checks::transfer(&named("box", 1), &named("box", 2), 100)?;
    println!("  sha256 sent      {}\n  sha256 received  {}", transfer.sent, transfer.received);
    println!(
        "  {:.0} MB/s with wget",
        transfer.bytes as f64 / 1e6 / transfer.elapsed.as_secs_f64()
    );
    if transfer.sent != transfer.received {
        failures.push("the bytes received are not the bytes sent".into());
    }

    println!(
        "\nSpeed of one TCP stream from h2 to h1 (this machine does the work of all hosts at once)"
    );
    for (kind, what) in
        [("box", options.network_driver.as_str()), ("plain", "overlay (not encrypted)")]
    {
        let rate = checks::throughput(&named(kind, 2), &named(kind, 1), 3)?;
        println!("  {what:<24} {rate:>6.0} Mbit/s");
    }

    if options.shows_wgnet() {
        println!("\nWireGuard, as each host sees it (wgnetctl status)");
        for host in lab.hosts() {
            let status = host.wgnetctl(&["status"])?;
            println!("  {}", host.name());
            status.lines().for_each(|line| println!("    {line}"));
        }
    }

    println!(
        "\nFrames between the hosts that held a known text, while 1 MB of it was sent from h1 to h2"
    );
    named("plain", 1).serve("/tmp")?;
    let wgnet = checks::readable_frames(lab, &named("box", 1), &named("box", 2), KNOWN_TEXT)?;
    let overlay = checks::readable_frames(lab, &named("plain", 1), &named("plain", 2), KNOWN_TEXT)?;
    for (what, seen) in [(options.network_driver.as_str(), &wgnet), ("overlay", &overlay)] {
        println!("  {what:<24} {:>6} of {} frames", seen.readable, seen.frames);
    }
    if overlay.readable == 0 {
        failures.push(
            "the known text was not found on the overlay either: the check cannot be trusted"
                .into(),
        );
    }
    if wgnet.readable > 0 && options.shows_wgnet() {
        failures.push(format!("{} frames could be read on the underlay", wgnet.readable));
    }

    if failures.is_empty() {
        let unread = if wgnet.readable == 0 { ", and nothing could be read" } else { "" };
        println!(
            "\nShown of {}: every name answered, the checksums are equal{unread}.",
            options.network_driver
        );
        Ok(())
    } else {
        Err(LabError::Machine(format!("the demo failed:\n  {}", failures.join("\n  "))))
    }
}

/// Prints the table and returns what is wrong in it.
fn print_matrix(everyone: &[Container<'_>]) -> Vec<String> {
    // A task's container is web.1.<task id>: the id would make the table unreadable.
    let short = |name: &str| name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let pings = checks::ping_matrix(everyone);
    print!("  {:>7}", "");
    everyone.iter().for_each(|to| print!(" {:>7}", short(&to.name)));
    println!();
    let mut failures = Vec::new();
    for from in everyone {
        print!("  {:>7}", short(&from.name));
        for to in everyone {
            match &pings[&(from.name.clone(), to.name.clone())] {
                Ok(time) => print!(" {time:>7.2}"),
                Err(error) => {
                    print!(" {:>7}", "-");
                    failures.push(error.to_string());
                }
            }
        }
        println!();
    }
    println!("  {} of {} answered", pings.len() - failures.len(), pings.len());
    failures
}

/// The drivers choose by themselves; this says beforehand what they will find.
fn say_backend(lab: &Lab) -> Result<()> {
    let netns = lab.underlay().netns;
    let probe = run("ip", &["-n", &netns, "link", "add", "wgprobe", "type", "wireguard"])?;
    if probe.success() {
        run("ip", &["-n", &netns, "link", "del", "wgprobe"])?.text()?;
        println!("  This kernel has WireGuard: it is used.");
    } else {
        println!(
            "  This kernel has NO WireGuard: wgnet's userspace engine does the encryption (slower, the same protocol)."
        );
    }
    Ok(())
}

fn look_around(lab: &Lab) {
    let program = binaries()
        .map_or_else(|_| "wgnet-lab".into(), |dir| dir.join("wgnet-lab").display().to_string());
    let lab_command = format!("{program} --name {NAME}");
    println!("\nEverything runs. Look around from another terminal, as root:");
    for (command, what) in [
        ("docker 1 node ls", "the swarm"),
        ("docker 2 exec -it box2 sh", "a shell in a container"),
        ("exec 3 bash", "a shell on host 3"),
        (
            "exec 1 ip netns",
            "the networks' namespaces on host 1 (then: ip netns exec NAME ip a, ip r, nft list ruleset)",
        ),
        ("exec 1 /opt/wgnet/wgnetctl status", "wgnet on host 1: peers, handshakes, endpoints"),
        (
            "host 2 power-off",
            "what a power cut does (then: host 2 boot, driver-start, engine-start; docker 2 start box2)",
        ),
        ("etcdctl get /wgnet --prefix --keys-only", "what the drivers share"),
    ] {
        println!("  {lab_command} {command}\n      {what}");
    }
    println!("Logs: {}/hosts/h*/upper/var/log", lab.dir().display());
    println!("\nCtrl-C takes everything down.");
    while !interrupt::pending() {
        thread::sleep(Duration::from_millis(100));
    }
}

fn print_logs(lab: &Lab) {
    for host in lab.hosts() {
        let log = host.driver_log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("the end of the driver's log on {}:", host.name());
        lines[lines.len().saturating_sub(20)..].iter().for_each(|line| eprintln!("  {line}"));
    }
}

fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("  {what} ... ");
    let _ = std::io::stdout().flush();
    let started = Instant::now();
    let done = work();
    println!(
        "{}",
        match &done {
            Ok(_) => format!("{:.1} s", started.elapsed().as_secs_f32()),
            Err(_) => "failed".into(),
        }
    );
    done
}
