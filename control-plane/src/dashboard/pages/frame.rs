//! What all pages have around them.

use maud::{DOCTYPE, Markup, html};

use super::Content;
use super::parts::since;
use crate::dashboard::assets::assets;
use crate::dashboard::board::Board;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{clock, count, grouped};
use crate::fleet::Connection;
use crate::fleet::problems::Severity;

const PAGES: [(&str, Page); 7] = [
    ("Overview", Page::Overview),
    ("Networks", Page::Networks),
    ("Hosts", Page::Hosts),
    ("Endpoints", Page::Endpoints),
    ("Tunnels", Page::Tunnels),
    ("Problems", Page::Problems),
    ("Journal", Page::Journal),
];

pub(super) fn whole(board: &Board, page: &Page, ask: &Ask, now: u64, content: &Content) -> Markup {
    let files = assets();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (content.title) " · wgnet" }
                link rel="icon" href=(files.icon.path) type="image/svg+xml";
                link rel="stylesheet" href=(files.style.path);
                script src=(files.morph.path) defer {}
                script src=(files.script.path) defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                // The script tells here that the server itself does not answer.
                div #away role="alert" hidden {}
                div #live data-version=(board.version()) data-pace=(content.pace_ms) data-now=(now) {
                    (header(board, page, ask))
                    (standing(board, now))
                    main #main tabindex="-1" { (content.main) }
                    (footer(board, now))
                }
            }
        }
    }
}

fn header(board: &Board, page: &Page, ask: &Ask) -> Markup {
    let problems = board.summary().trouble().count();
    html! {
        header.top {
            a.brand href="/" { (mark()) "wgnet" }
            nav aria-label="Pages" {
                ul {
                    @for (name, target) in &PAGES {
                        li {
                            a href=(target.path()) aria-current=[is_below(page, target).then_some("page")] {
                                (name)
                                @if *target == Page::Problems && problems > 0 {
                                    " " span.badge { (grouped(problems)) }
                                }
                            }
                        }
                    }
                }
            }
            form.find role="search" action="/endpoints" method="get" {
                input #find type="search" name="q" aria-label="Find an endpoint: address, id, MAC, host"
                    placeholder="Find an endpoint  /" autocomplete="off" spellcheck="false" maxlength="100"
                    value=(if *page == Page::Endpoints { ask.search.as_str() } else { "" });
            }
            button #theme type="button" hidden { "Theme" }
        }
    }
}

/// Which entry of the navigation a page belongs to.
fn is_below(page: &Page, entry: &Page) -> bool {
    match page {
        Page::Network(_) => *entry == Page::Networks,
        Page::Host(_) => *entry == Page::Hosts,
        Page::Pair(..) => *entry == Page::Tunnels,
        _ => page == entry,
    }
}

/// Three hosts with tunnels between them.
fn mark() -> Markup {
    html! {
        svg viewBox="0 0 24 24" aria-hidden="true" {
            path d="M12 5 5 18h14z" {}
            circle cx="12" cy="5" r="3.2" {}
            circle cx="5" cy="18" r="3.2" {}
            circle cx="19" cy="18" r="3.2" {}
        }
    }
}

/// Whether what is shown is of now.
fn standing(board: &Board, now: u64) -> Markup {
    match board.fleet().connection() {
        Connection::Connected => html! { div #standing role="status" {} },
        Connection::Connecting => html! {
            div #standing.warn role="status" { "Not connected to etcd yet." }
        },
        Connection::Lost(error) => html! {
            div #standing.bad role="status" {
                strong { "etcd cannot be reached." }
                " What you see was true "
                span aria-live="off" { (since(board.since(), now)) }
                " ago. Running traffic does not need etcd. "
                span.detail { (error) }
            }
        },
    }
}

fn footer(board: &Board, now: u64) -> Markup {
    let summary = board.summary();
    let errors = summary.problems.iter().filter(|it| it.row.severity == Severity::Error).count();
    html! {
        footer {
            span #alive.(if errors > 0 { "bad" } else { "ok" }) { "live" }
            span { "read only, from etcd revision " (board.fleet().revision()) }
            span { (count(summary.hosts.len(), "host")) ", " (count(summary.endpoints, "endpoint")) }
            span { "as of " (clock(now)) " UTC" }
        }
    }
}
