//! What crosses the underlay: every frame that enters the bridge, and the search for bytes in it.

use std::{
    fs::{self, File},
    io::{BufReader, ErrorKind, Read},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use memchr::memmem::Finder;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Lab,
    cgroup::Group,
    command::{run, wait_until},
    error::{LabError, Result},
    host::group_of,
    underlay::pin,
};

const PROBE: &str = "192.0.2.3/24";
const END_MARK: &[u8] = b"the last frame of this capture";
const WAIT: Duration = Duration::from_secs(20);

const SLL_HEADER: usize = 16;
const SLL2_HEADER: usize = 20;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
/// How WireGuard's transport messages begin, and what they have more than the packet inside.
const TRANSPORT: [u8; 4] = [4, 0, 0, 0];
const TRANSPORT_OVERHEAD: usize = 32;

/// A capture that is going on. It ends, unread, when this value is dropped.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    underlay: String,
    file: PathBuf,
    log: PathBuf,
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    pub file: PathBuf,
    /// Frames the kernel had no room for: with any, "not found" proves nothing.
    pub lost: u64,
}

impl Lab {
    /// Starts capturing on all ports of the underlay; returns once frames are being taken.
    pub fn capture(&self) -> Result<Capture> {
        let dir = self.dir().join("captures");
        fs::create_dir_all(&dir).map_err(LabError::io("make the directory", &dir))?;
        let number = fs::read_dir(&dir).map_err(LabError::io("list", &dir))?.count();
        Capture::start(
            &self.underlay().netns,
            &group_of(&self.cgroups, self.name(), "capture"),
            dir.join(format!("{number}.pcap")),
        )
    }
}

