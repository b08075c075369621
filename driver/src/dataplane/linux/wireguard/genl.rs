//! WireGuard's generic netlink family, as far as its messages must be exact: key and port without
//! touching peers, single addresses, more addresses than one message holds.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAllowedIpFlags,
    WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use rtnetlink::packet_core::Emitable;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use wgnet_core::DesiredPeer;
use wgnet_proto::{PresharedKey, PrivateKey, PublicKey};
use zeroize::{Zeroize, Zeroizing};

use crate::dataplane::linux::netlink::{Request, Requests, attribute, text_attribute};

/// Addresses in one message. All of a peer's lie in one attribute, whose length has 16 bits: 2338
/// of IPv4 or 1637 of IPv6 are the most.
const CHUNK: usize = 1000;

/// Where addresses go that a kernel before 6.16 is to take from a peer: they move to this peer,
/// which nobody has the key of, and vanish with it.
const SINK: [u8; 32] = *b"wgnet: nobody has this key, ever";

/// Kernels before 6.16 cannot remove single addresses.
static REMOVES_ADDRESSES: AtomicBool = AtomicBool::new(true);

const WG_VERSION: u8 = 1;

/// A socket to the WireGuard of one namespace.
pub(crate) struct Wireguard {
    requests: Requests,
    family: u16,
}

/// The fields of a peer that are to change.
#[derive(Default)]
pub(crate) struct PeerChange {
    pub(crate) preshared_key: Option<Option<PresharedKey>>,
    pub(crate) underlay: Option<SocketAddr>,
    /// 0 turns it off.
    pub(crate) keepalive: Option<u16>,
}

impl Wireguard {
    /// Fails with ENOENT where the kernel has no WireGuard.
    pub(crate) fn open() -> io::Result<Self> {
        let mut requests = Requests::open(NETLINK_GENERIC)?;
        let family = family(&mut requests)?;
        Ok(Self { requests, family })
    }

    fn set(&mut self, name: &str, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        self.requests.request(self.family, &payload(name, attributes)).map(drop)
    }

    /// Changes many peers, many at a time; one result for each change, in order.
    pub(crate) fn change(
        &mut self,
        name: &str,
        changes: &[Change<'_>],
    ) -> io::Result<Vec<io::Result<()>>> {
        let mut requests = Vec::new();
        let mut of = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            for peer in change.peers() {
                let payload = payload(name, vec![WireguardAttribute::Peers(vec![peer])]);
                requests.push(Request { kind: self.family, flags: 0, payload });
                of.push(index);
            }
        }
        let mut results: Vec<io::Result<()>> = changes.iter().map(|_| Ok(())).collect();
        for (index, result) in of.into_iter().zip(self.requests.requests(&requests)?) {
            // The first failure of a change is what is told of it.
            if results[index].is_ok() {
                results[index] = result;
            }
        }
        Ok(results)
    }

    fn set_peers(&mut self, name: &str, peers: Vec<WireguardPeer>) -> io::Result<()> {
        self.set(name, vec![WireguardAttribute::Peers(peers)])
    }

    pub(crate) fn set_key_and_port(
        &mut self,
        name: &str,
        key: &PrivateKey,
        port: u16,
    ) -> io::Result<()> {
        let key = WireguardAttribute::PrivateKey(*key.expose());
        self.set(name, vec![key, WireguardAttribute::ListenPort(port)])
    }

    /// Makes a peer, or makes it exactly this; its session lives on.
    pub(crate) fn add_peer(
        &mut self,
        name: &str,
        key: PublicKey,
        config: &DesiredPeer,
    ) -> io::Result<()> {
        let mut peers = Change::AddPeer(key, config).peers().into_iter();
        peers.try_for_each(|peer| self.set_peers(name, vec![peer]))
    }

    /// A peer that is gone stays gone.
    pub(crate) fn update_peer(
        &mut self,
        name: &str,
        key: PublicKey,
        change: &PeerChange,
    ) -> io::Result<()> {
        self.set_peers(name, vec![update(key, change.attributes())])
    }

