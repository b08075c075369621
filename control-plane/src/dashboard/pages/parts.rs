//! What several pages have.

use maud::{Markup, html};
use wgnet_proto::{HostId, NetworkKey};

use crate::dashboard::board::{Board, Problem, Traffic};
use crate::dashboard::draw::{Line, plot};
use crate::dashboard::flows::Rate;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::series::Span;
use crate::dashboard::text::{age, count, grouped, lag, rate, timestamp};
use crate::dashboard::tunnels::Standing;
use crate::fleet::problems::Severity;
use crate::fleet::rows::{EndpointRow, EndpointState, HostState, NetworkState};

/// A sign with its word: nothing is told by colour alone.
pub(super) fn mark(class: &str, word: &str) -> Markup {
    html! { span class=(format!("mark {class}")) { (word) } }
}

pub(super) fn host_mark(state: HostState) -> Markup {
    let (class, word) = host_word(state);
    mark(class, word)
}

pub(super) fn host_word(state: HostState) -> (&'static str, &'static str) {
    match state {
        HostState::Alive => ("ok", "alive"),
        HostState::Gone => ("bad", "gone"),
        HostState::Revoked => ("off", "revoked"),
        HostState::Unrecorded => ("warn", "unrecorded"),
    }
}

pub(super) fn network_mark(state: NetworkState, members: usize, alive: usize) -> Markup {
    match state {
        NetworkState::Up if alive < members => mark("warn", "hosts gone"),
        NetworkState::Up => mark("ok", "up"),
        NetworkState::Freed => mark("off", "freed"),
        NetworkState::Unrecorded => mark("warn", "unrecorded"),
    }
}

pub(super) fn standing_mark(standing: Standing) -> Markup {
    let class = match standing {
        Standing::Up => "ok",
        Standing::Idle => "idle",
        Standing::Silent => "bad",
        Standing::NoHandshake => "warn",
        Standing::Gone | Standing::Untold | Standing::Apart => "off",
    };
    mark(class, standing.name())
}

/// A time that goes on by itself; both in milliseconds since the epoch.
pub(super) fn since(at: u64, now: u64) -> Markup {
    html! {
        time datetime=(timestamp(at)) data-since=(at) { (age(now.saturating_sub(at) / 1000)) }
    }
}

/// The same of seconds since the epoch.
pub(super) fn since_seconds(at: Option<u64>, now: u64) -> Markup {
    match at {
        Some(at) => since(at.saturating_mul(1000), now),
        None => html! { span.none { "never" } },
    }
}

pub(super) fn host_link(board: &Board, host: HostId) -> Markup {
    host_named(host, &board.fleet().host_name(host))
}

pub(super) fn host_named(host: HostId, name: &str) -> Markup {
    html! { a.name href=(Page::Host(host).path()) { (name) } }
}

pub(super) fn network_link(network: &NetworkKey) -> Markup {
    html! {
        a.key href=(Page::Network(network.clone()).path()) title=(network) { (short(network)) }
    }
}

/// Docker's ids are shown as Docker does; names are whole.
fn short(network: &NetworkKey) -> String {
    const SHOWN: usize = 14;
    let text = network.as_str();
    match text.get(..SHOWN) {
        Some(short) if !text.starts_with("n-") && text.len() > SHOWN + 1 => format!("{short}…"),
        _ => text.to_owned(),
    }
}

pub(super) fn rate_of(flow: Option<Rate>) -> Markup {
    match flow {
        Some(flow) => html! { (rate(flow.sum())) },
        None => html! { span.none { "–" } },
    }
}

/// A table that is scrolled by itself where it does not fit.
pub(super) fn scrolled(label: &str, table: Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (table) } }
}

/// A part of many, with the ways to the others.
pub(super) struct Part<'a, T> {
    pub(super) rows: &'a [T],
    first: usize,
    all: usize,
    number: usize,
    pages: usize,
}

pub(super) const PAGE: usize = 50;

impl<'a, T> Part<'a, T> {
    pub(super) fn of(rows: &'a [T], number: usize) -> Self {
        let pages = rows.len().div_ceil(PAGE).max(1);
        let number = number.clamp(1, pages);
        let first = (number - 1) * PAGE;
        let shown = &rows[first..rows.len().min(first + PAGE)];
        Self { rows: shown, first, all: rows.len(), number, pages }
    }

    pub(super) fn pager(&self, page: &Page, ask: &Ask, what: &str) -> Markup {
        let link = |number: usize| format!("{}#list", ask.at(number).link(page));
        html! {
            @if self.pages > 1 {
                nav.pager aria-label=(format!("Pages of {what}")) {
                    @if self.number > 1 {
                        a href=(link(1)) { "First" }
                        a href=(link(self.number - 1)) rel="prev" { "Previous" }
                    }
                    span {
                        (grouped(self.first + 1)) " to " (grouped(self.first + self.rows.len()))
                        " of " (grouped(self.all))
                    }
                    @if self.number < self.pages {
                        a href=(link(self.number + 1)) rel="next" { "Next" }
                        a href=(link(self.pages)) { "Last" }
                    }
                }
            }
        }
    }
}

