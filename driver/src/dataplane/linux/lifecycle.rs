//! Namespaces as the data plane holds them: opened, made, pinned, deleted.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rtnetlink::LinkUnspec;
use wgnet_core::Namespace;

use super::error::{Result, failing, refused};
use super::events::Watch;
use super::link::NAMESPACE_ALIAS;
use super::rtnl::Rtnl;
use super::space::{Network, Space};
use super::{Linux, netns, nft, prepare};
use crate::dataplane::ErrorKind;

impl Linux {
    /// The namespace, if it is held or pinned.
    pub(super) async fn network(&self, namespace: &Namespace) -> Result<Option<Network>> {
        let held = self.shared.spaces().get(namespace).cloned();
        let space = match held {
            Some(space) => space,
            None => {
                let pin = netns::open(&netns::pin_path(namespace))
                    .map_err(failing("open namespace", namespace))?;
                let Some(fd) = pin else { return Ok(None) };
                self.hold(namespace, fd).await?
            }
        };
        Ok(Some(Network { namespace: namespace.clone(), space }))
    }

    pub(super) async fn existing(
        &self,
        namespace: &Namespace,
        step: &'static str,
    ) -> Result<Network> {
        let missing = || refused(step, namespace, ErrorKind::Other, "the namespace is not there");
        self.network(namespace).await?.ok_or_else(missing)
    }

    pub(super) async fn hold(
        &self,
        namespace: &Namespace,
        fd: std::os::fd::OwnedFd,
    ) -> Result<Arc<Space>> {
        let opened = Space::open(fd, Watch::Network(namespace.clone()), &self.shared.changes).await;
        let space = Arc::new(opened.map_err(failing("open netlink sockets in", namespace))?);
        Ok(Arc::clone(self.shared.spaces().entry(namespace.clone()).or_insert(space)))
    }

    pub(super) async fn create_namespace(&self, namespace: &Namespace) -> Result<()> {
        const OPERATION: &str = "create namespace";
        let network = match self.network(namespace).await? {
            Some(network) => network,
            None => {
                let fd = netns::create().await.map_err(failing(OPERATION, namespace))?;
                mark(&fd).await.map_err(failing(OPERATION, namespace))?;
                // The pin comes first: what is not pinned must hold nothing.
                netns::pin(&fd, &netns::pin_path(namespace))
                    .await
                    .map_err(failing(OPERATION, namespace))?;
                let space = self.hold(namespace, fd).await?;
                Network { namespace: namespace.clone(), space }
            }
        };
        netns::pin(&*network.space, &network.pin_path())
            .await
            .map_err(failing("pin namespace", namespace))
    }

    /// Goes on after a failure; the first one is reported.
    pub(super) async fn delete_namespace(&self, namespace: &Namespace) -> Result<()> {
        let mut result = Ok(());
        let mut note = |done: Result<()>| {
            if result.is_ok() {
                result = done;
            }
        };
        if let Some(network) = self.network(namespace).await? {
            // The kernel tears a namespace down later, and with it what containers hold of it.
            match network.space.rtnl.links().await.map_err(failing("list the links of", namespace))
            {
                Ok(links) => {
                    for link in links.iter().filter(|link| link.is_ours()) {
                        match link.name.parse() {
                            Ok(name) if link.is_our_wireguard() => {
                                note(self.shared.backend.remove(&network, &name).await);
                            }
                            _ => {
                                let deleted = network.space.rtnl.delete_link(link.index).await;
                                note(
                                    deleted.map_err(failing(
                                        "delete link",
                                        network.object(&link.name),
                                    )),
                                );
                            }
                        }
                    }
                }
                Err(error) => note(Err(error)),
            }
        }
        note(self.remove_guard(namespace).await);
        let unpinned = netns::unpin(&netns::pin_path(namespace));
        note(unpinned.map_err(failing("remove the pin of namespace", namespace)));
        self.shared.spaces().remove(namespace);
        result
    }

    pub(super) async fn remove_guard(&self, namespace: &Namespace) -> Result<()> {
        let removed = nft::remove_guard(&self.shared.host, namespace).await;
        removed
            .map_err(|source| prepare::nft_failed("remove the host's guard of", namespace, source))
    }
}

/// So that it is known as ours when nothing else says so.
async fn mark(namespace: &impl AsFd) -> io::Result<()> {
    let rtnl = Rtnl::open(namespace).await?;
    let loopback = rtnl.link("lo").await?.ok_or(io::ErrorKind::NotFound)?;
    let message = LinkUnspec::new_with_index(loopback.index).alias(NAMESPACE_ALIAS.to_owned());
    rtnl.set_link(message.build()).await
}
