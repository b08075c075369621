//! A driver that starts where another one ended reads, and writes nothing.

use std::time::Duration;

use wgnet_driver::dataplane::linux::Choice;
use wgnet_driver::dataplane::{Claimed, Dataplane, Joined};

use crate::bench::start;
use crate::traffic::{Side, namespace};

pub(crate) fn a_start_over_what_is_there_writes_nothing(choice: &Choice) {
    let side = Side::start(1, choice);
    side.make_network();
    side.make_wireguard();
    // The kernel itself is at work until its own addresses are settled.
    let settled = format!(
        "for i in $(seq 100); do ip -n {0} -6 addr show tentative | grep -q . || exit 0; sleep 0.1; done; exit 1",
        namespace()
    );
    side.host.sh(&settled);
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let log = directory.path().join("log");
    let space = namespace();
    // Every change to links, addresses, routes and rules, in the host's namespace and the network's.
    // Each monitor ends with its `timeout`, so that nothing is left to be found.
    let watch = format!(
        "for run in '' 'ip netns exec {space}'; do $run timeout 6 ip monitor link address route rule nsid >> {log} 2>&1 & $run timeout 6 nft monitor >> {log} 2>&1 & done",
        log = log.display()
    );
    side.host.sh(&watch);
    side.host.run(async { tokio::time::sleep(Duration::from_millis(500)).await });

    let again = choice.clone();
    side.host.run(async move {
        let plane = start(&again).await;
        let claimed = Claimed { namespaces: [namespace()].into(), ..Claimed::default() };
        let swept = plane.sweep(|| claimed.clone()).await;
        assert!(swept.is_ok_and(|swept| swept.removed.is_empty()));
        let seen = plane.observe(&namespace(), &Joined::new()).await;
        assert!(matches!(seen, wgnet_core::Seen::Present(_)));
    });
    side.host.run(async { tokio::time::sleep(Duration::from_millis(500)).await });
    let written = std::fs::read_to_string(&log).unwrap();
    assert_eq!(written, "", "a start wrote to the kernel");

    // The check can fail: it sees what somebody does.
    side.host.sh(&format!("ip -n {space} link add dummy0 type bridge"));
    let seen = move || std::fs::read_to_string(&log).unwrap().contains("dummy0");
    side.host.run(async move {
        let wait = async {
            while !seen() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(4), wait).await.expect("dummy0 is seen");
    });
}
