//! `wgnetctl` beside a real etcd: what it lists, what it does not believe, how soon it tells, and
//! its exit codes.

#[path = "revoke.rs"]
mod revoke;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;
use wgnet_control_plane::admin::Unready;
use wgnet_control_plane::store::etcd::EtcdStore;
use wgnet_control_plane::store::{Op, Store as _, Txn};
use wgnet_proto::record::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Slot,
    StatusRecord,
};
use wgnet_proto::status::Problem;
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostKey, Incarnation, MacAddr, NetworkKey, Path, PublicKey, Record,
    Sealer,
};

use crate::server::Etcd;

const SECRET: [u8; 32] = [9; 32];
/// Where doctor's probes stay on this machine.
const HERE: [u8; 3] = [127, 0, 0];
const CLUSTER: ClusterId = ClusterId([1; 16]);

/// Two hosts in one network, as their drivers would publish them.
struct Fleet {
    etcd: Etcd,
    store: EtcdStore,
    dir: TempDir,
    seq: u64,
}

impl Fleet {
    async fn start() -> Self {
        Self::start_at([192, 0, 2]).await
    }

    /// Whose hosts are found at addresses that begin so.
    async fn start_at(underlay: [u8; 3]) -> Self {
        let etcd = Etcd::start(1).await;
        let store = etcd.store("/wgnet/v1");
        let dir = tempfile::Builder::new().prefix("wgnett-ctl-").tempdir().unwrap();
        ClusterSecrets::generate(SECRET).write_new(&dir.path().join("secret")).unwrap();
        let mut fleet = Self { etcd, store, dir, seq: 0 };
        let incarnation = Incarnation([2; 16]);
        let cluster =
            ClusterRecord { cluster: CLUSTER, incarnation, schema: 1, history: 1, announced_at: 0 };
        fleet.put(1, Path::Cluster, Record::Cluster(cluster)).await;
        let subnets = vec!["10.0.0.0/24".parse().unwrap()];
        let network = NetworkRecord { subnets, options: BTreeMap::new(), freed: false };
        fleet.put(1, Path::Network(blue()), Record::Network(network)).await;
        for host in [1, 2] {
            let id = key(host).id();
            let record = HostRecord {
                name: format!("h{host}"),
                underlay: vec![IpAddr::from([underlay[0], underlay[1], underlay[2], host])],
                version: "0.1.0".to_owned(),
                backend: "kernel".to_owned(),
                incarnation,
            };
            fleet.put(host, Path::Host(id), Record::Host(record)).await;
            let alive = AliveRecord { boot: "b".to_owned() };
            fleet.put(host, Path::Alive(id), Record::Alive(alive)).await;
            let public_key = PublicKey([host; 32]);
            let slot = Slot { generation: 0, public_key, port: 51_820, underlay: Vec::new() };
            let member = MemberRecord { slots: vec![slot], ready_generation: 0, floor: 0 };
            fleet.put(host, Path::Member(blue(), id), Record::Member(member)).await;
            fleet.endpoint(host, host, SECRET).await;
        }
        fleet
    }

    async fn put(&mut self, host: u8, path: Path, record: Record) {
        self.put_sealed(host, path, record, SECRET).await;
    }

    async fn put_sealed(&mut self, host: u8, path: Path, record: Record, secret: [u8; 32]) {
        self.seq += 1;
        let sealer = Sealer::new(key(host), ClusterSecrets::generate(secret), CLUSTER);
        let value = sealer.seal_record(&path, self.seq, &record);
        let ops = vec![Op::Put { key: path.to_string(), value }];
        self.store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    }

