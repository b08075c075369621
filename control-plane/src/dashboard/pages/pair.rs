//! Two hosts: how each reaches the other in every network, and if not, which step fails.

use maud::{Markup, html};
use wgnet_proto::{HostId, NetworkKey};

use super::Content;
use super::network::handshake;
use super::parts::{host_link, host_mark, mark, network_link, rate_of, scrolled, standing_mark};
use crate::dashboard::board::Board;
use crate::dashboard::route::Page;
use crate::dashboard::text::amount;
use crate::dashboard::tunnels::{Standing, standing};
use crate::fleet::report::PeerReport;
use crate::fleet::rows::HostState;
use crate::fleet::way::{Outcome, Verdict, Way};

const MOST: usize = 100;

pub(super) fn page(board: &Board, from: HostId, to: HostId, now: u64) -> Content {
    let fleet = board.fleet();
    let known = |host: HostId| fleet.state_of(host) != HostState::Unrecorded;
    if from == to || (!known(from) && !known(to)) {
        return Content::missing(&format!("tunnel from {from} to {to}"));
    }
    let is_shared = |key: &&NetworkKey| {
        let members = &fleet.view().networks[*key].members;
        members.contains_key(&from) && members.contains_key(&to)
    };
    let shared: Vec<&NetworkKey> = fleet.view().networks.keys().filter(is_shared).collect();
    let mut rows: Vec<Row<'_>> =
        shared.iter().map(|key| Row::of(board, key, from, to, now)).collect();
    rows.sort_by(|a, b| b.worst().cmp(&a.worst()).then(a.network.cmp(b.network)));
    let (name, peer) = (fleet.host_name(from), fleet.host_name(to));
    let way = rows.iter().find_map(|row| way(board, row.network, from, to, now));
    let main = html! {
        div.headline {
            h1 { (name) " → " (peer) }
            p {
                (host_link(board, from)) " " (host_mark(fleet.state_of(from))) " · "
                (host_link(board, to)) " " (host_mark(fleet.state_of(to))) " · "
                a href=(Page::Pair(to, from).path()) { "the other direction" }
            }
        }
        section aria-labelledby="networks" {
            h2 #networks { "In each network" }
            @if rows.is_empty() { p.none { "They share no network: there is no tunnel between them." } } @else { (table(&rows, &name, &peer, now)) }
            @if rows.len() > MOST { p.hint { "The worst " (MOST) " of " (rows.len()) "." } }
        }
        section aria-labelledby="way" {
            h2 #way { "The way, step by step" }
            @match way {
                Some(way) => (steps(&way)),
                None => p.none { "No network has endpoints on both; there is nothing to follow." },
            }
        }
    };
    Content::new(format!("{name} → {peer}"), main)
}

struct Row<'a> {
    network: &'a NetworkKey,
    there: Option<&'a PeerReport>,
    back: Option<&'a PeerReport>,
    stands: (Standing, Standing),
    rate: Option<crate::dashboard::flows::Rate>,
}

impl<'a> Row<'a> {
    fn of(board: &'a Board, network: &'a NetworkKey, from: HostId, to: HostId, now: u64) -> Self {
        let told = |host: HostId, peer: HostId| {
            let report = board.fleet().reports().get(&host)?.networks.get(network)?;
            report.peers.iter().find(|it| it.host == peer)
        };
        let are_alive =
            [from, to].into_iter().all(|it| board.fleet().state_of(it) == HostState::Alive);
        let stands = |peer: Option<&PeerReport>| match peer {
            _ if !are_alive => Standing::Gone,
            Some(peer) => standing(peer, now / 1000),
            None => Standing::Untold,
        };
        let (there, back) = (told(from, to), told(to, from));
        Self {
            network,
            there,
            back,
            stands: (stands(there), stands(back)),
            rate: board.flows().between(network, from, to),
        }
    }

    fn worst(&self) -> Standing {
        self.stands.0.max(self.stands.1)
    }
}

fn table(rows: &[Row<'_>], from: &str, to: &str, now: u64) -> Markup {
    scrolled(
        "Table: tunnels between both hosts",
        html! {
            table {
                thead {
                    tr {
                        th scope="col" { "Network" }
                        th scope="col" { (from) " says" }
                        th.number scope="col" { "Handshake" }
                        th scope="col" { (to) " says" }
                        th.number scope="col" { "Handshake" }
                        th.number scope="col" { "Traffic" }
                        th.number.lesser scope="col" { "Sent" }
                        th.number.lesser scope="col" { "Received" }
                        th.lesser scope="col" { "UDP goes to" }
                    }
                }
                tbody {
                    @for row in rows.iter().take(MOST) {
                        tr {
                            td { (network_link(row.network)) }
                            td { (standing_mark(row.stands.0)) }
                            td.number { @if let Some(it) = row.there { (handshake(it.last_handshake, now)) } }
                            td { (standing_mark(row.stands.1)) }
                            td.number { @if let Some(it) = row.back { (handshake(it.last_handshake, now)) } }
                            td.number { (rate_of(row.rate)) }
                            td.number.lesser { @if let Some(it) = row.there { (amount(it.sent_bytes as f64)) } }
                            td.number.lesser { @if let Some(it) = row.there { (amount(it.received_bytes as f64)) } }
                            td.key.lesser { @if let Some(at) = row.there.and_then(|it| it.underlay) { (at) } }
                        }
                    }
                }
            }
        },
    )
}

/// Between the first endpoints that both hosts have there.
fn way(board: &Board, network: &NetworkKey, from: HostId, to: HostId, now: u64) -> Option<Way> {
    let endpoints = &board.fleet().view().networks[network].endpoints;
    let first = |host: HostId| {
        endpoints.iter().find(|(_, it)| it.host == host).map(|(at, _)| at.to_string())
    };
    Some(board.fleet().way(&first(from)?, &first(to)?, Some(network), now / 1000))
}

fn steps(way: &Way) -> Markup {
    let (class, verdict) = match way.verdict {
        Verdict::Open => ("ok", "There is a way."),
        Verdict::Unproven => {
            ("warn", "Nothing speaks against it; whether packets arrive, nobody tells.")
        }
        Verdict::Broken => ("bad", "There is no way."),
    };
    html! {
        p {
            @if let (Some(from), Some(to)) = (&way.from, &way.to) {
                "From " code { (from.address) } " to " code { (to.address) }
                @if let Some(network) = &way.network { " in " (network_link(network)) }
                ": "
            }
            (mark(class, verdict))
        }
        ol.steps {
            @for step in &way.steps {
                @let (class, word) = match step.outcome {
                    Outcome::Good => ("ok", "good"),
                    Outcome::Unknown => ("warn", "unknown"),
                    Outcome::Broken => ("bad", "fails"),
                };
                li {
                    (mark(class, word)) " " code { (step.step) } " " (step.says)
                    @if let Some(next) = &step.next_step { p.next { (next) } }
                }
            }
        }
    }
}
