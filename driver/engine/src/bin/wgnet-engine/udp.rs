//! A device's UDP socket in the host's namespace, for IPv4 and IPv6, with segmentation offload.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{SockOpt, UdpSocket};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SetSockOpt, SockaddrStorage, sendmsg, setsockopt,
};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::answers::Answers;

/// The kernel's default (208 KiB) overflows within a millisecond of a fast sender's burst.
const BUFFER: usize = 4 << 20;

/// What the kernel takes in one segmented send: segments, and bytes with headers below 64 KiB.
const MAX_SEGMENTS: usize = 64;
const MAX_BYTES: usize = 65_000;

/// Packets taken from the queue at once.
const BATCH: usize = 128;

/// Destinations remembered as refusing segmentation. Only authenticated peers are sent to in
/// batches, so this is reached by roaming alone; they are tried again then.
const MAX_SINGLE: usize = 1024;

/// Kept by everything that keeps a device's socket or link open: a channel that tells the end of
/// the last one.
pub(crate) type Hold = mpsc::Sender<Infallible>;

/// The bound socket; hands itself to the device when that starts.
pub(crate) struct Bound {
    socket: UdpSocket,
    handshakes: Handshakes,
    hold: Hold,
}

/// What the socket's datagrams tell about handshakes.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Answers>>);

impl Bound {
    pub(crate) fn new(port: u16, hold: Hold) -> io::Result<Self> {
        let options = SockOpt { only_v6: Some(false), ..SockOpt::default() };
        let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port).into(), options) {
            Err(error) if lacks_ipv6(&error) => {
                info!(port, "No IPv6 on this host: IPv4 only");
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port).into(), SockOpt::default())?
            }
            result => result?,
        };
        enlarge(&socket, RcvBufForce, RcvBuf);
        enlarge(&socket, SndBufForce, SndBuf);
        if let Err(error) = socket.enable_udp_gro() {
            info!(port, %error, "No receive offload");
        }
        Ok(Self { socket, handshakes: Handshakes::default(), hold })
    }

    pub(crate) fn handshakes(&self) -> Handshakes {
        self.handshakes.clone()
    }
}

impl Handshakes {
    /// The age of a peer's last handshake that both sides know of, given the age its last one had
    /// when WireGuard was `asked`.
    pub(crate) fn confirmed_age(
        &self,
        peer: SocketAddr,
        age: Duration,
        asked: Instant,
    ) -> Option<Duration> {
        self.answers().confirmed_age(peer, age, asked)
    }

    fn sending(&self, packet: &[u8], to: SocketAddr) {
        if Answers::is_answer(packet) {
            self.answers().sent(packet, to, Instant::now());
        }
    }

