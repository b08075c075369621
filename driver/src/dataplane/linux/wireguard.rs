//! WireGuard interfaces of a network, by whichever backend this host uses.

pub(crate) mod genl;
pub(crate) mod kernel;
pub(crate) mod owners;
pub(crate) mod userspace;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use wgnet_core::{DesiredPeer, ObservedWireguard, Step};
use wgnet_proto::{IfName, PrivateKey, PublicKey};

use self::genl::PeerChange;
use self::kernel::Kernel;
use self::userspace::Userspace;
use super::error::{Result, failed, failing, refused};
use super::link::{Kind, Link};
use super::space::{Network, Space};
use crate::dataplane::ErrorKind;

pub(crate) enum Backend {
    Kernel(Kernel),
    Userspace(Userspace),
}

impl Backend {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel",
            Self::Userspace(_) => "userspace",
        }
    }

    pub(crate) async fn create(
        &self,
        host: &Space,
        network: &Network,
        name: &IfName,
        key: &PrivateKey,
        port: u16,
        mtu: u16,
    ) -> Result<()> {
        let operation = "create WireGuard interface";
        let existing = network.space.rtnl.link(name.as_str()).await;
        let existing = existing.map_err(failing(operation, network.object(name)))?;
        let is_unmarked = match &existing {
            Some(link) => self.made_unmarked(network, name, link).await?,
            None => false,
        };
        if let Some(link) = existing.filter(|_| !is_unmarked) {
            if !link.is_our_wireguard() {
                let reason = "a link of this name is there and is not wgnet's: remove or rename it";
                return Err(refused(operation, network.object(name), ErrorKind::Other, reason));
            }
            let seen = self.observe(network, &link).await?;
            if seen.public_key != Some(key.public()) || seen.port != port {
                let reason = "it exists with another key or port and must be deleted first";
                return Err(refused(operation, network.object(name), ErrorKind::Other, reason));
            }
            return kernel::raise(network, name).await;
        }
        match self {
            Self::Kernel(kernel) => kernel.create(host, network, name, key, port, mtu).await,
            Self::Userspace(engine) => engine.create(network, name, key, port, mtu).await,
        }
    }

    /// Whether a link is ours though it has no mark: a driver that was killed in between had the
    /// engine make it. (The kernel makes its own with the mark.)
    async fn made_unmarked(&self, network: &Network, name: &IfName, link: &Link) -> Result<bool> {
        match self {
            Self::Userspace(engine) if link.kind == Kind::Tun && !link.is_ours() => {
                engine.has(network, name).await
            }
            Self::Userspace(_) | Self::Kernel(_) => Ok(false),
        }
    }

    pub(crate) async fn remove(&self, network: &Network, name: &IfName) -> Result<()> {
        let operation = "delete WireGuard interface";
        let link = network.space.rtnl.link(name.as_str()).await;
        let link = link.map_err(failing(operation, network.object(name)))?;
        let is_unmarked = match &link {
            Some(link) => self.made_unmarked(network, name, link).await?,
            None => false,
        };
        if link.as_ref().is_some_and(|link| !link.is_our_wireguard() && !is_unmarked) {
            let reason = "the link of this name is not wgnet's";
            return Err(refused(operation, network.object(name), ErrorKind::Other, reason));
        }
        if let Self::Userspace(engine) = self {
            engine.delete(network, name).await?;
        }
        let Some(link) = link else { return Ok(()) };
        network
            .space
            .rtnl
            .delete_link(link.index)
            .await
            .map_err(failing(operation, network.object(name)))
    }

    pub(crate) async fn add_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        config: &DesiredPeer,
    ) -> Result<()> {
        match self {
            Self::Kernel(kernel) => {
                let added = kernel.add_peer(network, name, peer, config).await;
                added.map_err(failing("add a peer to", network.object(name)))
            }
            Self::Userspace(engine) => engine.add_peer(network, name, peer, config).await,
        }
    }

    /// Carries out many steps of one interface, each of which makes a peer or gives it addresses; one
    /// result for each.
    pub(crate) async fn change_peers(
        &self,
        network: &Network,
        name: &IfName,
        steps: &[Step],
    ) -> Result<Vec<Result<()>>> {
        let operation = "change peers of";
        match self {
            Self::Kernel(kernel) => {
                let results = kernel.change(network, name, steps).await;
                let results = results.map_err(failing(operation, network.object(name)))?;
                let told = |r: io::Result<()>| r.map_err(failing(operation, network.object(name)));
                Ok(results.into_iter().map(told).collect())
            }
            Self::Userspace(engine) => engine.change_peers(network, name, steps).await,
        }
    }

    pub(crate) async fn update_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        change: PeerChange,
    ) -> Result<()> {
        match self {
            Self::Kernel(kernel) => {
                let updated = kernel.update_peer(network, name, peer, change).await;
                updated.map_err(failing("change a peer of", network.object(name)))
            }
            Self::Userspace(engine) => engine.update_peer(network, name, peer, &change).await,
        }
    }

    pub(crate) async fn remove_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
    ) -> Result<()> {
        if !is_there(network, name).await? {
            return Ok(());
        }
        match self {
            Self::Kernel(kernel) => {
                let removed = kernel.remove_peer(network, name, peer).await;
                removed.map_err(failing("remove a peer of", network.object(name)))
            }
            Self::Userspace(engine) => engine.remove_peer(network, name, peer).await,
        }
    }

    pub(crate) async fn add_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        match self {
            Self::Kernel(kernel) => {
                let added = kernel.add_allowed(network, name, peer, addresses).await;
                added.map_err(failing("add addresses to a peer of", network.object(name)))
            }
            Self::Userspace(engine) => engine.add_allowed(network, name, peer, addresses).await,
        }
    }

    pub(crate) async fn remove_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        if !is_there(network, name).await? {
            return Ok(());
        }
        match self {
            Self::Kernel(kernel) => {
                let removed = kernel.remove_allowed(network, name, peer, addresses).await;
                removed.map_err(failing("remove addresses from a peer of", network.object(name)))
            }
            Self::Userspace(engine) => engine.remove_allowed(network, name, peer, addresses).await,
        }
    }

    pub(crate) async fn observe(
        &self,
        network: &Network,
        link: &Link,
    ) -> Result<ObservedWireguard> {
        match self {
            Self::Kernel(kernel) => {
                let seen = kernel.observe(&network.space, link).await;
                seen.map_err(failing("read WireGuard interface", network.object(&link.name)))
            }
            Self::Userspace(engine) => engine.observe(network, link).await,
        }
    }

    /// Removes what crashes left behind; `held` are the pins of the namespaces that live.
    pub(crate) async fn sweep(&self, host: &Space, held: &BTreeSet<PathBuf>) -> Result<()> {
        match self {
            Self::Kernel(kernel) => {
                let swept = kernel.sweep(host).await;
                swept.map_err(failing("remove leftover WireGuard interfaces of", "the host"))
            }
            Self::Userspace(engine) => engine.sweep(held).await,
        }
    }
}

/// What is to be removed from an interface that is gone is gone.
async fn is_there(network: &Network, name: &IfName) -> Result<bool> {
    let link = network.space.rtnl.link(name.as_str()).await;
    let link: Option<Link> =
        link.map_err(|source: io::Error| failed("find", network.object(name), source))?;
    Ok(link.is_some())
}
