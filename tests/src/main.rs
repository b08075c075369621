//! wgnet-lab: the lab by hand, the demo, and the benchmark.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use wgnet_tests::bench::{BenchOptions, bench};
use wgnet_tests::faults::{FaultsOptions, faults};
use wgnet_tests::lab::{
    self, Host, Lab, LabOptions, Suite,
    demo::{DemoOptions, demo},
};
use wgnet_tests::stream;

#[derive(Parser)]
#[command(about = "Hosts with real Docker engines on one machine (needs root)")]
struct Cli {
    /// Which lab; labs of different names run side by side.
    #[arg(long, global = true, default_value = "lab")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a lab and leave it running.
    Up(Up),
    /// Take a lab down.
    Down {
        /// Every lab that this run of tests/run left, instead of one.
        #[arg(long)]
        run: Option<String>,
    },
    /// Fetch and unpack a suite's packages now, for a lab on a machine without network.
    Prepare {
        /// bookworm (engine 20.10), trixie (26.1) or sid (28)
        #[arg(long, default_value = "bookworm")]
        suite: Suite,
    },
    /// Run a program inside a host: `exec 2 ip addr`.
    Exec(Inside),
    /// Run the Docker client inside a host: `docker 2 ps`.
    Docker(Inside),
    /// Run etcdctl against the lab's etcd.
    Etcdctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Change a host's fate: boot, power-off, unplug, plug, drop, undrop, freeze, thaw, driver-start, driver-stop, driver-kill, engine-start, engine-stop, engine-kill.
    Host { host: usize, action: String },
    /// Show a wgnet network on three hosts: what deploy/demo runs once all is built.
    Demo {
        /// Take everything down at the end instead of waiting for Ctrl-C.
        #[arg(long)]
        once: bool,
        /// bookworm (engine 20.10), trixie (26.1) or sid (28)
        #[arg(long, default_value = "bookworm")]
        suite: Suite,
        /// Show another driver's network: a trial of the demo itself.
        #[arg(long, hide = true, default_value = DemoOptions::DRIVER)]
        network_driver: String,
    },
    /// Measure wgnet beside wireguard-go and Docker's overlay: what tests/bench runs once all is built.
    Bench(BenchOptions),
    /// Let everything fail in turn and hold what is lost against its bar: what tests/bench faults runs.
    Faults(FaultsOptions),
    /// One end of a stream, led through its standard input.
    #[command(hide = true)]
    Stream,
    /// List everything of a host that a network could leave behind.
    Inventory { host: usize },
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        pid_file: PathBuf,
        #[arg(long)]
        stop_file: PathBuf,
        #[arg(long)]
        log_file: PathBuf,
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    #[command(hide = true)]
    HostInit {
        #[arg(long)]
        inside: bool,
        spec: String,
    },
}

#[derive(Args)]
struct Up {
    /// bookworm (engine 20.10), trixie (26.1) or sid (28)
    #[arg(long, default_value = "bookworm")]
    suite: Suite,
    #[arg(long, default_value_t = 3)]
    hosts: u8,
    /// Also make one swarm of the hosts and load the images.
    #[arg(long)]
    swarm: bool,
}

#[derive(Args)]
struct Inside {
    host: usize,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wgnet-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let name = &cli.name;
    match cli.command {
        Command::Up(options) => up(name, options)?,
        Command::Down { run: None } => lab::down(name)?,
        Command::Down { run: Some(run) } => {
            lab::down_of_run(&run)?.iter().for_each(|name| println!("took down the lab {name}"));
        }
        Command::Prepare { suite } => println!("{}", lab::prepare(suite)?.display()),
        Command::Exec(Inside { host, args }) => return inside(name, host, &args),
        Command::Docker(Inside { host, args }) => {
            return inside(name, host, &[vec!["docker".into()], args].concat());
        }
        Command::Etcdctl { args } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            println!("{}", Lab::attach(name)?.etcd().etcdctl(&args)?);
        }
        Command::Host { host, action } => change(host_of(&Lab::attach(name)?, host)?, &action)?,
        Command::Demo { once, suite, network_driver } => {
            demo(&DemoOptions { once, suite, network_driver })?
        }
        Command::Bench(options) => bench(&options)?,
        Command::Faults(options) => return faults(&options).map_err(Into::into),
        Command::Stream => stream::tool::run()?,
        Command::Inventory { host } => {
            print!("{}", host_of(&Lab::attach(name)?, host)?.inventory()?)
        }
        Command::Supervise { pid_file, stop_file, log_file, program } => {
            lab::supervise::supervise(&program, &pid_file, &stop_file, &log_file)?
        }
        Command::HostInit { inside: true, spec } => lab::init::inside(&spec)?,
        Command::HostInit { inside: false, spec } => lab::init::host_init(&spec)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, options: Up) -> anyhow::Result<()> {
    let lab = Lab::start(LabOptions {
        name: name.into(),
        suite: options.suite,
        hosts: options.hosts,
        ..LabOptions::default()
    })?;
    if options.swarm {
        lab.load_images()?;
        lab.swarm_init()?;
    }
    for host in lab.hosts() {
        println!("{} {} {}", host.name(), host.address(), host.address_v6());
    }
    println!("etcd {}", lab.etcd().url());
    lab.detach();
    Ok(())
}

fn inside(name: &str, host: usize, args: &[String]) -> anyhow::Result<ExitCode> {
    let lab = Lab::attach(name)?;
    let status = host_of(&lab, host)?.command(args)?.status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn host_of(lab: &Lab, number: usize) -> anyhow::Result<&Host> {
    let count = lab.hosts().len();
    anyhow::ensure!(
        (1..=count).contains(&number),
        "host {number} is not in the lab \"{}\": it has hosts 1 to {count}",
        lab.name()
    );
    Ok(lab.host(number))
}

fn change(host: &Host, action: &str) -> anyhow::Result<()> {
    match action {
        "boot" => host.boot()?,
        "power-off" => host.power_off()?,
        "unplug" => host.unplug()?,
        "plug" => host.plug()?,
        "drop" => host.drop_silently()?,
        "undrop" => host.undrop()?,
        "freeze" => host.freeze()?,
        "thaw" => host.thaw()?,
        "driver-start" => host.driver_resume()?,
        "driver-stop" => host.driver_stop()?,
        "driver-kill" => host.driver_kill("KILL")?,
        "engine-start" => host.engine_start()?,
        "engine-stop" => host.engine_stop()?,
        "engine-kill" => host.engine_kill("KILL")?,
        _ => anyhow::bail!("no action \"{action}\": see wgnet-lab host --help"),
    }
    Ok(())
}
