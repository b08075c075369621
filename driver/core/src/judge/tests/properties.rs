//! What holds for any entries in any order.

use proptest::collection::vec;
use proptest::prelude::*;
use wgnet_proto::seal;

use super::*;

/// A valid record of one of hosts 1 to 3; `at` becomes its seq.
#[derive(Debug, Clone)]
enum Kind {
    Host(u8),
    Alive,
    Member { floor_back: u64 },
    Endpoint { last: u8, claim: Claim },
    Generation(Generation),
    Network { freed: bool },
    Tombstone { of: u8 },
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => any::<u8>().prop_map(Kind::Host),
        1 => Just(Kind::Alive),
        3 => (0..12_u64).prop_map(|floor_back| Kind::Member { floor_back }),
        8 => (2..5_u8, 1..5_u64).prop_map(|(last, claim)| Kind::Endpoint { last, claim }),
        2 => (0..4_u32).prop_map(Kind::Generation),
        2 => any::<bool>().prop_map(|freed| Kind::Network { freed }),
        1 => (1..4_u8).prop_map(|of| Kind::Tombstone { of }),
    ]
}

/// Up to 20 valid records with rising seqs, as honest hosts write them: floors and generations
/// never fall, what a host knows to be freed stays freed.
fn history() -> impl Strategy<Value = Vec<Sealed>> {
    vec((1..4_u8, kind()), 0..20).prop_map(|kinds| {
        let (mut floors, mut has_freed) = (BTreeMap::<u8, u64>::new(), BTreeSet::new());
        let mut highest = 0;
        let sealed = (1..).zip(kinds).map(|(seq, (host, kind))| match kind {
            Kind::Host(name) => host_record(host, seq, &format!("host {name}")),
            Kind::Alive => alive(host, seq),
            Kind::Member { floor_back } => {
                let floor = floors.entry(host).or_default();
                *floor = seq.saturating_sub(floor_back).max(*floor);
                member(host, seq, *floor)
            }
            Kind::Endpoint { last, claim } => endpoint(host, seq, last, claim),
            Kind::Generation(number) => {
                highest = number.max(highest);
                generation(host, seq, highest)
            }
            Kind::Network { freed } => {
                if freed {
                    has_freed.insert(host);
                }
                network(host, seq, "10.50.0.0/24", has_freed.contains(&host))
            }
            Kind::Tombstone { of } => tombstone(host, seq, of),
        });
        sealed.collect()
    })
}

/// Whether nobody is revoked and every address is one host's.
fn is_without_contest(history: &[Sealed], judge: &Judge) -> bool {
    let is_endpoint = |path: &Path| matches!(path, Path::Endpoint(..));
    let mut owners = BTreeMap::new();
    let mut is_first_owner = |entry: &Sealed| {
        let writer = seal::claimed_writer(&entry.bytes);
        *owners.entry(entry.path.clone()).or_insert(writer) == writer
    };
    let mut endpoints = history.iter().filter(|entry| is_endpoint(&entry.path));
    judge.view.revoked.is_empty() && endpoints.all(&mut is_first_owner)
}

fn view_of<'s>(entries: impl IntoIterator<Item = &'s Sealed>) -> ClusterView {
    let mut judge = judge();
    for entry in entries {
        entry.put(&mut judge);
    }
    judge.view().clone()
}

