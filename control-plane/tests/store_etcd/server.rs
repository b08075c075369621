//! Real etcd processes for tests: a cluster on free loopback ports with its data in a temporary
//! directory. Nothing of it outlives the test, even one that is killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::task::JoinSet;
use wgnet_control_plane::store::conformance::Fixture;
use wgnet_control_plane::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use wgnet_control_plane::store::{Store, chain};

/// An etcd cluster; dropping it ends its processes.
pub(crate) struct Etcd {
    members: Vec<Member>,
    pki: Option<Pki>,
    _dir: Option<TempDir>,
}

struct Member {
    name: String,
    client_url: String,
    args: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    /// Starts a cluster and waits until it answers.
    pub(crate) async fn start(size: usize) -> Self {
        Self::start_with(size, false, &[]).await
    }

    /// The same with TLS, for clients with a certificate only.
    pub(crate) async fn start_with_tls() -> Self {
        Self::start_with(1, true, &[]).await
    }

    /// One member that is full after so many bytes.
    pub(crate) async fn start_small(quota: usize) -> Self {
        Self::start_with(1, false, &[("quota-backend-bytes", &quota.to_string())]).await
    }

    async fn start_with(size: usize, is_tls: bool, more: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("wgnett-etcd-").tempdir().unwrap();
        let pki = is_tls.then(|| Pki::make(dir.path()));
        let scheme = if is_tls { "https" } else { "http" };
        let urls: Vec<_> = (0..size)
            .map(|i| {
                let url = |scheme: &str| format!("{scheme}://127.0.0.1:{}", free_port());
                (format!("m{i}"), url(scheme), url("http"))
            })
            .collect();
        let all: Vec<_> = urls.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let members = urls.iter().map(|(name, client, peer)| {
            let data = dir.path().join(name);
            let mut args: Vec<String> = Vec::new();
            let mut arg = |name: &str, value: &str| args.push(format!("--{name}={value}"));
            arg("name", name);
            arg("data-dir", &data.display().to_string());
            arg("listen-client-urls", client);
            arg("advertise-client-urls", client);
            arg("listen-peer-urls", peer);
            arg("initial-advertise-peer-urls", peer);
            arg("initial-cluster", &all.join(","));
            arg("initial-cluster-token", "wgnett");
            more.iter().for_each(|(name, value)| arg(name, value));
            if let Some(pki) = &pki {
                arg("trusted-ca-file", &pki.path("ca.pem"));
                arg("cert-file", &pki.path("server.pem"));
                arg("key-file", &pki.path("server.key"));
                arg("client-cert-auth", "true");
            }
            Member {
                log: dir.path().join(format!("{name}.log")),
                name: name.clone(),
                client_url: client.clone(),
                args,
                data,
                child: None,
            }
        });
        let mut etcd = Self { members: members.collect(), pki, _dir: Some(dir) };
        etcd.start_all();
        etcd.answers().await;
        etcd
    }

    pub(crate) fn store(&self, prefix: &str) -> EtcdStore {
        EtcdStore::new(self.options(prefix)).unwrap()
    }

