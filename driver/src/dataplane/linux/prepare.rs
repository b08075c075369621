//! What is set once in a network's namespace: a router that answers for its gateway and lets
//! nothing through but what has a route.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};

use super::error::{Result, failed, failing, refused};
use super::link::Link;
use super::space::Network;
use super::{netns, nft};
use crate::dataplane::ErrorKind;

const LOOPBACK: &str = "lo";

/// Settings of the whole namespace. Those under `default` are for links that are still to come.
/// Reverse path checks would drop the traffic of two hosts that are at different points of a key
/// rotation.
const SYSCTLS: [(&str, &str); 14] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
];

/// The settings without which containers do not reach each other.
const VITAL: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// What all have from the namespace, and somebody may have turned off for one link alone.
fn forwarding(links: &[Link]) -> impl Iterator<Item = String> {
    let ours = links.iter().filter(|link| link.is_ours());
    ours.flat_map(|link| {
        ["ipv4", "ipv6"].map(|family| format!("{family}/conf/{}/forwarding", link.name))
    })
}

pub(crate) async fn prepare(network: &Network) -> Result<()> {
    let links = network.space.rtnl.links().await;
    let links = links.map_err(failing("list the links of", &network.namespace))?;
    let all = SYSCTLS.map(|(name, value)| (name.to_owned(), value)).into_iter();
    let sysctls = all.chain(forwarding(&links).map(|name| (name, "1"))).collect();
    set_sysctls(network, sysctls).await.map_err(failing("make a router of", &network.namespace))?;
    let loopback = loopback(network).await?;
    let message = LinkUnspec::new_with_index(loopback.index).up().build();
    network
        .space
        .rtnl
        .set_link(message)
        .await
        .map_err(failing("set up lo in", &network.namespace))?;
    nft::clamp_mss(&network.space)
        .await
        .map_err(|source| nft_failed("limit TCP segments in", &network.namespace, source))
}

pub(crate) async fn is_prepared(
    network: &Network,
    links: &[Link],
    loopback: Option<&Link>,
) -> io::Result<bool> {
    let of_links: Vec<String> = forwarding(links).collect();
    let read = move || {
        let all = VITAL.iter().all(|name| !is_there(name) || is_on(name).unwrap_or(false));
        // One that cannot be read is of a link that has gone since, or of no IPv6.
        Ok(all && of_links.iter().all(|name| is_on(name).unwrap_or(true)))
    };
    Ok(loopback.is_some_and(|link| link.up)
        && netns::within(&*network.space, read).await?
        && nft::clamps_mss(&network.space).await?)
}

/// A failure of nftables, with what to do where the program is missing.
pub(crate) fn nft_failed(
    operation: &'static str,
    object: impl std::fmt::Display,
    source: io::Error,
) -> crate::dataplane::DataplaneError {
    if source.kind() == io::ErrorKind::NotFound {
        let reason = "the program nft is not there: apt install nftables";
        return refused(operation, object, ErrorKind::Unsupported, reason);
    }
    failed(operation, object, source)
}

/// Writes settings in a namespace; those the kernel was built without (IPv6) are passed over.
pub(crate) async fn set_sysctls(
    network: &Network,
    settings: Vec<(String, &'static str)>,
) -> io::Result<()> {
    let write = move || {
        for (name, value) in settings {
            if is_there(&name) {
                std::fs::write(path(&name), value).map_err(|error| {
                    io::Error::new(error.kind(), format!("net/{name}: {error}"))
                })?;
            }
        }
        Ok(())
    };
    netns::within(&*network.space, write).await
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys/net").join(name)
}

fn is_on(name: &str) -> io::Result<bool> {
    Ok(std::fs::read(path(name))? == b"1\n")
}

fn is_there(name: &str) -> bool {
    name.starts_with("ipv4/") || path(name).exists()
}

pub(crate) async fn add_gateway(network: &Network, gateway: IpAddr) -> Result<()> {
    let loopback = loopback(network).await?;
    let message = host_address(loopback.index, gateway);
    let added = network.space.rtnl.set_address(message).await;
    added.map_err(failing("add gateway address", network.object(gateway)))
}

pub(crate) async fn remove_gateway(network: &Network, gateway: IpAddr) -> Result<()> {
    let loopback = loopback(network).await?;
    let message = host_address(loopback.index, gateway);
    let removed = network.space.rtnl.delete_address(message).await;
    removed.map_err(failing("remove gateway address", network.object(gateway)))
}

/// The addresses on lo that are not lo's own.
pub(crate) fn gateways(addresses: &[AddressMessage], loopback: &Link) -> BTreeSet<IpAddr> {
    let on_loopback = addresses.iter().filter(|address| address.header.index == loopback.index);
    on_loopback.filter_map(address_of).filter(|address| !address.is_loopback()).collect()
}

/// The address itself: on links that have another end, `Address` is that one's.
pub(crate) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn host_address(index: u32, address: IpAddr) -> AddressMessage {
    address_message(index, address, if address.is_ipv4() { 32 } else { 128 })
}

/// Usable at once: whoever gives the address out knows that it is given once.
pub(crate) fn address_message(index: u32, address: IpAddr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = length;
    message.header.family =
        if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

pub(crate) async fn loopback(network: &Network) -> Result<Link> {
    let link = network
        .space
        .rtnl
        .link(LOOPBACK)
        .await
        .and_then(|link| link.ok_or(io::ErrorKind::NotFound.into()));
    link.map_err(failing("find lo in", &network.namespace))
}
