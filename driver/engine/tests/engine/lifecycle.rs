//! Engines, devices and drivers that come, go and collide.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use wgnet_engine::wire::{proto, write_frame};
use wgnet_engine::{Client, Code, NewDevice, Operation, PeerUpdate, Spawn, spawn_detached};

use crate::lab::{ENGINE, Lab, PORT, Underlay, in_namespace, ip, random_key, until};

#[tokio::test]
async fn a_device_deleted_by_hand_is_reported_dead_and_can_be_made_again() {
    let lab = Lab::connected("byhand", Underlay::V4).await;
    assert_eq!(lab.a.state().await.dead, None);
    ip(&format!("-n {} link del wg0", lab.a.inner));
    let dead = lab.a.state().await.dead.unwrap();
    assert!(dead.contains("was deleted"), "{dead}");

    let client = lab.a.client();
    assert!(client.delete_device(&lab.a.device()).await.unwrap());
    assert_eq!(client.get_device(&lab.a.device()).await.unwrap(), None);
    lab.a.make_device().await;
    lab.a.add_peer(&lab.b, Underlay::V4, None).await;
    lab.a.wait_for_handshake(&lab.b).await;
    lab.a.reaches(lab.b.inner_v4());
}

#[tokio::test]
async fn a_dead_device_is_replaced_by_making_it() {
    let lab = Lab::with_devices("replace").await;
    ip(&format!("-n {} link del wg0", lab.a.inner));
    assert!(lab.a.client().create_device(&lab.a.new_device()).await.unwrap());
    assert_eq!(lab.a.state().await.dead, None);
}

#[tokio::test]
async fn a_device_whose_link_was_moved_or_renamed_is_dead() {
    let lab = Lab::with_devices("moved").await;
    ip(&format!("-n {} link set wg0 down", lab.a.inner));
    ip(&format!("-n {} link set wg0 name other", lab.a.inner));
    let dead = lab.a.state().await.dead.unwrap();
    assert!(dead.contains("is called other"), "{dead}");
    ip(&format!("-n {} link set wg0 netns {}", lab.b.inner, lab.b.host));
    let dead = lab.b.state().await.dead.unwrap();
    assert!(dead.contains("moved away"), "{dead}");
}

#[tokio::test]
async fn a_device_whose_namespace_was_deleted_is_dead_even_if_it_was_made_anew() {
    let lab = Lab::with_devices("nsgone").await;
    ip(&format!("netns del {}", lab.a.inner));
    let dead = lab.a.state().await.dead.unwrap();
    assert!(dead.contains("is gone"), "{dead}");
    ip(&format!("netns add {}", lab.a.inner));
    let dead = lab.a.state().await.dead.unwrap();
    assert!(dead.contains("another namespace"), "{dead}");
    lab.a.make_device().await;
    assert_eq!(lab.a.state().await.dead, None);
}

#[tokio::test]
async fn making_a_device_again_changes_nothing() {
    let lab = Lab::connected("again", Underlay::V4).await;
    let client = lab.a.client();
    assert!(!client.create_device(&lab.a.new_device()).await.unwrap());
    assert_eq!(lab.a.state().await.peers.len(), 1);

    let other_key = NewDevice { private_key: random_key().into(), ..lab.a.new_device() };
    let error = client.create_device(&other_key).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::AlreadyDifferent));
    let other_port = NewDevice { port: PORT + 1, ..lab.a.new_device() };
    let error = client.create_device(&other_port).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::AlreadyDifferent));
    lab.a.reaches(lab.b.inner_v4());
}

#[tokio::test]
async fn deleting_frees_link_and_port_at_once() {
    let lab = Lab::with_devices("free").await;
    let client = lab.a.client();
    for _ in 0..20 {
        assert!(client.delete_device(&lab.a.device()).await.unwrap());
        assert!(!ip(&format!("-n {} link", lab.a.inner)).contains("wg0"));
        assert!(client.create_device(&lab.a.new_device()).await.unwrap());
    }
    assert!(client.delete_device(&lab.a.device()).await.unwrap());
    assert!(!client.delete_device(&lab.a.device()).await.unwrap());
    assert_eq!(client.list_devices().await.unwrap(), []);
}

