//! A device's TUN link: born in the network's namespace, read and written with segmentation
//! offload from the engine's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::SocketAddr as NetlinkAddress;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, trace};
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};
use wgnet_engine::DeviceId;

use crate::udp::Hold;

/// For the kernel to make a link, or to answer about one.
const DEADLINE: Duration = Duration::from_secs(5);

/// Packets on their way into the link.
const QUEUE: usize = 1024;

const MAX_PACKET: usize = 65_535;

/// Segments one read can bring: 64 KiB of the smallest ones TCP cuts.
const MAX_SEGMENTS: usize = 256;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot enter namespace {}", .namespace.display())]
    Namespace {
        namespace: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make link {id}")]
    Make {
        id: DeviceId,
        #[source]
        source: io::Error,
    },
    #[error("the kernel did not make link {id} within {DEADLINE:?}")]
    Deadline { id: DeviceId },
}

/// The link as its device's owner sees it.
pub(crate) struct Link {
    id: DeviceId,
    tun: Arc<AsyncDevice>,
    /// Device and inode of the namespace. The open TUN keeps the namespace, so they stay its own.
    identity: (u64, u64),
    index: u32,
    netlink: rtnetlink::Handle,
    mtu: watch::Receiver<u16>,
    _hold: Hold,
}

/// What is opened by the thread that has entered the namespace.
struct Opened {
    tun: AsyncDevice,
    index: u32,
    connection: rtnetlink::proto::Connection<RouteNetlinkMessage>,
    netlink: rtnetlink::Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
}

impl Link {
    /// Makes the link, down and without addresses. Its background work goes into `tasks`.
    pub(crate) async fn make(
        id: &DeviceId,
        mtu: u16,
        hold: &Hold,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Self, Writer, Reader), LinkError> {
        let namespace_error =
            |source| LinkError::Namespace { namespace: id.namespace.clone(), source };
        let pin = File::open(&id.namespace).map_err(namespace_error)?;
        let identity = identity(&pin.metadata().map_err(namespace_error)?);
        let ifname = id.ifname.clone();
        let opened = in_namespace(pin, move || open(&ifname, mtu));
        let opened = match timeout(DEADLINE, opened).await {
            Ok(Ok(opened)) => {
                opened.map_err(|source| LinkError::Make { id: id.clone(), source })?
            }
            Ok(Err(source)) => return Err(namespace_error(source)),
            Err(_) => return Err(LinkError::Deadline { id: id.clone() }),
        };
        let tun = Arc::new(opened.tun);
        debug!(device = %id, tcp = tun.tcp_gso(), udp = tun.udp_gso(), "Link offloads");

        let (mtu_seen, mtu) = watch::channel(mtu);
        tasks.spawn(opened.connection);
        tasks.spawn(follow_mtu(opened.events, opened.index, mtu_seen));

        let (queue, packets) = mpsc::channel(QUEUE);
        tasks.spawn(write(Arc::clone(&tun), packets, hold.clone()));
        let reader = Reader::new(Arc::clone(&tun), mtu.clone(), hold.clone());
        let link = Self {
            id: id.clone(),
            tun,
            identity,
            index: opened.index,
            netlink: opened.netlink,
            mtu,
            _hold: hold.clone(),
        };
        Ok((link, Writer { queue }, reader))
    }

    pub(crate) fn mtu(&self) -> u16 {
        *self.mtu.borrow()
    }

    /// Why nothing passes the link any more, if so.
    pub(crate) async fn why_dead(&self) -> Option<String> {
        let namespace = self.id.namespace.display();
        match std::fs::metadata(&self.id.namespace) {
            Ok(pin) if identity(&pin) == self.identity => {}
            Ok(_) => return Some(format!("{namespace} is another namespace now")),
            Err(error) => return Some(format!("namespace {namespace} is gone: {error}")),
        }
        let ifname = &self.id.ifname;
        let gone = |why: &str| Some(format!("link {ifname} in {namespace} {why}"));
        if self.tun.name().is_err() {
            return gone("was deleted");
        }
        // The TUN follows its link into other namespaces; it is not there any more then.
        match timeout(DEADLINE, self.look()).await {
            Ok(Ok(Some(name))) if name == *ifname => None,
            Ok(Ok(Some(name))) => gone(&format!("is called {name} now")),
            Ok(Ok(None)) => gone("was moved away"),
            Ok(Err(error)) => gone(&format!("cannot be looked at: {error}")),
            Err(_) => gone("cannot be looked at: the kernel does not answer"),
        }
    }

