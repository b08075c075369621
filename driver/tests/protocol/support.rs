//! A driver's plugin socket with the kernel replaced by a word, and a client that controls every byte.

// Each test binary uses a part of it.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wgnet_core::ClusterView;
use wgnet_driver::api::{Api, Context, Scope, serve};
use wgnet_driver::applied::{Applied, Report};
use wgnet_driver::journal::{Journal, JournalError, Random, State};
use wgnet_driver::problems::Problems;
use wgnet_proto::DockerNetworkId;

pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// What the stand-in for the reconcile tasks says about the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kernel {
    Follows,
    Fails(String),
    /// Says nothing at all.
    Hangs,
}

/// When keys are made.
pub(crate) const MADE: Duration = Duration::from_secs(1_780_000_000);

pub(crate) struct Options {
    pub(crate) scope: Scope,
    pub(crate) boot: String,
    pub(crate) apply_within: Duration,
    /// UDP ports that some other program has.
    pub(crate) foreign_ports: Vec<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scope: Scope::Global,
            boot: "boot-1".to_owned(),
            apply_within: WITHIN,
            foreign_ports: Vec::new(),
        }
    }
}

/// One host's plugin socket.
pub(crate) struct Driver {
    pub(crate) journal: Journal,
    pub(crate) problems: Problems,
    pub(crate) kernel: watch::Sender<Kernel>,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    /// Whether the last known records are in; true from the beginning unless a test says otherwise.
    pub(crate) remembered: watch::Sender<bool>,
    applied: Applied,
    socket: PathBuf,
    cancel: CancellationToken,
    server: JoinHandle<()>,
    reconcile: JoinHandle<()>,
}

impl Driver {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, Options::default())
    }

    pub(crate) fn start_with(dir: &Path, options: Options) -> Self {
        let random = counting_random();
        let journal = open_journal(dir, &options.boot, &random);
        let (applied, problems) = (Applied::default(), Problems::default());
        let (kernel, kernels) = watch::channel(Kernel::Follows);
        let (view, views) = watch::channel(Arc::default());
        let (remembered, is_remembered) = watch::channel(true);
        let socket = dir.join("wgnet.sock");
        // A stopped driver leaves its socket file, as a killed one does.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let foreign = options.foreign_ports;
        let context = Context {
            me: journal.host_id(),
            journal: journal.clone(),
            applied: applied.clone(),
            view: views,
            remembered: is_remembered,
            underlay_mtu: Arc::new(|| 1500),
            random,
            clock: Arc::new(|| MADE),
            ports: Arc::new(move |wanted, taken| {
                let mut candidates = wanted.into_iter().chain(51820..=52819);
                let picked =
                    candidates.find(|port| !taken.contains(port) && !foreign.contains(port));
                Box::pin(std::future::ready(picked.ok_or_else(|| "every port is taken".to_owned())))
            }),
            problems: problems.clone(),
            apply_within: options.apply_within,
        };
        let cancel = CancellationToken::new();
        let server =
            tokio::spawn(serve(listener, options.scope, Api::new(context), cancel.clone()));
        let reconcile = tokio::spawn(follow(journal.watch(), kernels, applied.clone()));
        Self {
            journal,
            problems,
            kernel,
            view,
            remembered,
            applied,
            socket,
            cancel,
            server,
            reconcile,
        }
    }

    /// SIGTERM: whatever runs is finished.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.server.await.unwrap();
        self.reconcile.abort();
        let _ = self.reconcile.await;
    }

    /// SIGKILL, as far as one process can show it: nothing is finished.
    pub(crate) async fn kill(self) {
        for task in [self.server, self.reconcile] {
            task.abort();
            let _ = task.await;
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: UnixStream::connect(&self.socket).await.unwrap() }
    }

    /// A request that no other task sees before the next `await`, in a runtime with one thread.
    pub(crate) fn send_unread(&self, method: &str, body: &Value, headers: &str) -> Client {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).unwrap();
        let request = request(method, &body.to_string(), headers);
        std::io::Write::write_all(&mut stream, &request).unwrap();
        stream.set_nonblocking(true).unwrap();
        Client { stream: UnixStream::from_std(stream).unwrap() }
    }

    /// One call on a connection of its own.
    pub(crate) async fn call(&self, method: &str, body: &Value) -> Reply {
        self.connect().await.post(method, body).await
    }

    /// From now on the kernel stands still, with all done that was wanted of it so far.
    pub(crate) async fn hang(&self) {
        let state = self.state();
        for network in state.networks.keys() {
            let revision = state.revision_of(network);
            self.applied.wait(network, revision, WITHIN).await.unwrap();
        }
        self.kernel.send_replace(Kernel::Hangs);
    }

    /// Waits until a Join is noted, whether or not it is answered yet.
    pub(crate) async fn noted_join(&self) {
        let joined = |state: &Arc<State>| {
            let mut endpoints =
                state.networks.values().flat_map(|network| network.endpoints.values());
            endpoints.any(|endpoint| endpoint.sandbox.is_some())
        };
        let mut states = self.journal.watch();
        tokio::time::timeout(WITHIN, states.wait_for(joined)).await.expect("a Join").unwrap();
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.journal.state()
    }
}

