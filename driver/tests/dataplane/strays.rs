//! What a lost journal leaves on a host, and what only looks like it.

use std::collections::BTreeSet;

use wgnet_core::{Namespace, Step};
use wgnet_driver::dataplane::linux::{Choice, Linux};
use wgnet_driver::dataplane::{Claimed, Dataplane, Swept};

use crate::bench::{join, start};
use crate::host::Host;
use crate::traffic::veth;

fn sweep(host: &Host, plane: &Linux, claimed: Claimed) -> Swept {
    let plane = plane.clone();
    host.run(async move {
        match plane.sweep(|| claimed.clone()).await {
            Ok(swept) => swept,
            Err(error) => panic!("{error}: {}", error.source),
        }
    })
}

fn apply(host: &Host, plane: &Linux, namespace: &Namespace, step: Step) {
    let (plane, namespace) = (plane.clone(), namespace.clone());
    host.run(async move {
        if let Err(error) = plane.apply(&namespace, &step).await {
            panic!("{error}: {}", error.source);
        }
    });
}

fn named(id: &str) -> Namespace {
    Namespace::parse(&format!("wgnet-{id}")).unwrap()
}

/// Runs on a host whose driver has just started with an empty journal.
pub(crate) fn only_what_is_marked_goes(choice: Choice) {
    let host = Host::start("strays");
    let before = choice.clone();
    let plane = host.run(async move { start(&before).await });
    let lost = named("lost");
    apply(&host, &plane, &lost, Step::CreateNamespace);
    let (name, pair) = veth(2);
    apply(&host, &plane, &lost, Step::CreateVeth { name, veth: pair.clone(), mtu: 1400 });
    let subnets = BTreeSet::from(["10.50.0.0/24".parse().unwrap()]);
    apply(&host, &plane, &lost, Step::SetGuard { subnets: subnets.clone() });
    // Its namespace is gone, and nobody is left to ask for its guard.
    apply(&host, &plane, &named("guarded"), Step::SetGuard { subnets });
    host.sh("ip netns add wgnet-admins");
    host.sh("nft add table inet wgnet-guard-admins");
    host.sh("ip link add wgcadmins type veth peer name other");
    drop(plane);

    let plane = host.run(async move { start(&choice).await });
    let swept = sweep(&host, &plane, Claimed::default());
    assert_eq!(swept.in_use, BTreeSet::new());
    let (pins, tables, links) =
        (host.sh("ls /run/netns"), host.sh("nft list tables"), host.sh("ip -o link"));
    assert!(!pins.contains("wgnet-lost") && pins.contains("wgnet-admins"), "{pins}");
    assert!(!tables.contains("guard-lost") && !tables.contains("guard-guarded"), "{tables}");
    assert!(tables.contains("wgnet-guard-admins"), "{tables}");
    assert!(!links.contains(pair.container_end.as_str()) && links.contains("wgcadmins"), "{links}");
    assert_eq!(sweep(&host, &plane, Claimed::default()).removed, Vec::<String>::new());
}

/// The traffic of a container is not cut because a journal is lost.
pub(crate) fn what_a_container_uses_stays_until_it_ends(choice: Choice) {
    let host = Host::start("used");
    let before = choice.clone();
    let plane = host.run(async move { start(&before).await });
    let used = named("used");
    apply(&host, &plane, &used, Step::CreateNamespace);
    let (name, pair) = veth(2);
    apply(&host, &plane, &used, Step::CreateVeth { name, veth: pair.clone(), mtu: 1400 });
    let guarded = Step::SetGuard { subnets: ["10.50.0.0/24".parse().unwrap()].into() };
    apply(&host, &plane, &used, guarded);
    host.sh("ip netns add wgnett-used");
    host.run(async move { join(&pair, "wgnett-used") });
    drop(plane);

    let plane = host.run(async move { start(&choice).await });
    let swept = sweep(&host, &plane, Claimed::default());
    assert_eq!(swept.in_use, [used].into());
    assert_eq!(swept.removed, Vec::<String>::new());
    assert!(host.sh("nft list tables").contains("wgnet-guard-used"));

    host.sh("ip netns del wgnett-used");
    // The kernel takes a namespace down a little later.
    let gone = "for i in $(seq 100); do ip -n wgnet-used -o link | grep -q wgv || exit 0; sleep 0.05; done; exit 1";
    host.sh(gone);
    let swept = sweep(&host, &plane, Claimed::default());
    assert_eq!(swept.in_use, BTreeSet::new());
    assert!(!host.sh("ls /run/netns").contains("wgnet-used"));
    assert!(!host.sh("nft list tables").contains("wgnet-guard-used"));
}