#[tokio::test]
async fn a_taken_port_is_told_apart_and_leaves_no_link() {
    let lab = Lab::new("taken").await;
    let client = lab.a.client();
    for address in ["0.0.0.0", "192.0.2.1", "::"] {
        let taken = in_namespace(&lab.a.host, move || UdpSocket::bind((address, PORT)).unwrap());
        let error = client.create_device(&lab.a.new_device()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::PortTaken), "{address}: {error}");
        assert!(!ip(&format!("-n {} link", lab.a.inner)).contains("wg0"));
        drop(taken);
    }
    assert!(client.create_device(&lab.a.new_device()).await.unwrap());
}

#[tokio::test]
async fn a_missing_namespace_and_a_taken_name_are_told_apart() {
    let lab = Lab::new("refuse").await;
    let client = lab.a.client();
    ip(&format!("-n {} link add wg0 type bridge", lab.a.inner));
    let error = client.create_device(&lab.a.new_device()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Link), "{error}");
    let mut nowhere = lab.a.new_device();
    nowhere.id.namespace = "/run/netns/wgnett-eng-nowhere".into();
    let error = client.create_device(&nowhere).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Namespace), "{error}");
    assert_eq!(client.list_devices().await.unwrap(), []);
}

#[tokio::test]
async fn a_failed_operation_is_named_and_stops_no_other() {
    let lab = Lab::with_devices("ops").await;
    let known = [5; 32];
    let nets = vec!["10.77.0.5/32".parse().unwrap()];
    let operations = [
        Operation::AddAllowedIps([6; 32], nets.clone()),
        Operation::AddOrUpdatePeer(PeerUpdate { public_key: known, ..PeerUpdate::default() }),
        Operation::RemoveAllowedIps([6; 32], nets.clone()),
        Operation::ReplaceAllowedIps(known, nets.clone()),
        Operation::RemovePeer([6; 32]),
    ];
    let client = lab.a.client();
    let failures = client.configure(&lab.a.device(), &operations).await.unwrap();
    let named: Vec<_> = failures.iter().map(|f| (f.index, f.code)).collect();
    assert_eq!(named, [(0, Code::NotFound), (2, Code::NotFound)]);
    assert_eq!(lab.a.state().await.peers[0].allowed_ips, nets);
}

#[tokio::test]
async fn a_thousand_peers_are_configured_and_reported() {
    let lab = Lab::with_devices("many").await;
    let key = |peer: u16| {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&peer.to_be_bytes());
        key
    };
    let operations = (0..1000).flat_map(|peer| {
        let update = PeerUpdate {
            public_key: key(peer),
            underlay_address: Some(lab.b.underlay_address(Underlay::V4)),
            ..PeerUpdate::default()
        };
        let [high, low] = peer.to_be_bytes();
        let nets = (0..10).map(|last| IpAddr::from([10, high, low, last]).into());
        [Operation::AddOrUpdatePeer(update), Operation::AddAllowedIps(key(peer), nets.collect())]
    });
    let operations: Vec<_> = operations.collect();
    let start = Instant::now();
    lab.a.configure(&operations).await;
    println!("1000 peers with 10000 addresses: {:?}", start.elapsed());

    let one = vec!["10.99.0.1/32".parse().unwrap()];
    let start = Instant::now();
    lab.a.configure(&[Operation::AddAllowedIps(key(500), one)]).await;
    println!("one address more: {:?}", start.elapsed());

    let start = Instant::now();
    let peers = lab.a.state().await.peers;
    println!("reported: {:?}", start.elapsed());
    assert_eq!(peers.len(), 1000);
    assert_eq!(peers[500].allowed_ips.len(), 11);
    assert!(peers.is_sorted_by_key(|peer| peer.public_key));
}

#[tokio::test]
async fn a_second_engine_is_refused_and_the_heir_of_a_dead_one_is_not() {
    let mut lab = Lab::new("second").await;
    let first = lab.a.client().hello().await.unwrap();
    let refused = lab.a.engine_command().output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(&format!("pid {}", first.pid)), "{said}");
    assert_eq!(lab.a.client().hello().await.unwrap(), first);

    lab.a.kill_engine();
    assert!(lab.a.socket.exists());
    lab.a.start_engine().await;
    assert_ne!(lab.a.client().hello().await.unwrap().pid, first.pid);
}

#[tokio::test]
async fn a_socket_deleted_by_hand_comes_back() {
    let lab = Lab::with_devices("socket").await;
    for path in [lab.a.socket.as_path(), lab.a.socket.parent().unwrap()] {
        let remove =
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        remove.unwrap();
        let client = Client::new(&lab.a.socket);
        until("the engine can be reached", async || client.list_devices().await.is_ok()).await;
        let second = lab.a.engine_command().output().unwrap();
        assert!(!second.status.success());
    }
    assert_eq!(lab.a.state().await.dead, None);
}