    fn received(&self, packets: &[(Packet, SocketAddr)]) {
        let mut answers = self.answers();
        if answers.has_open() {
            for (packet, _) in packets {
                answers.received(packet, Instant::now());
            }
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beyond the administrator's limit where the engine may do so.
fn enlarge(
    socket: &UdpSocket,
    force: impl SetSockOpt<Val = usize>,
    plain: impl SetSockOpt<Val = usize>,
) {
    if setsockopt(socket, force, &BUFFER).is_err()
        && let Err(error) = setsockopt(socket, plain, &BUFFER)
    {
        info!(%error, "Socket keeps its small buffers");
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

impl UdpTransportFactory for Bound {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(Sender, Receiver)> {
        let sender = Sender {
            socket: self.socket.clone(),
            single: Arc::default(),
            handshakes: self.handshakes.clone(),
            _hold: self.hold.clone(),
        };
        let receiver = Receiver {
            socket: self.socket.clone(),
            handshakes: self.handshakes.clone(),
            _hold: self.hold.clone(),
        };
        Ok((sender, receiver))
    }
}

/// Receives for as long as the device lives: an error here would end it.
pub(crate) struct Receiver {
    socket: UdpSocket,
    handshakes: Handshakes,
    _hold: Hold,
}

/// Pause after a failed receive, so that a lasting failure does not spin.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

impl UdpRecv for Receiver {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.socket.recv_from(pool).await {
                Ok(received) => {
                    self.handshakes.received(std::slice::from_ref(&received));
                    return Ok(received);
                }
                Err(error) => debug!(%error, "Cannot receive"),
            }
            tokio::time::sleep(RECEIVE_PAUSE).await;
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        loop {
            match self.socket.recv_many_from(buffer, pool, packets).await {
                Ok(()) => {
                    self.handshakes.received(packets);
                    return Ok(());
                }
                Err(error) => debug!(%error, "Cannot receive"),
            }
            tokio::time::sleep(RECEIVE_PAUSE).await;
        }
    }
}

/// Sends packets of one size and destination together, unless the kernel refused that for it.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: UdpSocket,
    single: Arc<Mutex<HashSet<SocketAddr>>>,
    handshakes: Handshakes,
    _hold: Hold,
}

impl UdpSend for Sender {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.handshakes.sending(&packet, destination);
        self.socket.send_to(packet, destination).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH
    }

    /// Never fails: what one destination refuses must not cost the packets of the others.
    async fn send_many_to(
        &self,
        _: &mut (),
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        for (packet, destination) in &*packets {
            self.handshakes.sending(packet, *destination);
        }
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let (group, others) = rest.split_at(group_length(rest));
            rest = others;
            self.send_group(group).await;
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }
}

impl Sender {
    async fn send_group(&self, group: &[(Packet, SocketAddr)]) {
        let destination = group[0].1;
        if group.len() > 1 && !self.goes_single(&destination) {
            match self.send(group).await {
                Err(error) if refuses_segmentation(&error) => {
                    info!(%error, %destination, "Sending without segmentation offload");
                    self.remember_single(destination);
                }
                Err(error) => return debug!(%error, %destination, "Cannot send"),
                Ok(()) => return,
            }
        }
        for packet in group {
            if let Err(error) = self.send(std::slice::from_ref(packet)).await {
                return debug!(%error, %destination, "Cannot send");
            }
        }
    }

    /// One system call for packets of one destination and, but for a shorter last one, one size.
    async fn send(&self, group: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let segment = u16::try_from(group[0].0.len()).unwrap_or(u16::MAX);
        let segmented = [ControlMessage::UdpGsoSegments(&segment)];
        let control = if group.len() > 1 { &segmented[..] } else { &[] };
        let destination = SockaddrStorage::from(group[0].1);
        let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
        for (slice, (packet, _)) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(packet);
        }
        let slices = &slices[..group.len()];
        let socket = self.socket.socket();
        let send = || {
            let flags = MsgFlags::MSG_DONTWAIT;
            sendmsg(socket.as_raw_fd(), slices, control, flags, Some(&destination))?;
            Ok(())
        };
        socket.async_io(Interest::WRITABLE, send).await
    }

    fn goes_single(&self, destination: &SocketAddr) -> bool {
        let single = self.single.lock().unwrap_or_else(PoisonError::into_inner);
        single.contains(destination)
    }

    fn remember_single(&self, destination: SocketAddr) {
        let mut single = self.single.lock().unwrap_or_else(PoisonError::into_inner);
        if single.len() >= MAX_SINGLE {
            single.clear();
        }
        single.insert(destination);
    }
}

/// EIO: the outgoing interface cannot checksum. EINVAL: the kernel does not know the option, or a
/// segment exceeds the path's MTU. EMSGSIZE: the same, said by newer kernels.
fn refuses_segmentation(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP))
}

/// How many packets from the front go out together: segments have one size, only the last may be
/// shorter.
fn group_length(packets: &[(Packet, SocketAddr)]) -> usize {
    let (first, destination) = &packets[0];
    let size = first.len();
    let mut bytes = size;
    let mut length = 1;
    for (packet, to) in packets[1..].iter().take(MAX_SEGMENTS - 1) {
        bytes += packet.len();
        if to != destination || packet.len() > size || bytes > MAX_BYTES {
            break;
        }
        length += 1;
        if packet.len() < size {
            break;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn packets(sizes: &[(usize, u16)]) -> Vec<(Packet, SocketAddr)> {
        let packet = |&(size, port): &(usize, u16)| {
            let packet = Packet::from_bytes(BytesMut::zeroed(size));
            (packet, (Ipv4Addr::LOCALHOST, port).into())
        };
        sizes.iter().map(packet).collect()
    }

    #[test]
    fn equal_packets_of_one_destination_go_together() {
        assert_eq!(group_length(&packets(&[(100, 1); 5])), 5);
    }

    #[test]
    fn a_shorter_packet_ends_its_group() {
        assert_eq!(group_length(&packets(&[(100, 1), (60, 1), (60, 1)])), 2);
    }

    #[test]
    fn a_longer_packet_begins_a_group() {
        assert_eq!(group_length(&packets(&[(60, 1), (100, 1)])), 1);
    }

    #[test]
    fn another_destination_begins_a_group() {
        assert_eq!(group_length(&packets(&[(100, 1), (100, 2)])), 1);
    }

    #[test]
    fn a_group_stays_within_what_the_kernel_takes() {
        assert_eq!(group_length(&packets(&[(100, 1); 100])), MAX_SEGMENTS);
        assert_eq!(group_length(&packets(&[(9000, 1); 100])), 7);
    }
}
