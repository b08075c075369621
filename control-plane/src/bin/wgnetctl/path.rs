//! `wgnetctl path`: whether one endpoint reaches another, and which step fails.

use std::path::PathBuf;

use anyhow::bail;
use bollard::Docker;
use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::way::{Outcome as Step, Verdict, Way};
use wgnet_proto::text::clipped;

use crate::Outcome;
use crate::driver::Driver;
use crate::list::{ask, now, unclear};
use crate::settings::ClusterArgs;
use crate::table::{Tone, painted};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// An endpoint: its address, its MAC address, the beginning of its id, or the name of a container
    /// on this host.
    #[arg(value_name = "FROM")]
    from: String,
    /// The other one.
    #[arg(value_name = "TO")]
    to: String,
    /// The network, where both meet in several.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Docker's API socket, asked for names of containers.
    #[arg(long, value_name = "FILE", default_value = "/run/docker.sock")]
    docker: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    driver: Driver,
}

pub(crate) async fn show(options: &Options) -> anyhow::Result<Outcome> {
    let cluster = options.cluster.load()?;
    let mut fleet = Fleet::read(&cluster.store()?, cluster.secrets()?).await?;
    ask(&mut fleet, &options.driver).await;
    let network = match &options.network {
        None => None,
        Some(name) => match <[_; 1]>::try_from(fleet.networks_named(name)) {
            Ok([network]) => Some(network),
            Err(several) => bail!(unclear("network", name, &several, "wgnetctl networks")),
        },
    };
    let from = options.endpoint(&fleet, &options.from, &options.to).await;
    let to = options.endpoint(&fleet, &options.to, &from).await;
    let way = fleet.way(&from, &to, network.as_ref(), now());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&way)?);
    } else {
        print(&way);
    }
    Ok(if way.verdict == Verdict::Broken { Outcome::Found } else { Outcome::Fine })
}

fn print(way: &Way) {
    for step in &way.steps {
        let (mark, tone) = match step.outcome {
            Step::Good => ("ok  ", Tone::Good),
            Step::Unknown => ("?   ", Tone::Warn),
            Step::Broken => ("FAIL", Tone::Bad),
        };
        println!("{}  {:10}  {}", painted(mark, tone), step.step, step.says);
        if let Some(next) = &step.next_step {
            println!("                  next: {next}");
        }
    }
    match way.verdict {
        Verdict::Open => println!("\n{}", painted("There is a way.", Tone::Good)),
        Verdict::Unproven => println!(
            "\n{}",
            painted("Nothing speaks against it; whether packets arrive, nobody tells.", Tone::Warn)
        ),
        Verdict::Broken => println!("\n{}", painted("There is no way.", Tone::Bad)),
    }
}

impl Options {
    /// What is no name of an endpoint may be a container's on this host.
    async fn endpoint(&self, fleet: &Fleet, name: &str, other: &str) -> String {
        let is_known =
            fleet.way(name, other, None, now()).steps.iter().all(|step| {
                step.outcome != Step::Broken || !step.says.contains(&clipped(name, 80))
            });
        if is_known {
            return name.to_owned();
        }
        self.of_container(fleet, name).await.unwrap_or_else(|| name.to_owned())
    }

    /// The endpoint of a container that is in the cluster's records; none if there are several.
    async fn of_container(&self, fleet: &Fleet, name: &str) -> Option<String> {
        let socket = self.docker.to_str()?;
        let docker = Docker::connect_with_unix(socket, 3, bollard::API_DEFAULT_VERSION).ok()?;
        let docker = docker.negotiate_version().await.ok()?;
        let container = docker
            .inspect_container(name, None::<bollard::query_parameters::InspectContainerOptions>)
            .await
            .ok()?;
        let attached = container.network_settings?.networks?.into_values();
        let ids: Vec<String> = attached.filter_map(|it| it.endpoint_id).collect();
        let networks = fleet.view().networks.values();
        let known = networks.flat_map(|network| network.endpoints.values());
        let known = known.map(|endpoint| endpoint.endpoint.to_string());
        let mut found = known.filter(|id| ids.contains(id));
        let only = found.next();
        if found.next().is_some() { None } else { only }
    }
}
