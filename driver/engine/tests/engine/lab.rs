//! Two hosts as network namespaces joined by a veth, an engine on each, and a private namespace
//! per host. All names carry the mark `wgnett-eng-`; whatever a killed run left is removed first.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use gotatun::x25519::{PublicKey, StaticSecret};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use wgnet_engine::{
    Client, DeviceId, DeviceState, NewDevice, Operation, PeerState, PeerUpdate, PresharedKey,
    SecretKey,
};

const MARK: &str = "wgnett-eng-";
pub(crate) const ENGINE: &str = env!("CARGO_BIN_EXE_wgnet-engine");
const PINGS: u32 = 3;
pub(crate) const PORT: u16 = 51820;

#[derive(Clone, Copy)]
pub(crate) enum Underlay {
    V4,
    V6,
}

pub(crate) struct Lab {
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) directory: TempDir,
}

pub(crate) struct Host {
    /// The namespace that stands for the host.
    pub(crate) host: String,
    /// The namespace of the network on it.
    pub(crate) inner: String,
    pub(crate) number: u8,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) private_key: [u8; 32],
    engine: Option<Child>,
}

impl Lab {
    /// The two hosts with running engines, without devices.
    pub(crate) async fn new(test: &str) -> Self {
        sole_run();
        let directory = tempfile::Builder::new().prefix(MARK).tempdir().unwrap();
        let host = |number, side| Host::new(test, side, number, directory.path());
        let (a, b) = (host(1, "a"), host(2, "b"));
        for host in [&a, &b] {
            for namespace in [&host.host, &host.inner] {
                ip(&format!("netns add {namespace}"));
                ip(&format!("-n {namespace} link set lo up"));
            }
        }
        ip(&format!(
            "link add wgnett0 netns {} type veth peer name wgnett0 netns {}",
            a.host, b.host
        ));
        for host in [&a, &b] {
            let (namespace, number) = (&host.host, host.number);
            ip(&format!("-n {namespace} addr add 192.0.2.{number}/24 dev wgnett0"));
            ip(&format!("-n {namespace} addr add fd00:77::{number}/64 dev wgnett0 nodad"));
            ip(&format!("-n {namespace} link set wgnett0 up"));
        }
        let mut lab = Self { a, b, directory };
        lab.a.start_engine().await;
        lab.b.start_engine().await;
        lab
    }

    /// The same with a device each, up and addressed, that do not know each other yet.
    pub(crate) async fn with_devices(test: &str) -> Self {
        let lab = Self::new(test).await;
        lab.a.make_device().await;
        lab.b.make_device().await;
        lab
    }

    /// The same with sessions between them.
    pub(crate) async fn connected(test: &str, underlay: Underlay) -> Self {
        let lab = Self::with_devices(test).await;
        lab.introduce(underlay, None).await;
        lab.a.wait_for_handshake(&lab.b).await;
        lab.b.wait_for_handshake(&lab.a).await;
        lab
    }

    pub(crate) async fn introduce(&self, underlay: Underlay, preshared_key: Option<[u8; 32]>) {
        self.a.add_peer(&self.b, underlay, preshared_key).await;
        self.b.add_peer(&self.a, underlay, preshared_key).await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in [&self.a, &self.b] {
                let log = std::fs::read_to_string(&host.log).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- log of {}, last line first", host.host);
                eprintln!("{}", end.join("\n"));
            }
        }
        for host in [&mut self.a, &mut self.b] {
            host.kill_engine();
            remove_namespace(&host.host);
            remove_namespace(&host.inner);
        }
    }
}

impl Host {
    fn new(test: &str, side: &str, number: u8, directory: &Path) -> Self {
        Self {
            host: format!("{MARK}{test}-{side}"),
            inner: format!("{MARK}{test}-n{side}"),
            number,
            socket: directory.join(format!("{side}/engine.sock")),
            log: directory.join(format!("{side}.log")),
            private_key: random_key(),
            engine: None,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(self.private_key)).to_bytes()
    }

    pub(crate) fn device(&self) -> DeviceId {
        DeviceId::new(format!("/run/netns/{}", self.inner), "wg0")
    }

    pub(crate) fn new_device(&self) -> NewDevice {
        NewDevice {
            id: self.device(),
            private_key: SecretKey::from(self.private_key),
            port: PORT,
            mtu: 1420,
        }
    }

    pub(crate) fn inner_v4(&self) -> IpAddr {
        IpAddr::from([10, 77, 0, self.number])
    }

    pub(crate) fn inner_v6(&self) -> IpAddr {
        format!("fd77::{}", self.number).parse().unwrap()
    }

    pub(crate) fn underlay_address(&self, underlay: Underlay) -> SocketAddr {
        let ip = match underlay {
            Underlay::V4 => format!("192.0.2.{}", self.number),
            Underlay::V6 => format!("fd00:77::{}", self.number),
        };
        SocketAddr::new(ip.parse().unwrap(), PORT)
    }

