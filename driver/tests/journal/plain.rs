//! The networks of plain engines, which Docker tells of only once, outlive a journal and a boot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wgnet_core::{LocalNetwork, LocalSlot};
use wgnet_driver::journal::{Journal, Origin, Random, State};
use wgnet_proto::{DockerNetworkId, NetworkKey, PrivateKey};

use crate::damage::{DAMAGES, Host, damage};
use crate::disk::with_small_disk;
use crate::{SWARM_NETWORK, add_endpoint_to, add_network, block_on, id, network, open, random};

const BOOT: &str = "boot-1";
const NEXT_BOOT: &str = "boot-2";

fn alone() -> DockerNetworkId {
    id(&"ab".repeat(32))
}

fn shared() -> DockerNetworkId {
    id(&"cd".repeat(32))
}

/// A network by `-o id=`, with keys and ports of its own.
fn add_shared(state: &mut State) {
    let mut shared = network(&shared());
    shared.definition.key = NetworkKey::named("blue").unwrap();
    shared.definition.options.id = Some("blue".to_owned());
    shared.slots = vec![LocalSlot {
        generation: 0,
        private_key: PrivateKey::from_random([9; 32]),
        made: Some(1_790_000_000),
        port: 51902,
    }];
    state.networks.insert(shared.definition.docker_id.clone(), Arc::new(shared));
}

/// One network of a swarm's and two of a plain engine's, all with containers.
fn fill(journal: &Journal) {
    let change = |state: &mut State| {
        add_network(state, SWARM_NETWORK);
        add_network(state, alone().as_str());
        add_shared(state);
        for (n, network) in [SWARM_NETWORK, alone().as_str(), shared().as_str()].iter().enumerate()
        {
            add_endpoint_to(state, network, n as u64);
        }
    };
    block_on(journal.update(change)).unwrap();
}

fn delete(journal: &Journal, network: DockerNetworkId) {
    block_on(journal.update(move |state| state.delete_network(&network, Duration::ZERO))).unwrap();
}

/// What a boot leaves of the networks of plain engines.
fn booted(state: &State) -> BTreeMap<DockerNetworkId, LocalNetwork> {
    let plain = state.networks.iter().filter(|(id, network)| !id.is_swarm() && !network.lingering);
    plain
        .map(|(id, network)| {
            (
                id.clone(),
                LocalNetwork { endpoints: BTreeMap::new(), ..LocalNetwork::clone(network) },
            )
        })
        .collect()
}

fn networks(journal: &Journal) -> BTreeMap<DockerNetworkId, LocalNetwork> {
    let state = journal.state();
    state.networks.iter().map(|(id, network)| (id.clone(), LocalNetwork::clone(network))).collect()
}

fn copy(state_dir: &Path) -> PathBuf {
    state_dir.join("networks.json")
}

/// What a boot with a journal of garbage finds.
fn after_the_loss(host: &Host) -> Journal {
    damage(&host.file(), |file| file.fill(0x5a));
    let journal = host.open(NEXT_BOOT, false).unwrap();
    assert!(matches!(journal.origin(), Origin::Damaged { .. }), "{:?}", journal.origin());
    journal
}

#[test]
fn they_come_back_with_keys_and_ports_and_without_containers() {
    let first = Host::new();
    let journal = first.open(BOOT, false).unwrap();
    fill(&journal);
    let (before, me) = (booted(&journal.state()), journal.host_id());
    assert_eq!(before.len(), 2);
    let published = block_on(journal.next_seq()).unwrap();
    // Not stopped: what was acknowledged is there.
    for (what, how) in DAMAGES.iter().copied().chain([("lost", (|_| ()) as fn(&mut Vec<u8>))]) {
        let host = first.killed();
        match what {
            "lost" => fs::remove_file(host.file()).unwrap(),
            _ => damage(&host.file(), how),
        }
        let journal = host.open(NEXT_BOOT, false).unwrap();
        assert_ne!(*journal.origin(), Origin::Kept, "{what}");
        assert_eq!((journal.host_id(), networks(&journal)), (me, before.clone()), "{what}");
        let state = journal.state();
        for network in state.networks.values() {
            let floor = state.floor(&network.definition.key, me);
            assert!(floor > published && floor <= journal.next_unused_seq(), "{what}: {floor}");
        }
        drop((journal, state));
        // And so they do from the journal, and from the next loss.
        let journal = host.open(NEXT_BOOT, false).unwrap();
        assert_eq!((journal.origin(), networks(&journal)), (&Origin::Kept, before.clone()));
        drop(journal);
        fs::remove_file(host.mirror()).unwrap();
        assert_eq!(networks(&after_the_loss(&host)), before, "{what}");
    }
}

