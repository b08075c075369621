//! What pages say, and that nothing anybody called something becomes more than text.

use std::collections::BTreeMap;

use wgnet_control_plane::dashboard::board::Board;
use wgnet_control_plane::dashboard::pages::{nowhere, render};
use wgnet_control_plane::dashboard::route::{Ask, Page};
use wgnet_control_plane::follower::Followed;
use wgnet_proto::record::NetworkRecord;
use wgnet_proto::{Path, Record};

use crate::markup::{assert_harmless, tags};
use crate::world::{World, problem};

const NOW: u64 = 1_800_000_000;
const MILLIS: u64 = NOW * 1000;

/// The board of a world, as just listed.
pub(crate) fn board(world: &mut World, records: Vec<(usize, Path, Record)>) -> Board {
    let mut board = Board::new(World::secrets(), MILLIS);
    let entries = world.entries(records);
    board.take(Followed::Listed { scope: String::new(), revision: 100_000, entries }, MILLIS);
    board.take(Followed::Connected, MILLIS);
    board.settle(MILLIS);
    board.sample(MILLIS);
    board
}

fn all_pages() -> Vec<(Page, Ask)> {
    let (here, there) = (World::id(0), World::id(1));
    let asks = ["", "q=host", "span=day&page=2", "kind=problems", "q=%3Cscript%3E&page=9"];
    let pages = [
        Page::Overview,
        Page::Networks,
        Page::Network(World::network(0)),
        Page::Hosts,
        Page::Host(here),
        Page::Endpoints,
        Page::Tunnels,
        Page::Pair(here, there),
        Page::Problems,
        Page::Journal,
    ];
    let pages = pages.into_iter();
    pages.flat_map(|page| asks.map(|ask| (page.clone(), Ask::parse(ask)))).collect()
}

fn shown(board: &Board, page: &Page, query: &str) -> String {
    render(board, page, &Ask::parse(query), MILLIS).html
}

/// Three hosts, one of them called so, with everything else that can be chosen chosen so.
fn named(text: &str) -> Vec<(usize, Path, Record)> {
    let world = World::new(3, 2, 2, NOW);
    let mut records = world.records(6);
    let name: String = format!("host0 {text}").chars().take(64).collect();
    records.retain(|(_, path, _)| {
        *path != Path::Host(World::id(0))
            && *path != Path::Status(World::id(0))
            && *path != Path::Network(World::network(0))
    });
    let (_, path, record) = world.host(0, &name);
    let Record::Host(mut record) = record else { panic!("it is a host") };
    record.version = text.chars().take(64).collect();
    record.backend.clone_from(&record.version);
    records.push((0, path, Record::Host(record)));
    records.push(world.status(0, |status| {
        status.kernel = text.chars().take(64).collect();
        status.problems = vec![problem(&status.kernel, text, text)];
        status.networks[0].in_sync = false;
        status.networks[0].error = text.to_owned();
    }));
    let options = BTreeMap::from([(format!("o{text}"), text.to_owned())]);
    let subnets = vec!["10.50.0.0/16".parse().unwrap()];
    let network = NetworkRecord { subnets, options, freed: false };
    records.push((0, Path::Network(World::network(0)), Record::Network(network)));
    records
}

#[test]
fn hostile_names_change_no_tag_of_any_page() {
    let mut world = World::new(3, 2, 2, NOW);
    // Problems are sorted: as the hostile ones, it comes before what the pages have of their own.
    let tame = board(&mut world, named("a tame one"));
    for hostile in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)' x='",
        "</title></textarea></svg><svg/onload=alert(1)>",
        "javascript:alert(1)//<!--",
        "&lt;b&gt;&#60;b>]]>",
    ] {
        let board = board(&mut world, named(hostile));
        for (page, ask) in all_pages() {
            let html = render(&board, &page, &ask, MILLIS).html;
            assert_harmless(&html);
            let shapes = |html: &str| tags(html).iter().map(|it| it.shape()).collect::<Vec<_>>();
            if ask == Ask::parse("") {
                let tame = render(&tame, &page, &ask, MILLIS).html;
                assert_eq!(shapes(&html), shapes(&tame), "{page:?} with {hostile}");
            }
        }
        let host = shown(&board, &Page::Host(World::id(0)), "");
        assert!(host.contains(&maud::html! { (hostile) }.into_string()), "{hostile}");
    }
}

#[test]
fn what_is_searched_for_comes_back_as_text() {
    let mut world = World::new(2, 1, 1, NOW);
    let records = world.records(4);
    let board = board(&mut world, records);
    for page in [Page::Endpoints, Page::Hosts, Page::Journal, Page::Problems, Page::Tunnels] {
        let html = shown(&board, &page, "q=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E");
        assert_harmless(&html);
        assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)"), "{page:?}");
    }
}

