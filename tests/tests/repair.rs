//! What somebody deletes by hand comes back by itself, with the same keys, and traffic flows again.

use std::time::{Duration, Instant};

use wgnet_tests::lab::{Result, wait_until};
use wgnet_tests::swarm::{SOON, Swarm, eventually, only_network};

/// The promise; looking at it takes some time itself.
const REPAIRED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn what_is_deleted_by_hand_comes_back_within_two_seconds_with_the_same_keys() -> Result<()> {
    let swarm = Swarm::start("e2e-repair", 2)?;
    swarm.network("blue", &["--subnet", "10.71.0.0/24"])?;
    let near = swarm.run(1, "near", "blue", &[])?;
    let far = swarm.run(2, "far", "blue", &[])?;
    eventually("the first ping", SOON, || near.ping("far").is_ok())?;
    let address = far
        .exec(&["sh", "-c", "ip -4 -o addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'"])?
        .trim()
        .to_owned();
    let host = swarm.host(1);
    let network = only_network(host)?;
    let space = &network.namespace;

    // What exists of the kind, and how to delete one.
    let veth = host
        .sh(&format!("ip -n {space} -o link | sed -n 's/.*\\(wgv[0-9a-f]*\\)@.*/\\1/p'"))?
        .trim()
        .to_owned();
    let damages = [
        ("WireGuard interface", format!("ip -n {space} link del wg0")),
        ("WireGuard interface that is down", format!("ip -n {space} link set wg0 down")),
        ("route to a remote endpoint", format!("ip -n {space} route del {address}/32")),
        (
            "route to the local endpoint",
            format!("ip -n {space} route del $(ip -n {space} route | sed -n 's/ dev wgv.*//p')"),
        ),
        (
            "unreachable route of the subnet",
            format!("ip -n {space} route del unreachable 10.71.0.0/24"),
        ),
        ("gateway address", format!("ip -n {space} addr del 10.71.0.1/32 dev lo")),
        ("veth pair", format!("ip -n {space} link del {veth}")),
        ("pin of the namespace", format!("ip netns del {space}")),
        (
            "whole namespace",
            format!(
                "ip -n {space} link del wg0; ip -n {space} link del {veth}; ip netns del {space}"
            ),
        ),
    ];
    for (what, damage) in &damages {
        host.sh(damage)?;
        let damaged = Instant::now();
        wait_until(&format!("traffic after the loss of the {what}"), SOON, || {
            near.exec(&["ping", "-c1", "-W1", &address]).is_ok()
        })?;
        let repaired = damaged.elapsed();
        assert!(repaired < REPAIRED_WITHIN, "{what}: {repaired:?}");
        let is_whole = || {
            let routes = host.sh(&format!("ip -n {space} route")).unwrap_or_default();
            let lo = host.sh(&format!("ip -n {space} -o addr show lo")).unwrap_or_default();
            routes.contains("unreachable 10.71.0.0/24")
                && lo.contains("10.71.0.1/32")
                && only_network(host).is_ok_and(|now| now.in_sync)
        };
        eventually(
            &format!("everything to be there after the loss of the {what}"),
            SOON,
            is_whole,
        )?;
        let now = only_network(host)?;
        assert_eq!(now.slots, network.slots, "{what}: keys and ports are the same");
        assert!(now.repairs > 0);
    }
    // The other way round: what others open is looked at from the far side, too.
    eventually("the way back", SOON, || far.ping("near").is_ok())
}
