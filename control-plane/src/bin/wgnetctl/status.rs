//! `wgnetctl status`: asks the driver on this host.

use comfy_table::Cell;
use wgnet_proto::status::{DriverStatus, MemberStatus, NetworkStatus};

use crate::driver::Driver;
use crate::table::{Tone, bytes, cell, lines, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print the status as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    driver: Driver,
}

pub(crate) async fn show(options: &Options) -> anyhow::Result<()> {
    let status: DriverStatus = options.driver.get("/status").await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

fn print(status: &DriverStatus) {
    println!(
        "host      {} ({}), wgnet {}, {} WireGuard",
        status.name, status.host_id, status.version, status.backend
    );
    let underlay: Vec<String> = status.underlay.iter().map(ToString::to_string).collect();
    println!(
        "underlay  {}",
        if underlay.is_empty() { "not known yet".to_owned() } else { underlay.join(", ") }
    );
    let store = &status.store;
    let records = if store.unpublished == 1 { "record" } else { "records" };
    match (&store.error, store.connected) {
        (None, true) => println!(
            "etcd      connected, revision {}, {} {records} to publish",
            store.revision, store.unpublished
        ),
        (error, _) => println!(
            "etcd      not connected ({}), {} {records} to publish",
            error.as_deref().unwrap_or("connecting"),
            store.unpublished
        ),
    }
    for network in &status.networks {
        print_network(network);
    }
    if status.networks.is_empty() {
        println!(
            "\nno networks on this host (docker network create -d wgnet:latest --attachable NAME, then run a container on it)"
        );
    }
    if !status.lingering.is_empty() {
        println!(
            "\nnetworks not in use here whose keys are kept for about 10 minutes: {}",
            status.lingering.len()
        );
    }
    let others: u64 = status.refused.values().sum();
    if others > 0 {
        let reasons: Vec<String> =
            status.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        println!("\nignored records of etcd: {}", reasons.join(", "));
    }
    if !status.problems.is_empty() {
        println!("\nproblems");
        for problem in &status.problems {
            println!("  {} {}: {}", problem.code, problem.object, problem.cause);
            println!("      next: {}", problem.next_step);
        }
    }
}

fn print_network(network: &NetworkStatus) {
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    println!(
        "\nnetwork {}  {}  mtu {}  namespace {}",
        network.key,
        subnets.join(" "),
        network.mtu,
        network.namespace
    );
    for slot in &network.slots {
        println!(
            "  {}  generation {}  port {}  key {}",
            slot.interface, slot.generation, slot.port, slot.public_key
        );
    }
    match (&network.error, network.in_sync) {
        (_, true) if network.repairs > 0 => {
            println!("  in sync, {} repairs of what others changed", network.repairs)
        }
        (_, true) => println!("  in sync"),
        (error, false) => println!("  NOT in sync: {}", error.as_deref().unwrap_or("working")),
    }
    if !network.members.is_empty() {
        let mut shown = table(&["peer", "underlay", "handshake", "received", "sent", "key"]);
        for member in &network.members {
            shown.add_row(vec![
                Cell::new(&member.name),
                Cell::new(member.underlay.map_or_else(|| "unknown".to_owned(), |a| a.to_string())),
                handshake(member),
                Cell::new(bytes(member.received_bytes)),
                Cell::new(bytes(member.sent_bytes)),
                Cell::new(member.public_key),
            ]);
        }
        print_table(&shown);
    }
    if !network.endpoints.is_empty() {
        let mut shown = table(&["endpoint", "addresses", "host", "mac"]);
        for endpoint in &network.endpoints {
            let addresses: Vec<String> =
                endpoint.addresses.iter().map(ToString::to_string).collect();
            let host = if endpoint.local {
                format!("{} (this)", endpoint.host_name)
            } else {
                endpoint.host_name.clone()
            };
            shown.add_row([
                endpoint.id.short().to_owned(),
                addresses.join(" "),
                host,
                endpoint.mac.to_string(),
            ]);
        }
        print_table(&shown);
    }
}

/// Without traffic a session is renewed every two minutes at the latest; beyond three it is dead.
const STALE_AFTER: u64 = 180;

fn handshake(member: &MemberStatus) -> Cell {
    match member.handshake_age {
        Some(age) if age <= STALE_AFTER => cell(format!("{age} s ago"), Tone::Good),
        Some(age) => cell(format!("{age} s ago"), Tone::Warn),
        None => cell("never", Tone::Bad),
    }
}

fn print_table(table: &comfy_table::Table) {
    lines(table).iter().for_each(|line| println!("{line}"));
}
