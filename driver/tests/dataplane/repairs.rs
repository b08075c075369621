//! What a whole driver sets right at once of what somebody did to its networks on the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_control_plane::store::MemoryStore;
use wgnet_core::Namespace;
use wgnet_driver::api::{Api, Scope};
use wgnet_driver::cluster::HostFacts;
use wgnet_driver::dataplane::linux::{Choice, Linux};
use wgnet_driver::dataplane::{Dataplane, Events};
use wgnet_driver::journal::{Gate, Journal, MemoryDisk, Random};
use wgnet_driver::problems::Problems;
use wgnet_driver::underlay::Underlay;
use wgnet_driver::wiring::Given;
use wgnet_proto::{ClusterSecrets, DockerNetworkId};

use crate::bench::start;
use crate::host::{Host, sh};

const NETWORKS: u8 = 4;
const WITHIN: Duration = Duration::from_secs(2);
/// What a driver did itself, and was told of, is looked at by then.
const QUIET: Duration = Duration::from_millis(1500);

/// More than a socket buffers, in the transaction that takes the guards away.
const CHAINS: u32 = 6000;

fn network(number: u8) -> DockerNetworkId {
    format!("{number:x}").repeat(64).parse().unwrap()
}

fn guard(number: u8) -> String {
    let namespace = Namespace::of(&network(number));
    format!("wgnet-guard-{}", &namespace.as_str()[Namespace::PREFIX.len()..])
}

fn guards() -> String {
    (1..=NETWORKS).map(|number| format!("table inet {}\n", guard(number))).collect()
}

/// A driver with networks on a host of its own.
struct Driver {
    // Stopped before its host.
    _stop: DropGuard,
    _underlay: watch::Sender<Underlay>,
    plane: Linux,
    host: Host,
}

impl Driver {
    fn start(name: &str, choice: Choice) -> Self {
        let host = Host::start(name);
        let (addresses, mtu) = (vec![[192, 0, 2, 1].into()], 1500);
        let (underlay, underlays) = watch::channel(Underlay { addresses, mtu });
        let cancel = CancellationToken::new();
        let stop = cancel.clone().drop_guard();
        let plane = host.run(async move {
            let plane = start(&choice).await;
            let api = wire(plane.clone(), underlays, &cancel);
            for number in 1..=NETWORKS {
                create(&api, number).await;
            }
            plane
        });
        let driver = Self { _stop: stop, _underlay: underlay, plane, host };
        driver.settle();
        driver
    }

    /// Returns when the driver has nothing more to look at.
    fn settle(&self) {
        let mut events = self.plane.events();
        self.host
            .run(async move { while tokio::time::timeout(QUIET, events.next()).await.is_ok() {} });
        assert_eq!(self.tables(), guards(), "every network has its guard");
    }

    fn tables(&self) -> String {
        let tables = self.host.sh("nft list tables inet");
        let guards = tables.lines().filter(|line| line.contains("wgnet-guard-"));
        let mut guards: Vec<_> = guards.map(|line| format!("{line}\n")).collect();
        guards.sort();
        guards.concat()
    }

    /// Waits for what should be there, as long as a repair may take.
    fn comes_back(&self, expected: &str, look: impl Fn() -> String) {
        let damaged = Instant::now();
        loop {
            let there = look();
            if there == expected {
                return;
            }
            let since = damaged.elapsed();
            assert!(since < WITHIN, "after {since:?} there is\n{there}and not\n{expected}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn wire(plane: Linux, underlay: watch::Receiver<Underlay>, cancel: &CancellationToken) -> Api {
    let count = AtomicU8::new(0);
    let random: Random = Arc::new(move |bytes| {
        bytes.iter_mut().for_each(|byte| *byte = count.fetch_add(1, Ordering::Relaxed));
    });
    let gate: Gate = Arc::new(|| Box::pin(async {}));
    let journal = Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
    let facts = HostFacts {
        me: journal.host_id(),
        name: "wgnett".to_owned(),
        version: "0.1.0".to_owned(),
        backend: plane.backend().to_owned(),
        boot: "boot".to_owned(),
        underlay: Vec::new(),
    };
    let given = Given {
        store: MemoryStore::new().client(),
        dataplane: plane,
        secrets: ClusterSecrets::generate([9; 32]),
        facts,
        journal,
        underlay,
        ports: 51820..=51899,
        random,
        clock: wgnet_driver::clock::of_host(),
        problems: Problems::default(),
        dead_host_grace: Duration::from_secs(3600),
    };
    let wired = given.wire(cancel);
    for (_, task) in wired.tasks {
        tokio::spawn(task);
    }
    wired.api
}

/// A network with an endpoint: the answer to this comes after the network is in the kernel.
async fn create(api: &Api, number: u8) {
    let id = network(number);
    let pool = json!({
        "AddressSpace": "",
        "Pool": format!("10.50.{number}.0/24"),
        "Gateway": format!("10.50.{number}.1/24"),
    });
    let options = json!({"com.docker.network.generic": {"id": format!("wgnett-{number}")}});
    let create = json!({"NetworkID": id, "Options": options, "IPv4Data": [pool], "IPv6Data": []});
    let endpoint = json!({
        "NetworkID": id,
        "EndpointID": format!("{number:02x}").repeat(32),
        "Interface": {"Address": format!("10.50.{number}.2/24"), "AddressIPv6": "", "MacAddress": ""},
        "Options": {},
    });
    for (method, body) in [("CreateNetwork", create), ("CreateEndpoint", endpoint)] {
        let (path, body) = (format!("/NetworkDriver.{method}"), body.to_string());
        let (_, answer) = api.call(Scope::Global, &path, body.as_bytes(), None, None).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("Err"), "{method}: {answer}");
    }
}

pub(crate) fn every_guard_comes_back_after_a_flush_of_the_ruleset(choice: Choice) {
    let driver = Driver::start("flush", choice);
    driver.host.sh("nft flush ruleset");
    driver.comes_back(&guards(), || driver.tables());
}

/// While nobody listens, a transaction tells more than a socket buffers.
pub(crate) fn every_guard_comes_back_when_the_kernel_could_not_tell_of_it(choice: Choice) {
    let driver = Driver::start("drop", choice);
    let chains = (0..CHAINS).map(|number| format!("add chain inet fill c{number}\n"));
    let removals = (1..=NETWORKS).map(|number| format!("delete table inet {}\n", guard(number)));
    let script = tempfile::Builder::new().prefix("wgnett-").tempfile().unwrap();
    let text = chains.chain(removals).collect::<String>();
    std::fs::write(script.path(), format!("add table inet fill\n{text}")).unwrap();
    let load = format!("nft -f {}", script.path().display());

    // Both threads of the host are kept busy: no task runs.
    let together = std::sync::Barrier::new(2);
    let together = Arc::new(together);
    let other = Arc::clone(&together);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            driver.host.run(async move {
                other.wait();
                other.wait();
            });
        });
        driver.host.run(async move {
            together.wait();
            sh(&load);
            together.wait();
        });
    });
    driver.comes_back(&guards(), || driver.tables());
}

pub(crate) fn forwarding_that_was_turned_off_is_turned_on(choice: Choice) {
    let driver = Driver::start("forward", choice);
    let namespace = Namespace::of(&network(1));
    let settings = [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.wg0.forwarding",
        "net.ipv6.conf.wg0.forwarding",
    ];
    for setting in settings {
        let within = format!("ip netns exec {namespace} sysctl");
        driver.host.sh(&format!("{within} -w {setting}=0"));
        driver.comes_back("1\n", || driver.host.sh(&format!("{within} -n {setting}")));
        driver.settle();
    }
}
