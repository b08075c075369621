//! Who changed something, and where: multicast of the kernel in each namespace, and pins removed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use wgnet_core::Namespace;

use super::netlink::{attribute, first, is_all_from};
use super::netns;
use super::nft::GUARD_PREFIX;
use crate::dataplane::changes::Changes;

/// While the directory of pins cannot be watched it is looked into this often.
const DIRECTORY_AGAIN: Duration = Duration::from_secs(1);

/// What is listened for in a namespace.
pub(crate) enum Watch {
    /// Guards that somebody touched.
    Host,
    /// Links, addresses, routes and rules, but for what we change ourselves.
    Network(Namespace),
}

impl Watch {
    /// Subscribes in the namespace and reports until aborted; not what is changed through the
    /// sockets that have these ports there.
    pub(crate) async fn start(
        self,
        namespace: &impl AsFd,
        own_ports: [u32; 2],
        changes: &Changes,
    ) -> io::Result<AbortHandle> {
        let changes = changes.clone();
        let rules = || multicast(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]);
        let task = match self {
            Self::Host => {
                let rules = netns::within(namespace, rules).await?;
                tokio::spawn(async move {
                    listen(rules, |datagram| {
                        guard_of(datagram).iter().for_each(|n| changes.report(n))
                    })
                    .await;
                })
            }
            Self::Network(network) => {
                let (links, rules) =
                    netns::within(namespace, move || Ok((links()?, rules()?))).await?;
                tokio::spawn(async move {
                    let others = |datagram: &[u8]| {
                        if !is_all_from(datagram, &own_ports) {
                            changes.report(&network);
                        }
                    };
                    tokio::join!(listen(links, others), listen(rules, others));
                })
            }
        };
        Ok(task.abort_handle())
    }
}

const NFNLGRP_NFTABLES: u32 = 7;

fn links() -> io::Result<AsyncFd<Socket>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    multicast(NETLINK_ROUTE, &groups.map(|group| group as u32))
}

fn multicast(protocol: isize, groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    // SAFETY: the socket owns its descriptor and shows no other.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Hands on every datagram, and an empty one for those the kernel had to throw away.
async fn listen(socket: AsyncFd<Socket>, mut heard: impl FnMut(&[u8])) {
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        loop {
            buffer.clear();
            match ready.try_io(|socket| socket.get_ref().recv(&mut buffer, 0)) {
                Ok(Ok(_)) => heard(&buffer),
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => heard(&[]),
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
    }
}

/// The network whose guard a message of nftables is about: all of them have their table's name as
/// first attribute.
fn guard_of(datagram: &[u8]) -> Option<Namespace> {
    let payload = first(datagram)?;
    let name = attribute(payload.get(4..)?, 1)?;
    let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    Namespace::parse(&format!("{}{}", Namespace::PREFIX, name.strip_prefix(GUARD_PREFIX)?))
}

/// Reports pins that were removed or made, until aborted.
pub(crate) fn watch_pins(changes: &Changes) -> AbortHandle {
    let changes = changes.clone();
    let task = tokio::spawn(async move {
        let mut told = None;
        let mut known = BTreeSet::new();
        loop {
            // What happened while nothing was watched is seen by the difference.
            let there = pinned();
            known.symmetric_difference(&there).for_each(|namespace| changes.report(namespace));
            known = there;
            if let Err(error) = pins(&changes).await {
                let kind = Some(error.raw_os_error());
                if told != kind {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, directory = netns::DIRECTORY, "{CANNOT_WATCH}");
                    told = kind;
                }
            }
            tokio::time::sleep(DIRECTORY_AGAIN).await;
        }
    });
    task.abort_handle()
}

/// One host has few inotify instances for all that root runs (inotify(7)).
const CANNOT_WATCH: &str = "Cannot watch the pins of namespaces; looking once a second instead. If \
    these are too many open files, raise the sysctl fs.inotify.max_user_instances";

/// The pins that have a name of ours.
fn pinned() -> BTreeSet<Namespace> {
    let Ok(entries) = std::fs::read_dir(netns::DIRECTORY) else {
        return BTreeSet::new();
    };
    entries.flatten().filter_map(|it| Namespace::parse(it.file_name().to_str()?)).collect()
}

/// What tokio needs of a descriptor.
struct Pins(Inotify);

impl AsRawFd for Pins {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

async fn pins(changes: &Changes) -> io::Result<()> {
    netns::share_directory()?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let wanted = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE;
    inotify.add_watch(netns::DIRECTORY, wanted | AddWatchFlags::IN_ONLYDIR)?;
    // SAFETY: it owns its descriptor and shows no other.
    let inotify = unsafe { AsyncFd::register_with_interest(Pins(inotify), Interest::READABLE) }?;
    loop {
        let mut ready = inotify.readable().await?;
        let Ok(events) = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) else {
            continue;
        };
        for event in events? {
            if event.mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_UNMOUNT) {
                return Ok(());
            }
            let name = event.name.as_ref().and_then(|name| name.to_str());
            if let Some(namespace) = name.and_then(Namespace::parse) {
                changes.report(&namespace);
            }
        }
    }
}
