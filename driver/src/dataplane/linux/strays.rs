//! What is marked as ours and no network of this host has any more: left by a journal that was lost,
//! a network removed while nobody was there, a crash half way.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_core::Namespace;
use wgnet_proto::{EndpointId, IfName};

use super::error::{Result, failing};
use super::rtnl::Rtnl;
use super::{Linux, netns, nft, prepare};
use crate::dataplane::{Claimed, Swept};

/// What of the host has a name that one of ours would have, with its mark.
#[derive(Debug, Default)]
struct Inventory {
    namespaces: BTreeMap<Namespace, Mark>,
    /// Veths of ours in the host's namespace, by index: ends that wait for Docker.
    waiting: BTreeMap<u32, Waiting>,
    /// Guards that are marked.
    guards: BTreeSet<Namespace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Nothing in it says that it is ours.
    Strange,
    Ours,
    /// Ours, and a container still has an interface of it.
    InUse,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    name: String,
    endpoint: Option<EndpointId>,
}

/// What is to be removed, and what is only to be told of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Strays {
    namespaces: BTreeSet<Namespace>,
    in_use: BTreeSet<Namespace>,
    waiting: BTreeMap<u32, String>,
    guards: BTreeSet<Namespace>,
}

impl Inventory {
    /// Traffic that flows is left alone: an unclaimed namespace goes when its last container does,
    /// and its guard with it.
    fn strays(self, claimed: &Claimed) -> Strays {
        let mut strays = Strays::default();
        for (namespace, mark) in self.namespaces {
            match mark {
                _ if claimed.namespaces.contains(&namespace) => {}
                Mark::Strange => {}
                Mark::Ours => _ = strays.namespaces.insert(namespace),
                Mark::InUse => _ = strays.in_use.insert(namespace),
            }
        }
        let names: BTreeSet<String> = claimed
            .endpoints
            .iter()
            .map(|endpoint| IfName::veth_container(endpoint).to_string())
            .collect();
        let is_claimed = |waiting: &Waiting| {
            names.contains(&waiting.name)
                || waiting.endpoint.as_ref().is_some_and(|id| claimed.endpoints.contains(id))
        };
        let waiting = self.waiting.into_iter().filter(|(_, waiting)| !is_claimed(waiting));
        strays.waiting = waiting.map(|(index, waiting)| (index, waiting.name)).collect();
        let guards = self.guards.into_iter();
        let unclaimed =
            |of: &Namespace| !claimed.namespaces.contains(of) && !strays.in_use.contains(of);
        strays.guards = guards.filter(unclaimed).collect();
        strays
    }
}

impl Linux {
    /// Goes on after a failure; the first one is reported.
    pub(super) async fn remove_strays(
        &self,
        claimed: impl Fn() -> Claimed + Send + Sync,
    ) -> Result<Swept> {
        let host = &self.shared.host;
        let named = crate::dataplane::Dataplane::namespaces(self).await?;
        let links = host.rtnl.links().await.map_err(failing("list the links of", "the host"))?;
        let tables = nft::marked_guards(host).await;
        let tables = tables.map_err(|source| {
            prepare::nft_failed("list the nftables guards of", "the host", source)
        })?;
        // From here on: whatever is made later is not in the lists.
        let claimed = claimed();
        let mut inventory = Inventory { guards: tables, ..Inventory::default() };
        for namespace in named.into_iter().filter(|of| !claimed.namespaces.contains(of)) {
            let mark = self.mark(&namespace).await?;
            inventory.namespaces.insert(namespace, mark);
        }
        for link in links.into_iter().filter(super::link::Link::is_our_veth) {
            let waiting = Waiting { endpoint: link.endpoint(), name: link.name };
            inventory.waiting.insert(link.index, waiting);
        }

        let strays = inventory.strays(&claimed);
        let mut swept = Swept { in_use: strays.in_use, ..Swept::default() };
        let mut result = Ok(());
        let mut note = |what: String, done: Result<()>| match done {
            Ok(()) => swept.removed.push(what),
            Err(error) if result.is_ok() => result = Err(error),
            Err(_) => {}
        };
        for namespace in &strays.namespaces {
            note(format!("namespace {namespace}"), self.delete_namespace(namespace).await);
        }
        for (index, name) in &strays.waiting {
            let deleted = host.rtnl.delete_link(*index).await;
            note(format!("link {name}"), deleted.map_err(failing("delete link", name)));
        }
        for namespace in &strays.guards {
            note(format!("guard of {namespace}"), self.remove_guard(namespace).await);
        }
        result.map(|()| swept)
    }

