//! What passes between two hosts, and what does not.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wgnet_engine::{Operation, PeerUpdate, PresharedKey};

use crate::lab::{Lab, PORT, Underlay, in_namespace, ip, received, until};

#[tokio::test]
async fn two_hosts_reach_each_other_over_an_ipv4_underlay() {
    let lab = Lab::connected("v4", Underlay::V4).await;
    ping_both_ways(&lab);
}

#[tokio::test]
async fn two_hosts_reach_each_other_over_an_ipv6_underlay() {
    let lab = Lab::connected("v6", Underlay::V6).await;
    ping_both_ways(&lab);
}

fn ping_both_ways(lab: &Lab) {
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        from.reaches(to.inner_v4());
        from.reaches(to.inner_v6());
    }
}

#[tokio::test]
async fn a_peer_with_keepalive_is_greeted_at_once_without_traffic() {
    let lab = Lab::with_devices("greet").await;
    lab.b.add_peer(&lab.a, Underlay::V4, None).await;
    // Until now nobody could answer B; A's own greeting is what makes the session.
    let start = Instant::now();
    lab.a.add_peer(&lab.b, Underlay::V4, None).await;
    lab.a.wait_for_handshake(&lab.b).await;
    let took = start.elapsed();
    println!("handshake after {took:?}");
    // WireGuard's timers alone take up to 250 ms here, the next attempt of B 5 s.
    assert!(took < Duration::from_millis(200), "took {took:?}");
}

#[tokio::test]
async fn udp_is_in_the_hosts_namespace_and_clear_text_is_not() {
    let lab = Lab::connected("place", Underlay::V4).await;
    let sockets = |namespace: &str| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let listed =
            in_namespace(namespace, move || [read("udp").unwrap(), read("udp6").unwrap()].concat());
        let port = format!(":{PORT:04X} ");
        listed.lines().filter(|line| line.contains(&port)).count()
    };
    assert_eq!(sockets(&lab.a.host), 1);
    assert_eq!(sockets(&lab.a.inner), 0);
    assert!(!ip(&format!("-n {} link", lab.a.host)).contains("wg0"));
    assert!(ip(&format!("-n {} link", lab.a.inner)).contains("wg0"));
}

