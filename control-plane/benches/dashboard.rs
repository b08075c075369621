//! The dashboard beside a real etcd with 100 hosts, 50 networks and 20 000 endpoints: how long pages
//! take, how soon a change is shown, how much memory it needs. `cargo bench -p wgnet-control-plane
//! --bench dashboard`; with `-- --stay` it goes on with a cluster where things happen, to look at.

#![expect(clippy::unwrap_used, reason = "a figure that cannot be had ends the bench")]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/dashboard/http.rs"]
mod http;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/store_etcd/server.rs"]
mod server;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/dashboard/world.rs"]
mod world;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Events, ask};
use server::Etcd;
use wgnet_control_plane::store::etcd::EtcdStore;
use wgnet_proto::Path;
use wgnet_proto::record::StatusRecord;
use world::{World, problem};

const HOSTS: usize = 100;
const NETWORKS: usize = 50;
const NETWORKS_OF_HOST: usize = 10;
const ENDPOINTS: usize = 20_000;
const PREFIX: &str = "/wgnet/v1";

/// Ended with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let stays = std::env::args().any(|it| it == "--stay");
    let etcd = Etcd::start(1).await;
    let store = etcd.store(PREFIX);
    let mut world = World::new(HOSTS, NETWORKS, NETWORKS_OF_HOST, now());
    let records = world.records(ENDPOINTS);
    println!("filling etcd with {} records", records.len());
    world.put(&store, records).await;

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    World::secrets().write_new(&secret).unwrap();
    let began = Instant::now();
    let port = if stays { "7587" } else { "0" };
    let mut child = Command::new(env!("CARGO_BIN_EXE_wgnetctl"))
        .args(["dashboard", "--listen", &format!("127.0.0.1:{port}"), "--secret"])
        .arg(&secret)
        .args(["--etcd", &etcd.options(PREFIX).endpoints.join(",")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let at = line.split("http://").nth(1).and_then(|it| it.split('/').next());
    let at: SocketAddr = at.expect("an address").parse().unwrap();
    until_shown(at, "/hosts?page=2", "host99").await;
    println!("{}start to everything shown: {} ms", line, began.elapsed().as_millis());

    pages(at).await;
    events(at, &store, &mut world).await;
    println!("memory, highest and now: {}", memory(running.0.id()));
    if stays {
        println!("things happen until Ctrl-C");
        // Both arms are cancel-safe: nothing is awaited after either.
        tokio::select! {
            () = happen(&store, &mut world) => {}
            ended = tokio::signal::ctrl_c() => ended.unwrap(),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn until_shown(at: SocketAddr, path: &str, text: &str) {
    let began = Instant::now();
    while !ask(at, "GET", path, &[]).await.body.contains(text) {
        assert!(began.elapsed() < Duration::from_secs(120), "{path} never shows {text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whole pages as a browser gets them first, connection included.
async fn pages(at: SocketAddr) {
    let network = format!("/networks/{}", World::network(7));
    let host = format!("/hosts/{}", World::id(7));
    let pair = format!("/tunnels/{}/{}", World::id(7), World::id(8));
    for path in [
        "/",
        "/networks",
        &network,
        "/hosts",
        &host,
        "/endpoints",
        "/endpoints?q=host9",
        "/tunnels",
        &pair,
        "/problems",
        "/journal",
    ] {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..20 {
            let began = Instant::now();
            size = ask(at, "GET", path, &[]).await.body.len();
            times.push(began.elapsed());
        }
        times.sort();
        println!(
            "{:50} {:7.1} ms median {:7.1} ms worst {:8} bytes",
            path,
            times[10].as_secs_f64() * 1e3,
            times[19].as_secs_f64() * 1e3,
            size
        );
    }
}

/// From an endpoint written to etcd until a live page has it.
async fn events(at: SocketAddr, store: &EtcdStore, world: &mut World) {
    let mut events = Events::open(at).await;
    let mut version = events.next().await["version"].as_u64().unwrap();
    let path = format!("/networks/{}?q=10.50.200.", World::network(3));
    let host = world.members(3)[0];
    let mut times = Vec::new();
    for number in 0..20 {
        let number = 200 * 256 + number;
        let address = World::address(number).to_string();
        let record = world.endpoint(3, number, host);
        let began = Instant::now();
        world.put(store, vec![record]).await;
        loop {
            let newest = events.next().await["version"].as_u64().unwrap();
            if newest > version {
                version = newest;
                if ask(at, "GET", &path, &[]).await.body.contains(&address) {
                    break;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{address} is never shown");
        }
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "a change in etcd until it is shown: {} ms median, {} ms worst of {}",
        times[10].as_millis(),
        times[19].as_millis(),
        times.len()
    );
}

fn memory(process: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    format!("{} and {} MiB", of("VmHWM:"), of("VmRSS:"))
}

/// Traffic, containers that come and go, a host that is lost, peers that fall silent.
async fn happen(store: &EtcdStore, world: &mut World) {
    let began = now();
    let silent = |record: &mut StatusRecord| {
        for network in &mut record.networks {
            for peer in network.peers.iter_mut().filter(|it| it.host == World::id(23)) {
                peer.silent = true;
                network.peers_silent += 1;
            }
        }
        record.problems = vec![problem(
            "host-silent",
            "host host23",
            "nothing comes back through WireGuard from 192.0.0.24:51820 (8 networks), though its driver lives",
        )];
    };
    for round in 0_usize.. {
        let host = round * 37 % HOSTS;
        world.at(now());
        if host != 66 {
            let record = world.status(host, |record| {
                traffic(record, host, record.written - began);
                if matches!(host, 20 | 24 | 30) {
                    silent(record);
                }
            });
            world.put(store, vec![record]).await;
        }
        if round == 40 {
            World::delete(store, &Path::Alive(World::id(66))).await;
        }
        if round % 7 == 0 {
            let network = round % NETWORKS;
            let members = world.members(network);
            let number = 1000 + round % 500;
            let record = world.endpoint(network, number, members[round % members.len()]);
            let path = Path::Endpoint(World::network(network), World::address(number));
            match round % 14 {
                0 => world.put(store, vec![record]).await,
                _ => World::delete(store, &path).await,
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Counters that grow with the time, each pair at a pace of its own.
fn traffic(record: &mut StatusRecord, host: usize, since: u64) {
    for (place, network) in record.networks.iter_mut().enumerate() {
        let wave = 1.0 + ((record.written / 20 + place as u64) as f64 / 5.0).sin();
        for (other, peer) in network.peers.iter_mut().enumerate() {
            let pace = [0, 0, 50, 3_000, 90_000, 2_000_000][(host * 5 + other * 3 + place) % 6];
            peer.sent_bytes = since * pace + (pace as f64 * wave * 20.0) as u64;
            peer.received_bytes = peer.sent_bytes / 10 * 9;
        }
        network.sent_bytes = network.peers.iter().map(|peer| peer.sent_bytes).sum();
        network.received_bytes = network.peers.iter().map(|peer| peer.received_bytes).sum();
        network.lag_ms = (record.written * 7 + place as u64 * 13) % 40;
    }
}
