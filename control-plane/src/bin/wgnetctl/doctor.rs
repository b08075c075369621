//! `wgnetctl doctor`: looks at everything wgnet needs on this host and in the cluster. Each finding
//! says what is wrong, why it matters and what to type.
//!
//! Looking and judging are apart: what was seen becomes plain values, and pure functions find.

mod clock;
mod docker;
mod etcd;
mod firewall;
mod host;
mod hosts;
mod mtu;
mod networks;
mod seen;
mod suspects;

use std::path::PathBuf;

use serde::Serialize;
use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::problems::{OUT_OF_SYNC, ProblemRow};
use wgnet_control_plane::fleet::rows::Filter;
use wgnet_control_plane::store::etcd::health;
use wgnet_proto::status::DriverStatus;

use crate::Outcome;
use crate::driver::Driver;
use crate::list::now;
use crate::settings::{Cluster, ClusterArgs};
use crate::table::{Tone, painted};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Docker's API socket.
    #[arg(long, value_name = "FILE", default_value = "/run/docker.sock")]
    docker: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    driver: Driver,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Stable and lower case with dashes.
    pub(crate) code: String,
    pub(crate) what: String,
    pub(crate) why: String,
    /// What to type or do.
    pub(crate) next_step: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    Error,
    Warning,
    /// Nothing is wrong; somebody may want to know.
    Note,
}

impl Finding {
    pub(crate) fn error(
        code: &str,
        what: impl Into<String>,
        why: &str,
        next: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Error, code, what.into(), why, next.into())
    }

    pub(crate) fn warning(
        code: &str,
        what: impl Into<String>,
        why: &str,
        next: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, code, what.into(), why, next.into())
    }

    fn new(severity: Severity, code: &str, what: String, why: &str, next_step: String) -> Self {
        Self { severity, code: code.to_owned(), what, why: why.to_owned(), next_step }
    }
}

/// What was looked at together.
#[derive(Debug, Serialize)]
pub(crate) struct Area {
    pub(crate) area: &'static str,
    pub(crate) findings: Vec<Finding>,
    /// Why something could not be looked at.
    pub(crate) not_seen: Option<String>,
}

impl Area {
    fn new(area: &'static str, findings: Vec<Finding>) -> Self {
        Self { area, findings, not_seen: None }
    }

    fn unseen(area: &'static str, why: impl Into<String>) -> Self {
        Self { area, findings: Vec::new(), not_seen: Some(why.into()) }
    }
}

pub(crate) async fn show(options: &Options) -> anyhow::Result<Outcome> {
    let cluster = options.cluster.load()?;
    let areas = look(&cluster, &options.driver, &options.docker).await;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&areas)?);
    } else {
        print(&areas);
    }
    let mut findings = areas.iter().flat_map(|area| &area.findings);
    let is_fine = findings.all(|finding| finding.severity == Severity::Note);
    Ok(if is_fine { Outcome::Fine } else { Outcome::Found })
}

/// Looks at everything; what cannot be looked at is said, not passed over.
pub(crate) async fn look(
    cluster: &Cluster,
    driver: &Driver,
    docker: &std::path::Path,
) -> Vec<Area> {
    let mut areas = Vec::new();
    let secret = host::secret(cluster);
    let can_judge = !secret.iter().any(|finding| finding.severity == Severity::Error);
    areas.push(Area::new("secret", secret));

    // Before the driver is asked: what it makes, it has written down first.
    let namespaces = seen::namespaces();
    let status = driver.get::<DriverStatus>("/status").await;
    areas.push(match &status {
        Ok(status) => Area::new("driver", host::driver(status, &seen::drivers())),
        Err(error) => Area::new("driver", vec![host::no_driver(error)]),
    });
    let status = status.ok();
    areas.push(Area::new("kernel", host::kernel(&seen::kernel(), status.as_ref())));
    areas.push(Area::new("state directory", host::state(&seen::state(&cluster.state_dir))));
    let firewall = firewall::area(cluster, status.as_ref());
    let engine = docker::area(docker, cluster.is_legacy).await;
    let etcd = match cluster.etcd_options() {
        Ok(options) => etcd::findings(&health::members(&options).await),
        Err(error) => vec![etcd::bad_settings(&error)],
    };
    let fleet = fleet(cluster, can_judge).await;
    let standing = fleet.as_ref().map(networks::standing).unwrap_or_default();
    let (leftovers, networks) =
        suspects::areas(docker, driver, &namespaces, status.as_ref(), &standing).await;
    areas.extend([leftovers, firewall, engine, Area::new("etcd", etcd), networks]);
    areas.extend(match fleet {
        Ok(fleet) => hosts(fleet, status.as_ref()).await,
        Err(why) => vec![Area::unseen("cluster", why)],
    });
    areas
}

/// What the records say; the error is why they do not.
async fn fleet(cluster: &Cluster, can_judge: bool) -> Result<Fleet, &'static str> {
    if !can_judge {
        return Err("records cannot be judged without the secret");
    }
    let read = match (cluster.store(), cluster.secrets()) {
        (Ok(store), Ok(secrets)) => Fleet::read(&store, secrets).await.map_err(anyhow::Error::from),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    read.map_err(|_| "etcd cannot be read")
}

/// What the records and the other hosts say.
async fn hosts(mut fleet: Fleet, status: Option<&DriverStatus>) -> Vec<Area> {
    let now = now();
    let ways = mtu::area(&fleet, status.map(|status| status.host_id)).await;
    let clocks = clock::findings(&fleet, status.map(|status| status.host_id), now);
    if let Some(status) = status {
        fleet.hear(status.host_id, wgnet_control_plane::fleet::HostReport::direct(status, now));
    }
    let mut problems = fleet.problems(&Filter::default());
    // This host's own is said with what the host has.
    let own = |row: &ProblemRow| row.host == status.map(|it| it.host_id);
    problems.retain(|row| row.code != OUT_OF_SYNC || !own(row));
    let problems = hosts::findings(&problems);
    vec![Area::new("clocks", clocks), ways, Area::new("cluster", problems)]
}

fn print(areas: &[Area]) {
    let mut count = 0;
    for area in areas {
        let (mark, tone) = match (&area.not_seen, area.findings.as_slice()) {
            (Some(_), _) => ("?   ", Tone::Warn),
            (None, []) => ("ok  ", Tone::Good),
            (None, all) if all.iter().all(|it| it.severity == Severity::Note) => {
                ("note", Tone::Plain)
            }
            (None, all) if all.iter().all(|it| it.severity != Severity::Error) => {
                ("warn", Tone::Warn)
            }
            (None, _) => ("FAIL", Tone::Bad),
        };
        let why = area.not_seen.as_ref().map(|why| format!(": not looked at, since {why}"));
        println!("{}  {}{}", painted(mark, tone), area.area, why.unwrap_or_default());
        for finding in &area.findings {
            count += 1;
            println!("      {}: {}", finding.code, finding.what);
            println!("        why it matters: {}", finding.why);
            println!("        next:           {}", finding.next_step);
        }
    }
    match count {
        0 => println!("\nNothing is wrong."),
        1 => println!("\n1 finding."),
        count => println!("\n{count} findings."),
    }
}
