//! WireGuard by `wgnet-engine`: the driver's steps as calls of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::LinkUnspec;
use wgnet_core::{DesiredPeer, ObservedPeer, ObservedWireguard, Step};
use wgnet_engine::{
    Client, ClientError, Code, DeviceId, NewDevice, Operation, PeerState, PeerUpdate,
    PresharedKey as EngineKey, SecretKey, Spawn, spawn_detached,
};
use wgnet_proto::{IfName, PresharedKey, PrivateKey, PublicKey};

use super::genl::PeerChange;
use crate::clock;
use crate::dataplane::linux::error::{Result, failing, refused};
use crate::dataplane::linux::link::{GROUP, Kind, Link, WIREGUARD_ALIAS};
use crate::dataplane::linux::netns;
use crate::dataplane::linux::space::Network;
use crate::dataplane::{DataplaneError, ErrorKind};

pub(crate) struct Userspace {
    engine: Spawn,
    client: Client,
    /// The engine says only whether a peer has a pre-shared key, not which: what it was told.
    told: Mutex<BTreeMap<(DeviceId, PublicKey), PresharedKey>>,
}

impl Userspace {
    pub(crate) fn new(engine: Spawn) -> Self {
        let client = Client::new(&engine.socket);
        Self { engine, client, told: Mutex::default() }
    }

    /// Finds the engine that runs, or starts one.
    pub(crate) async fn ensure_engine(&self) -> Result<()> {
        match spawn_detached(&self.engine).await {
            Ok(_) => Ok(()),
            Err(source) => Err(DataplaneError {
                operation: "start the userspace WireGuard engine",
                object: self.engine.engine.display().to_string(),
                kind: ErrorKind::Other,
                source: source.into(),
            }),
        }
    }

    pub(crate) async fn create(
        &self,
        network: &Network,
        name: &IfName,
        key: &PrivateKey,
        port: u16,
        mtu: u16,
    ) -> Result<()> {
        self.ensure_engine().await?;
        let object = network.object(name);
        let id = device_id(network, name);
        let new =
            NewDevice { id: id.clone(), private_key: SecretKey::from(*key.expose()), port, mtu };
        let mut created = self.client.create_device(&new).await;
        if created.as_ref().is_err_and(|error| error.code() == Some(Code::AlreadyDifferent)) {
            self.delete(network, name).await?;
            created = self.client.create_device(&new).await;
        }
        let made =
            created.map_err(|error| answered("create WireGuard interface", &object, error))?;
        if made {
            self.told().retain(|(device, _), _| *device != id);
        }
        let link = network.space.rtnl.link(name.as_str()).await;
        let link = link.map_err(failing("find new WireGuard interface", &object))?;
        let Some(link) = link else {
            let reason = "the engine made it, yet it is not there: somebody deleted it";
            return Err(refused("find new WireGuard interface", object, ErrorKind::Other, reason));
        };
        let message = LinkUnspec::new_with_index(link.index)
            .alias(WIREGUARD_ALIAS)
            .link_group(GROUP)
            .up()
            .build();
        network
            .space
            .rtnl
            .set_link(message)
            .await
            .map_err(failing("set up WireGuard interface", object))
    }

    /// Whether the engine has this device.
    pub(crate) async fn has(&self, network: &Network, name: &IfName) -> Result<bool> {
        match self.client.get_device(&device_id(network, name)).await {
            Ok(device) => Ok(device.is_some()),
            Err(ClientError::Connect { .. }) => Ok(false),
            Err(error) => Err(answered("read WireGuard interface", network.object(name), error)),
        }
    }

    /// What is not the engine's, or is gone with its engine, is success.
    pub(crate) async fn delete(&self, network: &Network, name: &IfName) -> Result<()> {
        let id = device_id(network, name);
        self.told().retain(|(device, _), _| *device != id);
        match self.client.delete_device(&id).await {
            Ok(_) | Err(ClientError::Connect { .. }) => Ok(()),
            Err(error) => Err(answered("delete WireGuard interface", network.object(name), error)),
        }
    }

