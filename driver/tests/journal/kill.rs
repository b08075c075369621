//! What the end of the process can do to the journal.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{SWARM_NETWORK, add_endpoint, add_network, block_on, endpoint, endpoint_id, id, open};

const CHILD_DIR: &str = "WGNET_JOURNAL_CHILD";

/// Not a test: the process that `every_acknowledged_update_survives_a_kill` kills.
#[test]
#[ignore = "started and killed by another test"]
fn child_that_updates_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let journal = open(Path::new(&dir));
    block_on(async {
        journal
            .update(|state| {
                if state.networks.is_empty() {
                    add_network(state, SWARM_NETWORK);
                }
            })
            .await
            .unwrap();
        let first = journal.state().networks[&id(SWARM_NETWORK)].endpoints.len() as u64;
        for n in (first..).step_by(4) {
            let some = (n..n + 4).map(|n| journal.update(move |state| add_endpoint(state, n)));
            let (seq, updates) = tokio::join!(journal.next_seq(), futures::future::join_all(some));
            assert!(updates.iter().all(Result::is_ok));
            journal
                .keep_records(vec![(format!("hosts/{}", n % 50), Some(vec![1; 500]))])
                .await
                .unwrap();
            println!("acknowledged {} {}", n + 3, seq.unwrap());
        }
    });
}

#[test]
fn every_acknowledged_update_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let (mut acknowledged, mut last_seq, mut killed_at_start) = (None, 0, 0);
    for round in 0..30u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_updates_until_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Every sixth dies somewhere on its way to the first acknowledgement.
        let enough = if round % 6 == 5 { 0 } else { 1 + round * 7 % 40 };
        if enough == 0 {
            killed_at_start += 1;
            std::thread::sleep(Duration::from_millis(round));
        }
        let mut seen = 0;
        while seen < enough {
            let line = lines.next().expect("the child works until it is killed");
            let Some(at) = line.find("acknowledged ") else {
                continue;
            };
            let mut words = line[at..].split(' ').skip(1).map(|word| word.parse::<u64>().unwrap());
            acknowledged = words.next();
            let seq = words.next().unwrap();
            assert!(seq > last_seq, "round {round}: {seq} after {last_seq}");
            (last_seq, seen) = (seq, seen + 1);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it acknowledged between our last look and its end counts too.
        for line in lines {
            let words: Option<Vec<u64>> =
                line.split(' ').skip(1).map(|word| word.parse().ok()).collect();
            if let (true, Some(words)) = (line.starts_with("acknowledged "), words)
                && words.len() == 2
            {
                (acknowledged, last_seq) = (Some(words[0]), words[1]);
            }
        }
        let journal = open(dir.path());
        let state = journal.state();
        let endpoints = state.networks.get(&id(SWARM_NETWORK)).map(|network| &network.endpoints);
        for n in 0..acknowledged.map_or(0, |n: u64| n + 1) {
            assert_eq!(
                endpoints.unwrap().get(&endpoint_id(n)),
                Some(&endpoint(n)),
                "round {round}: update {n} is lost"
            );
        }
    }
    assert!(killed_at_start == 5 && acknowledged > Some(300), "{acknowledged:?}");
}
