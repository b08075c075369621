//! The veth pairs of a network: one end in its namespace, the other a container's interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use wgnet_core::DesiredVeth;
use wgnet_proto::{IfName, MacAddr};

use super::container::{self, Sandbox};
use super::error::{Result, failing, refused};
use super::link::{GROUP, Kind, Link, veth_alias};
use super::space::{Network, Space};
use super::{prepare, rtnl::Rtnl};
use crate::dataplane::ErrorKind;

/// Makes the pair. The container's end waits in the host's namespace, down and without addresses,
/// for Docker to take it.
pub(crate) async fn create(
    host: &Space,
    network: &Network,
    name: &IfName,
    veth: &DesiredVeth,
    mtu: u16,
) -> Result<()> {
    const OPERATION: &str = "create veth pair";
    let object = network.object(name);
    if let Some(link) = find(network, name, OPERATION).await? {
        return settle(network, &link, veth).await;
    }
    let made = async || {
        let other = end(veth.container_end.as_str(), veth.mac, mtu).build();
        host.rtnl.add_link(pair(network, name, mtu, other)).await
    };
    let mut result = made().await;
    if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(nix::libc::EEXIST))
        && remove_orphan(host, &veth.container_end).await.map_err(failing(OPERATION, &object))?
    {
        result = made().await;
    }
    result.map_err(failing(OPERATION, &object))?;
    let marked = mark_waiting_end(host, veth).await;
    marked.map_err(failing("mark the container's end of veth pair", &object))?;
    match find(network, name, OPERATION).await? {
        Some(link) => settle(network, &link, veth).await,
        None => Err(refused(OPERATION, object, ErrorKind::Other, "somebody deleted it")),
    }
}

/// Sets right what exists.
pub(crate) async fn fix(network: &Network, name: &IfName, veth: &DesiredVeth) -> Result<()> {
    const OPERATION: &str = "set up veth";
    match find(network, name, OPERATION).await? {
        Some(link) => settle(network, &link, veth).await,
        None => Err(refused(OPERATION, network.object(name), ErrorKind::Other, "it is not there")),
    }
}

/// Makes a pair whose other end is in the container from its first moment.
pub(crate) async fn restore(
    host: &Space,
    network: &Network,
    name: &IfName,
    veth: &DesiredVeth,
    mtu: u16,
) -> Result<()> {
    const OPERATION: &str = "restore veth pair";
    let object = network.object(name);
    let sandbox = Sandbox::open(veth.sandbox.as_deref(), &object).await?;
    if let Some(link) = find(network, name, OPERATION).await? {
        if sandbox.holds_other_end(network, &link).await.map_err(failing(OPERATION, &object))? {
            settle(network, &link, veth).await?;
            return container::configure(&sandbox, link.peer.unwrap_or_default(), veth, &object)
                .await;
        }
        // Docker put it back, or never took it: what the container has is to be made anew.
        network.space.rtnl.delete_link(link.index).await.map_err(failing(OPERATION, &object))?;
    }
    let inside =
        sandbox.free_name().await.map_err(failing("look into the container of", &object))?;
    let other = end(&inside, veth.mac, mtu).setns_by_fd(sandbox.as_fd().as_raw_fd()).build();
    host.rtnl
        .add_link(pair(network, name, mtu, other))
        .await
        .map_err(failing(OPERATION, &object))?;
    let Some(link) = find(network, name, OPERATION).await? else {
        return Err(refused(OPERATION, object, ErrorKind::Other, "somebody deleted it"));
    };
    settle(network, &link, veth).await?;
    container::configure(&sandbox, link.peer.unwrap_or_default(), veth, &object).await
}

/// Sets right the interface inside the container.
pub(crate) async fn fix_container(
    network: &Network,
    name: &IfName,
    veth: &DesiredVeth,
) -> Result<()> {
    const OPERATION: &str = "set up the container's interface of";
    let object = network.object(name);
    let sandbox = Sandbox::open(veth.sandbox.as_deref(), &object).await?;
    let Some(link) = find(network, name, OPERATION).await? else {
        return Err(refused(OPERATION, object, ErrorKind::Other, "the veth pair is not there"));
    };
    if !sandbox.holds_other_end(network, &link).await.map_err(failing(OPERATION, &object))? {
        let reason = "the other end of the veth pair is not in the container";
        return Err(refused(OPERATION, object, ErrorKind::Other, reason));
    }
    container::configure(&sandbox, link.peer.unwrap_or_default(), veth, &object).await
}

/// What is gone is gone; the other end goes with it.
pub(crate) async fn remove(network: &Network, name: &IfName) -> Result<()> {
    const OPERATION: &str = "delete veth pair";
    match find(network, name, OPERATION).await? {
        Some(link) => network
            .space
            .rtnl
            .delete_link(link.index)
            .await
            .map_err(failing(OPERATION, network.object(name))),
        None => Ok(()),
    }
}

