//! Endpoints of all networks, searched.

use maud::html;

use super::Content;
use super::parts::{Part, endpoints, filter, found};
use crate::dashboard::board::Board;
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::count;
use crate::fleet::rows::Filter;

pub(super) fn page(board: &Board, ask: &Ask) -> Content {
    let wanted = Filter { network: ask.network.clone(), host: ask.host };
    let mut rows = board.fleet().endpoint_rows(&wanted);
    found(&mut rows, &ask.search);
    let part = Part::of(&rows, ask.number);
    let without = |change: fn(&mut Ask)| {
        let mut ask = ask.at(1);
        change(&mut ask);
        ask.link(&Page::Endpoints)
    };
    let main = html! {
        div.head {
            h1 { "Endpoints" }
            (filter(&Page::Endpoints, ask, "Find by address, id, MAC, host, network"))
        }
        p.chips {
            (count(rows.len(), "endpoint"))
            @if let Some(network) = &ask.network {
                " of network " code { (network) } " "
                a href=(without(|ask| ask.network = None)) { "all networks" }
            }
            @if let Some(host) = ask.host {
                " on " strong { (board.fleet().host_name(host)) } " "
                a href=(without(|ask| ask.host = None)) { "all hosts" }
            }
        }
        div #list {
            @if rows.is_empty() { p.none { "None." } } @else { (endpoints(part.rows, false, false)) }
            (part.pager(&Page::Endpoints, ask, "endpoints"))
        }
    };
    // It looks at every endpoint there is.
    Content { pace_ms: 700, ..Content::new("Endpoints", main) }
}
