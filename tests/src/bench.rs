//! The benchmark: what wgnet costs on this machine, beside what people would use instead, in one run.
//!
//! Everything that is compared is measured in turns between the same two hosts of one lab.

mod calls;
mod first_ping;
mod machine;
mod report;
mod statistics;
mod throughput;
mod wireguard_go;

use std::{fs, io::Write, path::PathBuf, time::Instant};

use clap::Args;

use crate::lab::checks::Container;
use crate::lab::{Host, Lab, LabError, LabOptions, Result, Suite, interrupt, wait_until};
use crate::swarm::SOON;
use first_ping::Network;
use machine::Machine;
use report::Report;

#[derive(Args, Debug)]
pub struct BenchOptions {
    /// Write the figures with all their samples into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// bookworm (engine 20.10), trixie (26.1) or sid (28)
    #[arg(long, default_value = "bookworm")]
    suite: Suite,
    /// wgnet's backend: userspace (to be compared with wireguard-go), kernel or auto
    #[arg(long, default_value = "userspace")]
    backend: String,
    /// How many streams through each kind of network.
    #[arg(long, default_value_t = 5)]
    streams: usize,
    /// How many containers are started in each kind of network that their host already has.
    #[arg(long, default_value_t = 24)]
    runs: usize,
    /// How many containers are started as the first of their network on their host.
    #[arg(long, default_value_t = 10)]
    first_runs: usize,
    /// How many endpoints are made by one caller, and again by ten.
    #[arg(long, default_value_t = 200)]
    endpoints: usize,
}

/// The kinds of network that are compared; each is also the name of its network and the start of its
/// containers' names.
const WGNET: &str = "wgnet";
const OVERLAY: &str = "overlay";
const WIREGUARD_GO: &str = "wireguard-go";

/// Builds a lab, measures, prints the table, and takes everything down, whatever happened in between.
///
/// # Errors
///
/// What could not be built or measured. A missed aim is not an error.
pub fn bench(options: &BenchOptions) -> Result<()> {
    interrupt::catch_signals()?;
    let others_before = machine::others_share()?;
    let started = Instant::now();
    let lab = step("two hosts, engines and etcd", || {
        Lab::start(LabOptions {
            name: "bench".into(),
            suite: options.suite,
            hosts: 2,
            ..LabOptions::default()
        })
    })?;
    let measured = prepare(&lab, options).and_then(|()| measure(&lab, options));
    if measured.is_err() && !interrupt::came() {
        print_logs(&lab);
    }
    eprintln!("  taking everything down");
    lab.stop()?;
    let mut report = measured?;
    report.note_others([others_before, machine::others_share()?]);
    println!("{report}");
    eprintln!("{:.0} s in all", started.elapsed().as_secs_f64());
    match &options.json {
        Some(file) => {
            fs::write(file, format!("{:#}\n", report.json())).map_err(LabError::io("write", file))
        }
        None => Ok(()),
    }
}

fn prepare(lab: &Lab, options: &BenchOptions) -> Result<()> {
    let config = lab.driver_config_with(&options.backend) + "legacy_socket = true\n";
    step("a driver and the plugin on both", || {
        lab.make_secret()?;
        lab.on_all_hosts(|host| {
            host.driver_start(&config)?;
            host.plugin_install()
        })
    })?;
    step("images, one swarm, a network of each kind", || {
        lab.load_images()?;
        lab.swarm_init()?;
        for (kind, driver, subnet) in
            [(WGNET, "wgnet:latest", "10.90.0.0/24"), (OVERLAY, "overlay", "10.91.0.0/24")]
        {
            let create = ["network", "create", "--attachable", "--subnet", subnet];
            lab.host(1).docker(&[&create[..], &["-d", driver, kind]].concat())?;
        }
        Ok(())
    })
}

fn measure(lab: &Lab, options: &BenchOptions) -> Result<Report> {
    let mut report = Report::new(Machine::describe(lab, options)?);
    let (near, far) = (lab.host(1), lab.host(2));
    for kind in [WGNET, OVERLAY] {
        stay(near, kind, 1)?;
        Container { host: near, name: resident(kind, 1) }.serve("/etc")?;
    }
    let first = step("docker run, first container of its network there", || {
        first_ping::in_turns(near, far, Network::Absent, options.first_runs)
    })?;

    // From here on both hosts have both networks.
    for kind in [WGNET, OVERLAY] {
        stay(far, kind, 2)?;
    }
    let runs = step("docker run, network already there", || {
        first_ping::in_turns(near, far, Network::InUse, options.runs)
    })?;
    step("wireguard-go between the two hosts", || {
        wireguard_go::connect(near, far, throughput::mtu(far, WGNET)?)
    })?;
    let streams = step("one TCP stream", || throughput::in_turns(far, options.streams))?;
    let callers = calls::Network::on(near, far)?;
    let alone = step("calls through the driver's socket, one caller", || {
        callers.lives(options.endpoints, 1)
    })?;
    let crowd = step("calls through the driver's socket, ten callers", || {
        callers.lives(options.endpoints, 10)
    })?;
    report.add(throughput::figures(streams));
    report.add(first_ping::figures("network in use there", runs));
    report.add(first_ping::figures("first of its network there", first));
    report.add(calls::figures("1 caller", &alone));
    report.add(calls::figures("10 callers", &crowd));
    Ok(report)
}

/// A container that stays for the whole run, serves streams and waits to be pinged.
fn stay(host: &Host, kind: &str, number: usize) -> Result<()> {
    let (name, address) = (resident(kind, number), address(kind, number + 10));
    let run = ["run", "-d", "--name", &name, "--network", kind, "--ip"];
    let what = [&address, "perf", "iperf3", "-s"];
    wait_until(&format!("{name} to run"), SOON, || {
        let ran = host.docker(&[&run[..], &what].concat());
        // The plugin is seen by the swarm only some seconds after it is enabled.
        ran.is_ok() || host.docker(&["rm", "-f", &name]).is_err()
    })
    .map(drop)
}

fn resident(kind: &str, number: usize) -> String {
    format!("{kind}-{number}")
}

fn address(kind: &str, last: usize) -> String {
    let subnet = match kind {
        WGNET => "10.90.0",
        OVERLAY => "10.91.0",
        _ => wireguard_go::SUBNET,
    };
    format!("{subnet}.{last}")
}

fn print_logs(lab: &Lab) {
    for host in lab.hosts() {
        let log = host.driver_log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("the end of the driver's log on {}:", host.name());
        for line in &lines[lines.len().saturating_sub(20)..] {
            eprintln!("  {line}");
        }
    }
}

/// Progress goes to standard error, so that standard output is the report.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("  {what} ... ");
    let _ = std::io::stderr().flush();
    let started = Instant::now();
    let done = work();
    let ended = match &done {
        Ok(_) => format!("{:.1} s", started.elapsed().as_secs_f32()),
        Err(_) => "failed".into(),
    };
    eprintln!("{ended}");
    done
}