    /// What the links of a namespace say of it. It is not held: it may be somebody else's.
    async fn mark(&self, namespace: &Namespace) -> Result<Mark> {
        const OPERATION: &str = "look into namespace";
        let held = self.shared.spaces().get(namespace).cloned();
        if let Some(held) = held {
            // Only what was ours is held; look whether it is used.
            return match self.is_used(&held.rtnl, namespace).await? {
                true => Ok(Mark::InUse),
                false => Ok(Mark::Ours),
            };
        }
        let pin = netns::pin_path(namespace);
        let Some(fd) = netns::open(&pin).map_err(failing(OPERATION, namespace))? else {
            return Ok(Mark::Strange);
        };
        let rtnl = Rtnl::open(&fd).await.map_err(failing(OPERATION, namespace))?;
        let links = rtnl.links().await.map_err(failing(OPERATION, namespace))?;
        if !links.iter().any(super::link::Link::is_marked) {
            return Ok(Mark::Strange);
        }
        Ok(if self.is_used(&rtnl, namespace).await? { Mark::InUse } else { Mark::Ours })
    }

    /// Whether the other end of a veth of ours is in a container.
    async fn is_used(&self, rtnl: &Rtnl, namespace: &Namespace) -> Result<bool> {
        const OPERATION: &str = "look into namespace";
        let links = rtnl.links().await.map_err(failing(OPERATION, namespace))?;
        let host = rtnl.number_of(&self.shared.host).await;
        let host = host.map_err(failing(OPERATION, namespace))?;
        let mut veths = links.iter().filter(|link| link.is_our_veth());
        Ok(veths.any(|veth| veth.peer_namespace.is_some() && veth.peer_namespace != host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        Namespace::parse(&format!("wgnet-{name}")).unwrap()
    }

    fn endpoint(number: u8) -> EndpointId {
        format!("{number:02x}").repeat(32).parse().unwrap()
    }

    fn waiting(number: u8, marked: bool) -> Waiting {
        let id = endpoint(number);
        let name = IfName::veth_container(&id).to_string();
        Waiting { name, endpoint: marked.then_some(id) }
    }

    fn claimed() -> Claimed {
        Claimed { namespaces: [namespace("live")].into(), endpoints: [endpoint(1)].into() }
    }

    #[test]
    fn only_marked_namespaces_without_a_network_go_and_used_ones_stay() {
        let namespaces = [
            (namespace("live"), Mark::Ours),
            (namespace("gone"), Mark::Ours),
            (namespace("used"), Mark::InUse),
            (namespace("admins"), Mark::Strange),
        ];
        let inventory = Inventory { namespaces: namespaces.into(), ..Inventory::default() };
        let strays = inventory.strays(&claimed());
        assert_eq!(strays.namespaces, [namespace("gone")].into());
        assert_eq!(strays.in_use, [namespace("used")].into());
    }

    #[test]
    fn ends_that_wait_for_nobody_go() {
        let ends = [(5, waiting(1, true)), (6, waiting(1, false)), (7, waiting(2, true))];
        let inventory = Inventory { waiting: ends.into(), ..Inventory::default() };
        let strays = inventory.strays(&claimed());
        assert_eq!(strays.waiting, [(7, waiting(2, true).name)].into());
    }

    #[test]
    fn a_guard_goes_with_its_network_and_not_while_a_container_has_it() {
        let guards = [namespace("live"), namespace("gone"), namespace("used")];
        let inventory = Inventory {
            namespaces: [(namespace("used"), Mark::InUse)].into(),
            guards: guards.into(),
            ..Inventory::default()
        };
        assert_eq!(inventory.strays(&claimed()).guards, [namespace("gone")].into());
    }
}
