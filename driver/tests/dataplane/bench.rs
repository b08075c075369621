//! The suite's bench on Linux: somebody's hand and Docker's, by `ip` and `nft`.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;
use wgnet_core::{DesiredVeth, Namespace};
use wgnet_driver::dataplane::conformance::{Bench, ByHand, Inside};
use wgnet_driver::dataplane::linux::{Choice, Linux};
use wgnet_engine::{Client, DeviceId, Operation, Spawn};
use wgnet_proto::{IfName, PublicKey};

use crate::host::sh;

/// Made and used on a thread of a [`crate::host::Host`].
pub(crate) struct LinuxBench {
    plane: Linux,
    choice: Choice,
    ports: Mutex<BTreeMap<u16, UdpSocket>>,
    /// Namespaces that live without a name.
    nameless: Mutex<Vec<File>>,
    /// What dockerds listen on.
    engines: Mutex<BTreeMap<String, UnixListener>>,
    sockets: TempDir,
}

impl LinuxBench {
    pub(crate) async fn new(choice: Choice) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        std::fs::create_dir(sockets.path().join("libnetwork")).unwrap();
        let plane = start(&choice).await;
        let (ports, nameless, engines) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { plane, choice, ports, nameless, engines, sockets }
    }
}

pub(crate) async fn start(choice: &Choice) -> Linux {
    match Linux::start(choice.clone()).await {
        Ok(plane) => plane,
        Err(error) => panic!("{error}: {}", error.source),
    }
}

/// Moves the waiting end of a veth pair into a container and configures it, as Docker does.
pub(crate) fn join(veth: &DesiredVeth, container: &str) {
    let waiting = &veth.container_end;
    sh(&format!("ip link set {waiting} netns {container}"));
    sh(&format!("ip -n {container} link set {waiting} name eth0"));
    for address in &veth.addresses {
        let nodad = if address.addr().is_ipv6() { "nodad" } else { "" };
        sh(&format!("ip -n {container} addr add {address} dev eth0 {nodad}"));
    }
    sh(&format!("ip -n {container} link set eth0 up"));
    for (destination, gateway) in &veth.container_routes {
        sh(&format!("ip -n {container} route add {destination} via {gateway} dev eth0"));
    }
}

/// The engine has no tool for people; whoever may open its socket may do this.
fn remove_peer(engine: &Spawn, namespace: &Namespace, name: &IfName, peer: &PublicKey) {
    let id = DeviceId::new(Path::new("/run/netns").join(namespace.as_str()), name.as_str());
    let (client, peer) = (Client::new(&engine.socket), peer.0);
    let remove = async move { client.configure(&id, &[Operation::RemovePeer(peer)]).await };
    let runtime = tokio::runtime::Handle::current();
    let removed = tokio::task::block_in_place(|| runtime.block_on(remove));
    assert!(removed.is_ok_and(|failures| failures.is_empty()));
}

fn container_of(sandbox: &Path) -> &str {
    sandbox.file_name().and_then(|name| name.to_str()).unwrap()
}

impl Bench for LinuxBench {
    type Plane = Linux;

    fn plane(&self) -> &Linux {
        &self.plane
    }

    async fn restart(&mut self) {
        self.plane = start(&self.choice).await;
    }

    fn by_hand(&self, namespace: &Namespace, what: &ByHand) {
        let guard = format!("wgnet-guard-{}", &namespace.as_str()[Namespace::PREFIX.len()..]);
        sh(&match what {
            ByHand::RemovePin => format!("ip netns del {namespace}"),
            ByHand::DeleteLink(name) => format!("ip -n {namespace} link del {name}"),
            ByHand::SetDown(name) => format!("ip -n {namespace} link set {name} down"),
            ByHand::Unmark(name) => format!("ip -n {namespace} link set {name} alias ''"),
            ByHand::AddLink(name) => format!("ip -n {namespace} link add {name} type bridge"),
            ByHand::DeleteRoute(destination) => {
                format!("ip -n {namespace} route del {destination}")
            }
            ByHand::DeleteGateway(address) => {
                format!("ip -n {namespace} addr del {address} dev lo")
            }
            ByHand::DeleteGuard => format!("nft delete table inet {guard}"),
            ByHand::RemovePeer(name, peer) => match &self.choice {
                Choice::Kernel => {
                    format!("ip netns exec {namespace} wg set {name} peer {peer} remove")
                }
                Choice::Userspace(engine) => return remove_peer(engine, namespace, name, peer),
            },
        });
    }

    fn start_container(&self, name: &str) -> PathBuf {
        let container = format!("wgnett-{name}");
        sh(&format!("ip netns add {container}"));
        Path::new("/run/netns").join(container)
    }

    fn join(&self, _: &Namespace, _: &IfName, veth: &DesiredVeth, sandbox: &Path) {
        join(veth, container_of(sandbox));
    }

    fn inside(&self, _: &Namespace, _: &IfName, sandbox: &Path, what: Inside) {
        let container = container_of(sandbox);
        sh(&match what {
            Inside::SetDown => format!("ip -n {container} link set eth0 down"),
            Inside::DeleteAddress => format!(
                "ip -n {container} -4 addr flush dev eth0 && ip -n {container} -4 route flush table main"
            ),
            Inside::DeleteRoutes => {
                format!(
                    "ip -n {container} -4 route flush table main; ip -n {container} -6 route flush table main"
                )
            }
            Inside::DeleteInterface => format!("ip -n {container} link del eth0"),
        });
    }

    fn engine(&self, id: &str, runs: bool) -> String {
        let path = self.sockets.path().join(format!("libnetwork/{id}.sock"));
        let name = path.display().to_string();
        let mut engines = self.engines.lock().unwrap();
        if runs {
            engines.insert(name.clone(), UnixListener::bind(&path).unwrap());
        } else {
            // One that is killed leaves the file.
            engines.remove(&name);
        }
        name
    }

    fn forget_container(&self, sandbox: &Path) {
        self.nameless.lock().unwrap().push(File::open(sandbox).unwrap());
        sh(&format!("ip netns del {}", container_of(sandbox)));
    }

    fn end_container(&self, sandbox: &Path) {
        sh(&format!("ip netns del {}", container_of(sandbox)));
    }

    fn occupy_port(&self, port: u16, occupied: bool) {
        let mut ports = self.ports.lock().unwrap();
        if occupied {
            ports.insert(port, UdpSocket::bind(("0.0.0.0", port)).unwrap());
        } else {
            ports.remove(&port);
        }
    }
}