    pub(crate) fn add_allowed(
        &mut self,
        name: &str,
        key: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> io::Result<()> {
        let mut peers = Change::AddAllowed(key, addresses).peers().into_iter();
        peers.try_for_each(|peer| self.set_peers(name, vec![peer]))
    }

    /// Takes addresses from a peer; `false` if this kernel cannot.
    pub(crate) fn remove_allowed(
        &mut self,
        name: &str,
        key: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> io::Result<bool> {
        if !removes_addresses() {
            return Ok(false);
        }
        let removed = chunks(addresses).try_for_each(|mut chunk| {
            let flag = WireguardAllowedIpAttr::Flags(WireguardAllowedIpFlags::RemoveMe);
            chunk.iter_mut().for_each(|address| address.0.push(flag.clone()));
            self.set_peers(name, vec![update(key, [WireguardPeerAttribute::AllowedIps(chunk)])])
        });
        match removed {
            // The strict parser's word for a flag it does not know.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                REMOVES_ADDRESSES.store(false, Ordering::Relaxed);
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Takes addresses from whichever peers have them.
    pub(crate) fn sink(&mut self, name: &str, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        chunks(addresses).try_for_each(|chunk| {
            let take = WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey(SINK),
                WireguardPeerAttribute::AllowedIps(chunk),
            ]);
            self.set_peers(name, vec![take, removal(SINK)])
        })
    }
}

/// Whether a peer is no peer of anybody's but a step on the way of an address.
pub(crate) fn is_sink(key: &PublicKey) -> bool {
    key.0 == SINK
}

/// Whether this kernel can take an address from a peer, as far as it is known.
pub(crate) fn removes_addresses() -> bool {
    REMOVES_ADDRESSES.load(Ordering::Relaxed)
}

/// One of many.
pub(crate) enum Change<'a> {
    AddPeer(PublicKey, &'a DesiredPeer),
    AddAllowed(PublicKey, &'a BTreeSet<IpAddr>),
}

impl Change<'_> {
    /// As messages about the peer, each with no more addresses than fit.
    fn peers(&self) -> Vec<WireguardPeer> {
        let (key, mut first, addresses) = match self {
            Self::AddPeer(key, config) => (*key, Some(whole(*key, config)), &config.allowed),
            Self::AddAllowed(key, addresses) => (*key, None, *addresses),
        };
        let mut peers = Vec::new();
        for chunk in chunks(addresses).map(WireguardPeerAttribute::AllowedIps) {
            match first.take() {
                Some(WireguardPeer(mut attributes)) => {
                    attributes.push(chunk);
                    peers.push(WireguardPeer(attributes));
                }
                None => peers.push(update(key, [chunk])),
            }
        }
        peers.extend(first);
        peers
    }
}

/// A peer that is made, or made exactly this, but for its addresses.
fn whole(key: PublicKey, config: &DesiredPeer) -> WireguardPeer {
    let change = PeerChange {
        preshared_key: Some(config.preshared_key.clone()),
        underlay: config.underlay,
        keepalive: Some(config.keepalive.unwrap_or(0)),
    };
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
    ];
    attributes.extend(change.attributes());
    WireguardPeer(attributes)
}

/// The request to change an interface; what it was made of, which may hold keys, is wiped.
fn payload(name: &str, mut attributes: Vec<WireguardAttribute>) -> Zeroizing<Vec<u8>> {
    attributes.insert(0, WireguardAttribute::IfName(name.to_owned()));
    let mut message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
    let mut payload = Zeroizing::new(vec![0; 4 + message.buffer_len()]);
    payload[0] = u8::from(message.cmd);
    payload[1] = WG_VERSION;
    message.emit(&mut payload[4..]);
    message.attributes.iter_mut().for_each(wipe);
    payload
}

impl PeerChange {
    fn attributes(&self) -> Vec<WireguardPeerAttribute> {
        let mut attributes = Vec::new();
        if let Some(key) = &self.preshared_key {
            // All zero is WireGuard's word for none.
            let key = key.as_ref().map_or([0; 32], |key| *key.expose());
            attributes.push(WireguardPeerAttribute::PresharedKey(key));
        }
        attributes.extend(self.underlay.map(WireguardPeerAttribute::Endpoint));
        attributes.extend(self.keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
        attributes
    }
}

fn update(
    key: PublicKey,
    change: impl IntoIterator<Item = WireguardPeerAttribute>,
) -> WireguardPeer {
    let head = [
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
    ];
    WireguardPeer(head.into_iter().chain(change).collect())
}

fn removal(key: [u8; 32]) -> WireguardPeer {
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(key),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ])
}

