//! Routes of a network's namespace: one for each endpoint, and `unreachable` for what is left of the subnets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use wgnet_core::RouteTarget;
use wgnet_proto::IfName;

use super::error::{Result, failing, refused};
use super::link::Link;
use super::space::Network;
use crate::dataplane::ErrorKind;

/// Marks our routes (`ip route` shows `proto 119`); the letter `w`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(b'w');

pub(crate) async fn set(network: &Network, destination: IpNet, target: &RouteTarget) -> Result<()> {
    let object = network.object(destination);
    let index = match target {
        RouteTarget::Unreachable => None,
        RouteTarget::Link(name) => {
            let link = network
                .space
                .rtnl
                .link(name.as_str())
                .await
                .map_err(failing("set route", &object))?;
            let reason = || {
                refused("set route", &object, ErrorKind::Other, format!("there is no link {name}"))
            };
            Some(link.ok_or_else(reason)?.index)
        }
    };
    network
        .space
        .rtnl
        .set_route(message(destination, index))
        .await
        .map_err(failing("set route", object))
}

/// The same for many, whose links were read before.
pub(crate) async fn set_known(
    network: &Network,
    links: &BTreeMap<String, u32>,
    destination: IpNet,
    target: &RouteTarget,
) -> Result<()> {
    let object = || network.object(destination);
    let index = match target {
        RouteTarget::Unreachable => None,
        RouteTarget::Link(name) => match links.get(name.as_str()) {
            Some(index) => Some(*index),
            None => {
                return Err(refused(
                    "set route",
                    object(),
                    ErrorKind::Other,
                    format!("there is no link {name}"),
                ));
            }
        },
    };
    network
        .space
        .rtnl
        .set_route(message(destination, index))
        .await
        .map_err(failing("set route", object()))
}

pub(crate) async fn remove(network: &Network, destination: IpNet) -> Result<()> {
    let mut route = base(destination);
    // Whatever it leads to.
    route.header.kind = RouteType::Unspec;
    route.header.scope = RouteScope::NoWhere;
    network
        .space
        .rtnl
        .delete_route(route)
        .await
        .map_err(failing("delete route", network.object(destination)))
}

/// Our routes among all of a namespace.
pub(crate) fn ours(messages: &[RouteMessage], links: &[Link]) -> BTreeMap<IpNet, RouteTarget> {
    let route = |message: &RouteMessage| {
        if message.header.protocol != PROTOCOL || message.header.table != RouteHeader::RT_TABLE_MAIN
        {
            return None;
        }
        let target = if message.header.kind == RouteType::Unreachable {
            RouteTarget::Unreachable
        } else {
            let index = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })?;
            let link = links.iter().find(|link| link.index == index)?;
            RouteTarget::Link(link.name.parse::<IfName>().ok()?)
        };
        Some((destination(message)?, target))
    };
    messages.iter().filter_map(route).collect()
}

pub(crate) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let address = match address {
        Some(address) => ip(address)?,
        None if message.header.address_family == AddressFamily::Inet => {
            Ipv4Addr::UNSPECIFIED.into()
        }
        None => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

pub(crate) fn gateway(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

/// In a container, as Docker would set it. IPv6 would look for the gateway among the routes, and
/// finds one that leads through the gateway itself once half of the subnet does: hence on-link.
pub(crate) fn through_gateway(destination: IpNet, gateway: IpAddr, index: u32) -> RouteMessage {
    let mut route = base(destination);
    route.header.protocol = RouteProtocol::Boot;
    if gateway.is_ipv6() {
        route.header.flags = RouteFlags::Onlink;
    }
    route.attributes.push(RouteAttribute::Gateway(gateway.into()));
    route.attributes.push(RouteAttribute::Oif(index));
    route
}

/// To a link, or `unreachable`. All have the same metric, so that one takes the other's place in a
/// single step; a host's route beats a subnet's by its length.
fn message(destination: IpNet, index: Option<u32>) -> RouteMessage {
    let mut route = base(destination);
    match index {
        Some(index) => {
            route.attributes.push(RouteAttribute::Oif(index));
            if destination.addr().is_ipv4() {
                route.header.scope = RouteScope::Link;
            }
        }
        None => route.header.kind = RouteType::Unreachable,
    }
    route
}

fn base(destination: IpNet) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family =
        if destination.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    route.header.destination_prefix_length = destination.prefix_len();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = PROTOCOL;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Destination(destination.network().into()));
    route
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
