//! Pages: from the board to HTML and nothing else. What others chose (names, options, texts of
//! problems) goes through maud, which escapes it, and never into a script, a style or an address.

mod endpoints;
mod frame;
mod host;
mod journal;
mod lists;
mod network;
mod overview;
mod pair;
mod parts;
mod problems;
mod tunnels;

use maud::Markup;

use super::board::Board;
use super::route::{Ask, Page};

/// A page, made.
pub struct Rendered {
    pub html: String,
    /// What it is about is there.
    pub is_found: bool,
}

/// The content of one page.
struct Content {
    title: String,
    main: Markup,
    /// What it is about is there.
    is_found: bool,
    /// A page that takes browsers long is renewed less often.
    pace_ms: u32,
}

impl Content {
    fn new(title: impl Into<String>, main: Markup) -> Self {
        Self { title: title.into(), main, is_found: true, pace_ms: 250 }
    }

    /// It may come, or come back: the page follows.
    fn missing(what: &str) -> Self {
        let main = maud::html! {
            h1 { "There is no " (what) }
            p { "It may have gone, or not have come yet; this page shows it when it is there." }
        };
        Self { is_found: false, ..Self::new("Not there", main) }
    }
}

/// `now` is in milliseconds since the epoch.
pub fn render(board: &Board, page: &Page, ask: &Ask, now: u64) -> Rendered {
    let content = if board.is_listed() { content(board, page, ask, now) } else { unknown() };
    let html = frame::whole(board, page, ask, now, &content).into_string();
    Rendered { html, is_found: content.is_found }
}

fn content(board: &Board, page: &Page, ask: &Ask, now: u64) -> Content {
    match page {
        Page::Overview => overview::page(board, ask, now),
        Page::Networks => lists::networks(board, ask, now),
        Page::Network(key) => network::page(board, key, ask, now),
        Page::Hosts => lists::hosts(board, ask, now),
        Page::Host(host) => host::page(board, *host, ask, now),
        Page::Endpoints => endpoints::page(board, ask),
        Page::Tunnels => tunnels::page(board, ask),
        Page::Pair(from, to) => pair::page(board, *from, *to, now),
        Page::Problems => problems::page(board, ask),
        Page::Journal => journal::page(board, ask),
    }
}

fn unknown() -> Content {
    let main = maud::html! {
        h1 { "Reading etcd" }
        p { "Nothing is known yet. This page follows by itself." }
    };
    Content::new("Reading etcd", main)
}

/// For an address that is no page.
pub fn nowhere(board: &Board, now: u64) -> Rendered {
    let main = maud::html! {
        h1 { "There is no such page" }
        p { a href="/" { "To the overview" } }
    };
    let content = Content { is_found: false, ..Content::new("No such page", main) };
    let html = frame::whole(board, &Page::Overview, &Ask::default(), now, &content).into_string();
    Rendered { html, is_found: false }
}