#[tokio::test]
async fn changing_one_address_keeps_the_session_and_every_packet() {
    let lab = Lab::connected("change", Underlay::V4).await;
    let count = 300;
    let ping = lab
        .a
        .inside("ping")
        .args(["-n", "-q", "-i", "0.005", "-W", "5"])
        .args(["-c", &count.to_string(), &lab.b.inner_v4().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let peer = lab.b.public_key();
    let mut age = lab.a.peer(&lab.b).await.last_handshake.unwrap();
    for last in 100..150 {
        let address = vec![IpAddr::from([10, 77, 0, last]).into()];
        lab.a.configure(&[Operation::AddAllowedIps(peer, address.clone())]).await;
        lab.a.configure(&[Operation::RemoveAllowedIps(peer, address)]).await;
        let now = lab.a.peer(&lab.b).await.last_handshake.unwrap();
        assert!(now >= age, "another handshake was made");
        age = now;
    }
    assert_eq!(received(&ping.wait_with_output().unwrap()), count);
    assert_eq!(lab.a.peer(&lab.b).await.allowed_ips.len(), 2);
}

#[tokio::test]
async fn an_address_that_moves_to_another_peer_has_one_owner() {
    let lab = Lab::connected("move", Underlay::V4).await;
    let other = [7; 32];
    let address = lab.b.inner_v4();
    lab.a
        .configure(&[
            Operation::AddOrUpdatePeer(PeerUpdate { public_key: other, ..PeerUpdate::default() }),
            Operation::AddAllowedIps(other, vec![address.into()]),
        ])
        .await;
    assert_eq!(lab.a.peer(&lab.b).await.allowed_ips, [lab.b.inner_v6().into()]);
    lab.a.does_not_reach(address);

    // A later change of the old owner must not take the address back.
    let more = vec!["10.77.0.99/32".parse().unwrap()];
    lab.a.configure(&[Operation::AddAllowedIps(lab.b.public_key(), more)]).await;
    lab.a.does_not_reach(address);

    let back = Operation::AddAllowedIps(lab.b.public_key(), vec![address.into()]);
    lab.a.configure(&[back]).await;
    lab.a.reaches(address);
}

#[tokio::test]
async fn a_wrong_preshared_key_stops_everything_until_it_is_right() {
    let lab = Lab::with_devices("psk").await;
    lab.a.add_peer(&lab.b, Underlay::V4, Some([1; 32])).await;
    lab.b.add_peer(&lab.a, Underlay::V4, Some([2; 32])).await;
    lab.a.does_not_reach(lab.b.inner_v4());
    assert_eq!(lab.a.peer(&lab.b).await.last_handshake, None);
    assert_eq!(lab.b.peer(&lab.a).await.last_handshake, None);
    assert!(lab.a.peer(&lab.b).await.has_preshared_key);

    // Removed and added again, a peer is greeted anew instead of at WireGuard's next attempt.
    lab.a.configure(&[Operation::RemovePeer(lab.b.public_key())]).await;
    lab.a.add_peer(&lab.b, Underlay::V4, Some([2; 32])).await;
    lab.a.wait_for_handshake(&lab.b).await;
    lab.a.reaches(lab.b.inner_v4());
}

#[tokio::test]
async fn a_preshared_key_changes_without_ending_the_session() {
    let lab = Lab::connected("rekey", Underlay::V4).await;
    let update = |peer| {
        [Operation::AddOrUpdatePeer(PeerUpdate {
            public_key: peer,
            preshared_key: Some(PresharedKey::Use([3; 32].into())),
            ..PeerUpdate::default()
        })]
    };
    lab.a.configure(&update(lab.b.public_key())).await;
    lab.a.reaches(lab.b.inner_v4());
    let peer = lab.a.peer(&lab.b).await;
    assert!(peer.has_preshared_key && peer.last_handshake.is_some());
    let address = lab.b.underlay_address(Underlay::V4);
    assert_eq!(peer.underlay_address, Some(address));
    assert_eq!(peer.keepalive, Some(25));
}

#[tokio::test]
async fn streams_arrive_whole_through_all_offloads() {
    let lab = Lab::connected("stream", Underlay::V4).await;
    let bytes = 64 << 20;
    let packets = |namespace: &str, link: &str, counter: &str| -> usize {
        let path = format!("/sys/class/net/{link}/statistics/{counter}");
        let shown =
            Command::new("ip").args(["netns", "exec", namespace, "cat", &path]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().trim().parse().unwrap()
    };
    stream(&lab, lab.b.inner_v4(), bytes);
    // Each link sees several segments as one packet where the offload next to it works.
    let segments = bytes / 1420;
    for (host, link, counter) in [
        (&lab.a.inner, "wg0", "tx_packets"),
        (&lab.a.host, "wgnett0", "tx_packets"),
        (&lab.b.inner, "wg0", "rx_packets"),
    ] {
        let seen = packets(host, link, counter);
        println!("{segments} segments are {seen} packets on {link} of {host}");
        assert!(seen < segments / 2, "{seen} packets on {link} of {host}");
    }
    stream(&lab, lab.b.inner_v6(), 16 << 20);
}

/// With an underlay narrower than the packets the kernel refuses to send them segmented.
#[tokio::test]
async fn streams_arrive_where_the_kernel_refuses_segmentation() {
    for (test, underlay) in [("narrow4", Underlay::V4), ("narrow6", Underlay::V6)] {
        let lab = Lab::connected(test, underlay).await;
        for host in [&lab.a, &lab.b] {
            ip(&format!("-n {} link set wgnett0 mtu 1300", host.host));
        }
        stream(&lab, lab.b.inner_v4(), 4 << 20);
        let log = std::fs::read_to_string(&lab.a.log).unwrap();
        assert!(log.contains("Sending without segmentation offload"));
    }
}

/// Sends a stream from A to B, whose every byte tells its place.
fn stream(lab: &Lab, to: IpAddr, bytes: usize) {
    let byte = |place: usize| (place / 251 + place) as u8;
    let listener = in_namespace(&lab.b.inner, move || TcpListener::bind((to, 7777)).unwrap());
    let sender = std::thread::spawn({
        let namespace = lab.a.inner.clone();
        move || {
            let address = SocketAddr::new(to, 7777);
            let mut stream = in_namespace(&namespace, move || {
                TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap()
            });
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            let data: Vec<u8> = (0..bytes).map(byte).collect();
            stream.write_all(&data).unwrap();
        }
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    sender.join().unwrap();
    assert_eq!(data.len(), bytes);
    let wrong = data.iter().enumerate().find(|(i, b)| **b != byte(*i));
    assert_eq!(wrong, None);
}

#[tokio::test]
async fn the_mtu_reported_is_the_links() {
    let lab = Lab::with_devices("mtu").await;
    assert_eq!(lab.a.state().await.mtu, 1420);
    ip(&format!("-n {} link set wg0 mtu 1300", lab.a.inner));
    until("the new MTU is reported", async || lab.a.state().await.mtu == 1300).await;
}
