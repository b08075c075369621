//! All networks, and all hosts.

use maud::{Markup, html};

use super::Content;
use super::parts::{
    Part, filter, host_mark, host_named, joined, network_link, network_mark, rate_of, scrolled,
};
use crate::dashboard::board::Board;
use crate::dashboard::draw::spark;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::series::{BUCKETS, Span};
use crate::dashboard::text::{grouped, rate};
use crate::fleet::rows::{HostRow, NetworkRow};

/// How much of the hour a row shows.
const SPARK: usize = 80;

pub(super) fn networks(board: &Board, ask: &Ask, now: u64) -> Content {
    let search = ask.search.to_lowercase();
    let has = |row: &&NetworkRow| {
        row.network.as_str().contains(&search)
            || row.subnets.iter().any(|subnet| subnet.to_string().contains(&search))
    };
    let rows: Vec<&NetworkRow> = board.summary().networks.iter().filter(has).collect();
    let part = Part::of(&rows, ask.number);
    let main = html! {
        div.head { h1 { "Networks" } (filter(&Page::Networks, ask, "Find a network: key, subnet")) }
        div #list {
            (networks_table(board, part.rows, now))
            (part.pager(&Page::Networks, ask, "networks"))
        }
    };
    Content::new("Networks", main)
}

pub(super) fn networks_table(board: &Board, rows: &[&NetworkRow], now: u64) -> Markup {
    if rows.is_empty() {
        return html! {
            p.none { "No network. Make one on a manager: " code { "docker network create -d wgnet:latest --attachable blue" } }
        };
    }
    let rates = board.flows().of_networks();
    let plots = &board.plots().networks;
    scrolled(
        "Table: networks",
        html! {
            table {
                thead {
                    tr {
                        th scope="col" { "Network" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Hosts" }
                        th.number scope="col" { "Endpoints" }
                        th.lesser scope="col" { "Subnets" }
                        th.number scope="col" { "Traffic" }
                        th.lesser scope="col" { span.unseen { "Traffic of the last 20 minutes" } }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            td { (network_link(&row.network)) }
                            td { (network_mark(row.state, row.members, row.alive)) }
                            td.number {
                                @if row.alive < row.members { (row.alive) "/" }
                                (row.members)
                            }
                            td.number { (grouped(row.endpoints)) }
                            td.key.lesser { (joined(&row.subnets)) }
                            // Each byte is sent once.
                            td.number { @match rates.get(&row.network) { Some(it) => (rate(it.sent)), None => span.none { "–" } } }
                            td.lesser {
                                @if let Some(traffic) = plots.get(&row.network) {
                                    (spark(&traffic.sent.points(Span::Hour, now / 1000)[BUCKETS - SPARK..]))
                                }
                            }
                        }
                    }
                }
            }
        },
    )
}

pub(super) fn hosts(board: &Board, ask: &Ask, now: u64) -> Content {
    let search = ask.search.to_lowercase();
    let has = |row: &&HostRow| {
        row.name.to_lowercase().contains(&search)
            || row.host.to_string().starts_with(&search)
            || row.underlay.iter().any(|address| address.to_string().contains(&search))
            || row.version.contains(&search)
    };
    let rows: Vec<&HostRow> = board.summary().hosts.iter().filter(has).collect();
    let part = Part::of(&rows, ask.number);
    let plots = &board.plots().hosts;
    let main = html! {
        div.head { h1 { "Hosts" } (filter(&Page::Hosts, ask, "Find a host: name, id, address")) }
        div #list {
            @if rows.is_empty() { p.none { "No such host." } } @else {
                (scrolled("Table: hosts", html! {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Host" }
                                th scope="col" { "State" }
                                th.number scope="col" { "Networks" }
                                th.number scope="col" { "Endpoints" }
                                th scope="col" { "Underlay" }
                                th.lesser scope="col" { "Version" }
                                th.lesser scope="col" { "Backend" }
                                th.lesser scope="col" { "Kernel" }
                                th.number scope="col" { "Traffic" }
                                th.lesser scope="col" { span.unseen { "Traffic of the last 20 minutes" } }
                            }
                        }
                        tbody {
                            @for row in part.rows {
                                tr {
                                    td { (host_named(row.host, &row.name)) }
                                    td { (host_mark(row.state)) }
                                    td.number { (row.networks) }
                                    td.number { (grouped(row.endpoints)) }
                                    td.key { (joined(&row.underlay)) }
                                    td.lesser { (row.version) }
                                    td.lesser { (row.backend) }
                                    td.lesser { (row.kernel.as_deref().unwrap_or("–")) }
                                    td.number { (rate_of(board.flows().of_host(row.host))) }
                                    td.lesser {
                                        @if let Some(traffic) = plots.get(&row.host) {
                                            (spark(&traffic.sent.points(Span::Hour, now / 1000)[BUCKETS - SPARK..]))
                                        }
                                    }
                                }
                            }
                        }
                    }
                }))
            }
            (part.pager(&Page::Hosts, ask, "hosts"))
        }
    };
    Content::new("Hosts", main)
}