    /// A command line that starts an engine on this host.
    pub(crate) fn engine_command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.host))
            .arg(ENGINE)
            .args(["--log", "debug,gotatun=trace", "--socket"])
            .arg(&self.socket);
        command
    }

    pub(crate) async fn start_engine(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let engine = self.engine_command().stderr(log).spawn().unwrap();
        self.engine = Some(engine);
        let client = self.client();
        until("the engine answers", async || client.list_devices().await.is_ok()).await;
    }

    pub(crate) fn kill_engine(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            engine.kill().unwrap();
            engine.wait().unwrap();
        }
    }

    pub(crate) fn engine(&mut self) -> &mut Child {
        self.engine.as_mut().unwrap()
    }

    /// The processes of every engine on this host.
    pub(crate) fn engines(&self) -> Vec<u32> {
        let pids = ip(&format!("netns pids {}", self.host));
        let pids = pids.lines().map(|line| line.trim().parse::<u32>().unwrap());
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        pids.filter(|pid| name(pid).is_ok_and(|name| name.trim() == "wgnet-engine")).collect()
    }

    pub(crate) async fn make_device(&self) {
        assert!(self.client().create_device(&self.new_device()).await.unwrap());
        self.address_link();
    }

    pub(crate) fn address_link(&self) {
        let namespace = &self.inner;
        ip(&format!("-n {namespace} addr add {}/24 dev wg0", self.inner_v4()));
        ip(&format!("-n {namespace} addr add {}/64 dev wg0 nodad", self.inner_v6()));
        ip(&format!("-n {namespace} link set wg0 up"));
    }

    pub(crate) async fn configure(&self, operations: &[Operation]) {
        let client = self.client();
        let failures = client.configure(&self.device(), operations).await.unwrap();
        assert_eq!(failures, []);
    }

    pub(crate) async fn add_peer(&self, peer: &Host, underlay: Underlay, key: Option<[u8; 32]>) {
        let update = PeerUpdate {
            public_key: peer.public_key(),
            preshared_key: key.map(|key| PresharedKey::Use(key.into())),
            underlay_address: Some(peer.underlay_address(underlay)),
            keepalive: Some(25),
        };
        let addresses = vec![peer.inner_v4().into(), peer.inner_v6().into()];
        self.configure(&[
            Operation::AddOrUpdatePeer(update),
            Operation::AddAllowedIps(peer.public_key(), addresses),
        ])
        .await;
    }

    pub(crate) async fn state(&self) -> DeviceState {
        let client = self.client();
        client.get_device(&self.device()).await.unwrap().unwrap()
    }

    pub(crate) async fn peer(&self, peer: &Host) -> PeerState {
        let state = self.state().await;
        let mut peers = state.peers.into_iter();
        peers.find(|p| p.public_key == peer.public_key()).unwrap()
    }

    pub(crate) async fn wait_for_handshake(&self, peer: &Host) {
        let name = format!("{} has a session with {}", self.host, peer.host);
        until(&name, async || self.peer(peer).await.last_handshake.is_some()).await;
    }

    /// Pings from the network's namespace and loses nothing, however slow the machine is.
    pub(crate) fn reaches(&self, to: IpAddr) {
        assert_eq!(self.ping(to, "5"), PINGS, "{} to {to}", self.inner);
    }

    pub(crate) fn does_not_reach(&self, to: IpAddr) {
        assert_eq!(self.ping(to, "0.5"), 0, "{} to {to}", self.inner);
    }

    fn ping(&self, to: IpAddr, wait_seconds: &str) -> u32 {
        let mut command = self.inside("ping");
        command.args(["-n", "-q", "-i", "0.05", "-W", wait_seconds]);
        command.args(["-c", &PINGS.to_string(), &to.to_string()]);
        received(&command.output().unwrap())
    }

    /// A command in the network's namespace.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.inner));
        command.arg(program).stdin(Stdio::null());
        command
    }
}

/// How many answers `ping -q` counted.
pub(crate) fn received(output: &Output) -> u32 {
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.split(", ").find_map(|part| {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words[..] {
            [count, "received"] | [count, "packets", "received"] => count.parse().ok(),
            _ => None,
        }
    });
    count.unwrap_or_else(|| panic!("ping said: {output:?}"))
}

/// Waits for a state, not for a while.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `f` on a thread inside a namespace; sockets it makes stay there.
pub(crate) fn in_namespace<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    let thread = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        f()
    });
    thread.join().unwrap()
}

/// Ends the processes in a namespace of ours and removes it.
fn remove_namespace(name: &str) {
    assert!(name.starts_with(MARK));
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = String::from_utf8(pids.unwrap().stdout).unwrap();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status().unwrap();
}

/// Holds off other runs and removes what a killed one left, once per run.
fn sole_run() {
    static LOCK: OnceLock<Flock<File>> = OnceLock::new();
    LOCK.get_or_init(|| {
        let manifest = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        let lock = Flock::lock(manifest, FlockArg::LockExclusive).unwrap();
        let namespaces = ip("netns list");
        let names = namespaces.lines().filter_map(|line| line.split_whitespace().next());
        for name in names.filter(|name| name.starts_with(MARK)) {
            remove_namespace(name);
        }
        for entry in std::fs::read_dir(std::env::temp_dir()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(MARK) {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        lock
    });
}

pub(crate) fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    getrandom::fill(&mut key).unwrap();
    key
}
