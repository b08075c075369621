//! Every host to every host.

use maud::{Markup, html};
use wgnet_proto::HostId;

use super::Content;
use super::parts::{Part, filter, host_named, network_link, scrolled, standing_mark};
use crate::dashboard::board::Board;
use crate::dashboard::draw::matrix;
use crate::dashboard::journal::Kind;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{count, grouped};
use crate::dashboard::tunnels::{Matrix, Standing};

/// More cannot be told apart on a screen.
const MOST: usize = 150;

pub(super) fn page(board: &Board, ask: &Ask) -> Content {
    let bad = board.summary().tunnels.bad();
    let chosen = chosen(board, ask, &bad);
    let (all, shown) = (chosen.len(), chosen.into_iter().take(MOST).collect::<Vec<_>>());
    let (hosts, names): (Vec<HostId>, Vec<String>) = shown.into_iter().unzip();
    let cells = Matrix::of(board.fleet(), &board.summary().tunnels, hosts);
    let troubled = Ask { kind: Some(Kind::Problems), number: 1, ..ask.clone() };
    let everything = Ask { kind: None, network: None, number: 1, ..ask.clone() };
    let part = Part::of(&bad, ask.number);
    let main = html! {
        div.head {
            h1 { "Tunnels" }
            (filter(&Page::Tunnels, ask, "Hosts whose name has"))
        }
        p.chips {
            "From the host of a row to the host of a column: the worst of their tunnels in all networks. "
            @if ask.kind.is_some() { "Hosts with trouble only. " a href=(everything.link(&Page::Tunnels)) { "All hosts" } }
            @else if !bad.is_empty() { a href=(troubled.link(&Page::Tunnels)) { "Only hosts with trouble" } }
            @if let Some(network) = &ask.network { " Members of " (network_link(network)) " only. " }
        }
        @if names.len() < 2 {
            p.none { "It takes two hosts." }
        } @else {
            (legend(&cells))
            p.readout #readout role="status" { "Point at a cell, or go with the arrow keys: it says who reaches whom. Enter shows more." }
            div.scroll.pan #grid role="region" aria-label="Matrix of hosts" tabindex="0" {
                (matrix(&says(&cells), &cells, &names))
            }
            @if all > names.len() {
                p.hint { "The first " (grouped(names.len())) " of " (count(all, "host")) ". The field above chooses others." }
            }
        }
        section aria-labelledby="bad" {
            h2 #bad { "Those that do not answer" }
            div #list {
                @if bad.is_empty() { p.none { "None that hosts tell of." } } @else { (table(board, part.rows)) }
                (part.pager(&Page::Tunnels, ask, "tunnels"))
            }
        }
    };
    // Thousands of cells take browsers a moment.
    let pace_ms = if names.len() > 40 { 900 } else { 250 };
    Content { pace_ms, ..Content::new("Tunnels", main) }
}

/// Hosts and their names, as asked for.
fn chosen(board: &Board, ask: &Ask, bad: &[(HostId, HostId, Standing)]) -> Vec<(HostId, String)> {
    let search = ask.search.to_lowercase();
    let networks = &board.fleet().view().networks;
    let members = ask.network.as_ref().map(|key| networks.get(key).map(|it| &it.members));
    let is_chosen = |host: &HostId| match &members {
        None => true,
        Some(members) => members.is_some_and(|it| it.contains_key(host)),
    };
    let has_trouble = |host: &HostId| bad.iter().any(|(from, to, _)| from == host || to == host);
    let rows = board.summary().hosts.iter();
    rows.filter(|row| is_chosen(&row.host) && row.name.to_lowercase().contains(&search))
        .filter(|row| ask.kind.is_none() || has_trouble(&row.host))
        .map(|row| (row.host, row.name.clone()))
        .collect()
}

fn counts(matrix: &Matrix) -> Vec<(Standing, usize)> {
    let of = |wanted| matrix.cells.iter().filter(|it| **it == wanted).count();
    let shown = Standing::ALL.into_iter().filter(|it| *it != Standing::Apart);
    shown.map(|standing| (standing, of(standing))).collect()
}

fn says(matrix: &Matrix) -> String {
    let counts = counts(matrix);
    let each = counts.iter().filter(|(_, count)| *count > 0);
    let each: Vec<String> = each.map(|(it, count)| format!("{count} {}", it.name())).collect();
    format!("Tunnels between {} hosts: {}", matrix.hosts.len(), each.join(", "))
}

fn legend(matrix: &Matrix) -> Markup {
    html! {
        ul.legend {
            @for (standing, count) in counts(matrix) {
                li.(standing.code()) { span.sample aria-hidden="true" {} " " (standing.name()) " " strong { (grouped(count)) } }
            }
        }
    }
}

fn table(board: &Board, rows: &[(HostId, HostId, Standing)]) -> Markup {
    let name = |host: HostId| board.fleet().host_name(host);
    scrolled(
        "Table: tunnels that do not answer",
        html! {
            table {
                thead { tr { th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "State" } th scope="col" { span.unseen { "More" } } } }
                tbody {
                    @for (from, to, standing) in rows {
                        tr {
                            td { (host_named(*from, &name(*from))) }
                            td { (host_named(*to, &name(*to))) }
                            td { (standing_mark(*standing)) }
                            td {
                                a href=(Page::Pair(*from, *to).path()) aria-label=(format!("Why, from {} to {}", name(*from), name(*to))) { "why" }
                            }
                        }
                    }
                }
            }
        },
    )
}