/// What a driver does that comes back right after somebody emptied /run.
#[tokio::test]
async fn an_engine_stays_the_only_one_when_its_directory_is_removed_and_one_is_wanted_at_once() {
    let lab = Lab::connected("only", Underlay::V4).await;
    let first = lab.a.client().hello().await.unwrap();
    for _ in 0..3 {
        std::fs::remove_dir_all(lab.a.socket.parent().unwrap()).unwrap();
        let spawn = Spawn::new(ENGINE, &lab.a.socket);
        let found = in_namespace(&lab.a.host, move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(spawn_detached(&spawn)).unwrap()
        });
        assert_eq!(found, first);
        assert_eq!(lab.a.engines(), [first.pid]);
        assert_eq!(lab.a.state().await.dead, None);
        lab.a.reaches(lab.b.inner_v4());
        lab.b.reaches(lab.a.inner_v4());
    }
}

#[tokio::test]
async fn engines_with_other_sockets_are_no_others_business() {
    let lab = Lab::new("sockets").await;
    let other = Spawn::new(ENGINE, lab.directory.path().join("a/other.sock"));
    let client = Client::new(&other.socket);
    let started = in_namespace(&lab.a.host, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(spawn_detached(&other)).unwrap()
    });
    assert_eq!(client.hello().await.unwrap(), started);
    assert_ne!(lab.a.client().hello().await.unwrap().pid, started.pid);
}

