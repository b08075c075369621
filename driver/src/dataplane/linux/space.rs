//! One namespace as the data plane holds it: its descriptor and the sockets that live in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use tokio::task::AbortHandle;
use wgnet_core::Namespace;

use super::events::Watch;
use super::netlink::{Request, Requests};
use super::netns;
use super::nft::Ruleset;
use super::rtnl::Rtnl;
use super::wireguard::genl::Wireguard;
use super::wireguard::owners::Owners;
use crate::dataplane::changes::Changes;

/// The host's namespace, or one of a network. As long as it is held, the namespace lives.
pub(crate) struct Space {
    fd: OwnedFd,
    pub(crate) rtnl: Rtnl,
    pub(crate) ruleset: Ruleset,
    routes: Blocking<Requests>,
    pub(crate) owners: Owners,
    wireguard: Blocking<Wireguard>,
    watch: AbortHandle,
}

impl Drop for Space {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl AsFd for Space {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Space {
    /// Opens the sockets and begins to report what changes in the namespace.
    pub(crate) async fn open(fd: OwnedFd, watch: Watch, changes: &Changes) -> io::Result<Self> {
        let rtnl = Rtnl::open(&fd).await?;
        let open = || Ok((Requests::open(NETLINK_NETFILTER)?, Requests::open(NETLINK_ROUTE)?));
        let (netfilter, routes) = netns::within(&fd, open).await?;
        let watch = watch.start(&fd, [rtnl.port, routes.port()?], changes).await?;
        Ok(Self {
            fd,
            rtnl,
            ruleset: Ruleset::new(netfilter),
            routes: Blocking::new(routes),
            owners: Owners::default(),
            wireguard: Blocking::default(),
            watch,
        })
    }

    /// Changes many routes in this namespace; one result for each.
    pub(crate) async fn routes(&self, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
        self.routes.run(move |socket| socket.requests(&requests)).await
    }

    /// Runs requests to the kernel's WireGuard in this namespace.
    pub(crate) async fn wireguard<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Wireguard) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.wireguard.is_empty() {
            self.wireguard.fill(netns::within(self, Wireguard::open).await?);
        }
        self.wireguard.run(work).await
    }
}

/// A blocking socket, used by one caller at a time and never on a thread of the runtime.
pub(crate) struct Blocking<S> {
    socket: Arc<Mutex<Option<S>>>,
}

impl<S> Default for Blocking<S> {
    fn default() -> Self {
        Self { socket: Arc::default() }
    }
}

impl<S: Send + 'static> Blocking<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket: Arc::new(Mutex::new(Some(socket))) }
    }

    fn is_empty(&self) -> bool {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn fill(&self, socket: S) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let socket = Arc::clone(&self.socket);
        let work = move || {
            let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
            work(socket.as_mut().expect("it was filled before"))
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

/// A network's namespace by the name people and the planner use.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) namespace: Namespace,
    pub(crate) space: Arc<Space>,
}

impl Network {
    pub(crate) fn pin_path(&self) -> PathBuf {
        netns::pin_path(&self.namespace)
    }

    /// How a link of it is called in messages.
    pub(crate) fn object(&self, name: impl std::fmt::Display) -> String {
        format!("{name} in {}", self.namespace)
    }
}
