//! Routes of a network's namespace: one for each endpoint, and `unreachable` for what is left of the subnets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_core::{Emitable as _, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use wgnet_core::{RouteTarget, Step};
use wgnet_proto::IfName;
use zeroize::Zeroizing;

use super::error::{Result, failing, refused};
use super::link::Link;
use super::netlink::Request;
use super::space::Network;
use crate::dataplane::{DataplaneError, ErrorKind};

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
            Some(link.ok_or_else(|| no_link(&object, name))?.index)
        }
    };
    network
        .space
        .rtnl
        .set_route(message(destination, index))
        .await
        .map_err(failing("set route", object))
}

/// Carries out many steps that set or remove routes; one result for each.
pub(crate) async fn change(network: &Network, steps: &[Step]) -> Result<Vec<Result<()>>> {
    let namespace = &network.namespace;
    let links =
        network.space.rtnl.links().await.map_err(failing("list the links of", namespace))?;
    let links: BTreeMap<String, u32> = links.into_iter().map(|l| (l.name, l.index)).collect();
    let (mut requests, mut of) = (Vec::new(), Vec::new());
    let mut results: Vec<Result<()>> = steps.iter().map(|_| Ok(())).collect();
    for (index, step) in steps.iter().enumerate() {
        let made = match step {
            Step::SetRoute { destination, target } => {
                let link = index_of(target, &links);
                link.map(|link| request(NEW_ROUTE, REPLACE, &message(*destination, link)))
                    .map_err(|name| no_link(&network.object(destination), &name))
            }
            Step::RemoveRoute { destination } => Ok(request(DELETE_ROUTE, 0, &any(*destination))),
            _ => continue,
        };
        match made {
            Ok(request) => {
                requests.push(request);
                of.push(index);
            }
            Err(error) => results[index] = Err(error),
        }
    }
    let answers = network.space.routes(requests).await;
    let answers = answers.map_err(failing("change routes of", namespace))?;
    for (index, answer) in of.into_iter().zip(answers) {
        results[index] = match (answer, &steps[index]) {
            (Err(error), Step::RemoveRoute { .. })
                if error.raw_os_error() == Some(nix::libc::ESRCH) =>
            {
                Ok(())
            }
            (answer, Step::RemoveRoute { destination }) => {
                answer.map_err(failing("delete route", network.object(destination)))
            }
            (answer, Step::SetRoute { destination, .. }) => {
                answer.map_err(failing("set route", network.object(destination)))
            }
            (answer, _) => answer.map_err(failing("change routes of", namespace)),
        };
    }
    Ok(results)
}

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn request(kind: u16, flags: u16, message: &RouteMessage) -> Request {
    let mut payload = Zeroizing::new(vec![0; message.buffer_len()]);
    message.emit(&mut payload);
    Request { kind, flags, payload }
}

/// `None` for no link; fails with the name of one that is not there.
fn index_of(
    target: &RouteTarget,
    links: &BTreeMap<String, u32>,
) -> std::result::Result<Option<u32>, IfName> {
    match target {
        RouteTarget::Unreachable => Ok(None),
        RouteTarget::Link(name) => {
            links.get(name.as_str()).map(|index| Some(*index)).ok_or_else(|| name.clone())
        }
    }
}

fn no_link(object: &str, name: &IfName) -> DataplaneError {
    refused("set route", object, ErrorKind::Other, format!("there is no link {name}"))
}

pub(crate) async fn remove(network: &Network, destination: IpNet) -> Result<()> {
    let deleted = network.space.rtnl.delete_route(any(destination)).await;
    deleted.map_err(failing("delete route", network.object(destination)))
}

/// The route there, whatever it leads to.
fn any(destination: IpNet) -> RouteMessage {
    let mut route = base(destination);
    route.header.kind = RouteType::Unspec;
    route.header.scope = RouteScope::NoWhere;
    route
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

/// In a container, as Docker would set it; or on-link, whatever way the container's kernel knows to the
/// gateway.
pub(crate) fn through_gateway(
    destination: IpNet,
    gateway: IpAddr,
    index: u32,
    is_on_link: bool,
) -> RouteMessage {
    let mut route = base(destination);
    route.header.protocol = RouteProtocol::Boot;
    if is_on_link {
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
