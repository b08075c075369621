//! The kernel's WireGuard. Interfaces are read and peers removed through `defguard_wireguard_rs`;
//! what it cannot say exactly goes through [`super::genl`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use defguard_wireguard_rs::host::Host;
use defguard_wireguard_rs::key::Key;
use defguard_wireguard_rs::{Kernel as KernelApi, WGApi, WireguardInterfaceApi};
use rtnetlink::{LinkUnspec, LinkWireguard};
use sha2::{Digest, Sha256};
use wgnet_core::{DesiredPeer, ObservedPeer, ObservedWireguard, Step};
use wgnet_proto::{IfName, PresharedKey, PrivateKey, PublicKey};

use super::genl::{Change, PeerChange, Wireguard, is_sink, removes_addresses};
use crate::dataplane::ErrorKind;
use crate::dataplane::linux::error::{Result, failed, failing, refused};
use crate::dataplane::linux::link::{GROUP, Kind, Link, WIREGUARD_ALIAS};
use crate::dataplane::linux::netns;
use crate::dataplane::linux::space::{Network, Space};

/// Interfaces begin in the host's namespace, where their UDP socket stays, under a name like this.
const BIRTH_PREFIX: &str = "wgnet";

#[derive(Default)]
pub(crate) struct Kernel {
    /// Names of interfaces that are being made right now: not leftovers.
    births: Mutex<BTreeSet<String>>,
}

struct Birth<'a> {
    kernel: &'a Kernel,
    name: String,
}

impl Drop for Birth<'_> {
    fn drop(&mut self) {
        self.kernel.births().remove(&self.name);
    }
}

impl Kernel {
    pub(crate) async fn create(
        &self,
        host: &Space,
        network: &Network,
        name: &IfName,
        key: &PrivateKey,
        port: u16,
        mtu: u16,
    ) -> Result<()> {
        let object = network.object(name);
        network.space.owners.forget(name);
        let birth = self.birth(birth_name(network, name));
        remove_leftover(host, &birth.name).await?;
        let message = LinkWireguard::new(&birth.name).mtu(mtu.into()).link_group(GROUP).build();
        host.rtnl
            .add_link(message)
            .await
            .map_err(failing("create WireGuard interface", &object))?;
        let made = self.settle(host, network, &birth.name, name, key, port).await;
        if made.is_err() {
            // Wherever it got stuck. The error that is reported is the one that led here.
            for (space, name) in [(host, birth.name.as_str()), (&network.space, name.as_str())] {
                if let Ok(Some(link)) = space.rtnl.link(name).await
                    && link.is_our_wireguard()
                {
                    let _ = space.rtnl.delete_link(link.index).await;
                }
            }
        }
        made
    }

    /// Gives a new interface its key and port, and moves it to where it belongs.
    async fn settle(
        &self,
        host: &Space,
        network: &Network,
        born: &str,
        name: &IfName,
        key: &PrivateKey,
        port: u16,
    ) -> Result<()> {
        let object = network.object(name);
        let (device, key) = (born.to_owned(), key.clone());
        host.wireguard(move |wireguard| wireguard.set_key_and_port(&device, &key, port))
            .await
            .map_err(failing("set key and port of WireGuard interface", &object))?;
        let link =
            host.rtnl.link(born).await.and_then(|link| link.ok_or(io::ErrorKind::NotFound.into()));
        let link = link.map_err(failing("find new WireGuard interface", &object))?;
        let message = LinkUnspec::new_with_index(link.index)
            .name(name.as_str())
            .alias(WIREGUARD_ALIAS)
            .setns_by_fd(network.space.as_fd().as_raw_fd())
            .build();
        host.rtnl.set_link(message).await.map_err(failing("move WireGuard interface", &object))?;
        raise(network, name).await
    }

