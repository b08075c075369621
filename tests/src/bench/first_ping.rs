//! From the start of `docker run` on one host until a container of another host gets its first answer.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::report::Figure;
use super::statistics::{Aim, Samples, Statistic};
use super::{OVERLAY, WGNET, address, resident};
use crate::lab::{Host, LabError, Result, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(20);
const PINGS: &str = "/run/bench.pings";
const REACHED: &str = "reached";
const LOST: &str = "lost";

/// What happened at each start of a container; times in milliseconds.
#[derive(Default)]
pub(super) struct Starts {
    answered: Vec<f64>,
    returned: Vec<f64>,
    /// 1 where the container's own first connection lost a packet.
    lost: Vec<f64>,
}

/// Whether the host already has the network when the container comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    InUse,
    Absent,
}

/// wgnet's and the overlay's.
pub(super) fn in_turns(
    near: &Host,
    far: &Host,
    network: Network,
    count: usize,
) -> Result<[Starts; 2]> {
    let kinds = [WGNET, OVERLAY];
    let mut starts = <[Starts; 2]>::default();
    for turn in 0..count {
        // Who comes second finds the machine busy with taking down what was first.
        for which in [turn % 2, 1 - turn % 2] {
            let kind = kinds[which];
            let name = format!("{kind}-run-{turn}");
            start(near, far, kind, &name, 100 + turn, &mut starts[which])?;
            let left = || match network {
                Network::InUse => !holds(far, kind, &name),
                Network::Absent => !has(far, kind),
            };
            wait_until(&format!("{name} to have left the network"), SOON, left)?;
        }
    }
    Ok(starts)
}

fn start(
    near: &Host,
    far: &Host,
    kind: &str,
    name: &str,
    last: usize,
    starts: &mut Starts,
) -> Result<()> {
    let (waiting, pinged) = (address(kind, 11), address(kind, last));
    let process = near.docker(&["inspect", "-f", "{{.State.Pid}}", &resident(kind, 1)])?;
    // Who asks for an absent neighbour asks again after a second: that is Linux's, not the network's.
    let ping = format!(
        "inside() {{ nsenter -t {process} -n \"$@\"; }}
         inside sh -c 'echo 10 > /proc/sys/net/ipv4/neigh/eth0/retrans_time_ms'
         exec nsenter -t {process} -n stdbuf -oL ping -n -D -i 0.01 {pinged} > {PINGS}"
    );
    near.sh(&format!("rm -f {PINGS}"))?;
    let _pings = near.spawn(&["sh", "-ec", &ping])?;
    wait_until("the first ping to be sent", SOON, || {
        near.read(PINGS).is_ok_and(|said| said.contains("PING"))
    })?;

    // Not a ping: the pings that waited for this container would flood the socket of its own.
    let first = format!("nc -w 1 {waiting} 8000 < /dev/null");
    let begin = format!("{first} && echo {REACHED} || echo {LOST}; exec sleep 1000000");
    let run = [
        "run",
        "-d",
        "--name",
        name,
        "--network",
        kind,
        "--ip",
        &pinged,
        "perf",
        "sh",
        "-c",
        &begin,
    ];
    let (started, clock) = (Instant::now(), SystemTime::now());
    far.docker(&run)?;
    let returned = started.elapsed();
    let (answered, _) = wait_for(&format!("an answer of {name}"), SOON, || {
        let said = near.read(PINGS).map_err(|error| error.to_string())?;
        first_answer(&said).ok_or_else(|| said.lines().last().unwrap_or_default().to_owned())
    })?;
    let clock = clock.duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let (reached, _) = wait_for(&format!("the first connection of {name}"), SOON, || {
        let logged = far.try_docker(&["logs", name])?;
        reached(&logged.stdout).ok_or_else(|| LabError::Machine(logged.to_string()))
    })?;
    far.docker(&["rm", "-f", name])?;
    starts.answered.push((answered - clock.as_secs_f64()) * 1e3);
    starts.returned.push(returned.as_secs_f64() * 1e3);
    starts.lost.push(if reached { 0.0 } else { 1.0 });
    Ok(())
}

/// When ping got its first answer, in seconds of the clock: `[1700000000.123456] 64 bytes from ...`.
fn first_answer(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains(" bytes from "))?;
    line.strip_prefix('[')?.split(']').next()?.parse().ok()
}

/// Whether a container's first packets got through, once it knows.
fn reached(logged: &str) -> Option<bool> {
    match logged.trim() {
        REACHED => Some(true),
        LOST => Some(false),
        _ => None,
    }
}

fn has(host: &Host, network: &str) -> bool {
    let inspect = host.try_docker(&["network", "inspect", network]);
    inspect.is_ok_and(|output| output.success())
}

fn holds(host: &Host, network: &str, name: &str) -> bool {
    let each = "{{range .Containers}}{{.Name}} {{end}}";
    let names = host.docker(&["network", "inspect", "-f", each, network]);
    names.is_ok_and(|names| names.split(' ').any(|other| other == name))
}

pub(super) fn figures(network: &str, starts: [Starts; 2]) -> Vec<Figure> {
    let [wgnet, overlay] = starts;
    let waited = |starts: &Starts| {
        let times = starts.answered.iter().zip(&starts.returned);
        times.map(|(answered, returned)| answered - returned).collect::<Vec<_>>()
    };
    let line = |what: &str, unit, statistic, of: &dyn Fn(&Starts) -> Vec<f64>, aim| Figure {
        what: format!("{what}, {network}"),
        unit,
        statistic,
        wgnet: Samples::new(of(&wgnet)),
        beside: Some((OVERLAY, Samples::new(of(&overlay)))),
        aim,
    };
    let answered = |starts: &Starts| starts.answered.clone();
    let aim = Some(Aim::AtMost(1.0));
    vec![
        line("docker run to first answer", "ms", Statistic::Median, &answered, aim),
        line("docker run to first answer", "ms", Statistic::P99, &answered, None),
        line("docker run returned to first answer", "ms", Statistic::Median, &waited, aim),
        line("docker run itself", "ms", Statistic::Median, &|starts| starts.returned.clone(), None),
        line(
            "first connections that lost packets",
            "",
            Statistic::Share,
            &|starts| starts.lost.clone(),
            None,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_is_found_behind_what_was_not_one() {
        let said = "PING 10.0.0.9 (10.0.0.9) 56(84) bytes of data.\n\
            [1700000000.100000] From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n\
            [1700000001.250000] 64 bytes from 10.0.0.9: icmp_seq=7 ttl=62 time=0.5 ms\n\
            [1700000002.000000] 64 bytes from 10.0.0.9: icmp_seq=8 ttl=62 time=0.5 ms\n";
        assert_eq!(first_answer(said), Some(1_700_000_001.25));
        assert_eq!(first_answer(&said[..100]), None);
    }

    #[test]
    fn a_lost_packet_is_told_from_one_that_is_still_on_its_way() {
        assert_eq!(reached(""), None);
        assert_eq!(reached("reached\n"), Some(true));
        assert_eq!(reached("lost\n"), Some(false));
    }
}