    pub(crate) async fn add_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        config: &DesiredPeer,
    ) -> Result<()> {
        self.configure("add a peer to", network, name, &additions(peer, config)).await?;
        self.remember(network, name, peer, &whole(config));
        Ok(())
    }

    /// Carries out many steps of one device in one call; one result for each.
    pub(crate) async fn change_peers(
        &self,
        network: &Network,
        name: &IfName,
        steps: &[Step],
    ) -> Result<Vec<Result<()>>> {
        let operation = "change peers of";
        let object = network.object(name);
        let (mut operations, mut of) = (Vec::new(), Vec::new());
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::AddPeer { peer, config, .. } => operations.extend(additions(*peer, config)),
                Step::AddAllowed { peer, addresses, .. } => {
                    operations.push(Operation::AddAllowedIps(peer.0, nets(addresses)));
                }
                _ => {}
            }
            of.resize(operations.len(), index);
        }
        let configured = self.client.configure(&device_id(network, name), &operations).await;
        let failures = configured.map_err(|error| answered(operation, &object, error))?;
        let mut results: Vec<Result<()>> = steps.iter().map(|_| Ok(())).collect();
        for failure in failures {
            let is_missing = failure.code == Code::NotFound;
            let result = of.get(failure.index).and_then(|step| results.get_mut(*step));
            if let Some(result) = result.filter(|result| result.is_ok() && !is_missing) {
                *result = Err(refused(operation, &object, kind_of(failure.code), failure.text));
            }
        }
        for (step, _) in steps.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
            if let Step::AddPeer { peer, config, .. } = step {
                self.remember(network, name, *peer, &whole(config));
            }
        }
        Ok(results)
    }

    /// A peer that is gone stays gone.
    pub(crate) async fn update_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        change: &PeerChange,
    ) -> Result<()> {
        // The engine would make the peer; nothing can be added to one that is not there.
        let is_there = [Operation::AddAllowedIps(peer.0, Vec::new())];
        if !self.configure("change a peer of", network, name, &is_there).await? {
            return Ok(());
        }
        let operations = [Operation::AddOrUpdatePeer(update(peer, change))];
        self.configure("change a peer of", network, name, &operations).await?;
        self.remember(network, name, peer, change);
        Ok(())
    }

    pub(crate) async fn remove_peer(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
    ) -> Result<()> {
        self.configure("remove a peer of", network, name, &[Operation::RemovePeer(peer.0)]).await?;
        self.told().remove(&(device_id(network, name), peer));
        Ok(())
    }

    pub(crate) async fn add_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        let operations = [Operation::AddAllowedIps(peer.0, nets(addresses))];
        self.configure("add addresses to a peer of", network, name, &operations).await.map(drop)
    }

    pub(crate) async fn remove_allowed(
        &self,
        network: &Network,
        name: &IfName,
        peer: PublicKey,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        let operations = [Operation::RemoveAllowedIps(peer.0, nets(addresses))];
        self.configure("remove addresses from a peer of", network, name, &operations)
            .await
            .map(drop)
    }

    /// `false` if the peer is not there.
    async fn configure(
        &self,
        operation: &'static str,
        network: &Network,
        name: &IfName,
        operations: &[Operation],
    ) -> Result<bool> {
        let object = network.object(name);
        let configured = self.client.configure(&device_id(network, name), operations).await;
        let failures = configured.map_err(|error| answered(operation, &object, error))?;
        match failures.iter().find(|failure| failure.code != Code::NotFound) {
            Some(failure) => {
                Err(refused(operation, object, kind_of(failure.code), failure.text.clone()))
            }
            None => Ok(failures.is_empty()),
        }
    }

    pub(crate) async fn observe(
        &self,
        network: &Network,
        link: &Link,
    ) -> Result<ObservedWireguard> {
        let mut seen = ObservedWireguard {
            public_key: None,
            port: 0,
            mtu: link.mtu,
            up: link.up,
            peers: BTreeMap::new(),
        };
        let name: IfName = link.name.parse().map_err(|error| {
            refused(
                "read WireGuard interface",
                network.object(&link.name),
                ErrorKind::Other,
                format!("{error}"),
            )
        })?;
        if link.kind != Kind::Tun {
            // The other backend's, which left it behind: to be made anew.
            return Ok(seen);
        }
        let id = device_id(network, &name);
        let state = self.client.get_device(&id).await;
        let state = state
            .map_err(|error| answered("read WireGuard interface", network.object(&name), error))?;
        // The link is there, so the device carries traffic, even if the engine misses the namespace's pin.
        let Some(state) = state else { return Ok(seen) };
        seen.public_key = Some(PublicKey(state.public_key));
        seen.port = state.port;
        let (told, now) = (self.told(), clock::steady());
        for peer in &state.peers {
            let key = PublicKey(peer.public_key);
            seen.peers.insert(key, observed(peer, told.get(&(id.clone(), key)), now));
        }
        Ok(seen)
    }

    /// Ends devices whose namespace is no more: neither held nor pinned.
    pub(crate) async fn sweep(&self, held: &BTreeSet<PathBuf>) -> Result<()> {
        let failed =
            |error| answered("list the devices of", "the userspace WireGuard engine", error);
        let devices = match self.client.list_devices().await {
            Err(ClientError::Connect { .. }) => return Ok(()),
            other => other.map_err(failed)?,
        };
        for id in devices {
            if !held.contains(&id.namespace)
                && netns::open(&id.namespace).is_ok_and(|pin| pin.is_none())
            {
                let deleted = self.client.delete_device(&id).await;
                deleted.map_err(|error| answered("delete the leftover", &id, error))?;
            }
        }
        Ok(())
    }

    fn remember(&self, network: &Network, name: &IfName, peer: PublicKey, change: &PeerChange) {
        let at = (device_id(network, name), peer);
        match &change.preshared_key {
            Some(Some(key)) => drop(self.told().insert(at, key.clone())),
            Some(None) => drop(self.told().remove(&at)),
            None => {}
        }
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<(DeviceId, PublicKey), PresharedKey>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn device_id(network: &Network, name: &IfName) -> DeviceId {
    DeviceId::new(network.pin_path(), name.as_str())
}

fn nets(addresses: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    addresses.iter().copied().map(IpNet::from).collect()
}

/// What makes a peer, or makes it exactly this.
fn additions(peer: PublicKey, config: &DesiredPeer) -> [Operation; 2] {
    [
        Operation::AddOrUpdatePeer(update(peer, &whole(config))),
        Operation::ReplaceAllowedIps(peer.0, nets(&config.allowed)),
    ]
}

fn whole(config: &DesiredPeer) -> PeerChange {
    PeerChange {
        preshared_key: Some(config.preshared_key.clone()),
        underlay: config.underlay,
        keepalive: Some(config.keepalive.unwrap_or(0)),
    }
}

fn update(peer: PublicKey, change: &PeerChange) -> PeerUpdate {
    let preshared_key = change.preshared_key.as_ref().map(|key| match key {
        Some(key) => EngineKey::Use(SecretKey::from(*key.expose())),
        None => EngineKey::None,
    });
    PeerUpdate {
        public_key: peer.0,
        preshared_key,
        underlay_address: change.underlay,
        keepalive: change.keepalive,
    }
}

/// `now` is of the steady clock: the time of a handshake stays what it is when the host's is set.
fn observed(peer: &PeerState, told: Option<&PresharedKey>, now: Duration) -> ObservedPeer {
    // One given by an earlier driver is unknown, and so differs from any that is wanted: it is told again.
    let unknown = || PresharedKey::from_bytes([0; 32]);
    ObservedPeer {
        preshared_key: peer.has_preshared_key.then(|| told.cloned().unwrap_or_else(unknown)),
        underlay: peer.underlay_address,
        keepalive: peer.keepalive,
        allowed: peer.allowed_ips.iter().map(IpNet::addr).collect(),
        last_handshake: peer.last_handshake.map(|age| now.saturating_sub(age).as_secs()),
        received_bytes: peer.rx_bytes,
        sent_bytes: peer.tx_bytes,
    }
}

fn kind_of(code: Code) -> ErrorKind {
    if code == Code::PortTaken { ErrorKind::PortTaken } else { ErrorKind::Other }
}

fn answered(
    operation: &'static str,
    object: impl std::fmt::Display,
    error: ClientError,
) -> DataplaneError {
    let kind = error.code().map_or(ErrorKind::Other, kind_of);
    DataplaneError { operation, object: object.to_string(), kind, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_handshake_stays_as_its_age_grows() {
        let at = |age: u64, now| {
            let peer = PeerState {
                public_key: [1; 32],
                has_preshared_key: false,
                underlay_address: None,
                keepalive: None,
                allowed_ips: Vec::new(),
                last_handshake: Some(Duration::from_secs(age)),
                rx_bytes: 0,
                tx_bytes: 0,
            };
            observed(&peer, None, Duration::from_secs(now)).last_handshake
        };
        assert_eq!((at(10, 1000), at(70, 1060)), (Some(990), Some(990)));
        assert_eq!(at(70, 60), Some(0), "a clock that began late makes no handshake undone");
    }
}
