//! The data plane in memory passes the suite of data planes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use wgnet_core::observed::{ContainerEnd, ContainerInterface, ObservedVeth};
use wgnet_core::{DesiredVeth, Namespace, Observed, RouteTarget, Seen, Step, model};
use wgnet_driver::dataplane::conformance::{Bench, ByHand, Inside, suite};
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::dataplane::{Claimed, Dataplane as _};
use wgnet_proto::{IfName, MacAddr};

#[derive(Default)]
struct ModelBench {
    plane: Model,
}

fn present(seen: &mut Seen<Observed>) -> &mut Observed {
    match seen {
        Seen::Present(kernel) => kernel,
        other => panic!("no namespace: {other:?}"),
    }
}

impl Bench for ModelBench {
    type Plane = Model;

    fn plane(&self) -> &Model {
        &self.plane
    }

    async fn restart(&mut self) {
        self.plane = self.plane.clone();
    }

    fn by_hand(&self, namespace: &Namespace, what: &ByHand) {
        self.plane.tamper(namespace, |seen| {
            let kernel = present(seen);
            match what {
                ByHand::RemovePin => kernel.pinned = false,
                ByHand::DeleteLink(name) => {
                    model::apply(seen, &Step::RemoveWireguard { name: name.clone() }).unwrap();
                    model::apply(seen, &Step::RemoveVeth { name: name.clone() }).unwrap();
                }
                ByHand::SetDown(name) => {
                    if let Some(wireguard) = kernel.wireguards.get_mut(name) {
                        wireguard.up = false;
                    }
                    if let Some(veth) = kernel.veths.get_mut(name) {
                        veth.up = false;
                    }
                    kernel.routes.retain(|_, target| *target != RouteTarget::Link(name.clone()));
                }
                ByHand::Unmark(name) => kernel.veths.get_mut(name).unwrap().endpoint = None,
                ByHand::AddLink(name) => drop(kernel.foreign.insert(name.clone())),
                ByHand::DeleteRoute(destination) => drop(kernel.routes.remove(destination)),
                ByHand::DeleteGateway(gateway) => drop(kernel.gateways.remove(gateway)),
                ByHand::DeleteGuard => kernel.guard.clear(),
                ByHand::RemovePeer(name, peer) => {
                    kernel.wireguards.get_mut(name).unwrap().peers.remove(peer).unwrap();
                }
            }
        });
    }

    fn start_container(&self, name: &str) -> PathBuf {
        let sandbox = PathBuf::from("/containers").join(name);
        self.plane.start_container(&sandbox);
        sandbox
    }

    fn join(&self, namespace: &Namespace, name: &IfName, veth: &DesiredVeth, sandbox: &Path) {
        let interface = ContainerInterface {
            name: "eth0".to_owned(),
            mac: Some(veth.mac),
            up: true,
            addresses: veth.addresses.iter().copied().collect(),
            routes: veth.container_routes.iter().copied().collect(),
        };
        self.plane.move_into(namespace, name, sandbox, interface);
    }

    fn inside(&self, namespace: &Namespace, name: &IfName, _sandbox: &Path, what: Inside) {
        self.plane.tamper(namespace, |seen| {
            let kernel = present(seen);
            if matches!(what, Inside::DeleteInterface) {
                kernel.veths.remove(name);
                return;
            }
            let ContainerEnd::InContainer(Seen::Present(interface)) =
                &mut kernel.veths.get_mut(name).unwrap().container
            else {
                panic!("no container has {name}")
            };
            match what {
                Inside::SetDown => interface.up = false,
                Inside::DeleteAddress => {
                    interface.addresses.retain(|net| !net.addr().is_ipv4());
                    interface.routes.retain(|(_, gateway): &(_, IpAddr)| !gateway.is_ipv4());
                }
                Inside::DeleteRoutes => interface.routes.clear(),
                Inside::DeleteInterface => {}
            }
        });
    }

    fn engine(&self, id: &str, runs: bool) -> String {
        self.plane.engine(id, runs);
        id.to_owned()
    }

    fn forget_container(&self, sandbox: &Path) {
        self.plane.forget_container(sandbox);
    }

    fn end_container(&self, sandbox: &Path) {
        self.plane.end_container(sandbox);
    }

    fn occupy_port(&self, port: u16, occupied: bool) {
        self.plane.occupy_port(port, occupied);
    }
}

#[tokio::test(start_paused = true)]
async fn the_model_is_a_data_plane() {
    suite(&mut ModelBench::default()).await;
}

#[tokio::test]
async fn a_sweep_of_the_model_leaves_what_is_only_called_as_ours_and_what_a_container_uses() {
    let plane = Model::default();
    let named = |name| Namespace::parse(name).unwrap();
    let [strange, used, stray] = ["wgnet-strange", "wgnet-used", "wgnet-stray"].map(named);
    plane.make_strange(&strange, Observed::default());
    for ours in [&used, &stray] {
        plane.apply(ours, &Step::CreateNamespace).await.unwrap();
    }
    plane.quietly(&used, |kernel| {
        let veth = ObservedVeth {
            endpoint: None,
            mac: MacAddr::of_address(IpAddr::from([10, 50, 0, 2])),
            mtu: 1400,
            up: true,
            container: ContainerEnd::InContainer(Seen::Unknown),
        };
        kernel.veths.insert("wgvused".parse().unwrap(), veth);
    });
    let swept = plane.sweep(Claimed::default).await.unwrap();
    assert_eq!(swept.removed, ["namespace wgnet-stray"]);
    assert_eq!(swept.in_use, [used.clone()].into());
    assert_eq!(plane.namespaces().await.unwrap(), [strange, used].into());
}
