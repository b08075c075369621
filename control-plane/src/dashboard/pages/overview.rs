//! The first page: how all is, and what just happened.

use maud::{Markup, html};

use super::Content;
use super::journal::entries;
use super::lists::networks_table;
use super::parts::{convergence, host_word, more, problems, since, spans, traffic};
use crate::dashboard::board::{Board, Problem, Summary};
use crate::dashboard::draw::{Node, strip};
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{count, grouped};
use crate::fleet::Connection;
use crate::fleet::problems::Severity;
use crate::fleet::rows::{HostState, NetworkRow};

const PROBLEMS: usize = 6;
const NETWORKS: usize = 10;
const CHANGES: usize = 12;
const HOSTS: usize = 1000;

pub(super) fn page(board: &Board, ask: &Ask, now: u64) -> Content {
    let summary = board.summary();
    let (class, title) = health(board);
    let shown: Vec<&Problem> = summary.problems.iter().take(PROBLEMS).collect();
    let main = html! {
        div.headline {
            h1.(class) { (title) }
            p { (standing(board, now)) }
        }
        (tiles(summary))
        @if !shown.is_empty() {
            section aria-labelledby="problems" {
                h2 #problems { "Problems" }
                (problems(&shown))
                (more(shown.len(), summary.problems.len(), "problem", "/problems"))
            }
        }
        section aria-labelledby="hosts" {
            h2 #hosts { a href="/hosts" { "Hosts" } }
            (hosts(summary))
        }
        section aria-labelledby="flow" {
            div.head { h2 #flow { "Traffic and convergence" } (spans(&Page::Overview, ask)) }
            div.plots {
                (traffic(Some(&board.plots().all), ask, now))
                (convergence(board, ask, now))
            }
        }
        div.columns {
            section aria-labelledby="networks" {
                h2 #networks { a href="/networks" { "Networks" } }
                (networks_table(board, &foremost(board), now))
                (more(NETWORKS, summary.networks.len(), "network", "/networks"))
            }
            section aria-labelledby="changes" {
                h2 #changes { a href="/journal" { "Changes" } }
                (entries(board.journal().entries().take(CHANGES)))
            }
        }
    };
    Content::new(title, main)
}

fn health(board: &Board) -> (&'static str, String) {
    let problems = &board.summary().problems;
    let is = |severity| move |problem: &&Problem| problem.row.severity == severity;
    let errors = problems.iter().filter(is(Severity::Error)).count();
    let warnings = problems.iter().filter(is(Severity::Warning)).count();
    match (board.fleet().connection(), errors, warnings) {
        (Connection::Lost(_), ..) => ("bad", "etcd cannot be reached".to_owned()),
        (_, 0, 0) => ("ok", "All is well".to_owned()),
        (_, 0, warnings) => ("warn", count(warnings, "warning")),
        (_, errors, 0) => ("bad", count(errors, "error")),
        (_, errors, warnings) => {
            ("bad", format!("{}, {}", count(errors, "error"), count(warnings, "warning")))
        }
    }
}

fn standing(board: &Board, now: u64) -> Markup {
    match board.fleet().connection() {
        Connection::Connected => html! { "Connected to etcd for " (since(board.since(), now)) "." },
        Connection::Connecting => html! { "Not connected to etcd yet." },
        Connection::Lost(_) => html! { "Away for " (since(board.since(), now)) "." },
    }
}

fn tiles(summary: &Summary) -> Markup {
    let tunnels = &summary.tunnels;
    let bad = tunnels.silent + tunnels.no_handshake;
    let told = tunnels.up + tunnels.idle + bad;
    let alive = summary.alive();
    html! {
        ul.tiles {
            li { a href="/hosts" {
                span.figure { (grouped(alive)) @if alive < summary.hosts.len() { small { " of " (grouped(summary.hosts.len())) } } }
                " " span.what { "hosts alive" }
            } }
            li { a href="/networks" {
                span.figure { (grouped(summary.networks.len())) } " " span.what { "networks" }
            } }
            li { a href="/endpoints" {
                span.figure { (grouped(summary.endpoints)) } " " span.what { "endpoints" }
            } }
            li { a href="/tunnels" {
                span.figure.(if bad > 0 { "bad" } else { "" }) {
                    @if bad > 0 { (grouped(bad)) small { " of " (grouped(told)) } } @else { (grouped(told)) }
                }
                " " span.what { @if bad > 0 { "tunnels do not answer" } @else { "tunnels, none silent" } }
            } }
        }
    }
}

fn hosts(summary: &Summary) -> Markup {
    let troubled = |host: &crate::fleet::rows::HostRow| {
        summary.trouble().any(|problem| problem.concerns(host.host))
    };
    let nodes = summary.hosts.iter().take(HOSTS).map(|host| {
        let (class, word) = host_word(host.state);
        let is_troubled = host.state == HostState::Alive && troubled(host);
        Node {
            name: String::new(),
            link: Page::Host(host.host).path(),
            class: if is_troubled { "warn" } else { class },
            says: if is_troubled {
                format!("{}: {word}, with problems", host.name)
            } else {
                format!("{}: {word}", host.name)
            },
        }
    });
    let nodes: Vec<Node> = nodes.collect();
    let says = format!("{} of {} are alive", summary.alive(), count(summary.hosts.len(), "host"));
    html! {
        @if nodes.is_empty() { p.none { "No host has published anything." } } @else { (strip(&says, &nodes)) }
        @let gone: Vec<_> = summary.hosts.iter().filter(|it| it.state == HostState::Gone).collect();
        @if !gone.is_empty() {
            p.gone {
                "Gone: "
                @for (index, host) in gone.iter().take(12).enumerate() {
                    @if index > 0 { ", " }
                    (super::parts::host_named(host.host, &host.name))
                }
                @if gone.len() > 12 { " and " (gone.len() - 12) " more" }
            }
        }
    }
}

/// Those with hosts gone first, then the busiest, then the largest.
fn foremost(board: &Board) -> Vec<&NetworkRow> {
    let rates = board.flows().of_networks();
    let rank = |row: &NetworkRow| {
        let rate = rates.get(&row.network).map_or(0.0, |rate| rate.sum()) as u64;
        std::cmp::Reverse((row.members - row.alive.min(row.members), rate, row.endpoints))
    };
    let mut rows: Vec<&NetworkRow> = board.summary().networks.iter().collect();
    rows.sort_by_key(|row| rank(row));
    rows.truncate(NETWORKS);
    rows
}