    async fn endpoint(&mut self, host: u8, number: u8, secret: [u8; 32]) {
        let address = IpAddr::from([10, 0, 0, number]);
        let record = EndpointRecord {
            addresses: vec![address],
            endpoint: format!("{number:064x}").parse().unwrap(),
            host: key(host).id(),
            mac: MacAddr::of_address(address),
            claim: number.into(),
        };
        let path = Path::Endpoint(blue(), address);
        self.put_sealed(host, path, Record::Endpoint(record), secret).await;
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgnetctl"));
        let endpoints = self.etcd.options("/").endpoints.join(",");
        command
            .args(args)
            .args(["--etcd", &endpoints])
            .args(["--secret", self.dir.path().join("secret").to_str().unwrap()])
            .args(["--socket", self.dir.path().join("no-driver").to_str().unwrap()])
            .env_remove("WGNET_CONFIG");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn key(host: u8) -> HostKey {
    HostKey::from_bytes([host; 32])
}

fn blue() -> NetworkKey {
    NetworkKey::named("blue").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wgnetctl_lists_the_cluster_and_believes_no_forged_record() {
    let mut fleet = Fleet::start().await;
    let [network] = &fleet.json(&["networks"])[..] else { panic!("one network") };
    assert_eq!((&network["network"], &network["alive"]), (&"n-blue".into(), &2.into()));
    let hosts = fleet.json(&["hosts", "blue"]);
    let states: Vec<_> = hosts.iter().map(|host| (&host["name"], &host["state"])).collect();
    assert_eq!(states, [(&"h1".into(), &"alive".into()), (&"h2".into(), &"alive".into())]);
    assert_eq!(fleet.json(&["endpoints", "--host", "h2"])[0]["addresses"][0], "10.0.0.2");

    let output = fleet.run(&["problems"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), text.trim()), (Some(0), "No problems."));
    let output = fleet.run(&["endpoints"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("NETWORK") && !text.contains('\u{1b}'), "{text}");
    let output = fleet.run(&["path", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    fleet.endpoint(2, 99, [66; 32]).await;
    assert_eq!(fleet.json(&["endpoints"]).len(), 2);
    assert_eq!(fleet.json(&["problems"])[0]["code"], "refused-wrong-secret");
    assert_eq!(fleet.run(&["problems"]).status.code(), Some(1));
    let output = fleet.run(&["path", "10.0.0.1", "10.0.0.99"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("not believed"), "{text}");

    assert_eq!(fleet.run(&["hosts", "--host", "h9"]).status.code(), Some(1));
    assert_eq!(fleet.run(&["hosts", "--no-such-flag"]).status.code(), Some(2));
    fleet.etcd.kill_all();
    let output = fleet.run(&["hosts"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_of_a_new_endpoint_within_a_second_and_of_a_lost_etcd() {
    let mut fleet = Fleet::start().await;
    let mut watch = Watching::start(&fleet, &["endpoints", "--watch"]);
    let first = [watch.next(), watch.next(), watch.next(), watch.next()];
    let events: Vec<_> = first.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert!(events.contains(&"synced") && events.contains(&"connected"), "{events:?}");
    let before = Instant::now();
    fleet.endpoint(1, 7, SECRET).await;
    let line = watch.next();
    assert_eq!(
        (&line["event"], &line["row"]["addresses"][0]),
        (&"added".into(), &"10.0.0.7".into())
    );
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    fleet.etcd.kill_all();
    assert_eq!(watch.next()["event"], "disconnected");
    fleet.etcd.start_all();
    assert_eq!(watch.next()["event"], "connected");
}

/// A `wgnetctl` that runs until this is dropped.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watching {
    fn start(fleet: &Fleet, args: &[&str]) -> Self {
        let mut child = fleet.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (telling, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| telling.send(line))
        });
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).expect("a line comes");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_what_is_planted_and_goes_on_past_it() {
    let mut fleet = Fleet::start_at(HERE).await;
    let codes = |fleet: &Fleet| -> Vec<String> {
        let docker = fleet.dir.path().join("no-docker");
        let areas = fleet.json(&["doctor", "--docker", docker.to_str().unwrap()]);
        let findings = areas.iter().flat_map(|area| area["findings"].as_array().unwrap());
        findings
            .map(|finding| {
                for field in ["what", "why", "next_step"] {
                    assert!(!finding[field].as_str().unwrap().is_empty(), "{finding}");
                }
                finding["code"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    // etcd and the records are as they should be; there is no driver and no Docker here. What this
    // machine's kernel and firewall are like is not known.
    let told = codes(&fleet);
    assert!(told.contains(&"driver-away".to_owned()) && told.contains(&"docker-away".to_owned()));
    let of_cluster = |told: &[String]| -> Vec<String> {
        let known = ["driver-away", "docker-away", "etcd-old", "etcd-slow"];
        let of_machine = ["no-wireguard", "no-nft", "kernel-old", "firewall-closed", "state-full"];
        let rest = told
            .iter()
            .filter(|it| !known.contains(&it.as_str()) && !of_machine.contains(&it.as_str()));
        rest.cloned().collect()
    };
    assert_eq!(of_cluster(&told), Vec::<String>::new());

    fleet.etcd.raise_alarm().await;
    assert_eq!(of_cluster(&codes(&fleet)), ["etcd-alarm"]);
    fleet.etcd.defragment_and_disarm().await;
    fleet.endpoint(2, 99, [66; 32]).await;
    assert_eq!(of_cluster(&codes(&fleet)), ["refused-wrong-secret"]);
    let secret = fleet.dir.path().join("secret");
    std::fs::remove_file(&secret).unwrap();
    ClusterSecrets::generate([77; 32]).write_new(&secret).unwrap();
    assert_eq!(of_cluster(&codes(&fleet)), ["wrong-secret"]);
    std::fs::remove_file(&secret).unwrap();
    assert_eq!(of_cluster(&codes(&fleet)), ["secret-missing"]);
    ClusterSecrets::generate(SECRET).write_new(&secret).unwrap();
    fleet.etcd.kill_all();
    assert_eq!(of_cluster(&codes(&fleet)), ["etcd-away"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_was_taken_is_a_note_and_no_failure() {
    let mut fleet = Fleet::start_at(HERE).await;
    let problem = Problem {
        code: "port-taken".to_owned(),
        object: "network blue".to_owned(),
        cause: "UDP port 51820 is taken on this host; 51821 is used instead".to_owned(),
        next_step: "nothing".to_owned(),
    };
    let record = StatusRecord { problems: vec![problem], ..StatusRecord::default() };
    let path = Path::Status(key(2).id());
    fleet.put(2, path, Record::Status(Box::new(record))).await;
    let output = fleet.run(&["problems"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("note") && text.contains("port-taken"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_cannot_work_yet_is_asked_for_its_reason() {
    let fleet = Fleet::start_at(HERE).await;
    let socket = fleet.dir.path().join("no-driver");
    let (reason, next_step) = ("there is no secret".to_owned(), "copy it".to_owned());
    let body = serde_json::to_string(&Unready { reason, next_step }).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).unwrap();
            let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close";
            let length = body.len();
            write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    let before = Instant::now();
    let mut status = Command::new(env!("CARGO_BIN_EXE_wgnetctl"));
    let output = status.arg("status").arg("--socket").arg(&socket).output().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot work yet: there is no secret; next: copy it"), "{told}");

    let docker = fleet.dir.path().join("no-docker");
    let areas = fleet.json(&["doctor", "--docker", docker.to_str().unwrap()]);
    let driver = areas.iter().find(|area| area["area"] == "driver").unwrap();
    let finding = &driver["findings"][0];
    assert_eq!(
        (&finding["code"], &finding["what"]),
        (&"driver-unready".into(), &"there is no secret".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_holds_no_secret_in_any_form() {
    let fleet = Fleet::start_at(HERE).await;
    let dir = fleet.dir.path();
    let host_key = [0xc7; 32];
    std::fs::write(dir.join("host.key"), format!("wgnet-host-key v1\n{}\n", hex::encode(host_key)))
        .unwrap();
    // A log and settings that say what they must not.
    let private = [0x5e; 32];
    let mut said = String::from("#!/bin/sh\ncat <<'END'\nthe driver said this\n");
    for key in [&SECRET, &host_key, &private] {
        said.push_str(&format!(
            "{}\n{}\n{}\n",
            STANDARD.encode(key),
            hex::encode(key),
            hex::encode_upper(key)
        ));
    }
    said.push_str("END\n");
    let programs = dir.join("bin");
    std::fs::create_dir(&programs).unwrap();
    std::fs::write(programs.join("journalctl"), said).unwrap();
    std::fs::set_permissions(programs.join("journalctl"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    let settings = dir.join("driver.toml");
    let text = format!("# secret: {}\nstate_dir = {:?}\n", STANDARD.encode(SECRET), dir);
    std::fs::write(&settings, text).unwrap();

    let bundle = dir.join("bundle.tar.gz");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let args =
        ["bundle", "--output", bundle.to_str().unwrap(), "--config", settings.to_str().unwrap()];
    let output =
        fleet.command(&args).args(["--docker", "/nowhere"]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let mut files = BTreeMap::new();
    let unpacked = flate2::read::GzDecoder::new(std::fs::File::open(&bundle).unwrap());
    for entry in tar::Archive::new(unpacked).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), content);
    }
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    assert!(text("log.txt").contains("the driver said this"));
    assert!(text("settings.toml").contains("state_dir"));
    assert!(text("endpoints.json").contains("10.0.0.2"));
    assert!(text("doctor.json").contains("driver-away"));
    for (name, content) in &files {
        for key in [&SECRET, &host_key, &private] {
            let encoded = STANDARD.encode(key);
            let forms = [
                key.to_vec(),
                hex::encode(key).into_bytes(),
                hex::encode_upper(key).into_bytes(),
                encoded.trim_end_matches('=').as_bytes().to_vec(),
            ];
            for form in forms {
                assert!(!content.windows(form.len()).any(|part| part == form), "a key in {name}");
            }
        }
    }
    let mode = std::fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