/// As dockerd writes it, with headers of the shim's.
fn request(method: &str, body: &str, headers: &str) -> Vec<u8> {
    let path = if method.starts_with('/') {
        method.to_owned()
    } else {
        format!("/NetworkDriver.{method}")
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n{headers}\r\n",
        body.len()
    );
    format!("{head}{body}").into_bytes()
}

/// A killed driver's tasks may take a moment to let the file go.
fn open_journal(dir: &Path, boot: &str, random: &Random) -> Journal {
    let until = std::time::Instant::now() + WITHIN;
    loop {
        match Journal::open(&dir.join("state"), boot, random) {
            Err(JournalError::Busy { .. }) if std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5))
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Keys that differ from each other, and are the same in every run.
pub(crate) fn counting_random() -> Random {
    let count = AtomicU64::new(1);
    Arc::new(move |bytes| {
        let mut seed = count.fetch_add(1, Ordering::Relaxed);
        for byte in bytes {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (seed >> 56) as u8;
        }
    })
}

async fn follow(
    mut states: watch::Receiver<Arc<State>>,
    mut kernels: watch::Receiver<Kernel>,
    applied: Applied,
) {
    let mut reported: BTreeMap<DockerNetworkId, Option<u64>> = BTreeMap::new();
    loop {
        let state = states.borrow_and_update().clone();
        let kernel = kernels.borrow_and_update().clone();
        for network in state.networks.keys() {
            let report = match &kernel {
                Kernel::Follows => Report {
                    failures: 0,
                    applied: Some(state.revision),
                    tried: state.revision,
                    error: None,
                },
                Kernel::Fails(error) => {
                    let applied = reported.get(network).copied().flatten();
                    Report {
                        failures: 9,
                        applied,
                        tried: state.revision,
                        error: Some(error.clone()),
                    }
                }
                Kernel::Hangs => continue,
            };
            reported.insert(network.clone(), report.applied);
            applied.report(network, report);
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            changed = kernels.changed() => if changed.is_err() { return },
        }
    }
}

/// One connection.
pub(crate) struct Client {
    stream: UnixStream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn err(&self) -> &str {
        self.body["Err"].as_str().unwrap_or("")
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Value {
        assert!(self.status == 200 && self.err().is_empty(), "{self:?}");
        &self.body
    }

    #[track_caller]
    pub(crate) fn fails_with(&self, part: &str) {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.err().contains(part), "{:?} does not contain {part:?}", self.err());
        assert_eq!(self.body.get("Error"), None, "Error is the IPAM driver's");
    }
}

impl Client {
    /// As dockerd of today sends it: no Content-Type, a newline after the JSON.
    pub(crate) async fn post(&mut self, method: &str, body: &Value) -> Reply {
        self.post_with(method, &format!("{body}\n"), "").await
    }

    pub(crate) async fn post_empty(&mut self, method: &str) -> Reply {
        self.post_with(method, "", "").await
    }

    /// With more header lines, each ending in `\r\n`.
    pub(crate) async fn post_with(&mut self, method: &str, body: &str, headers: &str) -> Reply {
        self.send(method, body, headers).await;
        self.reply().await
    }

    pub(crate) async fn send(&mut self, method: &str, body: &str, headers: &str) {
        self.raw(&request(method, body, headers)).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        tokio::time::timeout(WITHIN * 2, self.read_reply()).await.expect("an answer in time")
    }

    /// Whether the other side closed without an answer; waits for either. It is a reset if what was
    /// sent had not been read.
    pub(crate) async fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]).await {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    async fn read_reply(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.expect("the connection stays open"));
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<_, _> =
            headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        // dockerd's client keeps a connection only when it knows where the answer ends.
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        let headers = headers.into_iter().filter(|(name, _)| name != "date").collect();
        Reply { status, headers, body: serde_json::from_slice(&body).unwrap() }
    }
}

pub(crate) const SWARM_NETWORK: &str = "m3v0gvk6pj5e0l1y9h3kz1v2c";

pub(crate) fn plain_network(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

pub(crate) fn endpoint(n: u8) -> String {
    format!("e{n:02x}").repeat(21) + "e"
}

pub(crate) fn create_network(id: &str, options: &Value) -> Value {
    json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": "10.0.9.1/24", "Pool": "10.0.9.0/24"}],
        "IPv6Data": []
    })
}

pub(crate) fn create_endpoint(network: &str, endpoint: &str, address: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""},
        "Options": {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []}
    })
}

pub(crate) fn join(network: &str, endpoint: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "SandboxKey": "/var/run/docker/netns/1a2b3c4d5e6f",
        "Options": {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []}
    })
}

pub(crate) fn of(network: &str, endpoint: &str) -> Value {
    json!({"NetworkID": network, "EndpointID": endpoint})
}

pub(crate) fn only(network: &str) -> Value {
    json!({"NetworkID": network})
}

pub(crate) fn id(text: &str) -> DockerNetworkId {
    text.parse().unwrap()
}

/// A driver with one network of a swarm.
pub(crate) async fn with_network(dir: &TempDir) -> Driver {
    let driver = Driver::start(dir.path());
    let create = create_network(SWARM_NETWORK, &json!({}));
    driver.call("CreateNetwork", &create).await.succeeds();
    driver
}