#[test]
fn the_mirror_of_this_boot_knows_more() {
    let host = Host::new();
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    let before = networks(&journal);
    drop(journal);
    damage(&host.file(), |file| file.fill(0));
    assert_eq!(networks(&host.open(BOOT, true).unwrap()), before);
}

#[test]
fn the_file_has_what_docker_tells_of_once_and_is_for_root_only() {
    let host = Host::new();
    let file = copy(&host.state_dir());
    let journal = host.open(BOOT, false).unwrap();
    assert!(!file.exists());
    block_on(journal.update(|state| add_network(state, SWARM_NETWORK))).unwrap();
    assert!(!file.exists(), "a swarm tells again");
    fill(&journal);
    let text = fs::read_to_string(&file).unwrap();
    let has = |what: &str| text.contains(what);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(has(alone().as_str()) && has(shared().as_str()) && !has(SWARM_NETWORK), "{text}");
    assert!(!has(&format!("{:064x}", 1)), "an endpoint does not outlive a boot: {text}");
    // Containers come and go without a write.
    let written = || fs::metadata(&file).unwrap().modified().unwrap();
    let before = written();
    block_on(journal.update(|state| add_endpoint_to(state, alone().as_str(), 7))).unwrap();
    assert_eq!(written(), before);
    block_on(journal.set_port(&alone(), 1, 51999)).unwrap();
    drop(journal);
    let now = networks(&after_the_loss(&host));
    assert_eq!(now[&alone()].slots[1].port, 51999);
}

#[test]
fn what_was_deleted_does_not_come_back_and_the_last_one_takes_the_file_along() {
    let host = Host::new();
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    delete(&journal, alone());
    let left = host.killed();
    assert_eq!(Vec::from_iter(networks(&after_the_loss(&left)).into_keys()), [shared()]);
    delete(&journal, shared());
    assert!(!copy(&host.state_dir()).exists());
    drop(journal);
    assert!(networks(&after_the_loss(&host)).is_empty());
}

type Change = fn(String) -> String;

/// What can stand in the file's place, beside bytes that changed.
const NONSENSE: [(&str, Change); 9] = [
    ("empty", |_| String::new()),
    ("cut", |text| text[..text.len() - 1].to_owned()),
    ("longer", |text| text + "\n"),
    ("garbage", |_| "not a journal at all".repeat(100)),
    ("other JSON", |_| "{\"schema\":1,\"networks\":[]}".to_owned()),
    ("of a newer driver", |text| text.replace("\"schema\":1", "\"schema\":2")),
    ("of no driver", |text| text.replace("\"schema\":1", "\"schema\":0")),
    ("another's", |text| text.replace("52900", "52901")),
    ("of zeros", |text| "\0".repeat(text.len())),
];

#[test]
fn what_is_not_whole_is_ignored_and_written_anew() {
    let first = Host::new();
    let journal = first.open(BOOT, false).unwrap();
    fill(&journal);
    block_on(journal.set_port(&alone(), 1, 52900)).unwrap();
    let before = networks(&journal);
    drop(journal);
    let text = fs::read_to_string(copy(&first.state_dir())).unwrap();
    let changed = NONSENSE.iter().map(|(what, how)| ((*what).to_owned(), how(text.clone())));
    let flipped = (0..text.len()).step_by(37).map(|at| {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        (format!("changed at {at}"), String::from_utf8(bytes).unwrap())
    });
    for (what, content) in changed.chain(flipped) {
        assert_ne!(content, text, "{what}");
        let host = first.killed();
        fs::write(copy(&host.state_dir()), &content).unwrap();
        assert_eq!(networks(&after_the_loss(&host)), BTreeMap::new(), "{what}");
        // Of a journal that is well it is the copy.
        let host = first.killed();
        fs::write(copy(&host.state_dir()), &content).unwrap();
        assert_eq!(networks(&host.open(BOOT, true).unwrap()), before, "{what}");
        assert_eq!(fs::read_to_string(copy(&host.state_dir())).unwrap(), text, "{what}");
    }
}

