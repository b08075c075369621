//! Whether packets as large as the way's MTU get to the other hosts: asked with echo requests that
//! must not be fragmented, from the host itself and outside of every tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{
    IP_MTU_DISCOVER, IP_PMTUDISC_PROBE, IPPROTO_IP, c_int, c_void, setsockopt, socklen_t,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, getsockopt, socket, sockopt,
};
use wgnet_control_plane::fleet::Fleet;
use wgnet_proto::HostId;

use super::{Area, Finding};

const AREA: &str = "path MTU to other hosts";

/// So many hosts are asked; more would take long, and share their ways anyway.
const MOST: usize = 64;

/// Larger packets are not sent by anything that is found outside of a machine.
const LARGEST: usize = 9216;
/// With the headers. What does not carry that carries no IP.
const SMALL: usize = 100;
const HEADERS: usize = 28;

const PATIENCE: Duration = Duration::from_millis(800);
const TRIES: u32 = 2;

/// What was found out about one way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    host: String,
    address: Ipv4Addr,
    /// What the interface takes.
    mtu: usize,
    /// The largest packet that was answered; none: not even small ones.
    answered: Option<usize>,
}

pub(super) async fn area(fleet: &Fleet, me: Option<HostId>) -> Area {
    let hosts = fleet.view().alive.iter().filter(|host| Some(**host) != me);
    let ways = hosts.filter_map(|host| {
        let addresses = &fleet.view().hosts.get(host)?.underlay;
        let address = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        Some((fleet.host_name(*host), address?))
    });
    let ways: Vec<_> = ways.take(MOST).collect();
    let probes = ways
        .into_iter()
        .map(|(host, address)| tokio::task::spawn_blocking(move || probe(host, address)));
    let mut seen = Vec::new();
    for probed in futures::future::join_all(probes).await {
        match probed {
            Ok(Ok(way)) => seen.push(way),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Area::unseen(AREA, "that needs root");
            }
            // No route to one host is no statement about sizes.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Area::new(AREA, findings(&seen))
}

fn findings(ways: &[Way]) -> Vec<Finding> {
    let holes = ways.iter().filter_map(|way| {
        let answered = way.answered.filter(|answered| *answered < way.mtu)?;
        Some(Finding::error(
            "mtu-hole",
            format!(
                "packets above {answered} bytes do not come back from {} ({}), though the interface takes {}",
                way.host, way.address, way.mtu
            ),
            "large packets of containers are lost on the way: connections open and then hang",
            format!(
                "let the path carry {}, or its routers answer \"fragmentation needed\"; or make networks with -o mtu={}",
                way.mtu,
                answered.saturating_sub(80)
            ),
        ))
    });
    holes.collect()
}

fn probe(host: String, address: Ipv4Addr) -> io::Result<Way> {
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Nothing is sent by that.
    route.connect((address, 9))?;
    let mtu = usize::try_from(getsockopt(&route, sockopt::IpMtu)?).unwrap_or(1500).min(LARGEST);
    let echo = Echo::open(address)?;
    let answered = if !echo.is_answered(SMALL, PATIENCE)? {
        None
    } else if echo.is_answered(mtu, PATIENCE)? {
        Some(mtu)
    } else {
        Some(echo.largest(SMALL, mtu)?)
    };
    Ok(Way { host, address, mtu, answered })
}

/// A socket for echo requests to one address.
struct Echo {
    socket: UdpSocket,
    id: [u8; 2],
}

impl Echo {
    fn open(address: Ipv4Addr) -> io::Result<Self> {
        let raw =
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
        never_fragment(&raw)?;
        // Only its connect, send and receive are used, which are the same for every such socket.
        let socket = UdpSocket::from(raw);
        socket.connect((address, 0))?;
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self { socket, id })
    }

    /// Whether a packet of this size, headers included, comes back.
    fn is_answered(&self, size: usize, patience: Duration) -> io::Result<bool> {
        for number in 0..TRIES {
            let sequence = [(size >> 4) as u8, (size << 4) as u8 | number as u8];
            match self.socket.send(&request(self.id, sequence, size - HEADERS)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            if self.comes_back(sequence, patience)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn comes_back(&self, sequence: [u8; 2], patience: Duration) -> io::Result<bool> {
        let end = Instant::now() + patience;
        let mut packet = [0; LARGEST + 64];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            let size = match self.socket.recv(&mut packet) {
                Ok(size) => size,
                Err(error) if is_over(&error) => return Ok(false),
                // Such as "fragmentation needed", which is an answer, too.
                Err(_) => return Ok(false),
            };
            let header = usize::from(packet[0] & 15) * 4;
            let reply = packet.get(header..size).unwrap_or_default();
            if reply.len() >= 8
                && reply[0] == 0
                && reply[4..6] == self.id
                && reply[6..8] == sequence
            {
                return Ok(true);
            }
        }
    }

    /// The largest size that is answered, between one that is and one that is not.
    fn largest(&self, mut good: usize, mut bad: usize) -> io::Result<usize> {
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            if self.is_answered(middle, PATIENCE / 2)? { good = middle } else { bad = middle }
        }
        Ok(good)
    }
}

/// Sends with "don't fragment", whatever the kernel has learned of the path.
fn never_fragment(socket: &OwnedFd) -> io::Result<()> {
    let wanted: c_int = IP_PMTUDISC_PROBE;
    let size = socklen_t::try_from(size_of_val(&wanted)).expect("it is small");
    // SAFETY: the kernel reads `size` bytes at the pointer, which is to an int of that size.
    let set = unsafe {
        setsockopt(
            socket.as_raw_fd(),
            IPPROTO_IP,
            IP_MTU_DISCOVER,
            (&raw const wanted).cast::<c_void>(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An echo request with so many bytes (RFC 792).
fn request(id: [u8; 2], sequence: [u8; 2], bytes: usize) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, id[0], id[1], sequence[0], sequence[1]];
    packet.resize(8 + bytes, 0);
    let [high, low] = checksum(&packet).to_be_bytes();
    (packet[2], packet[3]) = (high, low);
    packet
}

fn checksum(packet: &[u8]) -> u16 {
    let words = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(answered: Option<usize>) -> Way {
        Way { host: "h2".to_owned(), address: Ipv4Addr::LOCALHOST, mtu: 1500, answered }
    }

    #[test]
    fn only_a_hole_is_told() {
        assert!(findings(&[way(Some(1500)), way(None)]).is_empty());
        let found = findings(&[way(Some(1400))]);
        assert_eq!(found[0].code, "mtu-hole");
        assert!(found[0].what.contains("1400") && found[0].next_step.contains("mtu=1320"));
    }

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        assert_eq!(checksum(&request([1, 2], [3, 4], 57)), 0);
    }

    #[test]
    fn this_host_answers_itself_at_full_size() {
        let way = probe("here".to_owned(), Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(way.answered, Some(way.mtu), "{way:?}");
    }
}
