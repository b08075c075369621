//! The veth pairs, and the containers' ends of them.

use wgnet_proto::{IfName, MacAddr};

use super::Steps;
use crate::{
    ContainerEnd, ContainerInterface, Desired, DesiredVeth, Observed, ObservedVeth, Seen, Step,
};

pub(super) fn veths(desired: &Desired, observed: &Observed, steps: &mut Steps) {
    for (name, veth) in &desired.veths {
        match observed.veths.get(name) {
            None => make(name, veth, desired.mtu, steps),
            Some(seen) if seen.endpoint.as_ref().is_some_and(|id| *id != veth.endpoint) => {
                steps.take(name, Step::RemoveVeth { name: name.clone() });
                make(name, veth, desired.mtu, steps);
            }
            Some(seen) => mend(name, veth, seen, steps),
        }
    }
    for name in observed.veths.keys().filter(|name| !desired.veths.contains_key(*name)) {
        steps.later(Step::RemoveVeth { name: name.clone() });
    }
}

/// Before Join, Docker will fetch the container's end; after it, nobody but us puts it there.
fn make(name: &IfName, veth: &DesiredVeth, mtu: u16, steps: &mut Steps) {
    let (name, veth) = (name.clone(), veth.clone());
    steps.now(match veth.sandbox {
        None => Step::CreateVeth { name, veth, mtu },
        Some(_) => Step::RestoreVeth { name, veth, mtu },
    });
}

fn mend(name: &IfName, veth: &DesiredVeth, seen: &ObservedVeth, steps: &mut Steps) {
    if seen.endpoint.is_none() || seen.mac != MacAddr::GATEWAY || !seen.up {
        steps.now(Step::FixVeth { name: name.clone(), veth: veth.clone() });
    }
    if let ContainerEnd::InContainer(Seen::Present(interface)) = &seen.container
        && veth.sandbox.is_some()
        && lacks_something(interface, veth)
    {
        steps.now(Step::FixContainer { name: name.clone(), veth: veth.clone() });
    }
}

/// What a container has beyond ours is its own business.
fn lacks_something(interface: &ContainerInterface, veth: &DesiredVeth) -> bool {
    let addressed = veth.addresses.iter().all(|a| interface.addresses.contains(a));
    let routed = veth.container_routes.iter().all(|r| interface.routes.contains(r));
    !(interface.up && addressed && routed)
}
