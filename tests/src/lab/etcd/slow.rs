//! A line in front of one member that keeps each answer back for a while.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

use super::Member;
use crate::lab::{
    error::{LabError, Result},
    host::Host,
    underlay::pin,
};

const PORT: u16 = 2479;
const TABLE: &str = "wgnet_lab_slow";
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ends when it is dropped; its lines last as long as their two ends.
pub struct Slow {
    over: Arc<AtomicBool>,
    _table: Table,
    accepting: Option<JoinHandle<()>>,
}

/// Leads new connections of hosts here instead.
struct Table(File);

impl Slow {
    pub(super) fn start(member: &Member, hosts: &[&Host], delay: Duration) -> Result<Self> {
        let path = pin(&member.station.netns);
        let open = || File::open(&path).map_err(LabError::io("open", &path));
        let namespace = open()?;
        let over = Arc::new(AtomicBool::new(false));
        let (sender, ready) = mpsc::channel();
        let accepting = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                // A network namespace is the thread's own; its lines are made within it.
                let listener = setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .map_err(std::io::Error::from)
                    .and_then(|()| TcpListener::bind(("0.0.0.0", PORT)));
                match listener {
                    Ok(listener) => {
                        let _ = sender.send(Ok(()));
                        accept(&listener, delay, &over);
                    }
                    Err(error) => _ = sender.send(Err(error)),
                }
            })
        };
        ready
            .recv()
            .expect("it says how it began")
            .map_err(LabError::io("listen before", &member.name))?;
        let from: Vec<String> = hosts.iter().map(|host| host.address()).collect();
        member.nft(&format!(
            "add table ip {TABLE}; \
             add chain ip {TABLE} in {{ type nat hook prerouting priority -100; }}; \
             add rule ip {TABLE} in ip saddr {{ {} }} tcp dport 2379 redirect to :{PORT}",
            from.join(", ")
        ))?;
        Ok(Self { over, _table: Table(open()?), accepting: Some(accepting) })
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // Not `self`: that would be nsenter, which has no such descriptor.
        let (process, file) = (std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&self.0));
        let namespace = format!("--net=/proc/{process}/fd/{file}");
        let _ = crate::lab::command::run(
            "nsenter",
            &[&namespace, "nft", &format!("delete table ip {TABLE}")],
        );
    }
}

fn accept(listener: &TcpListener, delay: Duration, over: &AtomicBool) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                let server = TcpStream::connect(("127.0.0.1", 2379));
                if let Ok(server) = server {
                    let _ = join(client, server, delay);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_EVERY),
            Err(_) => return,
        }
    }
}

fn join(client: TcpStream, server: TcpStream, delay: Duration) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = (client.try_clone()?, client);
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    let (sender, waiting) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut bytes) {
            if sender.send((Instant::now() + delay, bytes[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in waiting {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to_client.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}
