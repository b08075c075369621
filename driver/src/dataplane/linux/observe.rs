//! Reads everything a network has in the kernel.

use std::path::Path;

use wgnet_core::observed::ContainerEnd;
use wgnet_core::{Observed, ObservedVeth, Seen};
use wgnet_proto::{IfName, MacAddr};

use super::error::{Result, failing};
use super::link::{Kind, Link};
use super::space::{Network, Space};
use super::wireguard::Backend;
use super::{container, netns, nft, prepare, route};
use crate::dataplane::Joined;

pub(crate) async fn observe(
    host: &Space,
    backend: &Backend,
    network: &Network,
    joined: &Joined,
) -> Result<Observed> {
    let rtnl = &network.space.rtnl;
    let reading = |what| failing(what, &network.namespace);
    let links = rtnl.links().await.map_err(reading("list the links of"))?;
    let addresses = rtnl.addresses().await.map_err(reading("list the addresses of"))?;
    let routes = rtnl.routes().await.map_err(reading("list the routes of"))?;
    let loopback = links.iter().find(|link| link.kind == Kind::Loopback);
    let pinned = netns::is_pinned(&*network.space, &network.pin_path());
    let mut observed = Observed {
        pinned: pinned.map_err(reading("find the pin of"))?,
        prepared: prepare::is_prepared(network, &links, loopback)
            .await
            .map_err(reading("read the settings of"))?,
        gateways: loopback
            .map(|loopback| prepare::gateways(&addresses, loopback))
            .unwrap_or_default(),
        routes: route::ours(&routes, &links),
        guard: nft::guard(host, &network.namespace)
            .await
            .map_err(reading("read the host's guard of"))?,
        ..Observed::default()
    };
    let host_number = rtnl.number_of(host).await.map_err(reading("find the host's number in"))?;
    for link in &links {
        let Ok(name) = link.name.parse::<IfName>() else {
            continue;
        };
        if link.is_our_veth() {
            let path = joined.get(&name).map(AsRef::as_ref);
            observed.veths.insert(name, veth(network, link, host_number, path).await);
        } else if link.is_our_wireguard() {
            observed.wireguards.insert(name, backend.observe(network, link).await?);
        } else if link.kind != Kind::Loopback && !link.is_fallback_tunnel() {
            observed.foreign.insert(name);
        }
    }
    Ok(observed)
}

async fn veth(
    network: &Network,
    link: &Link,
    host_number: Option<i32>,
    sandbox: Option<&Path>,
) -> ObservedVeth {
    let in_host = link.peer_namespace.is_some() && link.peer_namespace == host_number;
    let container = match sandbox {
        _ if in_host => ContainerEnd::InHost,
        Some(path) => ContainerEnd::InContainer(container::observe(network, link, path).await),
        None => ContainerEnd::InContainer(Seen::Unknown),
    };
    ObservedVeth {
        endpoint: link.endpoint(),
        mac: link.mac.unwrap_or(MacAddr([0; 6])),
        mtu: link.mtu,
        up: link.up,
        container,
    }
}