#[test]
fn another_hosts_networks_are_not_this_ones() {
    let other = Host::new();
    let journal = other.open(BOOT, false).unwrap();
    fill(&journal);
    let host = Host::new();
    let random: Random = Arc::new(|bytes| bytes.fill(77));
    drop(Journal::open(&host.state_dir(), BOOT, &random).unwrap());
    fs::copy(copy(&other.state_dir()), copy(&host.state_dir())).unwrap();
    let mine = after_the_loss(&host);
    assert_ne!(mine.host_id(), journal.host_id());
    assert!(networks(&mine).is_empty() && !copy(&host.state_dir()).exists());
}

#[test]
fn a_start_brings_the_file_in_step_with_a_journal_that_is_well() {
    let host = Host::new();
    let file = copy(&host.state_dir());
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    let stale = fs::read(&file).unwrap();
    delete(&journal, alone());
    drop(journal);
    let right = fs::read(&file).unwrap();
    assert_ne!(stale, right);
    for found in [None, Some(&stale)] {
        match found {
            None => fs::remove_file(&file).unwrap(),
            Some(stale) => fs::write(&file, stale).unwrap(),
        }
        drop(host.open(BOOT, true).unwrap());
        assert_eq!(fs::read(&file).unwrap(), right);
    }
    // Likewise where the journal has none left.
    let journal = host.open(BOOT, true).unwrap();
    delete(&journal, shared());
    drop(journal);
    fs::write(&file, stale).unwrap();
    drop(host.open(BOOT, true).unwrap());
    assert!(!file.exists());
}

#[test]
fn a_file_that_cannot_be_written_fails_no_update_and_is_made_good() {
    let host = Host::new();
    // In the place of the file that is to be renamed.
    let half = copy(&host.state_dir()).with_extension("json.new");
    fs::create_dir_all(&half).unwrap();
    let journal = host.open(BOOT, false).unwrap();
    fill(&journal);
    delete(&journal, alone());
    assert!(journal.health().borrow().is_none());
    fs::remove_dir(&half).unwrap();
    // With whatever is written next.
    block_on(journal.update(|state| state.reserved_seq += 1)).unwrap();
    drop(journal);
    assert_eq!(Vec::from_iter(networks(&after_the_loss(&host)).into_keys()), [shared()]);
}

#[test]
fn on_a_full_disk_it_may_lack_a_network_and_has_none_that_is_gone() {
    // Room for what the journal writes, and for no new file.
    with_small_disk("8m,nr_inodes=12", |dir| {
        let file = copy(dir);
        let journal = open(dir);
        fill(&journal);
        let before = fs::read(&file).unwrap();
        let ballast = take_all_names(dir);
        let new = id(&"ef".repeat(32));
        let added = new.clone();
        block_on(journal.update(move |state| add_network(state, added.as_str()))).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before, "two are better than none");
        delete(&journal, alone());
        assert!(!file.exists(), "one of the two is gone");
        fs::remove_file(&ballast[0]).unwrap();
        block_on(journal.update(|state| state.reserved_seq += 1)).unwrap();
        let known = booted(&journal.state());
        assert_eq!(Vec::from_iter(known.keys().cloned()), [shared(), new]);
        drop(journal);
        fs::write(dir.join("journal.redb"), b"not a journal at all").unwrap();
        ballast.iter().skip(1).for_each(|file| fs::remove_file(file).unwrap());
        assert_eq!(networks(&Journal::open(dir, NEXT_BOOT, &random()).unwrap()), known);
    });
}

fn take_all_names(dir: &Path) -> Vec<PathBuf> {
    let names = (0..100).map(|n| dir.join(format!("ballast-{n}")));
    let taken: Vec<_> = names.take_while(|name| fs::write(name, []).is_ok()).collect();
    assert!((1..100).contains(&taken.len()), "{}", taken.len());
    taken
}
