//! The data plane of Linux: namespaces, WireGuard, veth pairs, routes and nftables.

mod container;
mod engines;
mod error;
mod events;
mod lifecycle;
mod link;
mod netlink;
pub mod netns;
mod nft;
mod observe;
mod peers;
mod prepare;
pub mod probe;
mod route;
mod rtnl;
mod space;
mod strays;
mod veth;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use wgnet_core::orphan::{Engines, Sandbox};
use wgnet_core::{Namespace, Observed, Seen, Step};
use wgnet_engine::{Client, Spawn};

use self::error::{Result, failing};
use self::events::Watch;
use self::space::{Network, Space};
use self::wireguard::Backend;
use self::wireguard::genl::PeerChange;
use self::wireguard::kernel::{self, Kernel};
use self::wireguard::userspace::Userspace;
use super::changes::{Changed, Changes};
use super::{Claimed, Dataplane, DataplaneError, ErrorKind, Joined, Swept};

/// Whose WireGuard a host uses.
#[derive(Debug, Clone)]
pub enum Choice {
    Kernel,
    /// `wgnet-engine`, found running or started like this.
    Userspace(Spawn),
}

/// The kernel of this host, from the namespace the process was started in.
#[derive(Clone)]
pub struct Linux {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    host: Space,
    spaces: Mutex<BTreeMap<Namespace, Arc<Space>>>,
    changes: Changes,
    /// Whose peers we changed since somebody looked at them.
    touched: Mutex<BTreeSet<Namespace>>,
    pins: AbortHandle,
    peers: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pins.abort();
        self.peers.abort();
    }
}