/// The veth of ours with this name; a link of somebody else's is an error.
pub(crate) async fn find(
    network: &Network,
    name: &IfName,
    operation: &'static str,
) -> Result<Option<Link>> {
    let link = network
        .space
        .rtnl
        .link(name.as_str())
        .await
        .map_err(failing(operation, network.object(name)))?;
    match link {
        Some(link) if !link.is_our_veth() => {
            let reason = "a link of this name is there and is not wgnet's: remove or rename it";
            Err(refused(operation, network.object(name), ErrorKind::Other, reason))
        }
        link => Ok(link),
    }
}

/// Both ends, the first in the network's namespace. The request is sent in the host's.
fn pair(network: &Network, name: &IfName, mtu: u16, other: LinkMessage) -> LinkMessage {
    LinkVeth::new(name.as_str(), "")
        .mtu(mtu.into())
        .address(MacAddr::GATEWAY.0.to_vec())
        .link_group(GROUP)
        .setns_by_fd(network.space.as_fd().as_raw_fd())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
        .build()
}

fn end(name: &str, mac: MacAddr, mtu: u16) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name).mtu(mtu.into()).address(mac.0.to_vec()).link_group(GROUP)
}

/// A container's first packet from elsewhere comes before its interface is up: who asks for it
/// once a second, as Linux does, keeps that packet for a second. As long in all (arp(7)).
const ASKING: [(&str, &str); 3] =
    [("retrans_time_ms", "20"), ("mcast_solicit", "150"), ("ucast_solicit", "50")];

async fn settle(network: &Network, link: &Link, veth: &DesiredVeth) -> Result<()> {
    let object = network.object(&link.name);
    let message = LinkUnspec::new_with_index(link.index)
        .alias(veth_alias(&veth.endpoint))
        .address(MacAddr::GATEWAY.0.to_vec())
        .up()
        .build();
    network.space.rtnl.set_link(message).await.map_err(failing("set up veth", &object))?;
    let name = &link.name;
    let settings = [
        (format!("ipv4/conf/{name}/proxy_arp"), "1"),
        (format!("ipv4/neigh/{name}/proxy_delay"), "0"),
        (format!("ipv6/conf/{name}/proxy_ndp"), "1"),
        (format!("ipv6/neigh/{name}/proxy_delay"), "0"),
    ];
    let asking = ["ipv4", "ipv6"].map(|family| {
        ASKING.map(|(setting, value)| (format!("{family}/neigh/{name}/{setting}"), value))
    });
    let settings = settings.into_iter().chain(asking.into_iter().flatten()).collect();
    prepare::set_sysctls(network, settings).await.map_err(failing("set up veth", &object))?;
    let proxied = proxy_gateways(network, std::slice::from_ref(link)).await;
    proxied.map_err(failing("answer for the gateway on veth", &object))
}

/// IPv6 answers for an address of lo only on links that are told to; IPv4 answers on all.
async fn proxy_gateways(network: &Network, veths: &[Link]) -> io::Result<()> {
    let rtnl = &network.space.rtnl;
    let Some(loopback) = rtnl.link("lo").await? else {
        return Ok(());
    };
    for gateway in prepare::gateways(&rtnl.addresses().await?, &loopback) {
        if let std::net::IpAddr::V6(gateway) = gateway {
            for veth in veths {
                rtnl.set_neighbour(proxy(veth.index, gateway)).await?;
            }
        }
    }
    Ok(())
}

/// The same for a gateway that came or went after the veths.
pub(crate) async fn proxy_gateway(
    rtnl: &Rtnl,
    gateway: std::net::Ipv6Addr,
    wanted: bool,
) -> io::Result<()> {
    for veth in rtnl.links().await?.iter().filter(|link| link.is_our_veth()) {
        let message = proxy(veth.index, gateway);
        if wanted {
            rtnl.set_neighbour(message).await?
        } else {
            rtnl.delete_neighbour(message).await?
        }
    }
    Ok(())
}

fn proxy(index: u32, address: std::net::Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Proxy;
    message.header.kind = RouteType::Unspec;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(address))];
    message
}

/// So that nobody takes the end that waits in the host's namespace for somebody else's.
async fn mark_waiting_end(host: &Space, veth: &DesiredVeth) -> io::Result<()> {
    // Docker may have taken it already when a step is repeated.
    let Some(link) = host.rtnl.link(veth.container_end.as_str()).await? else {
        return Ok(());
    };
    let message = LinkUnspec::new_with_index(link.index).alias(veth_alias(&veth.endpoint)).build();
    host.rtnl.set_link(message).await
}

/// Removes the waiting end of a pair whose namespace is being torn down by the kernel; whether there was one.
async fn remove_orphan(host: &Space, name: &IfName) -> io::Result<bool> {
    match host.rtnl.link(name.as_str()).await? {
        Some(link) if link.is_ours() && link.kind == Kind::Veth => {
            host.rtnl.delete_link(link.index).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
