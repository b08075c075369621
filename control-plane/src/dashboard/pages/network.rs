//! One network: its members and their tunnels as a picture, keys, endpoints.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wgnet_core::NetworkView;
use wgnet_proto::{HostId, NetworkKey};

use super::Content;
use super::parts::{
    Part, endpoints, filter, found, host_mark, host_named, host_word, joined, mark, network_mark,
    problems, scrolled, since, since_seconds, spans, traffic,
};
use crate::dashboard::board::{Board, Problem};
use crate::dashboard::draw::{Edge, Node, ring};
use crate::dashboard::flows::Rate;
use crate::dashboard::order::natural;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{age, count, grouped, lag, rate};
use crate::dashboard::tunnels::{Standing, standing};
use crate::fleet::report::NetworkReport;
use crate::fleet::rows::{Filter, HostState};

/// More are no picture.
const MOST_NODES: usize = 120;
const MOST_EDGES: usize = 400;
const MOST_MEMBERS: usize = 250;

pub(super) fn page(board: &Board, key: &NetworkKey, ask: &Ask, now: u64) -> Content {
    let Some(view) = board.fleet().view().networks.get(key) else {
        return Content::missing(&format!("network {key}"));
    };
    let summary = board.summary().networks.iter().find(|row| row.network == *key);
    let here = Page::Network(key.clone());
    let mut rows = board.fleet().endpoint_rows(&Filter { network: Some(key.clone()), host: None });
    let all = rows.len();
    found(&mut rows, &ask.search);
    let part = Part::of(&rows, ask.number);
    let told = board.summary().problems.iter().filter(|it| it.row.network.as_ref() == Some(key));
    let told: Vec<&Problem> = told.take(20).collect();
    let members = members(board, key, view);
    let main = html! {
        div.headline {
            h1.key { (key) }
            @if let Some(row) = summary { p { (network_mark(row.state, row.members, row.alive)) } }
        }
        (facts(view, summary.map_or(0, |row| row.alive), all))
        @if !told.is_empty() {
            section aria-labelledby="problems" { h2 #problems { "Problems" } (problems(&told)) }
        }
        section aria-labelledby="picture" {
            h2 #picture { "Members and tunnels" }
            (picture(board, key, &members, now))
        }
        section aria-labelledby="flow" {
            div.head { h2 #flow { "Traffic" } (spans(&here, ask)) }
            (traffic(board.plots().networks.get(key), ask, now))
        }
        section aria-labelledby="members" {
            h2 #members { "Members" }
            (member_table(&members, view, now))
        }
        section aria-labelledby="endpoints" {
            div.head {
                h2 #endpoints { "Endpoints" }
                (filter(&here, ask, "Find by address, id, MAC, host"))
            }
            div #list {
                @if rows.is_empty() { p.none { "None." } } @else { (endpoints(part.rows, true, false)) }
                (part.pager(&here, ask, "endpoints"))
            }
        }
        p.more { a href=(Ask { network: Some(key.clone()), number: 1, ..Ask::default() }.link(&Page::Journal)) { "What happened in this network" } }
    };
    Content::new(key.to_string(), main)
}

fn facts(view: &NetworkView, alive: usize, endpoints: usize) -> Markup {
    let record = view.record.as_ref();
    let options = record.map(|record| record.options.iter()).into_iter().flatten();
    html! {
        dl.facts {
            div { dt { "Subnets" } dd.key { (joined(record.map(|it| it.subnets.as_slice()).unwrap_or_default())) } }
            div { dt { "Hosts alive" } dd { (alive) " of " (view.members.len()) } }
            div { dt { "Endpoints" } dd { (grouped(endpoints)) } }
            div { dt { "Generation of keys" } dd { (view.generation) } }
            @for (name, value) in options {
                div { dt { "Option " code { (shown(name)) } } dd.key { (shown(value)) } }
            }
        }
    }
}

fn shown(text: &str) -> String {
    wgnet_proto::text::clipped(text, 300)
}

struct Member<'a> {
    host: HostId,
    name: String,
    state: HostState,
    report: Option<&'a NetworkReport>,
    rate: Option<Rate>,
    endpoints: usize,
    silent: usize,
}