impl Shared {
    fn spaces(&self) -> MutexGuard<'_, BTreeMap<Namespace, Arc<Space>>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touched(&self) -> MutexGuard<'_, BTreeSet<Namespace>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Linux {
    /// Opens what the kernel has; changes nothing but leftovers of a crash.
    ///
    /// # Errors
    ///
    /// Without root's capabilities, or when the userspace engine does not start.
    pub async fn start(choice: Choice) -> Result<Self> {
        probe::privileges().await?;
        let changes = Changes::default();
        let own = netns::own().map_err(failing("open", "the host's network namespace"))?;
        let host = Space::open(own, Watch::Host, &changes).await;
        let host =
            host.map_err(failing("open netlink sockets in", "the host's network namespace"))?;
        let backend = match choice {
            Choice::Kernel => Backend::Kernel(Kernel::default()),
            Choice::Userspace(engine) => {
                let userspace = Userspace::new(engine);
                userspace.ensure_engine().await?;
                Backend::Userspace(userspace)
            }
        };
        let pins = events::watch_pins(&changes);
        let shared = Arc::new_cyclic(|shared| Shared {
            backend,
            host,
            spaces: Mutex::default(),
            changes,
            touched: Mutex::default(),
            pins,
            peers: peers::watch(shared.clone()),
        });
        Ok(Self { shared })
    }

    /// Ends the devices of an engine that an earlier driver used, if one runs: where the kernel's
    /// WireGuard is used from now on, they hold the ports.
    ///
    /// # Errors
    ///
    /// When the engine cannot end one.
    pub async fn end_devices(engine: &Spawn) -> Result<()> {
        let client = Client::new(&engine.socket);
        let Ok(devices) = client.list_devices().await else {
            return Ok(());
        };
        for id in devices {
            client.delete_device(&id).await.map_err(|source| DataplaneError {
                operation: "end the userspace engine's",
                object: id.to_string(),
                kind: ErrorKind::Other,
                source: source.into(),
            })?;
        }
        Ok(())
    }

    async fn apply_step(&self, namespace: &Namespace, step: &Step) -> Result<()> {
        let Shared { backend, host, .. } = &*self.shared;
        match step {
            Step::CreateNamespace => return self.create_namespace(namespace).await,
            Step::DeleteNamespace => return self.delete_namespace(namespace).await,
            Step::RemoveGuard => return self.remove_guard(namespace).await,
            Step::SetGuard { subnets } => {
                let set = nft::set_guard(host, namespace, subnets).await;
                return set.map_err(|source| {
                    prepare::nft_failed("set the host's guard of", namespace, source)
                });
            }
            _ => {}
        }
        if removes(step) && self.network(namespace).await?.is_none() {
            return Ok(());
        }
        let network = &self.existing(namespace, "change").await?;
        match step {
            Step::CreateNamespace
            | Step::DeleteNamespace
            | Step::SetGuard { .. }
            | Step::RemoveGuard => Ok(()),
            Step::Prepare => prepare::prepare(network).await,
            Step::AddGateway(gateway) => {
                prepare::add_gateway(network, *gateway).await?;
                self.proxy(network, *gateway, true).await
            }
            Step::RemoveGateway(gateway) => {
                self.proxy(network, *gateway, false).await?;
                prepare::remove_gateway(network, *gateway).await
            }
            Step::CreateWireguard { name, private_key, port, mtu } => {
                backend.create(host, network, name, private_key, *port, *mtu).await
            }
            Step::RaiseWireguard { name } => kernel::raise(network, name).await,
            Step::RemoveWireguard { name } => backend.remove(network, name).await,
            Step::AddPeer { wireguard, peer, config } => {
                backend.add_peer(network, wireguard, *peer, config).await
            }
            Step::UpdatePeer { wireguard, peer, preshared_key, underlay, keepalive } => {
                let change = PeerChange {
                    preshared_key: preshared_key.clone(),
                    underlay: *underlay,
                    keepalive: *keepalive,
                };
                backend.update_peer(network, wireguard, *peer, change).await
            }
            Step::RemovePeer { wireguard, peer } => {
                backend.remove_peer(network, wireguard, *peer).await
            }
            Step::AddAllowed { wireguard, peer, addresses } => {
                backend.add_allowed(network, wireguard, *peer, addresses).await
            }
            Step::RemoveAllowed { wireguard, peer, addresses } => {
                backend.remove_allowed(network, wireguard, *peer, addresses).await
            }
            Step::CreateVeth { name, veth, mtu } => {
                veth::create(host, network, name, veth, *mtu).await
            }
            Step::FixVeth { name, veth } => veth::fix(network, name, veth).await,
            Step::RestoreVeth { name, veth, mtu } => {
                veth::restore(host, network, name, veth, *mtu).await
            }
            Step::FixContainer { name, veth } => veth::fix_container(network, name, veth).await,
            Step::RemoveVeth { name } => veth::remove(network, name).await,
            Step::SetRoute { destination, target } => {
                route::set(network, *destination, target).await
            }
            Step::RemoveRoute { destination } => route::remove(network, *destination).await,
        }
    }

    async fn proxy(
        &self,
        network: &Network,
        gateway: std::net::IpAddr,
        wanted: bool,
    ) -> Result<()> {
        let std::net::IpAddr::V6(gateway) = gateway else {
            return Ok(());
        };
        let proxied = veth::proxy_gateway(&network.space.rtnl, gateway, wanted).await;
        proxied.map_err(failing("answer for gateway", network.object(gateway)))
    }

    /// Carries out steps of one kind with messages that need not wait for each other.
    async fn apply_run(&self, namespace: &Namespace, run: &[Step]) -> Result<Vec<Result<()>>> {
        let network = &self.existing(namespace, "change").await?;
        match &run[0] {
            Step::AddPeer { wireguard, .. } | Step::AddAllowed { wireguard, .. } => {
                self.shared.backend.change_peers(network, wireguard, run).await
            }
            _ => route::change(network, run).await,
        }
    }
}

/// Whether steps can be carried out together.
fn go_together(a: &Step, b: &Step) -> bool {
    use Step::{AddAllowed, AddPeer, RemoveRoute, SetRoute};
    match (a, b) {
        (SetRoute { .. }, SetRoute { .. }) | (RemoveRoute { .. }, RemoveRoute { .. }) => true,
        (
            AddPeer { wireguard: a, .. } | AddAllowed { wireguard: a, .. },
            AddPeer { wireguard: b, .. } | AddAllowed { wireguard: b, .. },
        ) => a == b,
        _ => false,
    }
}

impl Dataplane for Linux {
    type Events = Changed;

