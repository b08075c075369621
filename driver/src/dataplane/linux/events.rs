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

use super::netlink::{Message, attribute, messages};
use super::netns;
use super::nft::GUARD_PREFIX;
use crate::dataplane::changes::Changes;

/// While the directory of pins cannot be watched it is looked into this often.
const DIRECTORY_AGAIN: Duration = Duration::from_secs(1);

/// What is listened for in a namespace.
pub(crate) enum Watch {
    /// Guards that somebody touched.
    Host,
    /// Links, addresses, routes and rules, but for what we change ourselves; and that nothing is
    /// forwarded any more.
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
                    let touched = |datagram: &[u8]| {
                        let guards = guards_of(datagram).unwrap_or_else(pinned);
                        guards.iter().for_each(|network| changes.report(network));
                    };
                    listen(rules, touched).await;
                })
            }
            Self::Network(network) => {
                let (links, rules) =
                    netns::within(namespace, move || Ok((links()?, rules()?))).await?;
                tokio::spawn(async move {
                    let others = |datagram: &[u8]| {
                        if is_foreign(datagram, &own_ports) {
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
        MulticastGroup::Ipv4Netconf,
        MulticastGroup::Ipv6Netconf,
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

/// The networks whose guards a datagram of nftables is about; `None` if it may be about any, since
/// something of it is missing.
fn guards_of(datagram: &[u8]) -> Option<BTreeSet<Namespace>> {
    let mut messages = messages(datagram);
    let guards = messages.by_ref().filter_map(|message| guard_of(&message)).collect();
    (!datagram.is_empty() && !messages.are_cut()).then_some(guards)
}

/// All messages of nftables about a table, or what is in it, have its name as first attribute.
fn guard_of(message: &Message) -> Option<Namespace> {
    let name = attribute(message.payload.get(4..)?, 1)?;
    let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    Namespace::parse(&format!("{}{}", Namespace::PREFIX, name.strip_prefix(GUARD_PREFIX)?))
}

/// Whether a datagram tells of anything that was not asked for through these ports. What is missing
/// of it may be such.
fn is_foreign(datagram: &[u8], own_ports: &[u32]) -> bool {
    let mut messages = messages(datagram);
    let foreign = messages.by_ref().any(|message| match message.kind {
        RTM_NEWNETCONF => stops_forwarding(&message),
        RTM_DELNETCONF => false,
        _ => !own_ports.contains(&message.port),
    });
    foreign || datagram.is_empty() || messages.are_cut()
}

const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;

/// Settings come with every new link, and nobody's port; this one is never ours: links are born
/// forwarding in a namespace that does.
fn stops_forwarding(message: &Message) -> bool {
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_FORWARDING: u16 = 2;
    const OF_LINKS_TO_COME: i32 = -2;
    let value = |kind| {
        let value = attribute(message.payload.get(4..)?, kind)?;
        Some(i32::from_ne_bytes(value.try_into().ok()?))
    };
    value(NETCONFA_IFINDEX).is_some_and(|index| index != OF_LINKS_TO_COME)
        && value(NETCONFA_FORWARDING) == Some(0)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::netlink::{append, text_attribute};
    use super::*;

    const NFT_MSG_DELTABLE: u16 = (10 << 8) | 2;

    fn datagram(messages: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut datagram = zeroize::Zeroizing::new(Vec::new());
        for (kind, attributes) in messages {
            let payload = [&[0; 4][..], attributes].concat();
            append(&mut datagram, *kind, 0, 0, &payload).unwrap();
        }
        datagram.to_vec()
    }

    fn of_tables(names: &[&str]) -> Vec<u8> {
        let message = |name: &&str| (NFT_MSG_DELTABLE, text_attribute(1, name));
        datagram(&names.iter().map(message).collect::<Vec<_>>())
    }

    fn networks(ids: &[&str]) -> BTreeSet<Namespace> {
        ids.iter().map(|id| Namespace::parse(&format!("wgnet-{id}")).unwrap()).collect()
    }

    fn netconf(kind: u16, index: i32, forwarding: i32) -> Vec<u8> {
        let values = [(1_u16, index), (2, forwarding)];
        let attributes = values.map(|(kind, value)| {
            [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
        });
        datagram(&[(kind, attributes.concat())])
    }

    #[test]
    fn every_guard_of_a_datagram_is_told() {
        let tables = ["wgnet-guard-a", "filter", "wgnet-guard-bc", "wgnet-guard-"];
        assert_eq!(guards_of(&of_tables(&tables)), Some(networks(&["a", "bc"])));
        assert_eq!(guards_of(&of_tables(&["filter"])), Some(BTreeSet::new()));
    }

    #[test]
    fn a_datagram_of_which_something_is_missing_may_be_about_any_guard() {
        let whole = of_tables(&["wgnet-guard-a", "wgnet-guard-b"]);
        assert_eq!(guards_of(&whole[..whole.len() - 1]), None);
        assert_eq!(guards_of(&[]), None);
    }

    #[test]
    fn the_asker_of_every_message_counts() {
        let message = |port: u8| [16, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, port, 0, 0, 0];
        assert!(!is_foreign(&message(7), &[7]));
        assert!(!is_foreign(&[message(7), message(8)].concat(), &[7, 8]));
        assert!(is_foreign(&[message(7), message(0)].concat(), &[7, 8]));
        assert!(is_foreign(&[], &[7]));
        assert!(is_foreign(&[&message(7)[..], &[16, 0]].concat(), &[7]));
    }

    #[test]
    fn of_all_settings_only_the_end_of_forwarding_is_told() {
        assert!(is_foreign(&netconf(RTM_NEWNETCONF, -1, 0), &[7]));
        assert!(!is_foreign(&netconf(RTM_NEWNETCONF, -1, 1), &[7]), "set by our own preparation");
        assert!(is_foreign(&netconf(RTM_NEWNETCONF, 3, 0), &[7]), "for one link alone");
        assert!(!is_foreign(&netconf(RTM_NEWNETCONF, 3, 1), &[7]), "a new link's");
        assert!(!is_foreign(&netconf(RTM_NEWNETCONF, -2, 0), &[7]), "no link's yet");
        assert!(!is_foreign(&netconf(RTM_DELNETCONF, -1, 0), &[7]));
    }

    proptest! {
        #[test]
        fn whatever_is_told_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0..120_usize) {
            guards_of(&bytes);
            is_foreign(&bytes, &[1]);
            let whole = of_tables(&["wgnet-guard-a", "wgnet-guard-b"]);
            guards_of(&whole[..cut.min(whole.len())]);
            let whole = netconf(RTM_NEWNETCONF, -1, 0);
            is_foreign(&whole[..cut.min(whole.len())], &[1]);
        }
    }
}
