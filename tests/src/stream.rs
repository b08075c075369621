//! A continuous stream between two containers: 1000 numbered packets a second each way, so that what
//! is lost, doubled or late is counted, and how long nothing came.
//!
//! Its programs stand in the containers' network namespaces but are not theirs, so that they need
//! nothing of Docker's while they run. The clock is one for all hosts of a lab.

mod tally;
pub mod tool;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::lab::checks::Container;
use crate::lab::{LabError, Result};
use tally::Sent;
pub use tally::{Flow, Gap, Loss};

/// How long the first packets may need.
const FLOWS_WITHIN: Duration = Duration::from_secs(30);

/// An answer of a program that need not wait for anything.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// A running stream; it ends when this value is dropped.
pub struct Stream {
    a: End,
    b: End,
}

impl Stream {
    /// Returns when packets flow both ways.
    ///
    /// # Errors
    ///
    /// When the two have no network in common, or nothing gets through.
    pub fn start(a: &Container<'_>, b: &Container<'_>) -> Result<Self> {
        let [at_a, at_b] = addresses(a, b)?;
        let (mut a, mut b) = (End::start(a)?, End::start(b)?);
        let (port_a, port_b) = (a.port()?, b.port()?);
        a.tell(&format!("peer {at_b}:{port_b}"))?;
        b.tell(&format!("peer {at_a}:{port_a}"))?;
        for end in [&a, &b] {
            end.hear("heard", FLOWS_WITHIN)?;
        }
        a.tell("go")?;
        b.tell("go")?;
        Ok(Self { a, b })
    }

    /// Ends the sending, waits for stragglers, and says what arrived.
    ///
    /// # Errors
    ///
    /// When one of the programs is no more.
    pub fn finish(mut self) -> Result<Report> {
        self.a.tell("stop")?;
        self.b.tell("stop")?;
        let (by_a, by_b): (Sent, Sent) = (self.a.json()?, self.b.json()?);
        self.b.tell(&expect(by_a))?;
        self.a.tell(&expect(by_b))?;
        Ok(Report { there: self.b.json()?, back: self.a.json()? })
    }
}

/// Both directions of a stream.
#[derive(Debug, Clone)]
pub struct Report {
    pub there: Flow,
    pub back: Flow,
}

impl Report {
    pub fn sent(&self) -> u64 {
        self.flows().map(|flow| flow.sent).sum()
    }

    pub fn lost(&self) -> u64 {
        self.flows().map(|flow| flow.lost).sum()
    }

    pub fn duplicated(&self) -> u64 {
        self.flows().map(|flow| flow.duplicated).sum()
    }

    pub fn reordered(&self) -> u64 {
        self.flows().map(|flow| flow.reordered).sum()
    }

    /// Packets sent in a second, in the direction where it was less.
    pub fn per_second(&self) -> f64 {
        // One that is no number stays none.
        let slower = |one: f64, other: f64| if other >= one { one } else { other };
        self.flows().map(|flow| flow.per_second).fold(f64::INFINITY, slower)
    }

    pub fn longest_gap(&self) -> Duration {
        longest(self.flows().map(|flow| flow.longest_gap_ms))
    }

    /// The longest gap that was not over when something happened.
    pub fn gap_after(&self, at: SystemTime) -> Duration {
        let at = epoch_ms(at);
        let gaps = self.flows().flat_map(|flow| &flow.gaps);
        longest(gaps.filter(|gap| gap.end_ms() > at).map(|gap| gap.length_ms))
    }

    fn flows(&self) -> impl Iterator<Item = &Flow> {
        [&self.there, &self.back].into_iter()
    }
}

fn longest(of: impl Iterator<Item = f64>) -> Duration {
    Duration::from_secs_f64(of.fold(0.0, f64::max) / 1e3)
}

pub(crate) fn epoch_ms(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn expect(sent: Sent) -> String {
    format!("expect {}", serde_json::to_string(&sent).expect("it is plain data"))
}

/// The program in one container's network namespace.
struct End {
    who: String,
    child: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl End {
    fn start(container: &Container<'_>) -> Result<Self> {
        let who = format!("the stream's end in {}", container.name);
        let inside = ["inspect", "-f", "{{.State.Pid}}", &container.name];
        let process = container.host.docker(&inside)?;
        let enter = ["nsenter", "-t", &process, "-n", "/opt/wgnet/wgnet-lab", "stream"];
        let mut child = container
            .host
            .command(&enter)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(LabError::io("start", &who))?;
        let input = child.stdin.take().expect("stdin was piped");
        let output = child.stdout.take().expect("stdout was piped");
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).count()
        });
        Ok(Self { who, child, input, said })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").map_err(LabError::io("lead", &self.who))
    }

    fn port(&self) -> Result<u16> {
        let line = self.line(ANSWERS_WITHIN)?;
        line.strip_prefix("port ").and_then(|port| port.parse().ok()).ok_or_else(|| self.odd(&line))
    }

    fn hear(&self, expected: &str, within: Duration) -> Result<()> {
        let line = self.line(within)?;
        if line == expected { Ok(()) } else { Err(self.odd(&line)) }
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let line = self.line(ANSWERS_WITHIN)?;
        serde_json::from_str(&line).map_err(|_| self.odd(&line))
    }

    fn line(&self, within: Duration) -> Result<String> {
        self.said.recv_timeout(within).map_err(|error| match error {
            mpsc::RecvTimeoutError::Disconnected => {
                LabError::Machine(format!("{} is no more", self.who))
            }
            mpsc::RecvTimeoutError::Timeout => LabError::Deadline {
                what: format!("an answer of {}", self.who),
                within,
                state: String::new(),
            },
        })
    }

    fn odd(&self, line: &str) -> LabError {
        LabError::Machine(format!("{} says \"{line}\"", self.who))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The IPv4 addresses of both on a network they share.
fn addresses(a: &Container<'_>, b: &Container<'_>) -> Result<[String; 2]> {
    let (of_a, of_b) = (networks(a)?, networks(b)?);
    let shared = of_a.iter().find_map(|(name, at_a)| Some([at_a.clone(), of_b.get(name)?.clone()]));
    shared.ok_or_else(|| {
        LabError::Machine(format!("{} and {} have no network in common", a.name, b.name))
    })
}

fn networks(container: &Container<'_>) -> Result<BTreeMap<String, String>> {
    let each =
        "{{range $name, $one := .NetworkSettings.Networks}}{{$name}} {{$one.IPAddress}}\n{{end}}";
    let said = container.host.docker(&["inspect", "-f", each, &container.name])?;
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    let useful = pairs.filter(|(name, address)| *name != "ingress" && !address.is_empty());
    Ok(useful.map(|(name, address)| (name.to_owned(), address.to_owned())).collect())
}
