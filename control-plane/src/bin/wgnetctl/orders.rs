//! `wgnetctl release` and `wgnetctl forget-host`.

use anyhow::bail;
use wgnet_control_plane::admin::{ForgetHost, Forgotten, HeldListing, Release};

use crate::driver::Driver;

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseOptions {
    /// The network whose listing is to be believed, as shown; without it nothing is changed.
    network: Option<String>,
    /// Believe every held listing.
    #[arg(long, conflicts_with = "network")]
    all: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    driver: Driver,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetOptions {
    /// The host's name or id, as `wgnetctl status --json` shows them.
    #[arg(value_name = "NAME|ID")]
    host: String,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    driver: Driver,
}

pub(crate) async fn release(options: &ReleaseOptions) -> anyhow::Result<()> {
    if options.network.is_none() && !options.all {
        let held: Vec<HeldListing> = options.driver.get("/held").await?;
        return show(&held, options.json);
    }
    let order = Release { network: options.network.clone() };
    let released: Vec<HeldListing> = options.driver.order("/release", &order).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&released)?);
        return Ok(());
    }
    if released.is_empty() {
        println!("Nothing was held.");
    }
    for held in &released {
        println!("Believed {}: {}.", network(held), loss(held));
    }
    if !released.is_empty() {
        println!(
            "This host only; the same order is needed on the others, or they follow by themselves within a minute."
        );
    }
    Ok(())
}

fn show(held: &[HeldListing], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(held)?);
        return Ok(());
    }
    if held.is_empty() {
        println!("Nothing is held.");
    }
    for held in held {
        println!("{}  {}; believed by itself in {} s", network(held), loss(held), held.believed_in);
    }
    if !held.is_empty() {
        println!(
            "\nTo cut these members off now: wgnetctl release NETWORK, or wgnetctl release --all"
        );
    }
    Ok(())
}

fn network(held: &HeldListing) -> &str {
    held.scope.strip_prefix("networks/").unwrap_or(&held.scope)
}

fn loss(held: &HeldListing) -> String {
    format!("{} of {} members go ({})", held.vanishing, held.of, held.hosts.join(", "))
}

pub(crate) async fn forget(options: &ForgetOptions) -> anyhow::Result<()> {
    if options.host.is_empty() {
        bail!("name the host to be forgotten");
    }
    let order = ForgetHost { host: options.host.clone() };
    let forgotten: Forgotten = options.driver.order("/forget-host", &order).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&forgotten)?);
        return Ok(());
    }
    let Forgotten { host_id, name, records } = forgotten;
    println!("Forgot {name} ({host_id}): {records} records removed from etcd.");
    println!("If it comes back with its journal and secret, it joins again by itself.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_listing_is_shown_with_what_would_go() {
        let held = HeldListing {
            scope: "networks/n-blue".to_owned(),
            vanishing: 2,
            of: 3,
            hosts: vec!["h2".to_owned(), "h3".to_owned()],
            believed_in: 40,
        };
        assert_eq!(network(&held), "n-blue");
        assert_eq!(loss(&held), "2 of 3 members go (h2, h3)");
    }
}