impl Capture {
    fn start(underlay: &str, group: &Group, file: PathBuf) -> Result<Self> {
        group.create()?;
        let probe_is_there = run("ip", &["-n", underlay, "link", "show", "probe"])?.success();
        if !probe_is_there {
            for step in [
                "link add probe type veth peer name probe-port",
                "link set probe-port master br0 up",
                "link set probe up",
            ] {
                let step: Vec<&str> = step.split(' ').collect();
                run("ip", &[&["-n", underlay][..], &step].concat())?.text()?;
            }
            run(
                "ip",
                &["-n", underlay, "addr", "add", PROBE, "broadcast", "192.0.2.255", "dev", "probe"],
            )?
            .text()?;
        }
        let mut enter = String::from("set -e; ");
        for entrance in group.entrances() {
            enter.push_str(&format!("echo 0 > {}; ", entrance.display()));
        }
        enter.push_str("exec nsenter \"$@\"");
        let log = file.with_extension("log");
        let log_file = File::create(&log).map_err(LabError::io("make", &log))?;
        let netns = format!("--net={}", pin(underlay).display());
        // Inbound only: the bridge sends a frame out again, and one frame should count once.
        let tcpdump = Command::new("/bin/sh")
            .args([
                "-c", &enter, "sh", &netns, "tcpdump", "-i", "any", "-Q", "in", "-n", "-s", "0",
                "-B", "131072", "-U", "-Z", "root", "-w",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(LabError::io("start", "tcpdump"))?;
        let capture = Self { tcpdump, underlay: underlay.to_owned(), file, log };
        wait_until("the start of tcpdump (apt-get install tcpdump)", WAIT, || {
            fs::read_to_string(&capture.log).is_ok_and(|log| log.contains("listening on"))
        })?;
        Ok(capture)
    }

    /// Ends the capture after every frame sent before this call is in the file.
    pub fn stop(mut self) -> Result<Captured> {
        let mut reader = Frames::open(&self.file)?;
        let end_mark = Finder::new(END_MARK);
        // Frames arrive in order: once the mark is in the file, so is all that came before it.
        wait_until("the capture's last frame", WAIT, || {
            broadcast(&self.underlay, END_MARK).is_ok() && {
                thread::sleep(Duration::from_millis(10));
                std::iter::from_fn(|| reader.next_frame())
                    .any(|frame| end_mark.find(&frame).is_some())
            }
        })?;
        let pid = i32::try_from(self.tcpdump.id()).expect("process ids fit");
        kill(Pid::from_raw(pid), Signal::SIGINT).map_err(LabError::errno("end", "tcpdump"))?;
        wait_until("the end of tcpdump", WAIT, || !matches!(self.tcpdump.try_wait(), Ok(None)))?;
        let log = fs::read_to_string(&self.log).map_err(LabError::io("read", &self.log))?;
        let lost = log
            .lines()
            .find_map(|line| {
                line.strip_suffix("packets dropped by kernel")
                    .or_else(|| line.strip_suffix("packet dropped by kernel"))
            })
            .and_then(|count| count.trim().parse().ok())
            .ok_or_else(|| {
                LabError::Machine(format!("tcpdump did not say how many frames it lost: {log}"))
            })?;
        Ok(Captured { file: self.file.clone(), lost })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Captured {
    /// How many frames hold these bytes.
    pub fn frames_with(&self, pattern: &[u8]) -> Result<usize> {
        let finder = Finder::new(pattern);
        let mut frames = Frames::open(&self.file)?;
        Ok(std::iter::from_fn(|| frames.next_frame())
            .filter(|frame| finder.find(frame).is_some())
            .count())
    }

    /// How many frames there are, and how many bytes they have together.
    pub fn size(&self) -> Result<(usize, u64)> {
        let mut frames = Frames::open(&self.file)?;
        let frames = std::iter::from_fn(|| frames.next_frame());
        Ok(frames.fold((0, 0), |(count, bytes), frame| (count + 1, bytes + frame.len() as u64)))
    }

    /// How many frames are WireGuard's, to a port, and carry a packet of at least so many bytes.
    pub fn encrypted_frames(&self, port: u16, least: usize) -> Result<usize> {
        let mut frames = Frames::open(&self.file)?;
        let is_encrypted = |payload: &[u8]| {
            payload.starts_with(&TRANSPORT) && payload.len() >= least + TRANSPORT_OVERHEAD
        };
        Ok(std::iter::from_fn(|| frames.next_frame())
            .filter(|frame| {
                datagram(frame).is_some_and(|(to, payload)| to == port && is_encrypted(payload))
            })
            .count())
    }
}

/// The port an IPv4 frame's UDP datagram is for, and what is in it.
fn datagram(frame: &[u8]) -> Option<(u16, &[u8])> {
    // Older programs than tcpdump 4.99 write the first of both "cooked" headers of Linux.
    let packet = [SLL2_HEADER, SLL_HEADER].into_iter().find_map(|header| {
        let packet = frame.get(header..).filter(|packet| packet.len() >= 20)?;
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        (packet[0] >> 4 == 4 && length == packet.len()).then_some(packet)
    })?;
    let datagram = packet.get(usize::from(packet[0] & 15) * 4..)?;
    let is_whole_udp = packet[9] == UDP && datagram.len() >= UDP_HEADER;
    is_whole_udp.then(|| (u16::from_be_bytes([datagram[2], datagram[3]]), &datagram[UDP_HEADER..]))
}

/// The frames of a pcap file, as far as it is written.
struct Frames {
    input: BufReader<File>,
    pending: Vec<u8>,
    header_read: bool,
}

impl Frames {
    fn open(file: &Path) -> Result<Self> {
        let input = File::open(file).map_err(LabError::io("open", file))?;
        Ok(Self {
            input: BufReader::with_capacity(1 << 20, input),
            pending: Vec::new(),
            header_read: false,
        })
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if !self.header_read {
            self.fill(24)?;
            self.pending.clear();
            self.header_read = true;
        }
        self.fill(16)?;
        let length =
            u32::from_ne_bytes(self.pending[8..12].try_into().expect("four bytes")) as usize;
        self.fill(16 + length)?;
        Some(self.pending.drain(..).skip(16).collect())
    }

    /// Nothing is lost when the file ends early: the next call goes on from there.
    fn fill(&mut self, wanted: usize) -> Option<()> {
        while self.pending.len() < wanted {
            let have = self.pending.len();
            self.pending.resize(wanted, 0);
            let count = match self.input.read(&mut self.pending[have..]) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(_) => 0,
            };
            self.pending.truncate(have + count);
            if count == 0 {
                return None;
            }
        }
        Some(())
    }
}

/// Sends one datagram into the bridge from the side. A thread of its own, because it changes its namespace.
fn broadcast(netns: &str, payload: &[u8]) -> Result<()> {
    let path = pin(netns);
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let netns = File::open(&path).map_err(LabError::io("open", &path))?;
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(LabError::errno("enter", &path))?;
            let send = || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_broadcast(true)?;
                socket.send_to(payload, "192.0.2.255:9")
            };
            send().map(drop).map_err(LabError::io("send into", &path))
        });
        sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(header: usize, protocol: u8, port: u16, payload: &[u8]) -> Vec<u8> {
        let length = (28 + payload.len()) as u16;
        let mut frame = vec![0; header];
        frame.extend([0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 11, 192, 0, 2, 12, 0, 9]);
        frame.extend(port.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_datagram_is_found_behind_both_headers_and_nothing_else_is_one() {
        for header in [SLL_HEADER, SLL2_HEADER] {
            let frame = frame(header, UDP, 51820, &TRANSPORT);
            assert_eq!(datagram(&frame), Some((51820, &TRANSPORT[..])));
        }
        assert_eq!(datagram(&frame(SLL2_HEADER, 6, 51820, &TRANSPORT)), None);
        assert_eq!(datagram(&[0; 40]), None);
        assert_eq!(datagram(b"short"), None);
    }
}