/// Those with trouble first.
fn members<'a>(board: &'a Board, key: &NetworkKey, view: &NetworkView) -> Vec<Member<'a>> {
    let mut endpoints: BTreeMap<HostId, usize> = BTreeMap::new();
    for endpoint in view.endpoints.values() {
        *endpoints.entry(endpoint.host).or_default() += 1;
    }
    let member = |host: &HostId| {
        let state = board.fleet().state_of(*host);
        // Of one that is gone the last report stands for a while.
        let report = board.fleet().reports().get(host).filter(|_| state == HostState::Alive);
        let report = report.and_then(|it| it.networks.get(key));
        let silent = |it: &NetworkReport| it.peers.iter().filter(|peer| peer.silent).count();
        Member {
            host: *host,
            name: board.fleet().host_name(*host),
            state,
            report,
            rate: board.flows().in_network(key, *host),
            endpoints: endpoints.get(host).copied().unwrap_or_default(),
            silent: report.map_or(0, silent),
        }
    };
    let mut members: Vec<Member<'_>> = view.members.keys().map(member).collect();
    members.sort_by(|a, b| natural(&a.name, &b.name).then(a.host.cmp(&b.host)));
    members
}

fn member_table(members: &[Member<'_>], view: &NetworkView, now: u64) -> Markup {
    if members.is_empty() {
        return html! { p.none { "No host is a member." } };
    }
    let is_fine = |member: &Member<'_>| {
        member.state == HostState::Alive
            && member.silent == 0
            && member.report.is_some_and(|report| report.in_sync)
    };
    let mut sorted: Vec<&Member<'_>> = members.iter().collect();
    sorted.sort_by_key(|member| is_fine(member));
    let left = sorted.len().saturating_sub(MOST_MEMBERS);
    html! {
        (scrolled("Table: members", html! {
            table {
                thead {
                    tr {
                        th scope="col" { "Host" }
                        th scope="col" { "State" }
                        th scope="col" { "Kernel follows" }
                        th.number scope="col" { "Endpoints" }
                        th.number scope="col" { "Traffic" }
                        th.number scope="col" { "Silent peers" }
                        th.number.lesser scope="col" { "Key made" }
                        th.number.lesser scope="col" { "Generation, port" }
                        th.number.lesser scope="col" { "MTU" }
                        th.number.lesser scope="col" { "Repairs" }
                    }
                }
                tbody {
                    @for member in sorted.into_iter().take(MOST_MEMBERS) { (member_row(member, view, now)) }
                }
            }
        }))
        @if left > 0 { p.hint { "And " (count(left, "member")) " more, all well." } }
    }
}

fn member_row(member: &Member<'_>, view: &NetworkView, now: u64) -> Markup {
    let slots = view.members.get(&member.host).map(|it| it.slots.as_slice()).unwrap_or_default();
    let report = member.report;
    html! {
        tr {
            td { (host_named(member.host, &member.name)) }
            td { (host_mark(member.state)) }
            td {
                @match report {
                    None => span.none { "not told" },
                    Some(it) if !it.in_sync => {
                        (mark("bad", "out of step"))
                        @if let Some(error) = &it.error { " " span.detail { (error) } }
                    },
                    Some(it) if it.lag_ms > 1000 => (mark("warn", &format!("behind by {}", lag(it.lag_ms as f64)))),
                    Some(_) => (mark("ok", "in step")),
                }
            }
            td.number { (grouped(member.endpoints)) }
            td.number { (super::parts::rate_of(member.rate)) }
            td.number { (member.silent) }
            td.number.lesser {
                @match report.and_then(|it| it.key_made) {
                    Some(at) => { (since(at.saturating_mul(1000), now)) " ago" },
                    None => span.none { "–" },
                }
            }
            td.number.lesser {
                @for (index, slot) in slots.iter().enumerate() {
                    @if index > 0 { " · " }
                    (slot.generation) ", " (slot.port)
                }
            }
            td.number.lesser { @if let Some(it) = report { (it.mtu) } }
            td.number.lesser { @if let Some(it) = report { (it.repairs) } }
        }
    }
}

/// One tunnel, both directions together.
#[derive(Default)]
struct Both {
    standing: Option<Standing>,
    /// The newest, in seconds since the epoch.
    handshake: Option<u64>,
    rate: f64,
}

