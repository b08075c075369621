//! Links, addresses and routes of one namespace over one rtnetlink socket.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::AsyncSocket;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::link::Link;
use super::netns;

/// The kernel answers in microseconds unless the whole machine waits for its network lock.
const DEADLINE: Duration = Duration::from_secs(10);

/// A dump that the kernel marked as inconsistent is read again this often.
const DUMPS: usize = 5;

pub(crate) struct Rtnl {
    handle: Handle,
    /// The kernel has one dump per socket and refuses a second one (EBUSY).
    dumps: Mutex<()>,
    connection: AbortHandle,
    /// Of the socket in its namespace; the kernel says it of changes made through it.
    pub(crate) port: u32,
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        // The socket keeps its namespace alive.
        self.connection.abort();
    }
}

impl Rtnl {
    /// Opens a socket that stays in the namespace, usable from any thread.
    pub(crate) async fn open(namespace: &impl AsFd) -> io::Result<Self> {
        let open = || {
            let (mut connection, handle, _) = rtnetlink::new_connection()?;
            let port = connection.socket_mut().socket_mut().bind_auto()?.port_number();
            Ok((connection, handle, port))
        };
        let (connection, handle, port) = netns::within(namespace, open).await?;
        let connection = tokio::spawn(connection).abort_handle();
        let dumps = Mutex::default();
        Ok(Self { handle, dumps, connection, port })
    }

    async fn talk(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut handle = self.handle.clone();
        let answers = handle.request(request).map_err(io::Error::other)?;
        let answers: Vec<_> = tokio::time::timeout(DEADLINE, answers.collect())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"))?;
        for answer in &answers {
            if let NetlinkPayload::Error(error) = &answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
        }
        Ok(answers)
    }

    async fn ask(&self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let answers = self.talk(message, 0).await?;
        Ok(answers.into_iter().find_map(inner))
    }

    async fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let _only = self.dumps.lock().await;
        for _ in 0..DUMPS {
            let answers = self.talk(message.clone(), NLM_F_DUMP).await?;
            let torn = answers.iter().any(|answer| answer.header.flags & NLM_F_DUMP_INTR != 0);
            if !torn {
                return Ok(answers.into_iter().filter_map(inner).collect());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the kernel's list kept changing while it was read",
        ))
    }

    pub(crate) async fn links(&self) -> io::Result<Vec<Link>> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        let link = |message| match message {
            RouteNetlinkMessage::NewLink(link) => Link::parse(&link),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(link).collect())
    }

    pub(crate) async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message).await
    }

    pub(crate) async fn link_at(&self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message).await
    }

    async fn one_link(&self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.ask(RouteNetlinkMessage::GetLink(message)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Link::parse(&link)),
            Ok(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no link"))
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails with EEXIST if there is a link of that name.
    pub(crate) async fn add_link(&self, message: LinkMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.talk(RouteNetlinkMessage::NewLink(message), flags).await.map(drop)
    }

    pub(crate) async fn set_link(&self, message: LinkMessage) -> io::Result<()> {
        self.talk(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).await.map(drop)
    }

    /// A link that is gone is success.
    pub(crate) async fn delete_link(&self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let deleted = self.talk(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).await;
        absent_is_fine(deleted, nix::libc::ENODEV)
    }

    pub(crate) async fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        let messages =
            self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(address).collect())
    }

    pub(crate) async fn set_address(&self, message: AddressMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.talk(RouteNetlinkMessage::NewAddress(message), flags).await.map(drop)
    }

    pub(crate) async fn delete_address(&self, message: AddressMessage) -> io::Result<()> {
        let deleted = self.talk(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK).await;
        absent_is_fine(deleted, nix::libc::EADDRNOTAVAIL)
    }

    /// The routes of both families; the kernel filters neither table nor protocol.
    pub(crate) async fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let messages = self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default())).await?;
        let route = |message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(route).collect())
    }

    pub(crate) async fn set_route(&self, message: RouteMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.talk(RouteNetlinkMessage::NewRoute(message), flags).await.map(drop)
    }

    pub(crate) async fn delete_route(&self, message: RouteMessage) -> io::Result<()> {
        let deleted = self.talk(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK).await;
        absent_is_fine(deleted, nix::libc::ESRCH)
    }

    pub(crate) async fn set_neighbour(&self, message: NeighbourMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.talk(RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }

    pub(crate) async fn delete_neighbour(&self, message: NeighbourMessage) -> io::Result<()> {
        let deleted = self.talk(RouteNetlinkMessage::DelNeighbour(message), NLM_F_ACK).await;
        absent_is_fine(deleted, nix::libc::ENOENT)
    }

    /// By which number links of this namespace refer to another one; `None` if none does.
    pub(crate) async fn number_of(&self, namespace: &impl AsFd) -> io::Result<Option<i32>> {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&namespace.as_fd());
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(fd.cast_unsigned()));
        let answer = self.ask(RouteNetlinkMessage::GetNsId(message)).await?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel's answer is no namespace id",
            ));
        };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
    }
}

fn inner(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<RouteNetlinkMessage> {
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    }
}

fn absent_is_fine<T>(result: io::Result<T>, absent: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() != Some(absent) => Err(error),
        _ => Ok(()),
    }
}