    pub(crate) async fn add_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        config: &DesiredPeer,
    ) -> io::Result<()> {
        let (device, wanted) = (name.clone(), config.clone());
        let add = move |genl: &mut Wireguard| genl.add_peer(device.as_str(), peer, &wanted);
        let added = network.space.wireguard(add).await;
        network.space.owners.forget(name);
        added
    }

    /// Carries out many of the steps that make peers and give them addresses.
    pub(crate) async fn change(
        &self,
        network: &Network,
        name: &IfName,
        steps: &[Step],
    ) -> io::Result<Vec<io::Result<()>>> {
        let (device, steps) = (name.clone(), steps.to_vec());
        let change = move |genl: &mut Wireguard| {
            let changes: Vec<_> = steps.iter().filter_map(change_of).collect();
            genl.change(device.as_str(), &changes)
        };
        let changed = network.space.wireguard(change).await;
        network.space.owners.forget(name);
        changed
    }

    pub(crate) async fn update_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        change: PeerChange,
    ) -> io::Result<()> {
        let name = name.clone();
        network
            .space
            .wireguard(move |wireguard| wireguard.update_peer(name.as_str(), peer, &change))
            .await
    }

    pub(crate) async fn remove_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
    ) -> io::Result<()> {
        let device = name.to_string();
        let remove =
            move || interface(&device)?.remove_peer(&Key::new(peer.0)).map_err(io::Error::other);
        let removed = netns::within(&*network.space, remove).await;
        network.space.owners.forget(name);
        removed
    }

    pub(crate) async fn add_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> io::Result<()> {
        let (device, given) = (name.clone(), addresses.clone());
        let add = move |genl: &mut Wireguard| genl.add_allowed(device.as_str(), peer, &given);
        let added = network.space.wireguard(add).await;
        match added {
            Ok(()) => network.space.owners.give(name, peer, addresses),
            Err(_) => network.space.owners.forget(name),
        }
        added
    }

    pub(crate) async fn remove_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> io::Result<()> {
        let (device, wanted) = (name.clone(), addresses.clone());
        let remove = network
            .space
            .wireguard(move |genl| genl.remove_allowed(device.as_str(), peer, &wanted));
        if remove.await? {
            return Ok(());
        }
        // On a kernel before 6.16 an address can only be moved, whoever has it: so not one that is another's by now.
        let owners = &network.space.owners;
        let owned = match owners.of(name, peer, addresses) {
            Some(owned) => owned,
            None => {
                let reading = owners.reading();
                let seen = read_peers(&network.space, name.as_str()).await?;
                owners.read(&reading, name, seen.iter().map(|(key, peer)| (*key, &peer.allowed)));
                let allowed = seen.get(&peer).map(|peer| &peer.allowed);
                allowed.map(|allowed| allowed & addresses).unwrap_or_default()
            }
        };
        let (device, taken) = (name.clone(), owned.clone());
        let sunk = network.space.wireguard(move |genl| genl.sink(device.as_str(), &taken)).await;
        match sunk {
            Ok(()) => owners.take(name, &owned),
            Err(_) => owners.forget(name),
        }
        sunk
    }

    pub(crate) async fn observe(
        &self,
        space: &Space,
        link: &Link,
    ) -> io::Result<ObservedWireguard> {
        let mut seen = ObservedWireguard {
            public_key: None,
            port: 0,
            mtu: link.mtu,
            up: link.up,
            peers: BTreeMap::new(),
        };
        if link.kind != Kind::Wireguard {
            // The other backend's, which left it behind: to be made anew.
            return Ok(seen);
        }
        let reading = space.owners.reading();
        let host = read(space, &link.name).await?;
        seen.port = host.listen_port;
        seen.public_key =
            host.private_key.as_ref().map(|key| PrivateKey::from_bytes(key.as_array()).public());
        seen.peers = peers_of(host);
        if let (false, Ok(name)) = (removes_addresses(), link.name.parse()) {
            let allowed = seen.peers.iter().map(|(key, peer)| (*key, &peer.allowed));
            space.owners.read(&reading, &name, allowed);
        }
        Ok(seen)
    }

    /// Removes interfaces that a crash left in the host's namespace.
    pub(crate) async fn sweep(&self, host: &Space) -> io::Result<()> {
        for link in host.rtnl.links().await? {
            let leftover = link.kind == Kind::Wireguard
                && link.is_ours()
                && link.name.starts_with(BIRTH_PREFIX);
            if leftover && !self.births().contains(&link.name) {
                host.rtnl.delete_link(link.index).await?;
            }
        }
        Ok(())
    }

    fn birth(&self, name: String) -> Birth<'_> {
        self.births().insert(name.clone());
        Birth { kernel: self, name }
    }

    fn births(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same for the same interface, so that a leftover is found; within 15 bytes.
fn birth_name(network: &Network, name: &IfName) -> String {
    let digest = Sha256::digest(format!("{}/{name}", network.namespace));
    let [a, b, c, d] = *digest.first_chunk().expect("a digest has 32 bytes");
    format!("{BIRTH_PREFIX}{:08x}", u32::from_be_bytes([a, b, c, d]))
}

async fn remove_leftover(host: &Space, name: &str) -> Result<()> {
    let failing = |source| failed("remove the leftover of an earlier start", name, source);
    match host.rtnl.link(name).await.map_err(failing)? {
        None => Ok(()),
        Some(link) if link.is_our_wireguard() => {
            host.rtnl.delete_link(link.index).await.map_err(failing)
        }
        Some(_) => {
            let reason =
                "a link of this name is on the host and is not wgnet's: remove or rename it";
            Err(refused("create WireGuard interface", name, ErrorKind::Other, reason))
        }
    }
}

/// Sets an interface up, which is when the kernel binds its port.
pub(crate) async fn raise(network: &Network, name: &IfName) -> Result<()> {
    let failing = |source| failed("set up WireGuard interface", network.object(name), source);
    let link = network.space.rtnl.link(name.as_str()).await.map_err(failing)?;
    let link = link.ok_or_else(|| failing(io::ErrorKind::NotFound.into()))?;
    let message = LinkUnspec::new_with_index(link.index).up().build();
    network.space.rtnl.set_link(message).await.map_err(failing)
}

fn interface(name: &str) -> io::Result<WGApi<KernelApi>> {
    WGApi::new(name).map_err(io::Error::other)
}

/// Everything the kernel knows about an interface, keys included.
pub(crate) async fn read(space: &Space, name: &str) -> io::Result<Host> {
    let name = name.to_owned();
    netns::within(space, move || interface(&name)?.read_interface_data().map_err(io::Error::other))
        .await
}

async fn read_peers(space: &Space, name: &str) -> io::Result<BTreeMap<PublicKey, ObservedPeer>> {
    read(space, name).await.map(peers_of)
}

fn peers_of(host: Host) -> BTreeMap<PublicKey, ObservedPeer> {
    let peers = host.peers.into_iter().map(|(key, peer)| (PublicKey(key.as_array()), peer));
    peers.filter(|(key, _)| !is_sink(key)).map(|(key, peer)| (key, observed(&peer))).collect()
}

fn change_of(step: &Step) -> Option<Change<'_>> {
    match step {
        Step::AddPeer { peer, config, .. } => Some(Change::AddPeer(*peer, config)),
        Step::AddAllowed { peer, addresses, .. } => Some(Change::AddAllowed(*peer, addresses)),
        _ => None,
    }
}

fn observed(peer: &defguard_wireguard_rs::peer::Peer) -> ObservedPeer {
    let seconds = peer
        .last_handshake
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map(|at| at.as_secs());
    let preshared_key =
        peer.preshared_key.as_ref().map(Key::as_array).filter(|key| *key != [0; 32]);
    ObservedPeer {
        preshared_key: preshared_key.map(PresharedKey::from_bytes),
        underlay: peer.endpoint,
        keepalive: peer.persistent_keepalive_interval.filter(|seconds| *seconds != 0),
        allowed: peer.allowed_ips.iter().map(|allowed| allowed.address).collect(),
        last_handshake: seconds.filter(|seconds| *seconds != 0),
        received_bytes: peer.rx_bytes,
        sent_bytes: peer.tx_bytes,
    }
}
