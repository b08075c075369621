//! The journal tells what happened, once and by name.

use wgnet_control_plane::dashboard::board::Board;
use wgnet_control_plane::dashboard::journal::{Entry, Journal, MOST, What};
use wgnet_control_plane::follower::Followed;
use wgnet_control_plane::store::{Change, Entry as StoreEntry};
use wgnet_proto::record::NetworkRecord;
use wgnet_proto::{Path, Record};

use crate::pages::board;
use crate::world::World;

const NOW: u64 = 1_800_000_000;
const MILLIS: u64 = NOW * 1000;

struct Story {
    world: World,
    board: Board,
    revision: i64,
    told: usize,
}

impl Story {
    fn begin() -> Self {
        let mut world = World::new(3, 1, 1, NOW);
        let records = world.records(3);
        let board = board(&mut world, records);
        let told = board.journal().entries().count();
        Self { world, board, revision: 100_000, told }
    }

    fn put(&mut self, record: (usize, Path, Record)) -> Vec<Entry> {
        self.revision += 1;
        let (key, value) = self.world.seal(record);
        self.change(Change::Put(StoreEntry { key, value, mod_revision: self.revision }))
    }

    fn delete(&mut self, path: &Path) -> Vec<Entry> {
        self.revision += 1;
        self.change(Change::Delete { key: path.to_string(), mod_revision: self.revision })
    }

    /// What is told of a change, the oldest first.
    fn change(&mut self, change: Change) -> Vec<Entry> {
        let (scope, revision) = (String::new(), self.revision);
        self.board.take(Followed::Changed { scope, revision, changes: vec![change] }, MILLIS);
        self.board.settle(MILLIS);
        self.news()
    }

    fn news(&mut self) -> Vec<Entry> {
        let all = self.board.journal().entries().count();
        let news = self.board.journal().entries().take(all - self.told).cloned();
        self.told = all;
        let mut news: Vec<Entry> = news.collect();
        news.reverse();
        news
    }
}

fn whats(entries: &[Entry]) -> Vec<&What> {
    entries.iter().map(|entry| &entry.what).collect()
}

#[test]
fn an_endpoint_that_comes_moves_and_goes_is_told_with_its_hosts() {
    let mut story = Story::begin();
    let address = World::address(9);
    let came = story.put(story.world.endpoint(0, 9, 0));
    assert_eq!(whats(&came), [&What::EndpointCame { address }]);
    assert_eq!(&*came[0].host.as_ref().unwrap().name, "host0");
    assert_eq!(came[0].network, Some(World::network(0)));
    let moved = story.put(story.world.endpoint(0, 9, 1));
    let [What::EndpointMoved { from, .. }] = whats(&moved)[..] else { panic!("{moved:?}") };
    assert_eq!((&*from.name, &*moved[0].host.as_ref().unwrap().name), ("host0", "host1"));
    let again = story.world.endpoint(0, 9, 1);
    assert_eq!(story.put(again), []);
    let went = story.delete(&Path::Endpoint(World::network(0), address));
    assert_eq!(whats(&went), [&What::EndpointWent { address }]);
    assert_eq!(&*went[0].host.as_ref().unwrap().name, "host1");
}

#[test]
fn a_host_that_is_lost_is_told_with_its_problem_and_so_is_its_return() {
    let mut story = Story::begin();
    let lost = story.delete(&Path::Alive(World::id(1)));
    let problem = |came: bool| {
        let (code, object) = ("host-gone".to_owned(), "host1".to_owned());
        if came { What::ProblemCame { code, object } } else { What::ProblemWent { code, object } }
    };
    assert_eq!(whats(&lost), [&What::HostGone, &problem(true)]);
    let back = story.put(story.world.alive(1));
    assert_eq!(whats(&back), [&What::HostBack, &problem(false)]);
    let renamed = story.put(story.world.host(1, "other"));
    assert_eq!(whats(&renamed), [&What::HostRenamed { from: "host1".into() }]);
}

#[test]
fn a_listing_tells_what_was_missed_and_another_history_is_said() {
    let mut story = Story::begin();
    let mut records = story.world.records(3);
    records.push(story.world.endpoint(0, 5, 2));
    let freed = NetworkRecord {
        subnets: vec!["10.50.0.0/16".parse().unwrap()],
        options: Default::default(),
        freed: true,
    };
    let path = Path::Network(World::network(0));
    records.retain(|(_, it, _)| *it != path);
    records.push((0, path, Record::Network(freed)));
    let entries = story.world.entries(records);
    story.board.take(Followed::History { revision: 50, highest: 100_000 }, MILLIS);
    story.board.take(Followed::Listed { scope: String::new(), revision: 50, entries }, MILLIS);
    story.board.settle(MILLIS);
    let news = story.news();
    let address = World::address(5);
    let expected = [&What::OtherHistory, &What::NetworkFreed, &What::EndpointCame { address }];
    assert_eq!(whats(&news), expected);
}

#[test]
fn a_day_is_kept_and_no_more_than_there_is_room_for() {
    let mut journal = Journal::default();
    let entry = |at| Entry { at, what: What::HostCame, network: None, host: None };
    journal.add(entry(0));
    journal.add(entry(1000));
    journal.add(entry(86_400_500));
    assert_eq!(journal.entries().map(|it| it.at).collect::<Vec<_>>(), [86_400_500, 1000]);
    (0..MOST).for_each(|_| journal.add(entry(86_400_600)));
    assert_eq!(journal.entries().count(), MOST);
    assert!(journal.is_cut());
}
