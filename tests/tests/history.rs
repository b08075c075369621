//! Another history of the store: wiped under traffic, and gone for a while.

use wgnet_tests::lab::Result;
use wgnet_tests::stream::Stream;
use wgnet_tests::swarm::{NAMED, SOON, Swarm, eventually, only_network, status};

#[test]
fn a_wiped_etcd_is_filled_again_and_no_tunnel_is_cut() -> Result<()> {
    let swarm = Swarm::start("e2e-history", 2)?;
    swarm.network("blue", &[])?;
    let near = swarm.run(1, "near", "blue", &[])?;
    let far = swarm.run(2, "far", "blue", &[])?;
    eventually("the first ping", NAMED, || near.ping("far").is_ok())?;
    let records = swarm.lab.etcd().records()?;
    let stream = Stream::start(&near, &far)?;

    swarm.lab.etcd().kill()?;
    swarm.lab.etcd().wipe()?;
    swarm.lab.etcd().start()?;
    let mut now = Vec::new();
    let complete = eventually("every record to be back", SOON, || {
        now = swarm.lab.etcd().records().unwrap_or_default();
        now == records
    });
    assert!(complete.is_ok(), "{records:?} became {now:?}");
    let sees_all = |number| {
        let host = swarm.host(number);
        let network = only_network(host).is_ok_and(|n| n.in_sync && n.members.len() == 1);
        network && status(host).is_ok_and(|status| status.hosts.len() == 1)
    };
    eventually("both hosts to see each other", SOON, || sees_all(1) && sees_all(2))?;
    let reported = status(swarm.host(1))?.problems.iter().any(|p| p.code == "store-history");
    assert!(reported, "the other history is said");

    // A change in the new history reaches the other host.
    swarm.run(2, "late", "blue", &[])?;
    eventually("a container of the new history", NAMED, || near.ping("late").is_ok())?;
    let report = stream.finish()?;
    assert_eq!(report.lost(), 0, "{report:?}");
    Ok(())
}
