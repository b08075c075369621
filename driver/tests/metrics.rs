//! What Prometheus reads: from a driver with a store and a kernel in memory, over real HTTP.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[path = "metrics/alerts.rs"]
mod alerts;
#[path = "metrics/stories.rs"]
mod stories;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use wgnet_control_plane::store::MemoryStore;
use wgnet_core::Namespace;
use wgnet_driver::api::{Api, Scope};
use wgnet_driver::clock;
use wgnet_driver::cluster::HostFacts;
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::journal::{Journal, MemoryDisk, Random};
use wgnet_driver::metrics::serve::{Endpoint, Told, serve};
use wgnet_driver::metrics::{Metered, MeteredStore, Metrics};
use wgnet_driver::problems::Problems;
use wgnet_driver::progress::Heard;
use wgnet_driver::status::Status;
use wgnet_driver::underlay::Underlay;
use wgnet_driver::wiring::Given;
use wgnet_proto::status::Problem;
use wgnet_proto::{ClusterSecrets, DockerNetworkId};

type Telling = Told<Status<Metered<Model>>>;

const SOON: Duration = Duration::from_secs(20);

fn network() -> DockerNetworkId {
    "b".repeat(25).parse().unwrap()
}

/// A driver and what Prometheus asks.
struct Host {
    api: Api,
    model: Model,
    /// Its own client, whose line can be cut.
    store: MemoryStore,
    problems: Problems,
    address: SocketAddr,
    endpoint: Endpoint<Status<Metered<Model>>>,
    told: Option<Telling>,
    _underlay: watch::Sender<Underlay>,
    _stop: DropGuard,
}

fn random(number: u8) -> Random {
    let count = AtomicU64::new(u64::from(number) << 32);
    Arc::new(move |bytes| {
        let mut seed = count.fetch_add(1, Ordering::Relaxed);
        for byte in bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_le_bytes()[7];
        }
    })
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

impl Host {
    async fn start(number: u8, store: &MemoryStore) -> Self {
        Self::start_version(number, store, "0.1.0").await
    }

    async fn start_version(number: u8, store: &MemoryStore, version: &str) -> Self {
        let gate: wgnet_driver::journal::Gate = Arc::new(|| Box::pin(async {}));
        let random = random(number);
        let journal =
            Journal::open_in_memory(&MemoryDisk::default(), "boot", &random, gate).unwrap();
        let (metrics, problems, model) =
            (Metrics::default(), Problems::default(), Model::default());
        let addresses = vec![[192, 0, 2, number].into()];
        let (_underlay, underlays) = watch::channel(Underlay { addresses, mtu: 1500 });
        let store = store.client();
        let given = Given {
            store: MeteredStore::new(store.clone(), metrics.clone()),
            dataplane: Metered::new(model.clone(), metrics.clone()),
            secrets: ClusterSecrets::generate([9; 32]),
            facts: HostFacts {
                me: journal.host_id(),
                name: format!("h{number}"),
                version: version.to_owned(),
                backend: "model".to_owned(),
                boot: "boot".to_owned(),
                underlay: Vec::new(),
            },
            journal,
            underlay: underlays,
            ports: 51820..=51829,
            random,
            clock: clock::of_host(),
            problems: problems.clone(),
            dead_host_grace: Duration::from_secs(3600),
        };
        let cancel = CancellationToken::new();
        let wired = given.wire(&cancel);
        for (_, task) in wired.tasks {
            tokio::spawn(task);
        }
        let measuring = metrics.clone();
        wired.status.progress.listen(move |heard| match heard {
            Heard::Followed(took) => measuring.followed(took),
            Heard::Passed { took, in_sync } => measuring.passed(in_sync, took),
        });
        let told = Told {
            peers: wired.status.peers.clone(),
            progress: wired.status.progress.clone(),
            source: Arc::new(wired.status),
            kernel: "6.1.0".to_owned(),
            // Keys are seen an hour later.
            clock: Arc::new(|| clock::of_host()() + Duration::from_secs(3600)),
        };
        let (reason, reasons) = watch::channel(None);
        drop(reason);
        let endpoint = Endpoint::new(metrics.clone(), reasons);
        let address = free_address().await;
        tokio::spawn(serve(address, endpoint.clone(), problems.clone(), cancel.clone()));
        let api = wired.api.measured_by(metrics);
        let _stop = cancel.drop_guard();
        let told = Some(told);
        Self { api, model, store, problems, address, endpoint, told, _underlay, _stop }
    }

    /// From now on it serves Docker.
    fn works(&mut self) {
        let told = self.told.take().unwrap();
        assert!(self.endpoint.told.set(told).is_ok());
    }