    fn backend(&self) -> &'static str {
        self.shared.backend.name()
    }

    async fn namespaces(&self) -> Result<BTreeSet<Namespace>> {
        let held = self.shared.spaces().keys().map(netns::pin_path).collect();
        self.shared.backend.sweep(&self.shared.host, &held).await?;
        let pinned = netns::list().map_err(failing("list", netns::DIRECTORY))?;
        Ok(pinned.into_iter().chain(self.shared.spaces().keys().cloned()).collect())
    }

    async fn sweep(&self, claimed: impl Fn() -> Claimed + Send + Sync) -> Result<Swept> {
        self.remove_strays(claimed).await
    }

    async fn observe(&self, namespace: &Namespace, joined: &Joined) -> Seen<Observed> {
        let look = async || {
            let Some(network) = self.network(namespace).await? else {
                return Ok(None);
            };
            let Shared { host, backend, .. } = &*self.shared;
            observe::observe(host, backend, &network, joined).await.map(Some)
        };
        let mut seen = look().await;
        if seen.is_err() {
            // Something may have vanished between being listed and being read.
            seen = look().await;
        }
        match seen {
            Ok(Some(observed)) => Seen::Present(observed),
            Ok(None) => Seen::Absent,
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(%namespace, error, "Cannot tell what the network has in the kernel");
                Seen::Unknown
            }
        }
    }

    async fn sandbox(&self, path: &Path) -> Sandbox {
        match netns::open(path) {
            Ok(Some(_)) => Sandbox::There,
            Ok(None) if netns::is_missing(path) => Sandbox::Missing,
            Ok(None) => Sandbox::Hidden,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(path = %path.display(), error, "Cannot look for a container");
                Sandbox::Unknown
            }
        }
    }

    async fn engines(&self) -> Seen<Engines> {
        match engines::engines(&self.shared.host).await {
            Ok(engines) => Seen::Present(engines),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "Cannot look for dockerds");
                Seen::Unknown
            }
        }
    }

    async fn apply(&self, namespace: &Namespace, step: &Step) -> Result<()> {
        let applied = self.apply_step(namespace, step).await;
        if changes_peers(step) {
            self.shared.touched().insert(namespace.clone());
        }
        applied
    }

    async fn apply_all(&self, namespace: &Namespace, steps: &[Step]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(steps.len());
        for run in steps.chunk_by(go_together) {
            if run.len() > 1 {
                let applied = self.apply_run(namespace, run).await;
                if changes_peers(&run[0]) {
                    self.shared.touched().insert(namespace.clone());
                }
                if let Ok(applied) = applied {
                    results.extend(applied);
                    continue;
                }
            }
            for step in run {
                results.push(self.apply(namespace, step).await);
            }
        }
        results
    }

    fn events(&self) -> Changed {
        self.shared.changes.subscribe()
    }

    async fn port_is_free(&self, port: u16) -> bool {
        let v6 = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        // A host without IPv6 has nobody on its IPv6 ports.
        let v6_is_free = match &v6 {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT),
        };
        drop(v6);
        v6_is_free && UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).is_ok()
    }
}

/// Whether a step is done when the whole namespace is gone.
fn removes(step: &Step) -> bool {
    matches!(
        step,
        Step::RemoveGateway(_)
            | Step::RemoveWireguard { .. }
            | Step::RemovePeer { .. }
            | Step::RemoveAllowed { .. }
            | Step::RemoveVeth { .. }
            | Step::RemoveRoute { .. }
    )
}

fn changes_peers(step: &Step) -> bool {
    matches!(
        step,
        Step::CreateWireguard { .. }
            | Step::AddPeer { .. }
            | Step::UpdatePeer { .. }
            | Step::RemovePeer { .. }
            | Step::AddAllowed { .. }
            | Step::RemoveAllowed { .. }
    )
}