fn picture(board: &Board, key: &NetworkKey, members: &[Member<'_>], now: u64) -> Markup {
    if members.is_empty() {
        return html! { p.none { "No host is a member." } };
    }
    let shown = &members[..members.len().min(MOST_NODES)];
    let places: BTreeMap<HostId, usize> =
        shown.iter().enumerate().map(|(place, member)| (member.host, place)).collect();
    let nodes: Vec<Node> = shown.iter().map(node).collect();
    let tunnels = tunnels(board, key, shown, &places, now / 1000);
    let all = tunnels.len();
    let mut ranked: Vec<((usize, usize), Both)> = tunnels.into_iter().collect();
    ranked.sort_by(|(_, a), (_, b)| b.standing.cmp(&a.standing).then(b.rate.total_cmp(&a.rate)));
    ranked.truncate(MOST_EDGES);
    let bad = ranked.iter().filter(|(_, it)| it.standing.is_some_and(Standing::is_bad)).count();
    // What is bad is drawn last, above the others.
    let edges: Vec<Edge> =
        ranked.iter().rev().map(|(ends, both)| edge(*ends, both, shown, now)).collect();
    let says = format!(
        "{} on a circle, {} between them, {bad} of them without an answer",
        count(members.len(), "member"),
        count(all, "tunnel")
    );
    html! {
        figure.picture {
            (ring(&says, &nodes, &edges))
            figcaption {
                ul.legend {
                    li.a0 { span.line {} " handshake below 1 min" }
                    li.a1 { span.line {} " below 2 min" }
                    li.a2 { span.line {} " below 3 min" }
                    li.idle { span.line {} " idle" }
                    li.never { span.line {} " no handshake" }
                    li.silent { span.line {} " silent" }
                    li.gone { span.line {} " host gone" }
                }
                p.hint {
                    "The wider, the more traffic. "
                    @if all > MOST_EDGES { "The worst and busiest " (MOST_EDGES) " of " (grouped(all)) " tunnels. " }
                    @if members.len() > MOST_NODES { "The first " (MOST_NODES) " of " (grouped(members.len())) " members. " }
                    a href=(Ask { network: Some(key.clone()), number: 1, ..Ask::default() }.link(&Page::Tunnels)) { "As a matrix" }
                }
            }
        }
    }
}

fn node(member: &Member<'_>) -> Node {
    let (class, word) = host_word(member.state);
    Node {
        name: member.name.clone(),
        link: Page::Host(member.host).path(),
        class: if member.silent > 0 && class == "ok" { "warn" } else { class },
        says: format!("{}: {word}, {}", member.name, count(member.endpoints, "endpoint")),
    }
}

fn tunnels(
    board: &Board,
    key: &NetworkKey,
    members: &[Member<'_>],
    places: &BTreeMap<HostId, usize>,
    now: u64,
) -> BTreeMap<(usize, usize), Both> {
    let mut tunnels: BTreeMap<(usize, usize), Both> = BTreeMap::new();
    for (from, member) in members.iter().enumerate() {
        let Some(report) = member.report else { continue };
        for peer in &report.peers {
            let Some(to) = places.get(&peer.host).copied().filter(|to| *to != from) else {
                continue;
            };
            let are_alive =
                [from, to].into_iter().all(|end| members[end].state == HostState::Alive);
            let stands = if are_alive { standing(peer, now) } else { Standing::Gone };
            let both = tunnels.entry((from.min(to), from.max(to))).or_default();
            both.standing = both.standing.max(Some(stands));
            both.handshake = both.handshake.max(peer.last_handshake);
            let rate = board.flows().between(key, member.host, peer.host);
            // Each end counts the same bytes.
            both.rate = both.rate.max(rate.unwrap_or_default().sum());
        }
    }
    tunnels
}

fn edge(ends: (usize, usize), both: &Both, members: &[Member<'_>], now: u64) -> Edge {
    let old = both.handshake.map(|at| (now / 1000).saturating_sub(at));
    let class = match (both.standing.unwrap_or(Standing::Untold), old) {
        (Standing::Up, Some(0..60)) => "a0",
        (Standing::Up, Some(60..120)) => "a1",
        (Standing::Up, _) => "a2",
        (standing, _) => standing.code(),
    };
    let width = match both.rate {
        // What was counted before a session ended is no traffic of now.
        _ if both.standing != Some(Standing::Up) => 0,
        rate if rate < 100.0 => 0,
        rate if rate < 10e3 => 1,
        rate if rate < 1e6 => 2,
        rate if rate < 10e6 => 3,
        _ => 4,
    };
    let handshake =
        old.map_or_else(|| "no handshake".to_owned(), |old| format!("handshake {} ago", age(old)));
    let word = both.standing.map_or("", Standing::name);
    Edge {
        ends,
        class,
        width,
        says: format!(
            "{} – {}: {word}, {handshake}, {}",
            members[ends.0].name,
            members[ends.1].name,
            rate(both.rate)
        ),
    }
}

/// For pages of hosts.
pub(super) fn handshake(at: Option<u64>, now: u64) -> Markup {
    html! { (since_seconds(at, now)) @if at.is_some() { " ago" } }
}
