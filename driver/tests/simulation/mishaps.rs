//! What befalls one host: its driver ends, its power goes and something with it, its address changes,
//! somebody's hands are in its kernel.

use tokio::time::sleep;
use wgnet_core::{Seen, Step, model};

use super::dice;
use super::docker;
use super::seams::make_strange;
use super::trace::note;
use super::world::{self, Network, lose_disk, lose_journal, start_driver, world};

/// Somebody removes by hand what is the driver's.
pub(crate) fn tamper(host: usize) {
    let (plane, networks) =
        world(|world| (world.hosts[host].plane.clone(), world.networks.clone()));
    world(|world| world.hosts[host].is_tampered = true);
    let there: Vec<_> = networks
        .iter()
        .map(Network::namespace)
        .filter(|namespace| matches!(*plane.look(namespace), Seen::Present(_)))
        .collect();
    let Some(namespace) = dice::pick(&there) else {
        return;
    };
    plane.tamper(&namespace, |seen| {
        let Seen::Present(kernel) = seen else {
            return;
        };
        match dice::below(6) {
            0 => {
                let ours: Vec<_> =
                    kernel.routes.keys().filter(|to| to.prefix_len() == 32).copied().collect();
                dice::pick(&ours).map(|to| kernel.routes.remove(&to));
            }
            1 => {
                let links: Vec<_> = kernel.wireguards.keys().cloned().collect();
                if let Some(name) = dice::pick(&links) {
                    let _ = model::apply(seen, &Step::RemoveWireguard { name });
                }
            }
            2 => {
                let wireguard = kernel.wireguards.values_mut().next();
                if let Some(wireguard) = wireguard {
                    wireguard.peers.pop_first();
                }
            }
            3 => kernel.guard.clear(),
            4 => kernel.gateways.clear(),
            _ => {
                let pairs: Vec<_> = kernel.veths.keys().cloned().collect();
                if let Some(name) = dice::pick(&pairs) {
                    let _ = model::apply(seen, &Step::RemoveVeth { name });
                }
            }
        }
    });
}

pub(crate) fn change_address(host: usize) {
    let turn = u8::try_from(dice::below(3)).expect("below 3");
    world(|world| world.hosts[host].address.send_replace(world::underlay(host, turn)));
}

/// At any step: now, or at one of the next seams.
pub(crate) fn kill_driver(host: usize) {
    world(|world| {
        if let Some(running) = &world.hosts[host].running {
            running.life.arm(dice::below(60));
        }
    });
}

pub(crate) fn stop_driver(host: usize) {
    let running = world(|world| world.hosts[host].running.clone());
    if let Some(running) = running {
        running.life.stop().cancel();
        tokio::spawn(async move {
            sleep(dice::millis(0, 2000)).await;
            running.life.kill();
        });
    }
}

/// What a host does not have any more when it gets its power back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Nothing,
    /// The host's key is left.
    Journal,
    Disk,
    /// It gets none.
    Host,
}

pub(crate) fn power_off(number: usize, loses: Loss) {
    let for_good = loses == Loss::Host;
    let had_power = world(|world| {
        let left = world.hosts.iter().filter(|host| !host.is_gone).count();
        if for_good && left < 3 {
            return false;
        }
        let host = &mut world.hosts[number];
        host.is_gone |= for_good && host.has_power;
        std::mem::replace(&mut host.has_power, false)
    });
    if !had_power {
        return;
    }
    note(format!("host {number} loses power, and {loses:?}"));
    let running = world(|world| world.hosts[number].running.take());
    if let Some(running) = running {
        running.life.kill();
    }
    docker::kill_engine(number);
    world(|world| {
        let host = &mut world.hosts[number];
        host.plane.power_off();
        host.plane.engine(&docker::name_of(host.engine.epoch), true);
        make_strange(&host.plane);
        host.boots += 1;
        host.engine.limbo.clear();
        match loses {
            Loss::Journal => lose_journal(world, number),
            Loss::Disk => lose_disk(host),
            Loss::Nothing | Loss::Host => {}
        }
    });
    if !for_good {
        tokio::spawn(async move {
            sleep(dice::millis(0, 40_000)).await;
            world(|world| world.hosts[number].has_power = true);
            note(format!("host {number} boots"));
            start_driver(number).await;
        });
    }
}
