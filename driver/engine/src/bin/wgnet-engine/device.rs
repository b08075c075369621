//! One WireGuard device: a link in a namespace, a UDP socket outside, peers between.
//!
//! Key and port never change: rebinding a running device loses its traffic now and then. Whoever
//! wants another key makes another device.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use gotatun::device::configure::DeviceWrite;
use gotatun::device::{self, Peer as NewPeer};
use gotatun::noise::TimerParams;
use gotatun::x25519::{PublicKey, StaticSecret};
use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use wgnet_engine::wire::{Malformed, proto::Code};
use wgnet_engine::{
    DeviceId, DeviceState, NewDevice, Operation, OperationFailure, PeerState, PeerUpdate,
    PresharedKey,
};
use zeroize::Zeroize;

use crate::link::{Link, LinkError, Reader, Writer};
use crate::peers::{Key, Peers, UnknownPeer};
use crate::udp::{Bound, Handshakes};

type Transports = (Bound, Writer, Reader);
type WireGuard = device::Device<Transports>;

/// For the tasks of a deleted device to let go of its socket and link.
const RELEASE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("UDP port {port} is taken on this host; choose another")]
    PortTaken { port: u16 },
    #[error("cannot listen on UDP port {port}")]
    Bind {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("a device {id} runs with another {what}; delete it first")]
    AlreadyDifferent { id: DeviceId, what: &'static str },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("cannot start device {id}")]
    Start {
        id: DeviceId,
        #[source]
        source: device::Error,
    },
    #[error("cannot configure device {id}")]
    Configure {
        id: DeviceId,
        #[source]
        source: device::Error,
    },
    #[error("device {id} did not let go of its link and port within {RELEASE:?}")]
    Stuck { id: DeviceId },
}

impl DeviceError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::PortTaken { .. } => Code::PortTaken,
            Self::AlreadyDifferent { .. } => Code::AlreadyDifferent,
            Self::Link(LinkError::Namespace { .. }) => Code::Namespace,
            Self::Link(LinkError::Make { .. } | LinkError::Deadline { .. }) => Code::Link,
            Self::Bind { .. }
            | Self::Start { .. }
            | Self::Configure { .. }
            | Self::Stuck { .. } => Code::Internal,
        }
    }
}

pub(crate) struct Device {
    id: DeviceId,
    public_key: PublicKey,
    port: u16,
    link: Link,
    handshakes: Handshakes,
    wireguard: Arc<WireGuard>,
    peers: Peers,
    greetings: mpsc::UnboundedSender<Greeting>,
    tasks: JoinSet<()>,
    /// Ends when the last part that keeps socket or link open is gone.
    released: mpsc::Receiver<Infallible>,
}

impl Device {
    pub(crate) async fn create(new: NewDevice) -> Result<Self, DeviceError> {
        let NewDevice { id, private_key, port, mtu } = new;
        let (hold, released) = mpsc::channel(1);
        // The socket first: a port that is taken is found out before a link comes and goes.
        let bound = Bound::new(port, hold.clone()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => DeviceError::PortTaken { port },
            _ => DeviceError::Bind { port, source },
        })?;
        let handshakes = bound.handshakes();
        let mut tasks = JoinSet::new();
        let (link, writer, reader) = Link::make(&id, mtu, &hold, &mut tasks).await?;

        let private_key = StaticSecret::from(*private_key.expose());
        let public_key = PublicKey::from(&private_key);
        let start = |source| DeviceError::Start { id: id.clone(), source };
        let wireguard = device::build()
            .with_udp(bound)
            .with_ip_pair(writer, reader)
            .with_private_key(private_key)
            .with_listen_port(port)
            .build()
            .await
            .map_err(start)?;
        // A device built without peers stays idle, even when it gets some; this starts it.
        wireguard.clear_peers().await.map_err(start)?;