/// An entry that must not count.
fn forged(entry: &Sealed, how: u8, at: prop::sample::Index) -> (String, Vec<u8>) {
    let mut bytes = entry.bytes.clone();
    let key = entry.path.to_string();
    match how {
        0 => {
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        1 => bytes.truncate(at.index(bytes.len())),
        2 => return (format!("networks/s-red/members/{}", id(1)), bytes),
        3 => return ("networks/s-red/generation".to_owned(), bytes),
        4 => return (Path::Host(id(9)).to_string(), bytes),
        _ => {
            let secrets = ClusterSecrets::generate([100 + at.index(100) as u8; 32]);
            let stranger = Sealer::new(HostKey::from_random([1; 32]), secrets, CLUSTER);
            bytes = stranger.seal(&entry.path, 1_000_000, vec![]);
        }
    }
    (key, bytes)
}

/// What the judge keeps beside the places must follow from them.
fn assert_consistent(judge: &Judge) {
    let places = || judge.places.iter();
    let clobbered = places().filter(|(path, place)| place.is_clobbered(path));
    assert_eq!(judge.clobbered, clobbered.map(|(path, _)| path.clone()).collect());
    let own = places().filter(|(_, place)| place.held.writer() == Some(judge.own));
    assert_eq!(judge.own_in_store, own.map(|(path, _)| path.clone()).collect());
    assert_eq!(judge.strays, places().filter(|(_, place)| place.is_stray()).count());
    let in_force = places().filter(|(path, place)| place.in_force(path).is_some());
    let endpoints = in_force.filter(|(path, _)| matches!(path, Path::Endpoint(..))).count();
    let shown = judge.view.networks.values().map(|network| network.endpoints.len());
    assert_eq!(shown.sum::<usize>(), endpoints);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_order_of_valid_records_does_not_change_the_view(
        (history, shuffled) in history().prop_flat_map(|h| (Just(h.clone()), Just(h).prop_shuffle())),
    ) {
        prop_assert_eq!(view_of(&history), view_of(&shuffled));
    }

    #[test]
    fn a_listing_gives_the_same_view_as_the_changes_that_led_to_it(history in history()) {
        let mut changed = judge();
        let mut store = BTreeMap::new();
        for entry in &history {
            if matches!(entry.put(&mut changed), Verdict::Accepted) {
                store.insert(entry.path.to_string(), entry.bytes.clone());
            }
        }
        prop_assume!(is_without_contest(&history, &changed));
        let mut listed = judge();
        listed.listed("", store.iter().map(|(key, value)| (key.as_str(), value.as_slice(), 1)));
        prop_assert_eq!(changed.view(), listed.view());
    }

    #[test]
    fn forged_entries_change_nothing(
        history in history(),
        forgeries in vec((any::<prop::sample::Index>(), 0..6_u8, any::<prop::sample::Index>()), 0..20),
    ) {
        let mut judge = judge();
        let mut after = BTreeMap::<usize, Vec<_>>::new();
        for (which, how, at) in forgeries {
            if !history.is_empty() {
                let which = which.index(history.len());
                after.entry(which).or_default().push(forged(&history[which], how, at));
            }
        }
        for (which, entry) in history.iter().enumerate() {
            entry.put(&mut judge);
            for (key, bytes) in after.remove(&which).unwrap_or_default() {
                let before = judge.view().clone();
                let verdict = judge.put(&key, &bytes, 8);
                prop_assert!(matches!(verdict, Verdict::Refused(_)), "{:?}", verdict);
                prop_assert_eq!(judge.view(), &before);
                assert_consistent(&judge);
            }
        }
        prop_assert_eq!(judge.view(), &view_of(&history));
    }

    #[test]
    fn changes_are_told_exactly_when_the_view_changes(
        history in history(),
        deletions in vec(any::<bool>(), 20),
    ) {
        let mut judge = judge();
        for (entry, is_deleted) in history.iter().zip(deletions) {
            for step in [Sealed::put_only, Sealed::delete] {
                let before = judge.view().clone();
                step(entry, &mut judge);
                let Changed { hosts, networks, .. } = judge.take_changed();
                let after = judge.view();
                let hosts_differ = (&before.hosts, &before.alive, &before.revoked)
                    != (&after.hosts, &after.alive, &after.revoked);
                prop_assert_eq!(hosts, hosts_differ);
                prop_assert_eq!(!networks.is_empty(), before.networks != after.networks);
                assert_consistent(&judge);
                if !is_deleted {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_snapshot_brings_the_same_view_back(history in history()) {
        let mut judge = judge();
        for entry in &history {
            entry.put(&mut judge);
        }
        let snapshot: Vec<_> = judge.export().map(|(key, value)| (key, value.to_vec())).collect();
        let mut restarted = super::judge();
        restarted.import(snapshot.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        let expected = ClusterView { alive: BTreeSet::new().into(), ..judge.view().clone() };
        prop_assert_eq!(restarted.view(), &expected);
        prop_assert!(restarted.clobbered().is_empty() && restarted.own_in_store().is_empty());
        let gone = restarted.missing("", &BTreeSet::new());
        for path in gone {
            restarted.delete(&path.to_string());
        }
        let revoked = expected.revoked;
        prop_assert_eq!(restarted.view(), &ClusterView { revoked, ..ClusterView::default() });
    }

    #[test]
    fn no_entries_make_the_judge_panic(
        entries in vec(("(hosts/|networks/s-a|/members/|/endpoints/|10\\.0\\.0\\.1|cluster|[a-f0-9]{32}){1,4}|\\PC{0,20}", vec(any::<u8>(), 0..300)), 0..20),
    ) {
        let mut judge = judge();
        for (key, value) in &entries {
            judge.put(key, value, 1);
            assert_consistent(&judge);
        }
        judge.import(entries.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        prop_assert_eq!(judge.view(), &ClusterView::default());
        for (key, _) in &entries {
            judge.delete(key);
        }
        assert_consistent(&judge);
        prop_assert!(judge.places.is_empty());
    }
}

impl Sealed {
    fn put_only(&self, judge: &mut Judge) {
        self.put(judge);
    }
}