#[test]
fn pages_show_what_the_records_say() {
    let mut world = World::new(3, 2, 2, NOW);
    let records = world.records(6);
    let board = board(&mut world, records);
    let overview = shown(&board, &Page::Overview, "");
    assert!(overview.contains("All is well"));
    assert!(overview.contains("3 of 3 hosts are alive"));
    let network = shown(&board, &Page::Network(World::network(0)), "");
    assert!(network.contains("3 members on a circle, 3 tunnels between them, 0 of them"));
    assert!(network.contains(&World::address(0).to_string()));
    let host = shown(&board, &Page::Host(World::id(1)), "");
    assert!(host.contains("host1") && host.contains("6.1.0") && host.contains("in step"));
    let tunnels = shown(&board, &Page::Tunnels, "");
    assert!(tunnels.contains("Tunnels between 3 hosts"));
    let pair = shown(&board, &Page::Pair(World::id(0), World::id(1)), "");
    assert!(pair.contains("The way, step by step") && pair.contains("<code>handshake</code>"));
    let found = shown(&board, &Page::Endpoints, &format!("q={}", World::address(2)));
    assert!(found.contains("2 endpoints"));
    assert!(!render(&board, &Page::Host(World::id(77)), &Ask::parse(""), MILLIS).is_found);
    assert!(!nowhere(&board, MILLIS).is_found);
}

#[test]
fn trouble_is_told_where_it_is_looked_for() {
    let mut world = World::new(3, 1, 1, NOW);
    let mut records = world.records(3);
    let gone = Path::Alive(World::id(2));
    let silent = Path::Status(World::id(0));
    records.retain(|(_, path, _)| *path != gone && *path != silent);
    records.push(world.status(0, |status| {
        status.networks[0].peers[0].silent = true;
        let cause = "nothing comes back through WireGuard";
        status.problems = vec![problem("host-silent", "host host1", cause)];
    }));
    let board = board(&mut world, records);
    let overview = shown(&board, &Page::Overview, "");
    assert!(overview.contains("2 errors") && overview.contains("host-silent"));
    assert!(overview.contains("host2: gone") && overview.contains("tunnels do not answer"));
    let pair = shown(&board, &Page::Pair(World::id(0), World::id(1)), "");
    assert!(pair.contains("mark bad\">silent") && pair.contains("mark bad\">fails"), "{pair}");
    let tunnels = shown(&board, &Page::Tunnels, "");
    assert!(tunnels.contains("data-cells=\"-sgu-ggg-\"") && tunnels.contains("1 silent"));
    let network = shown(&board, &Page::Network(World::network(0)), "");
    assert!(network.contains("edge silent") && network.contains("node bad"));
}

#[test]
fn a_lost_etcd_is_told_on_every_page_with_the_age_of_what_is_seen() {
    let mut world = World::new(2, 1, 1, NOW);
    let records = world.records(2);
    let mut board = board(&mut world, records);
    board.take(Followed::Disconnected { error: "no way <there>".to_owned() }, MILLIS + 1000);
    board.settle(MILLIS + 1000);
    board.take(Followed::Disconnected { error: "another".to_owned() }, MILLIS + 30_000);
    board.settle(MILLIS + 30_000);
    for (page, ask) in all_pages() {
        let html = render(&board, &page, &ask, MILLIS + 61_000).html;
        assert_harmless(&html);
        let since = format!("data-since=\"{}\">60 s</time>", MILLIS + 1000);
        assert!(html.contains("etcd cannot be reached.") && html.contains(&since), "{page:?}");
    }
    board.take(Followed::Connected, MILLIS + 90_000);
    board.settle(MILLIS + 90_000);
    assert!(!shown(&board, &Page::Hosts, "").contains("etcd cannot be reached"));
    let journal = shown(&board, &Page::Journal, "");
    assert!(journal.contains("etcd is back after 89 s") && journal.contains("no way &lt;there"));
}

#[test]
fn before_anything_is_known_nothing_is_claimed() {
    let board = Board::new(World::secrets(), MILLIS);
    for (page, ask) in all_pages() {
        let html = render(&board, &page, &ask, MILLIS).html;
        assert_harmless(&html);
        assert!(html.contains("Nothing is known yet") && !html.contains("well"), "{page:?}");
    }
}

#[test]
fn pages_of_a_large_cluster_stay_small() {
    let mut world = World::new(100, 50, 10, NOW);
    let records = world.records(5000);
    let board = board(&mut world, records);
    for (page, ask) in all_pages() {
        let html = render(&board, &page, &ask, MILLIS).html;
        assert_harmless(&html);
        assert!(html.len() < 300_000, "{page:?} has {} bytes", html.len());
    }
    let tunnels = shown(&board, &Page::Tunnels, "");
    assert!(tunnels.contains("Tunnels between 100 hosts"));
    let last = shown(&board, &Page::Endpoints, "page=100");
    assert!(last.contains("4951 to 5000 of 5000"), "{last}");
}