        let wireguard = Arc::new(wireguard);
        let (greetings, orders) = mpsc::unbounded_channel();
        tasks.spawn(greet(Arc::clone(&wireguard), orders));
        Ok(Self {
            id,
            public_key,
            port,
            link,
            handshakes,
            wireguard,
            peers: Peers::default(),
            greetings,
            tasks,
            released,
        })
    }

    /// Whether this is what is asked for.
    pub(crate) fn is_as(&self, new: &NewDevice) -> Result<(), DeviceError> {
        let other = |what| Err(DeviceError::AlreadyDifferent { id: self.id.clone(), what });
        let private_key = StaticSecret::from(*new.private_key.expose());
        if PublicKey::from(&private_key) != self.public_key {
            return other("key");
        }
        if new.port != self.port {
            return other("port");
        }
        Ok(())
    }

    pub(crate) async fn why_dead(&self) -> Option<String> {
        self.link.why_dead().await
    }

    pub(crate) async fn state(&self) -> DeviceState {
        let mut peers: Vec<PeerState> = Vec::new();
        let asked = Instant::now();
        for mut seen in self.wireguard.peers().await {
            seen.peer.preshared_key.zeroize();
            let public_key = seen.peer.public_key.to_bytes();
            let Some(known) = self.peers.get(&public_key) else {
                continue;
            };
            let address = seen.peer.endpoint;
            let last_handshake = seen.stats.last_handshake.and_then(|age| match address {
                Some(address) => self.handshakes.confirmed_age(address, age, asked),
                None => Some(age),
            });
            peers.push(PeerState {
                public_key,
                has_preshared_key: known.has_preshared_key,
                underlay_address: address,
                keepalive: seen.peer.keepalive,
                allowed_ips: known.allowed_ips().collect(),
                last_handshake,
                rx_bytes: seen.stats.rx_bytes as u64,
                tx_bytes: seen.stats.tx_bytes as u64,
            });
        }
        peers.sort_unstable_by_key(|peer| peer.public_key);
        DeviceState {
            public_key: self.public_key.to_bytes(),
            port: self.port,
            mtu: self.link.mtu(),
            dead: self.why_dead().await,
            peers,
        }
    }

    /// Applies operations in order under one lock: no packet sees half of them.
    pub(crate) async fn configure(
        &mut self,
        operations: Vec<Result<Operation, Malformed>>,
    ) -> Result<Vec<OperationFailure>, DeviceError> {
        let peers = &mut self.peers;
        let configured = self.wireguard.write(async |wireguard| {
            let mut failures = Vec::new();
            let mut change = Change::new(wireguard, peers);
            for (index, operation) in operations.into_iter().enumerate() {
                let (code, text) = match operation {
                    Ok(operation) => match change.apply(operation).await {
                        Ok(()) => continue,
                        Err(unknown) => (Code::NotFound, unknown.to_string()),
                    },
                    Err(malformed) => (Code::BadRequest, malformed.to_string()),
                };
                failures.push(OperationFailure { index, code, text });
            }
            (failures, change.finish().await)
        });
        let (failures, greetings) = configured
            .await
            .map_err(|source| DeviceError::Configure { id: self.id.clone(), source })?;
        for greeting in greetings {
            // The task that greets ends with the device.
            self.greetings.send(greeting).ok();
        }
        Ok(failures)
    }

    /// Ends the device; its link and port are free afterwards.
    pub(crate) async fn delete(self) -> Result<(), DeviceError> {
        let Self { id, link, wireguard, mut tasks, mut released, .. } = self;
        tasks.shutdown().await;
        if let Some(wireguard) = Arc::into_inner(wireguard) {
            wireguard.stop().await;
        }
        drop(link);
        // The parts inside the device are dropped by the runtime some time after it was stopped.
        match timeout(RELEASE, released.recv()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(DeviceError::Stuck { id }),
        }
    }
}

/// A configuration half applied.
///
/// Any change of a peer costs a pass over all addresses of the device, so there is one per peer,
/// at the end, and none for a new peer, which is given its addresses when it is added.
struct Change<'a, 'd> {
    wireguard: &'a mut DeviceWrite<'d, Transports>,
    peers: &'a mut Peers,
    new: BTreeMap<Key, NewPeer>,
    /// Whose addresses are to be written.
    changed: BTreeSet<Key>,
    greetings: Vec<Greeting>,
}

impl<'a, 'd> Change<'a, 'd> {
    fn new(wireguard: &'a mut DeviceWrite<'d, Transports>, peers: &'a mut Peers) -> Self {
        Self {
            wireguard,
            peers,
            new: BTreeMap::new(),
            changed: BTreeSet::new(),
            greetings: Vec::new(),
        }
    }

    async fn apply(&mut self, operation: Operation) -> Result<(), UnknownPeer> {
        match operation {
            Operation::AddOrUpdatePeer(update) => self.add_or_update(update).await,
            Operation::RemovePeer(key) => {
                if self.peers.remove(&key) {
                    self.new.remove(&key);
                    self.changed.remove(&key);
                    self.greetings.push(Greeting::Stop(key));
                    self.wireguard.remove_peer(&key.into()).await;
                }
            }
            Operation::AddAllowedIps(key, nets) => {
                self.changed.extend(self.peers.give(key, nets)?);
            }
            Operation::RemoveAllowedIps(key, nets) => {
                if self.peers.take(key, nets)? {
                    self.changed.insert(key);
                }
            }
            Operation::ReplaceAllowedIps(key, nets) => {
                self.changed.extend(self.peers.replace(key, nets)?);
            }
        }
        Ok(())
    }

