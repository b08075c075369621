//! One host: what it tells of itself, its networks, its tunnels, its endpoints.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wgnet_proto::{HostId, NetworkKey};

use super::Content;
use super::network::handshake;
use super::parts::{
    Part, endpoints, filter, found, host_mark, host_named, joined, mark, network_link, problems,
    rate_of, scrolled, since, spans, standing_mark, traffic,
};
use crate::dashboard::board::{Board, Problem};
use crate::dashboard::flows::Rate;
use crate::dashboard::order::natural;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{age, count, grouped, lag};
use crate::dashboard::tunnels::{Standing, standing};
use crate::fleet::HostReport;
use crate::fleet::report::NetworkReport;
use crate::fleet::rows::{Filter, HostRow, HostState};

const MOST_NETWORKS: usize = 150;
const MOST_PEERS: usize = 200;

pub(super) fn page(board: &Board, host: HostId, ask: &Ask, now: u64) -> Content {
    let Some(row) = board.summary().hosts.iter().find(|row| row.host == host) else {
        return Content::missing(&format!("host {host}"));
    };
    let report = board.fleet().reports().get(&host);
    let here = Page::Host(host);
    let mut rows = board.fleet().endpoint_rows(&Filter { network: None, host: Some(host) });
    found(&mut rows, &ask.search);
    let part = Part::of(&rows, ask.number);
    let told = board.summary().problems.iter().filter(|it| it.concerns(host));
    let told: Vec<&Problem> = told.take(30).collect();
    let main = html! {
        div.headline { h1 { (row.name) } p { (host_mark(row.state)) } }
        (facts(row, report, now))
        @if !told.is_empty() {
            section aria-labelledby="problems" { h2 #problems { "Problems" } (problems(&told)) }
        }
        section aria-labelledby="flow" {
            div.head { h2 #flow { "Traffic" } (spans(&here, ask)) }
            (traffic(board.plots().hosts.get(&host), ask, now))
        }
        section aria-labelledby="networks" {
            h2 #networks { "Networks" }
            (networks(board, host, report, now))
        }
        section aria-labelledby="tunnels" {
            h2 #tunnels { "Tunnels" }
            (tunnels(board, host, report, now))
        }
        section aria-labelledby="endpoints" {
            div.head { h2 #endpoints { "Endpoints" } (filter(&here, ask, "Find by address, id, MAC, network")) }
            div #list {
                @if rows.is_empty() { p.none { "None." } } @else { (endpoints(part.rows, false, true)) }
                (part.pager(&here, ask, "endpoints"))
            }
        }
        p.more { a href=(Ask { host: Some(host), number: 1, ..Ask::default() }.link(&Page::Journal)) { "What happened on this host" } }
    };
    Content::new(row.name.clone(), main)
}

fn facts(row: &HostRow, report: Option<&HostReport>, now: u64) -> Markup {
    let text = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
    html! {
        dl.facts {
            div { dt { "Underlay" } dd.key { (joined(&row.underlay)) } }
            div { dt { "Driver" } dd { (text(&row.version)) } }
            div { dt { "WireGuard" } dd { (text(&row.backend)) } }
            div { dt { "Kernel" } dd { (text(row.kernel.as_deref().unwrap_or_default())) } }
            div { dt { "Endpoints" } dd { (grouped(row.endpoints)) } }
            div {
                dt { "Last status" }
                dd { (status(row, report, now)) }
            }
            @if let Some(unpublished) = row.unpublished.filter(|it| *it > 0) {
                div { dt { "Not published yet" } dd { (mark("warn", &unpublished.to_string())) } }
            }
            div { dt { "Id" } dd.key { (row.host) } }
        }
    }
}

/// How old what it tells is; later than promised is trouble.
fn status(row: &HostRow, report: Option<&HostReport>, now: u64) -> Markup {
    let Some((report, written)) = report.and_then(|it| Some((it, it.written?))) else {
        return match row.state {
            HostState::Alive => mark("warn", "none: its driver may be of an older version"),
            _ => html! { span.none { "none" } },
        };
    };
    let late = (now / 1000).saturating_sub(written.saturating_add(report.next_within.into()));
    html! {
        (since(written.saturating_mul(1000), now)) " ago"
        @if late > u64::from(report.next_within) + 10 {
            " " (mark("warn", &format!("late: one was due every {}, or the clocks differ", age(report.next_within.into()))))
        }
    }
}

fn networks(board: &Board, host: HostId, report: Option<&HostReport>, now: u64) -> Markup {
    let is_member =
        |key: &&NetworkKey| board.fleet().view().networks[*key].members.contains_key(&host);
    let keys: Vec<&NetworkKey> = board.fleet().view().networks.keys().filter(is_member).collect();
    if keys.is_empty() {
        return html! { p.none { "It is a member of none." } };
    }
    let told = |key: &NetworkKey| report.and_then(|report| report.networks.get(key));
    let mut sorted = keys.clone();
    sorted.sort_by_key(|key| told(key).is_some_and(|it| it.in_sync));
    html! {
        (scrolled("Table: networks of this host", html! {
            table {
                thead {
                    tr {
                        th scope="col" { "Network" }
                        th scope="col" { "Kernel follows" }
                        th.number scope="col" { "Traffic" }
                        th.number scope="col" { "Peers" }
                        th.number scope="col" { "Silent" }
                        th.number.lesser scope="col" { "MTU" }
                        th.number.lesser scope="col" { "Key made" }
                        th.number.lesser scope="col" { "Repairs" }
                    }
                }
                tbody {
                    @for key in sorted.iter().take(MOST_NETWORKS) {
                        @let told = told(key);
                        tr {
                            td { (network_link(key)) }
                            td { (follows(told)) }
                            td.number { (rate_of(board.flows().in_network(key, host))) }
                            td.number { @if let Some(it) = told { (it.peers_total) } }
                            td.number { @if let Some(it) = told { (it.peers_silent) } }
                            td.number.lesser { @if let Some(it) = told { (it.mtu) } }
                            td.number.lesser {
                                @if let Some(at) = told.and_then(|it| it.key_made) { (since(at.saturating_mul(1000), now)) " ago" }
                            }
                            td.number.lesser { @if let Some(it) = told { (it.repairs) } }
                        }
                    }
                }
            }
        }))
        @if sorted.len() > MOST_NETWORKS { p.hint { "And " (sorted.len() - MOST_NETWORKS) " more." } }
    }
}

fn follows(told: Option<&NetworkReport>) -> Markup {
    match told {
        None => html! { span.none { "not told" } },
        Some(it) if !it.in_sync => html! {
            (mark("bad", "out of step"))
            @if let Some(error) = &it.error { " " span.detail { (error) } }
        },
        Some(it) if it.lag_ms > 1000 => {
            mark("warn", &format!("behind by {}", lag(it.lag_ms as f64)))
        }
        Some(_) => mark("ok", "in step"),
    }
}

/// A peer in all networks together.
struct Peer {
    name: String,
    worst: Standing,
    tunnels: usize,
    handshake: Option<u64>,
    rate: Rate,
    underlay: Option<std::net::SocketAddr>,
}

fn tunnels(board: &Board, host: HostId, report: Option<&HostReport>, now: u64) -> Markup {
    let Some(report) = report else {
        return html! { p.none { "It tells nothing of its tunnels." } };
    };
    let mut peers: BTreeMap<HostId, Peer> = BTreeMap::new();
    for (key, peer) in
        report.networks.iter().flat_map(|(key, it)| it.peers.iter().map(move |peer| (key, peer)))
    {
        let stands = match board.fleet().state_of(peer.host) {
            HostState::Alive => standing(peer, now / 1000),
            _ => Standing::Gone,
        };
        let entry = peers.entry(peer.host).or_insert_with(|| Peer {
            name: board.fleet().host_name(peer.host),
            worst: stands,
            tunnels: 0,
            handshake: None,
            rate: Rate::default(),
            underlay: None,
        });
        entry.worst = entry.worst.max(stands);
        entry.tunnels += 1;
        entry.handshake = entry.handshake.max(peer.last_handshake);
        entry.underlay = entry.underlay.or(peer.underlay);
        entry.rate += board.flows().between(key, host, peer.host).unwrap_or_default();
    }
    let mut sorted: Vec<(HostId, Peer)> = peers.into_iter().collect();
    sorted.sort_by(|(_, a), (_, b)| b.worst.cmp(&a.worst).then_with(|| natural(&a.name, &b.name)));
    if sorted.is_empty() {
        return html! { p.none { "None." } };
    }
    html! {
        (scrolled("Table: tunnels of this host", html! {
            table {
                thead {
                    tr {
                        th scope="col" { "To" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Last handshake" }
                        th.number scope="col" { "Traffic" }
                        th scope="col" { "Its UDP" }
                        th.number scope="col" { "Networks" }
                        th scope="col" { span.unseen { "More" } }
                    }
                }
                tbody {
                    @for (peer, it) in sorted.iter().take(MOST_PEERS) {
                        tr {
                            td { (host_named(*peer, &it.name)) }
                            td { (standing_mark(it.worst)) }
                            td.number { (handshake(it.handshake, now)) }
                            td.number { (rate_of(Some(it.rate))) }
                            td.key { (it.underlay.map_or_else(|| "–".to_owned(), |at| at.to_string())) }
                            td.number { (it.tunnels) }
                            td { a href=(Page::Pair(host, *peer).path()) aria-label=(format!("Details of the tunnels to {}", it.name)) { "details" } }
                        }
                    }
                }
            }
        }))
        @if sorted.len() > MOST_PEERS { p.hint { "And " (count(sorted.len() - MOST_PEERS, "peer")) " more, the best." } }
    }
}
