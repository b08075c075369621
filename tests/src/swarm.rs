//! A lab with wgnet on every host and one swarm, as the end-to-end tests want it.

use std::time::Duration;

use wgnet_proto::status::{DriverStatus, NetworkStatus};

use crate::lab::checks::Container;
use crate::lab::{Host, Lab, LabError, LabOptions, Result, Suite, wait_until};

/// Within which everything that should happen by itself has happened.
pub const SOON: Duration = Duration::from_secs(30);

/// Within which a name is known on every host: where one missed another's first word, Docker's gossip (moby,
/// libnetwork/networkdb) tries again after a minute.
pub const NAMED: Duration = Duration::from_secs(180);

/// Hosts with drivers and plugin, in one swarm whose manager is h1.
pub struct Swarm {
    pub lab: Lab,
}

impl Swarm {
    /// # Errors
    ///
    /// Whatever the lab, a driver or an engine says.
    pub fn start(name: &str, hosts: u8) -> Result<Self> {
        Self::of_suite(name, hosts, Suite::default())
    }

    /// # Errors
    ///
    /// As [`Swarm::start`].
    pub fn of_suite(name: &str, hosts: u8, suite: Suite) -> Result<Self> {
        Self::with(LabOptions { name: name.into(), hosts, suite, ..LabOptions::default() })
    }

    /// # Errors
    ///
    /// As [`Swarm::start`].
    pub fn with(options: LabOptions) -> Result<Self> {
        let lab = Lab::start(options)?;
        lab.make_secret()?;
        lab.on_all_hosts(|host| {
            host.driver_start(&lab.driver_config())?;
            host.plugin_install()
        })?;
        lab.load_images()?;
        lab.swarm_init()?;
        Ok(Self { lab })
    }

    pub fn host(&self, number: usize) -> &Host {
        self.lab.host(number)
    }

    /// `docker network create -d wgnet:latest --attachable`, with more arguments before the name.
    ///
    /// # Errors
    ///
    /// What Docker says.
    pub fn network(&self, name: &str, more: &[&str]) -> Result<()> {
        let create = ["network", "create", "-d", "wgnet:latest", "--attachable"];
        self.host(1).docker(&[&create[..], more, &[name]].concat()).map(drop)
    }

    /// A container that runs until it is removed.
    ///
    /// # Errors
    ///
    /// What Docker says.
    pub fn run<'s>(
        &'s self,
        host: usize,
        name: &str,
        network: &str,
        more: &[&str],
    ) -> Result<Container<'s>> {
        let host = self.host(host);
        let run = ["run", "-d", "--name", name, "--network", network];
        host.docker(&[&run[..], more, &["perf", "sleep", "1000000"]].concat())?;
        Ok(Container { host, name: name.to_owned() })
    }

    /// # Errors
    ///
    /// What Docker says.
    pub fn remove(&self, container: &Container<'_>) -> Result<()> {
        container.host.docker(&["rm", "-f", &container.name]).map(drop)
    }
}

/// Hosts with drivers that serve plain engines by their legacy socket, without plugin and swarm.
///
/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn plain_engines(name: &str, hosts: u8, engine_flags: &[&str]) -> Result<Lab> {
    let lab = Lab::start(LabOptions {
        name: name.into(),
        hosts,
        engine_flags: engine_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..LabOptions::default()
    })?;
    lab.make_secret()?;
    let config = lab.driver_config() + "legacy_socket = true\n";
    lab.on_all_hosts(|host| host.driver_start(&config))?;
    lab.load_images()?;
    Ok(lab)
}

/// What a host's driver says of itself.
///
/// # Errors
///
/// When it does not answer.
pub fn status(host: &Host) -> Result<DriverStatus> {
    let text = host.wgnetctl(&["status", "--json"])?;
    serde_json::from_str(&text).map_err(|error| {
        LabError::Machine(format!("{}: a status that is none: {error}: {text}", host.name()))
    })
}

/// The only network of a host.
///
/// # Errors
///
/// When it has none or several.
pub fn only_network(host: &Host) -> Result<NetworkStatus> {
    let mut networks = status(host)?.networks;
    match networks.pop() {
        Some(network) if networks.is_empty() => Ok(network),
        _ => Err(LabError::Machine(format!("{} has not just one network", host.name()))),
    }
}

/// Waits for what should come true by itself.
///
/// # Errors
///
/// When it does not.
pub fn eventually(what: &str, within: Duration, holds: impl FnMut() -> bool) -> Result<()> {
    wait_until(what, within, holds).map(drop)
}