    async fn add_or_update(&mut self, update: PeerUpdate) {
        let key = update.public_key;
        if self.peers.get(&key).is_none() {
            let new = NewPeer::new(key.into()).dangerously_with_timer_params(timers());
            self.new.insert(key, new);
        }
        let known = self.peers.get_or_add(key);
        if let Some(preshared_key) = &update.preshared_key {
            known.has_preshared_key = matches!(preshared_key, PresharedKey::Use(_));
        }
        if let Some(seconds) = update.keepalive {
            known.has_keepalive = seconds > 0;
        }
        if !known.has_keepalive {
            self.greetings.push(Greeting::Stop(key));
        } else if update.underlay_address.is_some() || update.keepalive.is_some() {
            self.greetings.push(Greeting::Keep(key));
        }

        let address = update.underlay_address;
        let keepalive = update.keepalive.map(|s| Some(s).filter(|s| *s > 0));
        let preshared_key = update.preshared_key.as_ref().map(|key| match key {
            PresharedKey::Use(key) => Some(*key.expose()),
            PresharedKey::None => None,
        });
        if let Some(new) = self.new.get_mut(&key) {
            new.endpoint = address.or(new.endpoint);
            new.keepalive = keepalive.unwrap_or(new.keepalive);
            new.preshared_key = preshared_key.unwrap_or(new.preshared_key);
            return;
        }
        self.wireguard
            .modify_peer(&key.into(), |peer| {
                if address.is_some() {
                    peer.set_endpoint(address);
                }
                if let Some(keepalive) = keepalive {
                    peer.set_keepalive(keepalive);
                }
                if let Some(preshared_key) = preshared_key {
                    peer.set_preshared_key(preshared_key);
                }
            })
            .await;
    }

    /// Writes addresses; returns who is to be greeted.
    async fn finish(mut self) -> Vec<Greeting> {
        for (key, new) in self.new {
            self.wireguard.add_peer(new.with_allowed_ips(networks(self.peers, key)));
            self.changed.remove(&key);
        }
        for key in self.changed {
            // One address can neither be added nor removed, only the whole list written.
            self.wireguard
                .modify_peer(&key.into(), |peer| {
                    peer.clear_allowed_ips();
                    peer.add_allowed_ips(networks(self.peers, key));
                })
                .await;
        }
        self.greetings
    }
}

/// Age at which a session in use is renewed. WireGuard's 120 s would leave none after a minute's
/// outage that begins just then: it ends at 180 s, and the next try of a handshake may be 5 s away.
const RENEW_AFTER: Duration = Duration::from_secs(110);

/// WireGuard's own but for that one, which the other side does not depend on.
fn timers() -> TimerParams {
    TimerParams { rekey_after_time: RENEW_AFTER..=RENEW_AFTER, ..TimerParams::default() }
}

/// What a peer owns, as WireGuard takes it.
fn networks(peers: &Peers, key: Key) -> impl Iterator<Item = IpNetwork> {
    let peer = peers.get(&key).expect("removed peers are not written");
    peer.allowed_ips().map(|net| {
        IpNetwork::new(net.addr(), net.prefix_len()).expect("an IpNet's prefix fits its address")
    })
}

/// What the task that starts handshakes is told.
enum Greeting {
    /// This peer is to have a session, now and from now on.
    Keep(Key),
    Stop(Key),
}

/// WireGuard's timers give up on a silent peer after 90 seconds until there is data for it. One
/// with a keepalive is meant to be reachable from the other side too, so it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// To send a handshake, not to see it answered.
const SEND: Duration = Duration::from_millis(50);

/// Starts handshakes with peers that have a keepalive: at once when they are made or found under
/// another address, and whenever they lost their session.
async fn greet(wireguard: Arc<WireGuard>, mut orders: mpsc::UnboundedReceiver<Greeting>) {
    let mut kept: BTreeSet<Key> = BTreeSet::new();
    let mut retry = interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut received = Vec::new();
    loop {
        let mut due: BTreeSet<Key> = BTreeSet::new();
        // Both arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            count = orders.recv_many(&mut received, 1024) => {
                if count == 0 {
                    return;
                }
                for greeting in received.drain(..) {
                    match greeting {
                        Greeting::Keep(key) => {
                            kept.insert(key);
                            due.insert(key);
                        }
                        Greeting::Stop(key) => {
                            kept.remove(&key);
                            due.remove(&key);
                        }
                    }
                }
            }
            _ = retry.tick() => due.clone_from(&kept),
        }
        let handshakes = due.iter().map(|key| {
            let wireguard = &wireguard;
            // Sends nothing where a session or a handshake is under way.
            async move { timeout(SEND, wireguard.force_handshake(&(*key).into())).await }
        });
        join_all(handshakes).await;
    }
}