    async fn call(&self, method: &str, body: serde_json::Value) -> String {
        let path = format!("/NetworkDriver.{method}");
        let body = body.to_string();
        let (_, answer) = self.api.call(Scope::Global, &path, body.as_bytes(), None, None).await;
        String::from_utf8(answer.to_vec()).unwrap()
    }

    /// A network with one container.
    async fn populate(&self, number: u8) {
        let pool = json!({"AddressSpace": "", "Pool": "10.50.0.0/24", "Gateway": "10.50.0.1/24"});
        let create =
            json!({"NetworkID": network(), "Options": {}, "IPv4Data": [pool], "IPv6Data": []});
        assert!(!self.call("CreateNetwork", create).await.contains("Err"));
        let endpoint = json!({
            "NetworkID": network(),
            "EndpointID": format!("{number:02x}").repeat(32),
            "Interface": {"Address": format!("10.50.0.{number}/24"), "AddressIPv6": "", "MacAddress": ""},
            "Options": {},
        });
        let answer = self.call("CreateEndpoint", endpoint).await;
        assert!(!answer.contains("Err"), "{answer}");
    }

    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let began = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(self.address).await {
                Ok(stream) => break stream,
                Err(error) => assert!(began.elapsed() < SOON, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Samples by name and labels.
    async fn samples(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.get("/metrics").await;
        assert_eq!(status, 200);
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        let split = samples.map(|line| line.rsplit_once(' ').unwrap());
        split.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// Waits until a sample that begins so is as wanted.
    async fn until(&self, begins: &str, is_wanted: impl Fn(f64) -> bool) {
        let began = Instant::now();
        loop {
            let samples = self.samples().await;
            let found = samples.iter().filter(|(name, _)| name.starts_with(begins));
            let found: Vec<_> = found.collect();
            if found.iter().any(|(_, value)| is_wanted(**value)) {
                return;
            }
            assert!(began.elapsed() < SOON, "{begins}: {found:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Two hosts that share a network.
async fn two() -> (MemoryStore, Host, Host) {
    let store = MemoryStore::new();
    let (mut one, two) = (Host::start(2, &store).await, Host::start(3, &store).await);
    one.works();
    one.populate(2).await;
    two.populate(3).await;
    one.until(
        "wgnet_network_endpoints{network=\"s-bbbbbbbbbbbbbbbbbbbbbbbbb\",place=\"remote\"}",
        |it| it == 1.0,
    )
    .await;
    one.until("wgnet_etcd_unpublished_records", |it| it == 0.0).await;
    (store, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_with_what_it_is_of() {
    let (store, one, _two) = two().await;
    let blue = "network=\"s-bbbbbbbbbbbbbbbbbbbbbbbbb\"";
    one.until("wgnet_build_info{version=\"0.1.0\",backend=\"model\"", |it| it == 1.0).await;
    one.until("wgnet_docker_calls_total{method=\"CreateNetwork\",result=\"ok\"}", |it| it == 1.0)
        .await;
    one.until("wgnet_docker_call_duration_seconds_count{method=\"CreateEndpoint\"}", |it| {
        it == 1.0
    })
    .await;
    one.call("Rubbish.With\"Labels", json!({})).await;
    one.until("wgnet_docker_calls_total{method=\"unknown\",result=\"error\"}", |it| it == 1.0)
        .await;
    one.call(
        "Join",
        json!({"NetworkID": network(), "EndpointID": "f".repeat(64), "SandboxKey": "/x"}),
    )
    .await;
    one.until("wgnet_docker_calls_total{method=\"Join\",result=\"error\"}", |it| it == 1.0).await;

    one.until("wgnet_reconcile_passes_total{result=\"ok\"}", |it| it >= 2.0).await;
    one.until("wgnet_reconcile_duration_seconds_count", |it| it >= 2.0).await;
    one.until("wgnet_reconcile_steps_total{step=\"create_namespace\",result=\"ok\"}", |it| {
        it == 1.0
    })
    .await;
    one.until("wgnet_reconcile_steps_total{step=\"add_peer\",result=\"ok\"}", |it| it == 1.0).await;
    one.until("wgnet_record_follow_duration_seconds_count", |it| it >= 1.0).await;
    // The cluster's record, and then all others, if nothing came apart.
    one.until("wgnet_etcd_requests_total{operation=\"commit\",result=\"ok\"}", |it| it >= 2.0)
        .await;
    one.until("wgnet_etcd_request_duration_seconds_count{operation=\"list\"}", |it| it >= 3.0)
        .await;
    one.until("wgnet_etcd_connected", |it| it == 1.0).await;
    one.until("wgnet_etcd_revision", |it| it >= 3.0).await;
    one.until("wgnet_hosts", |it| it == 1.0).await;
    one.until("wgnet_hosts_alive", |it| it == 1.0).await;

    one.until(&format!("wgnet_network_in_sync{{{blue}}}"), |it| it == 1.0).await;
    one.until(&format!("wgnet_network_members{{{blue}}}"), |it| it == 2.0).await;
    one.until(&format!("wgnet_network_mtu_bytes{{{blue}}}"), |it| it > 1000.0).await;
    one.until(&format!("wgnet_network_endpoints{{{blue},place=\"local\"}}"), |it| it == 1.0).await;
    one.until(&format!("wgnet_network_told_revision{{{blue}}}"), |it| it > 1.0).await;
    one.until(&format!("wgnet_network_followed_revision{{{blue}}}"), |it| it > 1.0).await;
    one.until(&format!("wgnet_network_lag_seconds{{{blue}}}"), |it| it == 0.0).await;
    let an_hour = |it| (3600.0..3700.0).contains(&it);
    one.until(&format!("wgnet_network_key_age_seconds{{{blue}}}"), an_hour).await;

    let namespace = Namespace::of(&network());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let traffic = |received, sent, last: u8| {
        one.model.quietly(&namespace, |observed| {
            for peer in observed.wireguards.values_mut().flat_map(|it| it.peers.values_mut()) {
                peer.last_handshake = Some(now.as_secs() - 5);
                (peer.received_bytes, peer.sent_bytes) = (received, sent);
                peer.underlay = Some(([192, 0, 2, last], 51820).into());
            }
        });
    };
    traffic(70, 80, 3);
    one.until("wgnet_peer_received_bytes_total{", |it| it == 70.0).await;
    one.until("wgnet_peer_sent_bytes_total{", |it| it == 80.0).await;
    one.until("wgnet_peer_handshake_age_seconds{", |it| (4.0..60.0).contains(&it)).await;
    one.until("wgnet_peer_underlay_changes_total{", |it| it == 0.0).await;
    one.until("wgnet_peer_silent{", |it| it == 0.0).await;
    traffic(70, 5000, 9);
    one.until("wgnet_peer_underlay_changes_total{", |it| it >= 1.0).await;

    one.model.tamper(&namespace, |observed| *observed = wgnet_core::Seen::Absent);
    one.until(&format!("wgnet_network_repairs_total{{{blue}}}"), |it| it >= 1.0).await;

    let problem = |code: &str| Problem {
        code: code.to_owned(),
        object: "x".to_owned(),
        cause: "x".to_owned(),
        next_step: "x".to_owned(),
    };
    one.problems.set(problem("port-taken"));
    one.until("wgnet_problems{code=\"port-taken\"}", |it| it == 1.0).await;

    store.restart();
    one.until("wgnet_etcd_watch_restarts_total", |it| it >= 1.0).await;
    one.until("wgnet_etcd_connected", |it| it == 1.0).await;

    let put = wgnet_control_plane::store::Op::Put {
        key: format!("hosts/{}", "ab".repeat(16)),
        value: b"rubbish".to_vec(),
    };
    let txn = wgnet_control_plane::store::Txn { conditions: Vec::new(), ops: vec![put] };
    wgnet_control_plane::store::Store::commit(&store, txn).await.unwrap();
    one.until("wgnet_refused_records_total{reason=", |it| it == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_wrong_with_names_and_units() {
    let (_store, one, _two) = two().await;
    one.problems.set(Problem {
        code: "a".to_owned(),
        object: "b".to_owned(),
        cause: "c".to_owned(),
        next_step: "d".to_owned(),
    });
    let (_, body) = one.get("/metrics").await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there (tests/setup installs it)");
    promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_is_who_lives_and_ready_who_serves_docker() {
    let mut host = Host::start(2, &MemoryStore::new()).await;
    assert_eq!(host.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(host.get("/readyz").await, (503, "starting\n".to_owned()));
    assert_eq!(host.get("/metrics").await.0, 200);
    host.works();
    assert_eq!(host.get("/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(host.get("/else").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_taken_is_a_problem_until_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (problems, cancel) = (Problems::default(), CancellationToken::new());
    let endpoint: Endpoint<Status<Model>> =
        Endpoint::new(Metrics::default(), watch::channel(None).1);
    let address = taken.local_addr().unwrap();
    let serving = tokio::spawn(serve(address, endpoint, problems.clone(), cancel.clone()));
    let code = |problems: &Problems| problems.list().first().map(|problem| problem.code.clone());
    let began = Instant::now();
    while code(&problems).as_deref() != Some("metrics-address") {
        assert!(began.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(taken);
    while code(&problems).is_some() {
        assert!(began.elapsed() < 2 * SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cancel.cancel();
    serving.await.unwrap();
}