/// As an engine that knows no place but its lock file's would.
#[tokio::test]
async fn an_engine_ends_with_its_devices_when_another_has_taken_its_lock() {
    let mut lab = Lab::with_devices("robbed").await;
    let directory = lab.a.socket.parent().unwrap().to_owned();
    let robber = lab.directory.path().join("robber");
    std::fs::create_dir(&robber).unwrap();
    let lock = File::create(robber.join("engine.sock.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let _socket = tokio::net::UnixListener::bind(robber.join("engine.sock")).unwrap();
    renameat2(AT_FDCWD, &robber, AT_FDCWD, &directory, RenameFlags::RENAME_EXCHANGE).unwrap();

    let engine = lab.a.engine();
    until("the robbed engine ends", async || engine.try_wait().unwrap().is_some()).await;
    assert!(!ip(&format!("-n {} link", lab.a.inner)).contains("wg0"));
    assert!(lab.a.socket.exists(), "it removed the other's socket");
}

#[tokio::test]
async fn a_user_who_sits_in_the_engines_place_cannot_keep_it_from_its_work() {
    let mut lab = Lab::new("squat").await;
    let name = in_namespace(&lab.a.host, || {
        let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
        let names = sockets.lines().filter_map(|line| line.split_once('@'));
        let mut places = names.map(|(_, name)| name).filter(|n| n.starts_with("wgnet-engine-"));
        places.next().unwrap().to_owned()
    });
    lab.a.kill_engine();
    let _stranger = in_namespace(&lab.a.host, move || {
        const NOBODY: nix::libc::uid_t = 65534;
        // SAFETY: takes numbers only; the bare call changes this thread alone, which ends.
        let outcome =
            unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(outcome, 0);
        let place = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        std::os::unix::net::UnixListener::bind_addr(&place).unwrap()
    });
    lab.a.start_engine().await;
    lab.a.make_device().await;
    assert!(!lab.a.engine_command().output().unwrap().status.success());
}

#[tokio::test]
async fn the_socket_is_for_its_user_only() {
    let lab = Lab::new("modes").await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&lab.a.socket), 0o600);
    assert_eq!(mode(lab.a.socket.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn sigterm_ends_the_engine_cleanly() {
    let mut lab = Lab::with_devices("term").await;
    let engine = lab.a.engine();
    let pid = Pid::from_raw(engine.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(engine.wait().unwrap().success());
    assert!(!lab.a.socket.exists());
    assert!(!ip(&format!("-n {} link", lab.a.inner)).contains("wg0"));
}

#[tokio::test]
async fn a_driver_that_vanishes_in_a_call_changes_nothing_but_what_it_asked() {
    let lab = Lab::connected("vanish", Underlay::V4).await;
    let devices = lab.a.client().list_devices().await.unwrap();
    let mut half = UnixStream::connect(&lab.a.socket).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, &[0, 0, 1, 0, 7]).await.unwrap();
    drop(half);

    let mut asked = UnixStream::connect(&lab.a.socket).await.unwrap();
    let mut new = lab.a.new_device();
    new.id.ifname = "wg1".to_owned();
    new.port = PORT + 1;
    let request =
        proto::Request { id: 1, call: Some(proto::request::Call::CreateDevice((&new).into())) };
    write_frame(&mut asked, &request).await.unwrap();
    drop(asked);

    let client = lab.a.client();
    until("the device that was asked for is there", async || {
        client.list_devices().await.unwrap().len() == devices.len() + 1
    })
    .await;
    lab.a.reaches(lab.b.inner_v4());
}

/// The whole process group of the starter is killed, as a terminal or a crash would.
#[tokio::test]
async fn the_engine_outlives_its_starter() {
    let mut lab = Lab::connected("outlive", Underlay::V4).await;
    lab.a.kill_engine();
    let log = lab.directory.path().join("daemon.log");
    let script = format!(
        "{ENGINE} --daemon --socket {} --log-file {}; exec sleep 1000 7</dev/null",
        lab.a.socket.display(),
        log.display()
    );
    let mut starter = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", lab.a.host))
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let client = lab.a.client();
    until("the engine answers", async || client.hello().await.is_ok()).await;
    lab.a.make_device().await;
    lab.a.add_peer(&lab.b, Underlay::V4, None).await;
    lab.a.wait_for_handshake(&lab.b).await;

    let group = Pid::from_raw(starter.id().try_into().unwrap());
    killpg(group, Signal::SIGKILL).unwrap();
    starter.wait().unwrap();
    lab.a.reaches(lab.b.inner_v4());
    assert_eq!(lab.a.state().await.peers.len(), 1);

    let pid = client.hello().await.unwrap().pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3);
    assert_eq!(session, Some(pid.to_string().as_str()), "leads no session");
    assert!(log.metadata().unwrap().permissions().mode() & 0o777 == 0o600);
}

#[tokio::test]
async fn a_detached_engine_is_started_once_and_is_nobodys_zombie() {
    let mut lab = Lab::new("detach").await;
    lab.a.kill_engine();
    let (host, socket) = (lab.a.host.clone(), lab.a.socket.clone());
    let start = move || {
        let spawn = Spawn::new(ENGINE, &socket);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(spawn_detached(&spawn)).unwrap()
    };
    let started = in_namespace(&host, start.clone());
    assert_eq!(in_namespace(&host, start), started);
    let digest = wgnet_engine::binary_digest(ENGINE.as_ref()).unwrap();
    assert_eq!(started.binary_digest, digest);

    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    let parent = status.lines().find(|line| line.starts_with("PPid:"));
    let own = std::process::id().to_string();
    assert!(!parent.unwrap().ends_with(&own), "{parent:?}");
    let fds = std::fs::read_dir(format!("/proc/{}/fd", started.pid)).unwrap();
    for fd in fds {
        let target = std::fs::read_link(fd.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        assert!(!target.starts_with("pipe:"), "inherited {target}");
    }
}

#[tokio::test]
async fn a_failed_start_says_why() {
    let lab = Lab::new("nostart").await;
    let blocked = lab.directory.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let spawn = Spawn::new(ENGINE, blocked.join("engine.sock"));
    let error = spawn_detached(&spawn).await.unwrap_err().to_string();
    assert!(error.contains("cannot make"), "{error}");
}

#[tokio::test]
async fn a_silent_engine_costs_no_more_than_the_deadline() {
    let lab = Lab::new("silent").await;
    let path = lab.directory.path().join("silent.sock");
    let _silent = tokio::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(&path).with_deadline(Duration::from_millis(200));
    let error = client.hello().await.unwrap_err().to_string();
    assert!(error.contains("did not answer Hello within 200ms"), "{error}");
}

#[tokio::test]
async fn keys_are_in_no_log() {
    let lab = Lab::connected("secret", Underlay::V4).await;
    lab.a.add_peer(&lab.b, Underlay::V4, Some([0xab; 32])).await;
    let log = std::fs::read_to_string(&lab.a.log).unwrap();
    assert!(log.contains("Made device"));
    for key in [lab.a.private_key, [0xab; 32]] {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{key:?}");
        assert!(!log.contains(&hex) && !log.contains(list.trim_matches(['[', ']'])));
    }
}
