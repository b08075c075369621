//! The program at each end of a stream: it sends numbered packets and counts those of the other end.
//!
//! It is led through its standard input, a line at a time, and answers so: `port N` at its start;
//! `peer ADDRESS` lets it say hello, until it says `heard`; `go` starts the count; `stop` ends its
//! sending and is answered with what it sent; `expect` with what the other sent is answered with the
//! [`Flow`](super::Flow). The end of its input is its end.

use std::io::{self, BufRead, IoSliceMut, Write};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt,
    sockopt::{RcvBufForce, ReceiveTimestampns},
};

use super::tally::{Sent, Tally};

/// 1000 packets a second.
const PACE: Duration = Duration::from_millis(1);

/// What was missed for longer is not made up for: a host that was frozen is not to flood.
const CATCH_UP: Duration = Duration::from_millis(200);

const HELLO_EVERY: Duration = Duration::from_millis(10);
const PACKET: usize = 64;
const MARK: [u8; 8] = *b"wgnetstm";
const HELLO: u64 = u64::MAX;

/// As much as comes in a minute, should this process stand still for that long.
const RECEIVE_BUFFER: usize = 64 << 20;

/// How long stragglers may be on their way.
const STRAGGLERS: Duration = Duration::from_secs(3);

type Shared = Arc<Mutex<Tally>>;

/// # Errors
///
/// When the socket or a command is not what it should be.
pub fn run() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a UDP socket")?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("cannot have a receive buffer")?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("cannot have times of arrival")?;
    say(&format!("port {}", socket.local_addr()?.port()))?;

    let tally = Shared::default();
    receive(socket.try_clone()?, Arc::clone(&tally));
    let mut peer = None;
    let mut sender: Option<Sender> = None;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read a command")?;
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match (command, peer) {
            ("peer", _) => {
                let address: SocketAddrV4 = rest.parse().context("the peer is no address")?;
                peer = Some(address);
                sender = Some(Sender::start(socket.try_clone()?, address, hello));
            }
            ("go", Some(address)) => {
                sender.take().context("nothing was sent so far")?.stop();
                sender = Some(Sender::start(socket.try_clone()?, address, send));
            }
            ("stop", _) => {
                let sent = sender.take().context("nothing was sent so far")?.stop();
                say(&serde_json::to_string(&sent)?)?;
            }
            ("expect", _) => {
                let other: Sent = serde_json::from_str(rest).context("not what the other sent")?;
                wait_for_stragglers(&tally, other.packets);
                let flow = std::mem::take(&mut *lock(&tally)).close(other);
                say(&serde_json::to_string(&flow)?)?;
            }
            _ => bail!("no command \"{line}\" now"),
        }
    }
    Ok(())
}

struct Sender {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Sent>,
}

impl Sender {
    fn start(
        socket: UdpSocket,
        peer: SocketAddrV4,
        work: fn(&UdpSocket, SocketAddrV4, &AtomicBool) -> Sent,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        Self { over, thread: thread::spawn(move || work(&socket, peer, &seen)) }
    }

    fn stop(self) -> Sent {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a sender does not panic")
    }
}

fn hello(socket: &UdpSocket, peer: SocketAddrV4, over: &AtomicBool) -> Sent {
    let began_ms = now_ms();
    while !over.load(Ordering::Relaxed) {
        let _ = socket.send_to(&packet(HELLO), peer);
        thread::sleep(HELLO_EVERY);
    }
    Sent { packets: 0, began_ms, ended_ms: now_ms(), longest_stall_ms: 0.0 }
}

/// By a schedule, not by pauses: whatever was late is made up for. A packet that the kernel refuses is
/// sent and lost.
fn send(socket: &UdpSocket, peer: SocketAddrV4, over: &AtomicBool) -> Sent {
    let began_ms = now_ms();
    let mut packets = 0;
    let mut due = Instant::now();
    let mut last = due;
    let mut longest_stall = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let _ = socket.send_to(&packet(packets), peer);
        packets += 1;
        let now = Instant::now();
        longest_stall = longest_stall.max(now - last);
        last = now;
        due += PACE;
        match due.checked_duration_since(now) {
            Some(early) => thread::sleep(early),
            None if now - due > CATCH_UP => due = now,
            None => {}
        }
    }
    let longest_stall_ms = longest_stall.as_secs_f64() * 1e3;
    Sent { packets, began_ms, ended_ms: now_ms(), longest_stall_ms }
}

fn packet(number: u64) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[..8].copy_from_slice(&MARK);
    packet[8..16].copy_from_slice(&number.to_be_bytes());
    packet[16..24].copy_from_slice(&now_ms().to_be_bytes());
    packet
}

/// The number and the time of sending.
fn parse(packet: &[u8]) -> Option<(u64, f64)> {
    let rest = packet.strip_prefix(&MARK)?;
    let number = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
    let sent_ms = f64::from_be_bytes(rest.get(8..16)?.try_into().ok()?);
    Some((number, sent_ms))
}

/// For as long as the process lives. The time of arrival is the kernel's, or this process's own pauses
/// would be gaps.
fn receive(socket: UdpSocket, tally: Shared) {
    thread::spawn(move || {
        let mut heard = false;
        loop {
            let Some((number, sent_ms, at_ms)) = next(&socket) else { continue };
            if number != HELLO {
                lock(&tally).arrived(number, sent_ms, at_ms);
            } else if !heard {
                heard = true;
                let _ = say("heard");
            }
        }
    });
}

fn next(socket: &UdpSocket) -> Option<(u64, f64, f64)> {
    let mut buffer = [0; 2 * PACKET];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let descriptor = socket.as_raw_fd();
    let got = recvmsg::<SockaddrIn>(descriptor, &mut parts, Some(&mut control), MsgFlags::empty())
        .ok()?;
    let stamped = got.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => {
            Some(time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6)
        }
        _ => None,
    });
    let length = got.bytes;
    let (number, sent_ms) = parse(&buffer[..length])?;
    Some((number, sent_ms, stamped.unwrap_or_else(now_ms)))
}

fn wait_for_stragglers(tally: &Shared, expected: u64) {
    let began = Instant::now();
    while lock(tally).received() < expected && began.elapsed() < STRAGGLERS {
        thread::sleep(Duration::from_millis(5));
    }
}

fn lock(tally: &Shared) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

fn now_ms() -> f64 {
    super::epoch_ms(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_written() {
        let (number, sent_ms) = parse(&packet(77)).unwrap();
        assert_eq!(number, 77);
        assert!((now_ms() - sent_ms).abs() < 1e4);
        assert_eq!(parse(b"something else, of somebody else's"), None);
        assert_eq!(parse(&packet(77)[..20]), None);
    }
}