/// A field that filters what is listed below it, as one types.
pub(super) fn filter(page: &Page, ask: &Ask, label: &str) -> Markup {
    html! {
        form.filter role="search" action=(page.path()) method="get" aria-label=(label) {
            input type="search" name="q" value=(ask.search) aria-label=(label) placeholder=(label) data-live
                autocomplete="off" spellcheck="false" maxlength="100";
            @if let Some(network) = &ask.network {
                input type="hidden" name="network" value=(network);
            }
            @if let Some(host) = ask.host {
                input type="hidden" name="host" value=(host);
            }
            @if let Some(kind) = ask.kind {
                input type="hidden" name="kind" value=(kind.name());
            }
            button type="submit" { "Find" }
        }
    }
}

pub(super) fn endpoints(rows: &[EndpointRow], is_of_network: bool, is_of_host: bool) -> Markup {
    scrolled(
        "Table: endpoints",
        html! {
            table {
                thead {
                    tr {
                        th scope="col" { "Address" }
                        @if !is_of_host { th scope="col" { "Host" } }
                        @if !is_of_network { th scope="col" { "Network" } }
                        th scope="col" { "State" }
                        th.lesser scope="col" { "Endpoint" }
                        th.lesser scope="col" { "MAC" }
                        th.number.lesser scope="col" { "Claim" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            td.key { (joined(&row.addresses)) }
                            @if !is_of_host { td { (host_named(row.host, &row.host_name)) } }
                            @if !is_of_network { td { (network_link(&row.network)) } }
                            td { (endpoint_mark(row.state)) }
                            td.key.lesser { (row.endpoint.short()) }
                            td.key.lesser { (row.mac) }
                            td.number.lesser { (row.claim) }
                        }
                    }
                }
            }
        },
    )
}

fn endpoint_mark(state: EndpointState) -> Markup {
    match state {
        EndpointState::Up => mark("ok", "up"),
        EndpointState::HostGone => mark("bad", "host gone"),
        EndpointState::HostRevoked => mark("off", "host revoked"),
        EndpointState::HostUnrecorded => mark("warn", "host unrecorded"),
        EndpointState::NoMember => mark("bad", "no member"),
    }
}

/// Endpoints that have the text somewhere.
pub(super) fn found(rows: &mut Vec<EndpointRow>, search: &str) {
    let search = search.to_lowercase();
    if search.is_empty() {
        return;
    }
    rows.retain(|row| {
        row.addresses.iter().any(|address| address.to_string().contains(&search))
            || row.endpoint.as_str().starts_with(&search)
            || row.host_name.to_lowercase().contains(&search)
            || row.mac.to_string().contains(&search)
            || row.network.as_str().contains(&search)
    });
}

/// As many of those that tell a problem are named.
const TELLERS: usize = 8;

/// Problems, the worst first.
pub(super) fn problems(rows: &[&Problem]) -> Markup {
    html! {
        ul.problems {
            @for Problem { row, about, told_by } in rows {
                @let (class, word) = match row.severity {
                    Severity::Error => ("bad", "error"),
                    Severity::Warning => ("warn", "warning"),
                    Severity::Note => ("idle", "note"),
                };
                li.(class) {
                    p.what {
                        (mark(class, word)) " "
                        strong { (row.object) } " "
                        code { (row.code) }
                        @if let Some(host) = *about {
                            " " a.aside href=(Page::Host(host).path()) aria-label=(format!("Host of {} {}", row.code, row.object)) { "host" }
                        }
                        @if let Some(network) = &row.network {
                            " " a.aside href=(Page::Network(network.clone()).path()) aria-label=(format!("Network of {} {}", row.code, row.object)) { "network" }
                        }
                    }
                    p { (row.cause) }
                    p.next { (row.next_step) }
                    @if !told_by.is_empty() {
                        p.by {
                            "told by "
                            @for (index, (host, name)) in told_by.iter().take(TELLERS).enumerate() {
                                @if index > 0 { ", " }
                                (host_named(*host, name))
                            }
                            @if told_by.len() > TELLERS { " and " (told_by.len() - TELLERS) " more" }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn traffic(traffic: Option<&Traffic>, ask: &Ask, now: u64) -> Markup {
    let Some(traffic) = traffic else {
        return html! { p.none { "Nothing was counted yet: it takes two reports of a host." } };
    };
    let seconds = now / 1000;
    let lines = [
        Line { name: "sent", class: "sent", points: traffic.sent.points(ask.span, seconds) },
        Line {
            name: "received",
            class: "received",
            points: traffic.received.points(ask.span, seconds),
        },
    ];
    plot("Traffic through tunnels", &lines, rate, ask.span)
}

pub(super) fn convergence(board: &Board, ask: &Ask, now: u64) -> Markup {
    let points = board.plots().lag.points(ask.span, now / 1000);
    let line = Line { name: "oldest change not followed", class: "lag", points };
    plot("Convergence", &[line], lag, ask.span)
}

/// An hour or a day.
pub(super) fn spans(page: &Page, ask: &Ask) -> Markup {
    let with = |span: Span| Ask { span, ..ask.clone() }.link(page);
    html! {
        nav.spans aria-label="Time that plots show" {
            a href=(with(Span::Hour)) aria-current=[(ask.span == Span::Hour).then_some("true")] { "1 h" }
            a href=(with(Span::Day)) aria-current=[(ask.span == Span::Day).then_some("true")] { "1 d" }
        }
    }
}

/// What was cut off, if something was.
pub(super) fn more(shown: usize, all: usize, what: &str, link: &str) -> Markup {
    html! {
        @if all > shown {
            p.more { a href=(link) { "All " (count(all, what)) } }
        }
    }
}

pub(super) fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "–".to_owned() } else { items.join(" ") }
}
