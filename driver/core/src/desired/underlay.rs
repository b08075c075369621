//! Where a member is reached first.

use std::net::{IpAddr, SocketAddr};

use wgnet_proto::record::{HostRecord, Slot};

/// Which families this host has underlay addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    /// The families of these addresses, as this host publishes them.
    pub fn of(addresses: &[IpAddr]) -> Self {
        Self {
            ipv4: addresses.iter().any(IpAddr::is_ipv4),
            ipv6: addresses.iter().any(IpAddr::is_ipv6),
        }
    }

    fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// The first published address of a family this host has: the slot's own ones, else the host's.
/// `None` leaves it to the member to speak first.
pub(super) fn choose(slot: &Slot, host: &HostRecord, families: Families) -> Option<SocketAddr> {
    if slot.port == 0 {
        return None;
    }
    let candidates = slot.underlay.iter().chain(&host.underlay).map(IpAddr::to_canonical);
    let address = candidates.filter(|a| is_reachable(*a)).find(|a| families.has(*a))?;
    Some(SocketAddr::new(address, slot.port))
}

/// Whether another host's packets can be sent there at all, and to nobody else.
fn is_reachable(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let special = special
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            // Without the interface it belongs to, a link-local address says nothing.
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    !special
}