    /// The name of the link that has the link's index in its namespace.
    async fn look(&self) -> Result<Option<String>, rtnetlink::Error> {
        let query = self.netlink.link().get().match_index(self.index).execute();
        match Box::pin(query).next().await {
            Some(Ok(link)) => Ok(attribute(&link, |attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })),
            Some(Err(rtnetlink::Error::NetlinkError(error)))
                if error.raw_code() == -(Errno::ENODEV as i32) =>
            {
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }
}

fn identity(pin: &std::fs::Metadata) -> (u64, u64) {
    (pin.dev(), pin.ino())
}

fn attribute<T>(link: &LinkMessage, pick: impl FnMut(&LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

/// Runs `f` on a thread that enters the namespace and ends after it: a thread of the runtime
/// would carry the namespace to other work. The outer error is that of entering.
async fn in_namespace<T: Send + 'static>(
    namespace: File,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<io::Result<T>> {
    let runtime = Handle::current();
    let (result, received) = oneshot::channel();
    std::thread::Builder::new().name("in-namespace".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        let entered = setns(namespace, CloneFlags::CLONE_NEWNET);
        result.send(entered.map(|()| f()).map_err(io::Error::from)).ok();
    })?;
    received
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that entered it ended early")))
}

fn open(ifname: &str, mtu: u16) -> io::Result<Opened> {
    let build = |offload| {
        DeviceBuilder::new().name(ifname).mtu(mtu).enable(false).offload(offload).build_async()
    };
    let tun = build(true).or_else(|error| {
        // Whatever refused, a link without offload serves too, only slower.
        let tun = build(false)?;
        info!(ifname, %error, "Link without segmentation offload");
        Ok::<_, io::Error>(tun)
    })?;
    let index = tun.if_index()?;
    let (connection, netlink, events) = new_multicast_connection(&[MulticastGroup::Link])?;
    Ok(Opened { tun, index, connection, netlink, events })
}

async fn follow_mtu(
    mut events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
    index: u32,
    seen: watch::Sender<u16>,
) {
    while let Some((message, _)) = events.next().await {
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload
        else {
            continue;
        };
        let mtu = attribute(&link, |attribute| match attribute {
            LinkAttribute::Mtu(mtu) => u16::try_from(*mtu).ok(),
            _ => None,
        });
        if link.header.index == index
            && let Some(mtu) = mtu
        {
            seen.send_if_modified(|now| std::mem::replace(now, mtu) != mtu);
        }
    }
}

/// The link was deleted: its TUN is good for nothing any more.
fn is_gone(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EBADFD | Errno::EBADF | Errno::ENODEV))
}

/// Where decrypted packets enter the link.
pub(crate) struct Writer {
    queue: mpsc::Sender<Packet<Ip>>,
}

impl IpSend for Writer {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let closed = |_| io::ErrorKind::BrokenPipe.into();
        self.queue.send(packet).await.map_err(closed)
    }
}

/// Writes what has queued up, joined into large segments, until the link is gone.
async fn write(tun: Arc<AsyncDevice>, mut queue: mpsc::Receiver<Packet<Ip>>, _hold: Hold) {
    let mut joined = GROTable::default();
    let mut packets = Vec::with_capacity(IDEAL_BATCH_SIZE);
    let mut buffers: Vec<BytesMut> = Vec::with_capacity(IDEAL_BATCH_SIZE);
    let mut spare: Vec<BytesMut> = Vec::with_capacity(IDEAL_BATCH_SIZE);
    while queue.recv_many(&mut packets, IDEAL_BATCH_SIZE).await > 0 {
        for packet in packets.drain(..) {
            let packet = packet.into_bytes();
            // Packets are joined only as far as the first one's buffer has room for the others.
            let mut buffer = spare
                .pop()
                .unwrap_or_else(|| BytesMut::with_capacity(2 * VIRTIO_NET_HDR_LEN + MAX_PACKET));
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet);
            buffers.push(buffer);
        }
        let written = tun.send_multiple(&mut joined, &mut buffers, VIRTIO_NET_HDR_LEN);
        match written.await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return,
            // EIO: the link is down.
            Err(error) => trace!(%error, "Link took not all packets"),
        }
        spare.append(&mut buffers);
    }
}

/// Where packets to be encrypted leave the link.
pub(crate) struct Reader {
    tun: Arc<AsyncDevice>,
    mtu: watch::Receiver<u16>,
    raw: Vec<u8>,
    segments: Vec<BytesMut>,
    sizes: Vec<usize>,
    packets: Vec<Packet<Ip>>,
    _hold: Hold,
}

impl Reader {
    fn new(tun: Arc<AsyncDevice>, mtu: watch::Receiver<u16>, hold: Hold) -> Self {
        // One allocation, so large that the kernel gives it page by page when first written: each
        // segment has room for any packet and costs what it was used for.
        let mut memory = BytesMut::zeroed(MAX_SEGMENTS * MAX_PACKET);
        let segments = (0..MAX_SEGMENTS).map(|_| memory.split_to(MAX_PACKET));
        Self {
            tun,
            mtu,
            raw: vec![0; VIRTIO_NET_HDR_LEN + MAX_PACKET],
            segments: segments.collect(),
            sizes: vec![0; MAX_SEGMENTS],
            packets: Vec::with_capacity(MAX_SEGMENTS),
            _hold: hold,
        }
    }
}

impl IpRecv for Reader {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let read = loop {
            let read =
                self.tun.recv_multiple(&mut self.raw, &mut self.segments, &mut self.sizes, 0);
            match read.await {
                Ok(read) => break read,
                Err(error) if is_gone(&error) => return Err(error),
                // One packet that cannot be cut must not end the device.
                Err(error) => debug!(%error, "Dropped a packet"),
            }
        };
        for (segment, size) in self.segments.iter().zip(&self.sizes).take(read) {
            let mut packet = pool.get();
            let buffer = packet.buf_mut();
            buffer.clear();
            buffer.extend_from_slice(&segment[..*size]);
            self.packets.extend(packet.try_into_ip().ok());
        }
        Ok(self.packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}