fn chunks(addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = Vec<WireguardAllowedIp>> {
    let mut rest = addresses.iter();
    std::iter::from_fn(move || {
        let chunk: Vec<_> = rest.by_ref().take(CHUNK).map(|address| allowed(*address)).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn allowed(address: IpAddr) -> WireguardAllowedIp {
    let (family, length) = match address {
        IpAddr::V4(_) => (WireguardAddressFamily::Ipv4, 32),
        IpAddr::V6(_) => (WireguardAddressFamily::Ipv6, 128),
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(address),
        WireguardAllowedIpAttr::Cidr(length),
    ])
}

fn wipe(attribute: &mut WireguardAttribute) {
    match attribute {
        WireguardAttribute::PrivateKey(key) => key.zeroize(),
        WireguardAttribute::Peers(peers) => {
            for attribute in peers.iter_mut().flat_map(|peer| &mut peer.0) {
                if let WireguardPeerAttribute::PresharedKey(key) = attribute {
                    key.zeroize();
                }
            }
        }
        _ => {}
    }
}

/// The number the running kernel gave to the family.
fn family(requests: &mut Requests) -> io::Result<u16> {
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    payload.extend(text_attribute(CTRL_ATTR_FAMILY_NAME, "wireguard"));
    let replies = requests.request(GENL_ID_CTRL, &payload)?;
    let id = replies.first().and_then(|reply| attribute(reply.get(4..)?, CTRL_ATTR_FAMILY_ID));
    let id = id.and_then(|id| <[u8; 2]>::try_from(id).ok());
    id.map(u16::from_ne_bytes).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has no family id")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_made_by_the_first_message_and_gets_the_rest_of_its_addresses_by_others() {
        let made = |addresses: u32| {
            let allowed = (0..addresses).map(|i| std::net::Ipv4Addr::from(i).into()).collect();
            let (preshared_key, underlay, keepalive) = (None, None, None);
            let config = DesiredPeer { preshared_key, underlay, keepalive, allowed };
            let peers = Change::AddPeer(PublicKey([7; 32]), &config).peers();
            let flags = |peer: &WireguardPeer| match peer.0[1] {
                WireguardPeerAttribute::Flags(flags) => flags,
                _ => panic!("no flags"),
            };
            peers.iter().map(flags).collect::<Vec<_>>()
        };
        let (replace, update) =
            (WireguardPeerFlags::ReplaceAllowedIps, WireguardPeerFlags::UpdateOnly);
        assert_eq!(made(0), [replace]);
        assert_eq!(made(1000), [replace]);
        assert_eq!(made(2001), [replace, update, update]);
    }

    #[test]
    fn addresses_are_sent_in_chunks_that_fit_a_message() {
        let addresses: BTreeSet<IpAddr> =
            (0..3000u32).map(|i| std::net::Ipv6Addr::from(u128::from(i)).into()).collect();
        let chunks: Vec<_> = chunks(&addresses).collect();
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 1000]);
        let message = WireguardMessage {
            cmd: WireguardCmd::SetDevice,
            attributes: vec![WireguardAttribute::Peers(vec![update(
                PublicKey([7; 32]),
                [WireguardPeerAttribute::AllowedIps(chunks[0].clone())],
            )])],
        };
        assert!(message.buffer_len() < usize::from(u16::MAX));
    }

    #[test]
    fn no_addresses_are_no_message() {
        assert_eq!(chunks(&BTreeSet::new()).count(), 0);
    }
}