    pub(crate) fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.members.iter().map(|member| member.client_url.clone()).collect(),
            prefix: prefix.to_owned(),
            tls: self.pki.as_ref().map(|pki| EtcdTls {
                ca: Some(pki.read("ca.pem")),
                client: Some((pki.read("client.pem"), pki.read("client.key"))),
                domain: None,
            }),
        }
    }

    pub(crate) fn start_all(&mut self) {
        self.members.iter_mut().filter(|member| member.child.is_none()).for_each(Member::start);
    }

    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// The same single member with the same data where its clients do not find it. It must not run.
    pub(crate) fn on_other_port(&self) -> Self {
        let [member] = &self.members[..] else { panic!("this is for one member") };
        let url = format!("http://127.0.0.1:{}", free_port());
        let args = member.args.iter().map(|arg| arg.replace(&member.client_url, &url)).collect();
        let member = Member {
            name: member.name.clone(),
            client_url: url,
            args,
            data: member.data.clone(),
            log: member.log.clone(),
            child: None,
        };
        let mut etcd = Self { members: vec![member], pki: None, _dir: None };
        etcd.start_all();
        etcd
    }

    pub(crate) fn kill_one(&mut self) {
        self.kill(0);
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Which member leads.
    pub(crate) async fn leader(&self) -> usize {
        for (number, member) in self.members.iter().enumerate() {
            let client = Client::connect([&member.client_url], None).await.unwrap();
            let status = client.maintenance_client().status().await.unwrap();
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return number;
            }
        }
        panic!("nobody leads");
    }

    /// Waits until each member that runs made a change. All are asked again and again.
    pub(crate) async fn makes_changes(&self) {
        let running = self.members.iter().filter(|member| member.child.is_some());
        let mut urls: Vec<_> = running.map(|member| member.client_url.clone()).collect();
        let mut every = tokio::time::interval(Duration::from_millis(100));
        let mut asked = JoinSet::new();
        while !urls.is_empty() {
            tokio::select! {
                _ = every.tick() => for url in urls.clone() {
                    asked.spawn(async move {
                        let client = Client::connect([&url], None).await.unwrap();
                        client.kv_client().put("/wgnett", "", None).await.is_ok().then_some(url)
                    });
                },
                Some(made) = asked.join_next() => if let Some(made) = made.unwrap() {
                    urls.retain(|url| *url != made);
                },
            }
        }
    }

    /// Forgets the history before the current revision.
    pub(crate) async fn compact_now(&self) {
        let revision = self.store("/wgnett").revision().await.unwrap();
        let wholly = CompactionOptions::new().with_physical();
        self.client().await.compact(revision, Some(wholly)).await.unwrap();
    }

    /// Deletes a key as an administrator does.
    pub(crate) async fn delete(&self, key: &str) {
        self.client().await.delete(key, None).await.unwrap();
    }

    /// Says that there is no room.
    pub(crate) async fn raise_alarm(&self) {
        let mut client = self.client().await;
        let member = client.status().await.unwrap().header().unwrap().member_id();
        let mut of_member = AlarmOptions::new();
        of_member.with_member(member);
        client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(of_member)).await.unwrap();
    }

    /// Makes the room of what is compacted free, and says that there is room again.
    pub(crate) async fn defragment_and_disarm(&self) {
        let mut client = self.client().await;
        client.defragment().await.unwrap();
        let raised = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await.unwrap();
        for alarm in raised.alarms() {
            let mut of_member = AlarmOptions::new();
            of_member.with_member(alarm.member_id());
            let disarm = (AlarmAction::Deactivate, AlarmType::Nospace);
            client.alarm(disarm.0, disarm.1, Some(of_member)).await.unwrap();
        }
    }

    async fn client(&self) -> Client {
        let url = [self.members[0].client_url.clone()];
        Client::connect(url, None).await.unwrap()
    }

    async fn answers(&mut self) {
        let store = self.store("/wgnett");
        let mut error = String::new();
        for _ in 0..400 {
            match store.revision().await {
                Ok(_) => return,
                Err(now) => error = chain(&now),
            }
            self.members.iter_mut().for_each(Member::must_run);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer: {error}");
    }
}

impl Fixture for Etcd {
    type Store = EtcdStore;

    fn client(&self, prefix: &str) -> EtcdStore {
        self.store(prefix)
    }

    async fn compact(&mut self) {
        self.compact_now().await;
    }

    async fn restart(&mut self) {
        self.kill_all();
        self.start_all();
    }

    async fn lose_leader(&mut self) {
        let majority = self.members.len() / 2 + 1;
        self.members.iter_mut().take(majority).for_each(Member::kill);
    }

    async fn regain_leader(&mut self) {
        self.start_all();
    }

    async fn wipe(&mut self) {
        self.kill_all();
        for member in &self.members {
            fs::remove_dir_all(&member.data).unwrap();
        }
        self.start_all();
    }

    async fn fill(&mut self) {
        self.raise_alarm().await;
    }

    async fn make_room(&mut self) {
        self.defragment_and_disarm().await;
    }

    async fn freeze(&mut self, _client: &EtcdStore) {
        self.members.iter().for_each(|member| member.signal(Signal::SIGSTOP));
    }

    async fn thaw(&mut self, _client: &EtcdStore) {
        self.members.iter().for_each(|member| member.signal(Signal::SIGCONT));
    }
}

impl Member {
    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new("etcd");
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
            });
        }
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => panic!(
                "cannot start `etcd` ({error}): this test needs it, install Debian's etcd-server"
            ),
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let pid = i32::try_from(child.id()).expect("a pid is small");
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }

    fn must_run(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(status) = child.try_wait().unwrap() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            panic!("etcd {} ended with {status}: {tail:#?}", self.name);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has, outside of the range from which the kernel gives ports to clients, so
/// that it stays free while a member is down.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 8000).expect("it is small");
    for _ in 0..8000 {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + tried) % 8000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free between 20000 and 28000");
}

/// A certificate authority and what it signed, made with openssl.
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    pub(crate) fn make(dir: &Path) -> Self {
        let pki = Self { dir: dir.to_owned() };
        pki.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=wgnett-ca -addext basicConstraints=critical,CA:TRUE \
             -keyout ca.key -out ca.pem",
        );
        pki.sign("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth");
        pki.sign("client", "extendedKeyUsage=clientAuth");
        pki
    }

    fn sign(&self, name: &str, extensions: &str) {
        fs::write(self.dir.join(format!("{name}.ext")), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=wgnett-{name} \
             -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile {name}.ext -out {name}.pem"
        ));
    }

    fn openssl(&self, args: &str) {
        let output = Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(&self.dir)
            .output()
            .unwrap_or_else(|error| panic!("cannot run `openssl` ({error}): this test needs it"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args}: {said}");
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }
}
