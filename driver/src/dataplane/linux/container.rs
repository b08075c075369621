//! The inside of a container, as far as its interface of ours is read and repaired. Its namespace
//! is opened for a moment only: a descriptor kept would keep a dead container's namespace alive.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ipnet::IpNet;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use wgnet_core::observed::ContainerInterface;
use wgnet_core::{DesiredVeth, Seen};

use super::error::{Result, failing, refused};
use super::link::Link;
use super::prepare::{address_message, address_of};
use super::rtnl::Rtnl;
use super::space::Network;
use super::{netns, route};
use crate::dataplane::ErrorKind;

pub(crate) struct Sandbox {
    fd: OwnedFd,
    rtnl: Rtnl,
}

impl AsFd for Sandbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Sandbox {
    /// Opens the namespace that Docker named in Join.
    pub(crate) async fn open(path: Option<&Path>, object: &str) -> Result<Self> {
        const OPERATION: &str = "enter the container of";
        let gone = |reason: String| refused(OPERATION, object, ErrorKind::ContainerGone, reason);
        let path = path.ok_or_else(|| gone("no container has joined".to_owned()))?;
        let sandbox = Self::at(path).await.map_err(failing(OPERATION, object))?;
        sandbox.ok_or_else(|| gone(format!("there is no namespace at {}", path.display())))
    }

    async fn at(path: &Path) -> io::Result<Option<Self>> {
        let Some(fd) = netns::open(path)? else {
            return Ok(None);
        };
        let rtnl = Rtnl::open(&fd).await?;
        Ok(Some(Self { fd, rtnl }))
    }

    /// Whether the other end of this veth is in here.
    pub(crate) async fn holds_other_end(&self, network: &Network, veth: &Link) -> io::Result<bool> {
        let number = network.space.rtnl.number_of(self).await?;
        Ok(number.is_some() && number == veth.peer_namespace)
    }

    /// Docker switches IPv6 off in containers that have no IPv6 network.
    async fn allow_ipv6(&self, name: &str) -> io::Result<()> {
        let switch = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        netns::within(self, move || std::fs::write(switch, "0")).await
    }

    /// The name Docker would give: the lowest `ethN` that is free.
    pub(crate) async fn free_name(&self) -> io::Result<String> {
        let taken: BTreeSet<String> =
            self.rtnl.links().await?.into_iter().map(|link| link.name).collect();
        let mut names = (0..).map(|number| format!("eth{number}"));
        Ok(names.find(|name| !taken.contains(name)).expect("numbers do not end"))
    }
}

/// What the container has at the other end of a veth: `Absent` if that end is not in it.
pub(crate) async fn observe(
    network: &Network,
    veth: &Link,
    path: &Path,
) -> Seen<ContainerInterface> {
    match try_observe(network, veth, path).await {
        Ok(Some(interface)) => Seen::Present(interface),
        Ok(None) => Seen::Absent,
        Err(error) => {
            let object = network.object(&veth.name);
            tracing::debug!(
                veth = object,
                error = &error as &dyn std::error::Error,
                "Cannot look into the container"
            );
            Seen::Unknown
        }
    }
}

async fn try_observe(
    network: &Network,
    veth: &Link,
    path: &Path,
) -> io::Result<Option<ContainerInterface>> {
    let Some(sandbox) = Sandbox::at(path).await? else {
        return Ok(None);
    };
    if !sandbox.holds_other_end(network, veth).await? {
        return Ok(None);
    }
    let Some(link) = sandbox.rtnl.link_at(veth.peer.unwrap_or_default()).await? else {
        return Ok(None);
    };
    Ok(Some(ContainerInterface {
        addresses: addresses(&sandbox.rtnl.addresses().await?, link.index),
        routes: routes(&sandbox.rtnl.routes().await?, link.index),
        name: link.name,
        mac: link.mac,
        up: link.up,
    }))
}

/// Gives the interface what it lacks; what else is on it is the container's business.
pub(crate) async fn configure(
    sandbox: &Sandbox,
    index: u32,
    veth: &DesiredVeth,
    object: &str,
) -> Result<()> {
    let rtnl = &sandbox.rtnl;
    let read = failing("read the container's interface of", object);
    let link = rtnl.link_at(index).await.map_err(read)?;
    let Some(link) = link else {
        let reason = "the interface is not in the container any more";
        return Err(refused(
            "set up the container's interface of",
            object,
            ErrorKind::Other,
            reason,
        ));
    };
    let mut message = LinkUnspec::new_with_index(index).up();
    if link.mac != Some(veth.mac) {
        message = message.address(veth.mac.0.to_vec());
    }
    rtnl.set_link(message.build())
        .await
        .map_err(failing("set up the container's interface of", object))?;
    if veth.addresses.iter().any(|address| address.addr().is_ipv6()) {
        sandbox
            .allow_ipv6(&link.name)
            .await
            .map_err(failing("allow IPv6 on the container's interface of", object))?;
    }
    for address in &veth.addresses {
        let message = address_message(index, address.addr(), address.prefix_len());
        rtnl.set_address(message)
            .await
            .map_err(failing("add an address to the container's interface of", object))?;
    }
    for (destination, gateway) in &veth.container_routes {
        set_route(rtnl, *destination, *gateway, index)
            .await
            .map_err(failing("add a route to the container's interface of", object))?;
    }
    Ok(())
}

/// IPv6 would look for the gateway among the routes, and finds one that leads through the gateway itself
/// once half of the subnet does. IPv4 finds none once the container has taken the subnet's own route away.
async fn set_route(rtnl: &Rtnl, destination: IpNet, gateway: IpAddr, index: u32) -> io::Result<()> {
    let route = |is_on_link| route::through_gateway(destination, gateway, index, is_on_link);
    if gateway.is_ipv4() && rtnl.set_route(route(false)).await.is_ok() {
        return Ok(());
    }
    rtnl.set_route(route(true)).await
}

fn addresses(messages: &[AddressMessage], index: u32) -> BTreeSet<IpNet> {
    let on_link = messages.iter().filter(|message| message.header.index == index);
    let net =
        |message: &AddressMessage| IpNet::new(address_of(message)?, message.header.prefix_len).ok();
    let of_the_kernel =
        |net: &IpNet| matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
    on_link.filter_map(net).filter(|net| !of_the_kernel(net)).collect()
}

fn routes(messages: &[RouteMessage], index: u32) -> BTreeSet<(IpNet, IpAddr)> {
    let through =
        |message: &&RouteMessage| message.attributes.contains(&RouteAttribute::Oif(index));
    let route =
        |message: &RouteMessage| Some((route::destination(message)?, route::gateway(message)?));
    messages.iter().filter(through).filter_map(route).collect()
}
