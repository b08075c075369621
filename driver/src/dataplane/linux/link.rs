//! A link as the kernel shows it, and the marks by which ours are known.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use wgnet_proto::{EndpointId, MacAddr};

/// The device group of every link we make, given at birth: a crash before the alias is set still
/// leaves a link that is known as ours. The letters `wgne`.
pub(crate) const GROUP: u32 = u32::from_be_bytes(*b"wgne");

/// The alias of ours says what a link is for.
const ALIAS_PREFIX: &str = "wgnet:";
pub(crate) const WIREGUARD_ALIAS: &str = "wgnet:wg";
/// On `lo` of a network's namespace: it is ours even when nothing else is in it.
pub(crate) const NAMESPACE_ALIAS: &str = "wgnet:namespace";

pub(crate) fn veth_alias(endpoint: &EndpointId) -> String {
    format!("{ALIAS_PREFIX}{endpoint}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u16,
    pub(crate) up: bool,
    pub(crate) alias: Option<String>,
    group: u32,
    /// The other end of a veth: its index and, unless it is in the same namespace, the number of its namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) peer_namespace: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Veth,
    Wireguard,
    Tun,
    /// lo, which has no kind.
    Loopback,
    Other,
}

impl Link {
    pub(crate) fn parse(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Other,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            alias: None,
            group: 0,
            peer: None,
            peer_namespace: None,
        };
        if message.header.flags.contains(LinkFlags::Loopback) {
            link.kind = Kind::Loopback;
        }
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(*mtu).unwrap_or(u16::MAX),
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
                }
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(*number),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = match kind {
                                InfoKind::Veth => Kind::Veth,
                                InfoKind::Wireguard => Kind::Wireguard,
                                InfoKind::Tun => Kind::Tun,
                                _ => Kind::Other,
                            };
                        }
                    }
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.kind != Kind::Loopback && self.is_marked()
    }

    /// Whether it carries our mark: lo does, in a namespace that we made.
    pub(crate) fn is_marked(&self) -> bool {
        let marked = self.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX));
        marked || self.group == GROUP
    }

    pub(crate) fn is_our_veth(&self) -> bool {
        self.kind == Kind::Veth && self.is_ours()
    }

    /// Of either backend.
    pub(crate) fn is_our_wireguard(&self) -> bool {
        matches!(self.kind, Kind::Wireguard | Kind::Tun) && self.is_ours()
    }

    /// The endpoint a veth is marked with.
    pub(crate) fn endpoint(&self) -> Option<EndpointId> {
        self.alias.as_deref()?.strip_prefix(ALIAS_PREFIX)?.parse().ok()
    }

    /// Made by the kernel in every namespace when a tunnel module is loaded; they carry nothing.
    pub(crate) fn is_fallback_tunnel(&self) -> bool {
        const NAMES: [&str; 10] = [
            "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0",
            "ip6_vti0", "teql0",
        ];
        !self.up && NAMES.contains(&self.name.as_str())
    }
}
