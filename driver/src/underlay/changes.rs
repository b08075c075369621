//! What the kernel tells of the host's addresses and routes.

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt as _, StreamExt as _};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::AbortHandle;
use tracing::warn;

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// A subscription in the host's namespace; ends when dropped.
pub(super) struct Changes {
    /// `None` where the kernel refused, or no longer tells: whoever waits looks from time to time.
    messages: Option<Messages>,
    connection: Option<AbortHandle>,
}

impl Changes {
    pub(super) fn listen() -> Self {
        match new_multicast_connection(&GROUPS) {
            Ok((connection, _, messages)) => {
                let connection = tokio::spawn(connection).abort_handle();
                Self { messages: Some(messages), connection: Some(connection) }
            }
            Err(error) => {
                warn!(%error, "The kernel tells nothing of addresses; looking from time to time");
                Self { messages: None, connection: None }
            }
        }
    }

    /// Waits until something has changed.
    pub(super) async fn next(&mut self) {
        let Some(messages) = &mut self.messages else {
            return std::future::pending().await;
        };
        if messages.next().await.is_none() {
            self.messages = None;
        }
    }

    /// Forgets what was told until now.
    pub(super) fn drain(&mut self) {
        let Some(messages) = &mut self.messages else { return };
        while let Some(Some(_)) = messages.next().now_or_never() {}
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}
