//! What containers see of a network: names, transfers, speed, and what of it can be read on the underlay.

use std::{collections::BTreeMap, thread, time::Duration};

use serde_json::Value;

use super::{
    Lab,
    command::wait_until,
    error::{LabError, Result},
    host::Host,
};

const LONG: Duration = Duration::from_secs(180);

/// A running container and the name others know it by.
#[derive(Debug, Clone)]
pub struct Container<'lab> {
    pub host: &'lab Host,
    pub name: String,
}

/// What two hosts read at the two ends of one transfer.
#[derive(Debug)]
pub struct Transfer {
    pub bytes: u64,
    pub sent: String,
    pub received: String,
    pub elapsed: Duration,
}

impl Container<'_> {
    pub fn exec(&self, args: &[&str]) -> Result<String> {
        self.exec_within(Duration::from_secs(30), args)
    }

    pub fn exec_within(&self, deadline: Duration, args: &[&str]) -> Result<String> {
        self.host.docker_within(deadline, &[&["exec", &self.name][..], args].concat())
    }

    /// One ping to a name or an address; the round trip in milliseconds.
    pub fn ping(&self, target: &str) -> Result<f64> {
        let said = self.exec(&["ping", "-c1", "-W2", target])?;
        let times = said.lines().last().and_then(|line| line.split(" = ").nth(1));
        times.and_then(|times| times.split('/').next()?.parse().ok()).ok_or_else(|| {
            LabError::Command {
                command: format!("{}: ping {target}", self.name),
                outcome: "gave no time".into(),
                output: format!(": {said}"),
            }
        })
    }

    /// Serves the files below a directory at port 8000, for [`fetch`].
    pub fn serve(&self, dir: &str) -> Result<()> {
        self.host.docker(&["exec", "-d", &self.name, "httpd", "-f", "-p", "8000", "-h", dir])?;
        wait_until(&format!("a web server in {}", self.name), Duration::from_secs(10), || {
            self.exec(&["netstat", "-ltn"]).is_ok_and(|listening| listening.contains(":8000 "))
        })
        .map(drop)
    }

    fn sha256(&self, file: &str) -> Result<String> {
        let said = self.exec_within(LONG, &["sha256sum", file])?;
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Pings by name from each to each, at once from all; `Err` holds why there was no answer.
pub fn ping_matrix(containers: &[Container<'_>]) -> BTreeMap<(String, String), Result<f64>> {
    thread::scope(|scope| {
        let rows: Vec<_> = containers
            .iter()
            .map(|from| {
                scope.spawn(move || {
                    containers
                        .iter()
                        .map(|to| ((from.name.clone(), to.name.clone()), from.ping(&to.name)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        rows.into_iter()
            .flat_map(|row| row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Sends random bytes from one container to another, which asks for them by name. The sender must [`Container::serve`] /tmp.
pub fn transfer(from: &Container<'_>, to: &Container<'_>, megabytes: u64) -> Result<Transfer> {
    let count = format!("count={megabytes}");
    from.exec_within(LONG, &["dd", "if=/dev/urandom", "of=/tmp/random", "bs=1000000", &count])?;
    let started = std::time::Instant::now();
    fetch(from, to, "random")?;
    let elapsed = started.elapsed();
    Ok(Transfer {
        bytes: megabytes * 1_000_000,
        sent: from.sha256("/tmp/random")?,
        received: to.sha256("/tmp/received")?,
        elapsed,
    })
}

/// Receives a file that another container serves into /tmp/received.
pub fn fetch(from: &Container<'_>, to: &Container<'_>, file: &str) -> Result<()> {
    let url = format!("http://{}:8000/{file}", from.name);
    to.exec_within(LONG, &["wget", "-q", "-O", "/tmp/received", &url]).map(drop)
}

/// TCP throughput by iperf3 in Mbit/s; the server container runs `iperf3 -s`.
pub fn throughput(client: &Container<'_>, server: &Container<'_>, seconds: u32) -> Result<f64> {
    let said = client
        .exec_within(LONG, &["iperf3", "-c", &server.name, "-t", &seconds.to_string(), "-J"])?;
    let report: Value = serde_json::from_str(&said).unwrap_or_default();
    report["end"]["sum_received"]["bits_per_second"].as_f64().map(|rate| rate / 1e6).ok_or_else(
        || LabError::Command {
            command: format!("iperf3 from {} to {}", client.name, server.name),
            outcome: "reported no rate".into(),
            output: format!(": {said}"),
        },
    )
}

/// How much of a known text is sent.
const KNOWN: u64 = 1_000_000;

/// What was found on the underlay while a known text went from one container to another.
#[derive(Debug)]
pub struct Sighted {
    /// Frames with the text.
    pub readable: usize,
    /// All frames.
    pub frames: usize,
}

/// Sends a known text from one container to another and looks for it on the underlay.
pub fn readable_frames(
    lab: &Lab,
    from: &Container<'_>,
    to: &Container<'_>,
    text: &str,
) -> Result<Sighted> {
    from.exec(&["sh", "-c", &format!("yes '{text}' | head -c {KNOWN} > /tmp/known")])?;
    let capture = lab.capture()?;
    fetch(from, to, "known")?;
    let captured = capture.stop()?;
    let arrived = to.exec(&["sh", "-c", "wc -c < /tmp/received"])?;
    if arrived.trim() != KNOWN.to_string() {
        return Err(LabError::Machine(format!(
            "only {arrived} of {KNOWN} bytes of the known text arrived in {}",
            to.name
        )));
    }
    if captured.lost > 0 {
        return Err(LabError::Machine(format!(
            "the capture lost {} frames, so that it proves nothing: try again on a less busy machine",
            captured.lost
        )));
    }
    let (frames, bytes) = captured.size()?;
    if bytes < KNOWN {
        return Err(LabError::Machine(format!(
            "the capture has {bytes} bytes of {KNOWN} that were sent, so that it proves nothing"
        )));
    }
    Ok(Sighted { readable: captured.frames_with(text.as_bytes())?, frames })
}

/// Waits until a service runs as many tasks as it wants; its containers by host.
pub fn service_containers<'lab>(lab: &'lab Lab, service: &str) -> Result<Vec<Container<'lab>>> {
    let filter = format!("name={service}");
    let mut last = String::new();
    wait_until(&format!("all tasks of the service {service}"), Duration::from_secs(60), || {
        last = lab
            .host(1)
            .docker(&["service", "ls", "-f", &filter, "--format", "{{.Replicas}}"])
            .unwrap_or_default();
        // "3/3", or "3/3 (max 1 per node)"
        let count = last.split_whitespace().next().and_then(|count| count.split_once('/'));
        count.is_some_and(|(running, wanted)| running == wanted && wanted != "0")
    })
    .map_err(|error| {
        let tasks = lab.host(1).docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.Name}} {{.Node}} {{.CurrentState}} {{.Error}}",
            service,
        ]);
        LabError::Machine(format!("{error}; now {last}; tasks:\n{}", tasks.unwrap_or_default()))
    })?;
    let label = format!("label=com.docker.swarm.service.name={service}");
    let mut containers = Vec::new();
    for host in lab.hosts() {
        let names = host.docker(&["ps", "--filter", &label, "--format", "{{.Names}}"])?;
        containers.extend(names.lines().map(|name| Container { host, name: name.to_owned() }));
    }
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(containers)
}
