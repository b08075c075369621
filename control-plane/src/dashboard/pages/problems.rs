//! Everything that is wrong, with what to do about it.

use maud::html;

use super::Content;
use super::parts::{Part, filter, problems};
use crate::dashboard::board::{Board, Problem};
use crate::dashboard::route::{Ask, Page};

pub(super) fn page(board: &Board, ask: &Ask) -> Content {
    let search = ask.search.to_lowercase();
    let has = |problem: &&Problem| {
        let row = &problem.row;
        [&row.code, &row.object, &row.cause]
            .iter()
            .any(|text| text.to_lowercase().contains(&search))
            || problem.told_by.iter().any(|(_, host)| host.to_lowercase().contains(&search))
    };
    let rows: Vec<&Problem> = board.summary().problems.iter().filter(has).collect();
    let part = Part::of(&rows, ask.number);
    let main = html! {
        div.head {
            h1 { "Problems" }
            (filter(&Page::Problems, ask, "Find by code, object, host"))
        }
        div #list {
            @if rows.is_empty() {
                p.none { @if search.is_empty() { "Nothing is wrong that anybody tells of." } @else { "None." } }
            } @else { (problems(part.rows)) }
            (part.pager(&Page::Problems, ask, "problems"))
        }
        p.hint { "On a host itself " code { "wgnetctl doctor" } " sees more: kernel, firewall, MTU, clocks." }
    };
    Content::new("Problems", main)
}
