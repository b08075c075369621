//! What a driver finds on its disk: the rows of its journal, and the whole file.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wgnet_core::{
    Families, Hints, LocalEndpoint, LocalNetwork, NetworkDefinition, NetworkView, Seen, derive,
    join, plan,
};
use wgnet_driver::journal::{Journal, Random};
use wgnet_proto::HostId;

use crate::input::{Input, put_piece};
use crate::judge::local;

/// A network's row and an endpoint's, a line each: whatever can be read can be planned.
pub(crate) fn rows(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |b| *b == b'\n');
    let definition = lines.next().and_then(again::<NetworkDefinition>);
    let endpoint = lines.next().and_then(again::<LocalEndpoint>);
    let (Some(definition), Some(endpoint)) = (definition, endpoint) else { return };
    let answer = join(&definition, &endpoint);
    for (destination, _) in &answer.routes {
        assert_eq!(*destination, destination.trunc());
    }
    assert!(answer.source.as_str().len() <= 15);
    let local = LocalNetwork {
        definition,
        endpoints: BTreeMap::from([(endpoint.id.clone(), endpoint)]),
        ..local()
    };
    let (network, cluster) = (NetworkView::default(), wgnet_core::ClusterView::default());
    let desired = derive(&local, &network, &cluster, HostId([1; 16]), Families::BOTH, &|_, _| None);
    plan(desired.as_ref(), &Seen::Absent, &Hints::default());
}

fn again<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) -> Option<T> {
    let value = serde_json::from_slice::<T>(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("it is JSON");
    assert!(serde_json::from_slice::<T>(&written).is_ok_and(|again| again == value));
    Some(value)
}

pub(crate) fn row_seeds() -> Vec<Vec<u8>> {
    let local = local();
    let endpoint = local.endpoints.values().next();
    let row = |value: String| value.into_bytes();
    let definition = row(serde_json::to_string(&local.definition).expect("it is JSON"));
    let endpoint = row(serde_json::to_string(&endpoint).expect("it is JSON"));
    vec![[definition.as_slice(), b"\n", &endpoint].concat()]
}

fn keys() -> Random {
    Arc::new(|bytes| bytes.fill(5))
}

/// A journal with a bit of everything, as its file.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("there is a place for files");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let journal = Journal::open(directory.path(), "boot", &keys()).expect("a journal can be made");
    let fill = journal.update(|state| {
        let local = local();
        state.claims.insert(local.definition.key.clone(), 3);
        state.floors =
            Arc::new(BTreeMap::from([((local.definition.key.clone(), HostId([2; 16])), 7)]));
        state.networks.insert(local.definition.docker_id.clone(), Arc::new(local));
    });
    runtime.block_on(fill).expect("it can be written");
    let path = journal.path().to_owned();
    let kept = vec![("cluster".to_owned(), Some(vec![1, 2, 3]))];
    runtime.block_on(journal.keep_records(kept)).expect("it can be written");
    drop(journal);
    // The file is let go by a thread.
    while Journal::open(directory.path(), "boot", &keys()).is_err() {
        std::thread::yield_now();
    }
    std::fs::read(path).expect("it is there")
});

const OVERWRITE: u8 = 0;
const CUT: u8 = 1;
const ZERO: u8 = 2;
const SWAP: u8 = 3;

/// What the networks of a plain engine were written down in, and what it is of.
static PLAIN: LazyLock<(Vec<u8>, LocalNetwork)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("there is a place for files");
    let mut plain = LocalNetwork { endpoints: BTreeMap::new(), ..local() };
    plain.definition.docker_id = "ab".repeat(32).parse().expect("it is an id");
    let network = plain.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let journal = Journal::open(directory.path(), "boot", &keys()).expect("a journal can be made");
    let fill = journal.update(|state| {
        state.networks.insert(network.definition.docker_id.clone(), Arc::new(network));
    });
    runtime.block_on(fill).expect("it can be written");
    (std::fs::read(directory.path().join(NETWORKS)).expect("it is there"), plain)
});

const NETWORKS: &str = "networks.json";

/// Without a journal it is the network as it was, or none. Whoever made the file up has no other one.
pub(crate) fn plain(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("there is a place for files");
    let path = directory.path().join("journal.redb");
    drop(Journal::open(directory.path(), "boot", &keys()).expect("a journal can be made"));
    std::fs::remove_file(&path).expect("it is there");
    std::fs::write(directory.path().join(NETWORKS), bytes).expect("a file can be written");
    let journal = Journal::open(directory.path(), "next boot", &keys()).expect("it is ignored");
    let (file, network) = &*PLAIN;
    let networks = journal.state().networks.clone();
    let all: Vec<_> = networks.values().map(|network| &**network).collect();
    assert_eq!(all, if bytes == file { vec![network] } else { Vec::new() });
}

pub(crate) fn plain_seeds() -> Vec<Vec<u8>> {
    vec![Vec::new(), PLAIN.0.clone()]
}

/// A file that was damaged in places is opened, or refused with a sentence.
pub(crate) fn file(bytes: &[u8]) {
    let mut file = FILE.clone();
    let mut input = Input::new(bytes);
    while !input.is_empty() && !file.is_empty() {
        let kind = input.byte() % 4;
        let at =
            u32::from_be_bytes([0, input.byte(), input.byte(), input.byte()]) as usize % file.len();
        match kind {
            OVERWRITE => {
                let piece = input.piece();
                let end = (at + piece.len()).min(file.len());
                file[at..end].copy_from_slice(&piece[..end - at]);
            }
            CUT => file.truncate(at),
            ZERO => {
                let end = (at / 4096 * 4096 + 4096).min(file.len());
                file[at / 4096 * 4096..end].fill(0);
            }
            _ => {
                let other = usize::from(input.byte()) * 4096 % file.len();
                let length = 4096.min(file.len() - other.max(at / 4096 * 4096));
                for n in 0..length {
                    file.swap(at / 4096 * 4096 + n, other + n);
                }
            }
        }
    }
    let directory = tempfile::tempdir().expect("there is a place for files");
    std::fs::write(directory.path().join("journal.redb"), &file).expect("a file can be written");
    match Journal::open(directory.path(), "boot", &keys()) {
        Ok(journal) => drop(journal.state()),
        Err(error) => crate::assert_sentence(&error.sentence()),
    }
}

pub(crate) fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new(), vec![CUT, 0, 0, 0], vec![CUT, 0, 0x20, 1]];
    for page in 0..16 {
        seeds.push(vec![ZERO, 0, page << 4, 0]);
        seeds.push(vec![SWAP, 0, page << 4, 0, page + 1]);
        let mut patch = vec![OVERWRITE, 0, page << 4, 8];
        put_piece(&mut patch, &[0xff; 16]);
        seeds.push(patch);
    }
    seeds
}
