//! What happened in the last day, as this process saw it.

use maud::{Markup, html};

use super::Content;
use super::parts::{Part, host_named, joined, mark, network_link};
use crate::dashboard::board::Board;
use crate::dashboard::journal::{Entry, Kind, MOST, Tone, What};
use crate::dashboard::route::{Ask, Page};
use crate::dashboard::text::{age, clock, count, grouped, timestamp};

pub(super) fn page(board: &Board, ask: &Ask) -> Content {
    let search = ask.search.to_lowercase();
    let has = |entry: &&Entry| {
        ask.kind.is_none_or(|kind| entry.what.kind() == kind)
            && ask.network.as_ref().is_none_or(|it| entry.network.as_ref() == Some(it))
            && ask.host.is_none_or(|it| entry.host.as_ref().is_some_and(|host| host.id == it))
            && (search.is_empty() || mentions(entry, &search))
    };
    let chosen: Vec<&Entry> = board.journal().entries().filter(has).collect();
    let part = Part::of(&chosen, ask.number);
    let with = |kind: Option<Kind>| Ask { kind, number: 1, ..ask.clone() }.link(&Page::Journal);
    let everything = Ask { network: None, host: None, ..ask.at(1) }.link(&Page::Journal);
    let main = html! {
        div.head {
            h1 { "Journal" }
            (super::parts::filter(&Page::Journal, ask, "Find by host, network, address"))
        }
        nav.spans aria-label="Kinds of entries" {
            a href=(with(None)) aria-current=[ask.kind.is_none().then_some("true")] { "all" }
            @for kind in Kind::ALL {
                a href=(with(Some(kind))) aria-current=[(ask.kind == Some(kind)).then_some("true")] { (kind.name()) }
            }
        }
        p.chips {
            @if chosen.len() == 1 { "1 entry" } @else { (grouped(chosen.len())) " entries" }
            @if let Some(network) = &ask.network { " of network " code { (network) } }
            @if let Some(host) = ask.host { " of " strong { (board.fleet().host_name(host)) } }
            @if ask.network.is_some() || ask.host.is_some() { " " a href=(everything) { "of everything" } }
        }
        div #list {
            @if chosen.is_empty() { p.none { "Nothing happened." } } @else { (entries(part.rows.iter().copied())) }
            (part.pager(&Page::Journal, ask, "entries"))
        }
        p.hint {
            "Kept in this process's memory for a day, from its start on"
            @if board.journal().is_cut() { ", and no more than " (grouped(MOST)) " entries: older ones went before their time" }
            ". Times are UTC."
        }
    };
    Content::new("Journal", main)
}

fn mentions(entry: &Entry, search: &str) -> bool {
    entry.network.as_ref().is_some_and(|it| it.as_str().contains(search))
        || entry.host.as_ref().is_some_and(|it| it.name.to_lowercase().contains(search))
        || text(&entry.what).to_lowercase().contains(search)
}

/// A list of entries, the newest first.
pub(super) fn entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> Markup {
    html! {
        ol.journal {
            @for entry in entries {
                @let (class, word) = match entry.what.tone() {
                    Tone::Plain => ("idle", "changed"),
                    Tone::Good => ("ok", "good"),
                    Tone::Bad => ("bad", "bad"),
                };
                li.(class) {
                    time datetime=(timestamp(entry.at)) { (clock(entry.at)) }
                    " " span.sign { (mark(class, word)) } " "
                    span.says {
                        (text(&entry.what))
                        @if let (Some(host), true) = (&entry.host, names_host(&entry.what)) {
                            " " (host_named(host.id, &host.name))
                        }
                        @if let Some(network) = &entry.network { " · " (network_link(network)) }
                    }
                }
            }
        }
    }
}

/// Whether its host is to be named after the text: problems name what they are about themselves.
fn names_host(what: &What) -> bool {
    !matches!(what, What::ProblemCame { .. } | What::ProblemWent { .. })
}

/// What happened; the host that it is about follows.
fn text(what: &What) -> String {
    match what {
        What::Began { hosts, networks, endpoints } => format!(
            "began to watch: {}, {}, {}",
            count(*hosts, "host"),
            count(*networks, "network"),
            count(*endpoints, "endpoint")
        ),
        What::EtcdLost { error } => format!("etcd cannot be reached: {error}"),
        What::EtcdBack { after } => format!("etcd is back after {}", age(after / 1000)),
        What::OtherHistory => {
            "etcd has another history: it was wiped or restored, and hosts publish anew".to_owned()
        }
        What::HostCame => "new host".to_owned(),
        What::HostGone => "lost sight of host".to_owned(),
        What::HostBack => "host is back:".to_owned(),
        What::HostForgotten => "records removed of host".to_owned(),
        What::HostRevoked => "revoked: host".to_owned(),
        What::HostRenamed { from } => format!("{from} is now called"),
        What::HostUpgraded { from, to } => format!("driver {from} became {to} on"),
        What::HostMoved { to } => format!("underlay is now {} of", joined(to)),
        What::NetworkCame => "network made".to_owned(),
        What::NetworkFreed => "network given back by Docker".to_owned(),
        What::NetworkWent => "network removed".to_owned(),
        What::KeysRotated { generation } => format!("keys rotated to generation {generation}"),
        What::MemberCame => "network joined by".to_owned(),
        What::MemberWent => "network left by".to_owned(),
        What::EndpointCame { address } => format!("{address} started on"),
        What::EndpointWent { address } => format!("{address} stopped on"),
        What::EndpointMoved { address, from } => format!("{address} moved from {} to", from.name),
        What::EndpointReplaced { address } => format!("{address} has a new container on"),
        What::ProblemCame { code, object } => format!("problem {code}: {object}"),
        What::ProblemWent { code, object } => format!("solved {code}: {object}"),
    }
}
