//! `wgnetctl networks`, `hosts`, `endpoints`, `peers`, `problems`: the whole cluster from etcd.

mod rows;
mod watch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use wgnet_control_plane::fleet::rows::Filter;
use wgnet_control_plane::fleet::{Fleet, HostReport};
use wgnet_proto::HostId;
use wgnet_proto::status::DriverStatus;
use wgnet_proto::text::clipped;

use crate::Outcome;
use crate::driver::Driver;
use crate::settings::ClusterArgs;
use crate::table::{lines, table};
pub(crate) use rows::Row;

/// How long this host's driver is waited for, where what it says is an extra.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this network: its key, its Docker id, or the beginning of either.
    #[arg(value_name = "NETWORK")]
    network: Option<String>,
    /// Only this host: its name, its id, or the beginning of its id (8 digits at least).
    #[arg(long, value_name = "NAME|ID")]
    host: Option<String>,
    /// Print JSON: an array; with --watch a line for each change.
    #[arg(long)]
    json: bool,
    /// Stay and follow: a table that is kept current on a terminal, else a line of JSON for each
    /// row that is `added`, `changed` or `removed`, `synced` after the first ones, and
    /// `disconnected` and `connected`.
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    driver: Driver,
}

impl Options {
    pub(crate) async fn show<R: Row>(&self) -> anyhow::Result<Outcome> {
        let cluster = self.cluster.load()?;
        let (store, secrets) = (cluster.store()?, cluster.secrets()?);
        if self.watch {
            watch::run::<R>(self, store, secrets).await?;
            return Ok(Outcome::Fine);
        }
        let mut fleet = Fleet::read(&store, secrets).await?;
        if R::ASKS_DRIVER {
            ask(&mut fleet, &self.driver).await;
        }
        let filter = self.filter(&fleet)?;
        let rows = R::of(&fleet, &filter, now());
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            text(&fleet, &rows).iter().for_each(|line| println!("{line}"));
        }
        if !R::IS_PROBLEM && fleet.cluster().is_none() {
            explain_nothing(&fleet);
        }
        Ok(if rows.iter().any(Row::is_wrong) { Outcome::Found } else { Outcome::Fine })
    }

    /// What is asked for.
    ///
    /// # Errors
    ///
    /// When a name is nobody's, or several have it.
    fn filter(&self, fleet: &Fleet) -> anyhow::Result<Filter> {
        let network = match &self.network {
            None => None,
            Some(name) => match <[_; 1]>::try_from(fleet.networks_named(name)) {
                Ok([network]) => Some(network),
                Err(several) => bail!(unclear("network", name, &several, "wgnetctl networks")),
            },
        };
        Ok(Filter {
            network,
            host: self.host.as_deref().map(|name| host(fleet, name)).transpose()?,
        })
    }
}

/// The one host that is meant.
pub(crate) fn host(fleet: &Fleet, name: &str) -> anyhow::Result<HostId> {
    match <[_; 1]>::try_from(fleet.hosts_named(name)) {
        Ok([host]) => Ok(host),
        Err(several) => bail!(unclear("host", name, &several, "wgnetctl hosts")),
    }
}

pub(crate) fn unclear(kind: &str, name: &str, found: &[impl ToString], list: &str) -> String {
    let name = clipped(name, 80);
    if found.is_empty() {
        return format!("there is no {kind} {name}; {list} shows them all");
    }
    let found: Vec<String> = found.iter().take(10).map(ToString::to_string).collect();
    format!("{name} can be several: {}; write more of it", found.join(", "))
}

/// The table, with what has to be said about it.
fn text<R: Row>(fleet: &Fleet, rows: &[R]) -> Vec<String> {
    if rows.is_empty() {
        return vec![R::NONE.to_owned()];
    }
    let mut shown = table(R::HEADER);
    rows.iter().for_each(|row| _ = shown.add_row(row.cells(now())));
    let mut text = lines(&shown);
    text.extend(R::after(fleet, rows));
    text
}

fn explain_nothing(fleet: &Fleet) {
    for problem in fleet.problems(&Filter::default()).into_iter().take(1) {
        eprintln!("wgnetctl: {}: {}; {}", problem.object, problem.cause, problem.next_step);
    }
}

/// Adds what this host's driver says, if there is one that answers.
pub(crate) async fn ask(fleet: &mut Fleet, driver: &Driver) {
    if !driver.is_there() {
        return;
    }
    if let Ok(Ok(status)) = tokio::time::timeout(PATIENCE, driver.get::<DriverStatus>("/status")).await
        // A driver of another cluster says nothing of this one.
        && fleet.view().hosts.contains_key(&status.host_id)
    {
        fleet.hear(status.host_id, HostReport::direct(&status, now()));
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
