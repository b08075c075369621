use std::sync::atomic::{AtomicU8, Ordering};

use wgnet_core::{LocalEndpoint, NetworkOptions};
use wgnet_proto::{MacAddr, NetworkKey};

use super::*;
use crate::journal::Random;

fn id(of: &str) -> DockerNetworkId {
    of.repeat(32).parse().unwrap()
}

/// A network of `-o id=blue`.
fn network(of: &str) -> Arc<LocalNetwork> {
    let definition = NetworkDefinition {
        docker_id: id(of),
        key: NetworkKey::named("blue").unwrap(),
        subnets: Vec::new(),
        internal: false,
        options: NetworkOptions::default(),
        raw_options: BTreeMap::new(),
        mtu: 1420,
    };
    let private_key = PrivateKey::from_random([3; 32]);
    let slots = vec![LocalSlot { generation: 0, private_key, made: None, port: 51820 }];
    Arc::new(LocalNetwork { definition, slots, endpoints: BTreeMap::new(), lingering: false })
}

fn with(networks: &[&Arc<LocalNetwork>]) -> State {
    let by_id =
        |network: &&Arc<LocalNetwork>| (network.definition.docker_id.clone(), Arc::clone(network));
    State { networks: networks.iter().map(by_id).collect(), ..State::default() }
}

fn random() -> Random {
    let count = AtomicU8::new(1);
    Arc::new(move |bytes| bytes.fill(count.fetch_add(1, Ordering::Relaxed)))
}

fn written(dir: &Path, state: &State) -> Plain {
    let mut plain = Plain::read(dir, HostId([1; 16]));
    plain.follow(state);
    plain
}

#[test]
fn a_journal_that_went_back_gets_what_it_lacks_and_keeps_what_it_has() {
    let dir = tempfile::TempDir::new().unwrap();
    let new = network("ab");
    let plain = written(dir.path(), &with(&[&new]));
    let before = State { reserved_seq: 4711, ..State::default() };
    let mut state = before.clone();
    assert_eq!(plain.restore(&mut state), 1);
    assert_eq!(state.networks, with(&[&new]).networks);
    assert_eq!(state.floor(&new.definition.key, HostId([1; 16])), 4711);
    // The network that gave way to it in the update which was lost.
    let mut state = State { networks: with(&[&network("cd")]).networks, ..before.clone() };
    assert_eq!(plain.restore(&mut state), 1);
    assert_eq!(state.networks, with(&[&new]).networks);
    // What is known of it is known better.
    let mut known = LocalNetwork::clone(&new);
    known.lingering = true;
    let known = with(&[&Arc::new(known)]);
    let mut state = State { networks: known.networks.clone(), ..before.clone() };
    assert_eq!(plain.restore(&mut state), 0);
    assert_eq!(state.networks, known.networks);
    // And nothing that runs ends.
    let mut used = LocalNetwork::clone(&network("cd"));
    let endpoint = LocalEndpoint {
        id: "ef".repeat(32).parse().unwrap(),
        addresses: Vec::new(),
        mac: MacAddr::GATEWAY,
        mac_given: false,
        claim: 1,
        sandbox: None,
        superseded: false,
    };
    used.endpoints.insert(endpoint.id.clone(), endpoint);
    let used = with(&[&Arc::new(used)]);
    let mut state = State { networks: used.networks.clone(), ..before };
    assert_eq!(plain.restore(&mut state), 0);
    assert_eq!(state.networks, used.networks);
}

#[test]
fn a_start_that_ended_before_anything_was_brought_over_loses_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("journal.redb");
    let (mut disk, loaded) = Disk::open(&path, &random(), None).unwrap();
    let state = State { boot: "boot".to_owned(), ..with(&[&network("ab")]) };
    disk.write(&loaded.state, &state).unwrap();
    drop(disk);
    std::fs::remove_file(&path).unwrap();
    drop(open::create(&path, &loaded.key).unwrap());
    let (mut disk, loaded) = Disk::open(&path, &random(), None).unwrap();
    assert_eq!((&loaded.origin, &loaded.state.networks), (&Origin::Lost, &state.networks));
    let entered = State { boot: "boot".to_owned(), ..loaded.state.clone() };
    disk.write(&loaded.state, &entered).unwrap();
    drop(disk);
    let (_, loaded) = Disk::open(&path, &random(), None).unwrap();
    assert_ne!(loaded.origin, Origin::Lost);
    assert_eq!(loaded.state.networks, state.networks);
}

#[test]
fn a_journal_that_turns_out_damaged_later_takes_nothing_along() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("journal.redb");
    let (mut disk, loaded) = Disk::open(&path, &random(), None).unwrap();
    let state = State { boot: "boot".to_owned(), ..with(&[&network("ab")]) };
    disk.write(&loaded.state, &state).unwrap();
    let file = dir.path().join(NAME);
    let before = std::fs::read(&file).unwrap();
    let met = disk.transact(Durability::None, |_| panic!("as it was told to"));
    assert!(matches!(met, Err(JournalError::Damaged { .. })), "{met:?}");
    assert_eq!(disk.reopen_if_closed().unwrap(), Some(state));
    disk.flush().unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside_as_it_is() {
    let dir = tempfile::TempDir::new().unwrap();
    drop(written(dir.path(), &with(&[&network("ab")])));
    let file = dir.path().join(NAME);
    let mut content = std::fs::read(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &content).unwrap();
    let plain = written(dir.path(), &State::default());
    assert_eq!(plain.on_disk, Some(Networks::new()));
    let aside = dir.path().join("networks.json.damaged-1");
    assert!(!file.exists() && std::fs::read(aside).unwrap() == content);
}

#[test]
fn a_write_that_failed_says_nothing_of_what_the_file_holds() {
    let dir = tempfile::TempDir::new().unwrap();
    let (one, other) = (network("ab"), network("cd"));
    let mut plain = written(dir.path(), &with(&[&one]));
    let (file, new) = (dir.path().join(NAME), dir.path().join("networks.json.new"));
    std::fs::create_dir(&new).unwrap();
    plain.follow(&with(&[&one, &other]));
    assert_eq!(plain.on_disk, Some(with(&[&one]).networks), "nothing in it is gone");
    std::fs::remove_dir(&new).unwrap();
    // The name was changed, and only the directory could not be written through.
    std::fs::write(&file, &*render(plain.host, &with(&[&one, &other]).networks)).unwrap();
    plain.follow(&with(&[&one]));
    assert_eq!(read(&file), Ok(Some((plain.host, with(&[&one]).networks))));
}

#[test]
fn a_file_is_of_the_length_that_was_counted_and_shows_its_checksum_where_it_is_looked_for() {
    let networks = with(&[&network("ab")]).networks;
    let content = render(HostId([1; 16]), &networks);
    assert_eq!(content.len(), content.capacity());
    let head = std::str::from_utf8(&content[..CHECKED]).unwrap();
    assert_eq!(head.rsplit('"').next().map(str::len), Some(64), "{head}");
    let (host, read) = parse(&content).unwrap();
    assert!(host == HostId([1; 16]) && read == networks);
}
