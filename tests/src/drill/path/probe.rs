//! A probe: asks one address for an echo every 10 ms out of a container, or a host, and notes when answers
//! came.
//!
//! Needs nothing in the containers, goes on whatever happens to the other side, and can be asked
//! while it runs: it says when something is reachable again. A [`crate::stream::Stream`] says what
//! was lost.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recv, send,
    socket,
};

use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result, pin, wait_for};

const EVERY: Duration = Duration::from_millis(10);

const ECHO: u8 = 8;
const ANSWER: u8 = 0;

/// Runs until it is dropped.
pub(crate) struct Probe {
    target: Ipv4Addr,
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<SystemTime>>>,
    asking: Option<JoinHandle<()>>,
}

impl Probe {
    /// Begins to ask out of a container that runs; its namespace is kept until the probe ends.
    pub(crate) fn start(from: &Container<'_>, target: Ipv4Addr) -> Result<Self> {
        let pid = from.host.docker(&["inspect", "-f", "{{.State.Pid}}", &from.name])?;
        Self::inside(&from.host.path(format!("/proc/{pid}/ns/net")), &from.name, target)
    }

    /// Begins to ask out of a host, on the underlay.
    pub(crate) fn of_host(from: &Host, target: Ipv4Addr) -> Result<Self> {
        Self::inside(&pin(from.netns()), from.name(), target)
    }

    fn inside(namespace: &Path, name: &str, target: Ipv4Addr) -> Result<Self> {
        let file = File::open(namespace).map_err(LabError::io("open", namespace))?;
        // A thread of its own enters: a socket stays where it was made.
        let made = thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            open(target)
        });
        let made = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let socket = made.map_err(LabError::io("probe from", name))?;

        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, noted) = (Arc::clone(&over), Arc::clone(&answers));
        let asking = Some(thread::spawn(move || ask(&socket, &stop, &noted)));
        Ok(Self { target, over, answers, asking })
    }

    /// When the first answer came at or after a point in time.
    pub(crate) fn first_since(&self, at: SystemTime) -> Option<SystemTime> {
        let answers = lock(&self.answers);
        let next = answers.partition_point(|answer| *answer < at);
        answers.get(next).copied()
    }

    pub(crate) fn last_before(&self, at: SystemTime) -> Option<SystemTime> {
        let answers = lock(&self.answers);
        let next = answers.partition_point(|answer| *answer < at);
        answers.get(next.checked_sub(1)?).copied()
    }

    /// Waits for an answer at or after a point in time; how long after it came.
    pub(crate) fn wait_since(&self, at: SystemTime, within: Duration) -> Result<Duration> {
        let what = format!("an answer of {}", self.target);
        let (first, _) = wait_for(&what, within, || self.first_since(at).ok_or(""))?;
        Ok(first.duration_since(at).unwrap_or_default())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(asking) = self.asking.take() {
            // It does not panic, and there is nothing to do if it did.
            let _ = asking.join();
        }
    }
}

fn lock(answers: &Mutex<Vec<SystemTime>>) -> MutexGuard<'_, Vec<SystemTime>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(target: Ipv4Addr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    // Answers of others do not arrive then.
    match connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(target, 0))) {
        Ok(()) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

fn ask(socket: &OwnedFd, over: &AtomicBool, answers: &Mutex<Vec<SystemTime>>) {
    static PROBES: AtomicU16 = AtomicU16::new(1);
    let id = PROBES.fetch_add(1, Ordering::Relaxed);
    let mut sequence = 0;
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            // Without a way there it fails, and is tried again.
            let _ = send(socket.as_raw_fd(), &echo(id, sequence), MsgFlags::empty());
            sequence = sequence.wrapping_add(1);
            next = Instant::now() + EVERY;
        }
        let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let rest = next.saturating_duration_since(Instant::now());
        let _ = poll(&mut wanted, PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO));
        let mut datagram = [0; 256];
        loop {
            match recv(socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Ok(length) if is_answer(&datagram[..length], id) => {
                    lock(answers).push(SystemTime::now());
                }
                Ok(_) => {}
                Err(errno) if io::Error::from(errno).kind() == ErrorKind::WouldBlock => break,
                // An error that an earlier echo met.
                Err(_) => break,
            }
        }
    }
}

fn echo(id: u16, sequence: u16) -> [u8; 8] {
    let mut message = [ECHO, 0, 0, 0, 0, 0, 0, 0];
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let words =
        message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    message[2..4].copy_from_slice(&(!folded).to_be_bytes());
    message
}

/// A raw socket hands on the IP header, too.
fn is_answer(datagram: &[u8], id: u16) -> bool {
    let header = usize::from(datagram.first().copied().unwrap_or_default() & 0xf) * 4;
    let Some(message) = datagram.get(header..header + 8) else {
        return false;
    };
    message[0] == ANSWER && message[4..6] == id.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_carries_its_checksum_and_is_known_by_its_id() {
        let echo = echo(0x1234, 7);
        let sum: u32 = echo.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);

        let mut answer = vec![0x45; 20];
        answer.extend(echo);
        answer[20] = ANSWER;
        assert!(is_answer(&answer, 0x1234));
        assert!(!is_answer(&answer, 0x1235));
        assert!(!is_answer(&answer[..24], 0x1234));
    }
}
