//! What happens to the way between two hosts: cable out, silent loss, a frozen host, another address
//! on the underlay.

pub(crate) mod probe;

use std::net::Ipv4Addr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, SystemTime};

use super::{PACE, Row, Rows, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result};
use crate::stream::{Flow, Gap, Loss, Report, Stream, epoch_ms};
use crate::swarm::{NAMED, Swarm, eventually};
use probe::Probe;

/// How long after an outage our containers may take to find each other, at the very worst.
const OURS_WITHIN: Duration = Duration::from_secs(60);

/// Traffic before and after each event.
const QUIET: Duration = Duration::from_secs(1);

/// What begins so soon after an event is the event's.
const AFTERMATH_MS: f64 = 1000.0;

/// Shorter pauses are a busy machine's.
const PAUSE_MS: f64 = 100.0;

/// Apart from an outage nothing is to be lost, and nothing late by so much. What is late by less and
/// arrives all the same may be the machine's.
const LONG_PAUSE_MS: f64 = 500.0;

/// How much of its length an outage must be seen for, or it was none.
const SEEN: f64 = 0.9;

/// The same two hosts, with a pair of containers on our network and one on Docker's overlay.
struct Pairs<'s> {
    ours: [Container<'s>; 2],
    docker: [Container<'s>; 2],
    scale: Scale,
}

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn path(scale: Scale, rows: &mut Rows) -> Result<()> {
    let swarm = Swarm::start("drill-path", 2)?;
    swarm.network("blue", &[])?;
    swarm.host(1).docker(&["network", "create", "-d", "overlay", "--attachable", "plain"])?;
    let run = |host, name, network| swarm.run(host, name, network, &[]);
    let pairs = Pairs {
        ours: [run(1, "near", "blue")?, run(2, "far", "blue")?],
        docker: [run(1, "plain-near", "plain")?, run(2, "plain-far", "plain")?],
        scale,
    };
    for [near, far] in [&pairs.ours, &pairs.docker] {
        eventually("the first ping", NAMED, || near.ping(&far.name).is_ok())?;
    }
    let silent = ("silent both ways", silence as Proof);
    rows.add(pairs.outage("cable out", silent, Host::unplug, Host::plug)?);
    rows.add(pairs.outage("silent loss", silent, Host::drop_silently, Host::undrop)?);
    let still = ("its own end of the stream stood still", standstill as Proof);
    rows.add(pairs.outage("host frozen", still, Host::freeze, Host::thaw)?);
    // Docker's overlay and the swarm do not survive this one, so it comes last.
    rows.add(pairs.address_changes()?);
    Ok(())
}

/// For how many seconds a stream shows the outage that began then.
type Proof = fn(&Report, SystemTime) -> f64;

impl Pairs<'_> {
    fn far_host(&self) -> &Host {
        self.ours[1].host
    }

    fn outage(
        &self,
        drill: &'static str,
        (seen, proof): (&'static str, Proof),
        cut: impl Fn(&Host) -> Result<()>,
        mend: impl Fn(&Host) -> Result<()>,
    ) -> Result<Row> {
        // Short ones end before a lease or Docker's patience does: see Scale.
        let length = Duration::from_secs(self.scale.pick(5, 60));
        // Docker may give the other host up, and needs minutes then; it is not waited for longer.
        let docker_within = Duration::from_secs(self.scale.pick(5, 120));
        let [near, far] = &self.ours;
        let probe = Probe::start(near, address(far)?)?;
        let beside = Probe::start(&self.docker[0], address(&self.docker[1])?)?;
        let underlay = Probe::of_host(near.host, underlay_of(far.host)?)?;
        let stream = Stream::start(near, far)?;
        thread::sleep(QUIET);

        let began = SystemTime::now();
        cut(self.far_host())?;
        // The drill is an outage of this length; there is no state to wait for.
        thread::sleep(length);
        // Before, since mending may wait until it is seen to be done.
        let back = SystemTime::now();
        mend(self.far_host())?;

        probe.wait_since(back, OURS_WITHIN)?;
        // Their kernels ask for the other's hardware address once a second (`retrans_timer` of arp(7)), and
        // containers reach each other no sooner than their hosts do.
        let path = underlay.wait_since(back, OURS_WITHIN)?.as_secs_f64();
        let docker = beside.wait_since(back, docker_within);
        thread::sleep(QUIET);
        let report = stream.finish()?;
        let apart = Apart::of(&report, began, back);
        let ours = returned(&report, back);
        let docker = docker.map_or(f64::INFINITY, |after| after.as_secs_f64());
        Ok(Row::new(drill)
            .info("length", length.as_secs_f64(), "s")
            .at_least(seen, proof(&report, began), "s", SEEN * length.as_secs_f64())
            .at_most("reachable after the return", ours, "s", path.max(1.0))
            .beside(docker)
            .info("hosts reach each other after the return", path, "s")
            .at_least("sent a second", report.there.per_second, "packets", PACE)
            .at_most("lost apart from the outage", apart.lost, "packets", 0.0)
            .at_most("longest gap apart from it", apart.longest_ms, "ms", LONG_PAUSE_MS)
            .at_most("duplicated", report.duplicated() as f64, "packets", 0.0))
    }

    /// First while only the other host sends, which has to be told; then under traffic both ways,
    /// where WireGuard learns the new address from the first packet.
    fn address_changes(&self) -> Result<Row> {
        let [near, far] = &self.ours;
        let docker_within = Duration::from_secs(self.scale.pick(5, 60));
        let old = self.far_host().address();
        let [first, second] = [100, 101].map(|more| moved(&old, more));

        let probe = Probe::start(near, address(far)?)?;
        let beside = Probe::start(&self.docker[0], address(&self.docker[1])?)?;
        thread::sleep(QUIET);
        change_address(self.far_host(), &old, &first)?;
        let told = SystemTime::now();
        let asked = probe.wait_since(told, OURS_WITHIN)?;
        let docker = beside.wait_since(told, docker_within);
        drop((probe, beside));

        let stream = Stream::start(near, far)?;
        thread::sleep(QUIET);
        let changed = SystemTime::now();
        change_address(self.far_host(), &first, &second)?;
        thread::sleep(QUIET + Duration::from_secs(5));
        let report = stream.finish()?;
        Ok(Row::new("underlay address changes")
            .at_most("reachable after it, asked by the other host", asked.as_secs_f64(), "s", 5.0)
            .beside(docker.map_or(f64::INFINITY, |after| after.as_secs_f64()))
            .at_most("reachable after it, both sending", returned(&report, changed), "s", 5.0)
            .info("lost of the stream", report.lost() as f64, "packets"))
    }
}

fn underlay_of(host: &Host) -> Result<Ipv4Addr> {
    let said = host.address();
    said.parse().map_err(|_| LabError::Machine(format!("{} has the address {said}", host.name())))
}

/// As a host does that is given another lease.
fn change_address(host: &Host, old: &str, new: &str) -> Result<()> {
    host.sh(&format!(
        "printf '%s\\n' 'addr del {old}/24 dev eth0' 'addr add {new}/24 dev eth0' \
         'route replace default via 192.0.2.1 dev eth0' | ip -batch -"
    ))
    .map(drop)
}

fn moved(address: &str, more: u8) -> String {
    let (net, last) = address.rsplit_once('.').expect("an IPv4 address has dots");
    let last: u8 = last.parse().expect("an IPv4 address ends with a number");
    format!("{net}.{}", last + more)
}

/// The container's address on the only network it has beside docker_gwbridge.
pub(crate) fn address(container: &Container<'_>) -> Result<Ipv4Addr> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let said = container.host.docker(&["inspect", "-f", format, &container.name])?;
    let none = |_| LabError::Machine(format!("{} has no address but {said:?}", container.name));
    said.parse().map_err(none)
}

/// Seconds for which nothing came through from a cut on, in the direction where it was less.
fn silence(report: &Report, cut: SystemTime) -> f64 {
    let cut = epoch_ms(cut);
    let of_cut = cut - PAUSE_MS..cut + AFTERMATH_MS;
    let of = |flow: &Flow| {
        let begun = flow.gaps.iter().filter(|gap| of_cut.contains(&gap.start_ms));
        begun.map(|gap| gap.length_ms / 1e3).fold(0.0, f64::max)
    };
    of(&report.there).min(of(&report.back))
}

/// Seconds for which the far host's program did not run. What is sent to it meanwhile may arrive: a
/// kernel that has WireGuard is not frozen with its host.
fn standstill(report: &Report, _: SystemTime) -> f64 {
    report.back.longest_stall_ms / 1e3
}

/// Seconds from a point in time to the end of the gap that it was in, in the slower direction.
fn returned(report: &Report, at: SystemTime) -> f64 {
    let at = epoch_ms(at);
    // A gap that the return itself begins is a part of it, and so is a pause that follows at once.
    let is_of_it = |gap: &&Gap| {
        gap.start_ms <= at + PAUSE_MS
            || gap.start_ms < at + AFTERMATH_MS && gap.length_ms >= PAUSE_MS
    };
    gaps(report).filter(is_of_it).map(|gap| (gap.end_ms() - at) / 1e3).fold(0.0, f64::max)
}

/// What a stream shows neither in the outage nor within a second after it.
#[derive(Debug, PartialEq)]
struct Apart {
    lost: f64,
    longest_ms: f64,
}

impl Apart {
    fn of(report: &Report, began: SystemTime, back: SystemTime) -> Self {
        let outage = epoch_ms(began) - PAUSE_MS..epoch_ms(back) + AFTERMATH_MS;
        let flows = [&report.there, &report.back];
        let of_outage: u64 = flows.iter().map(|flow| lost_in(flow, &outage)).sum();
        let others = gaps(report).filter(|gap| !outage.contains(&gap.start_ms));
        Self {
            // Losses are told up to a number; all of them are counted.
            lost: (report.lost() - of_outage) as f64,
            longest_ms: others.map(|gap| gap.length_ms).fold(0.0, f64::max),
        }
    }
}

/// What a flow lost in a time: until then, or in a gap that began then.
fn lost_in(flow: &Flow, time: &Range<f64>) -> u64 {
    let gaps: Vec<&Gap> = flow.gaps.iter().filter(|gap| time.contains(&gap.start_ms)).collect();
    let ends_one = |at: f64| gaps.iter().any(|gap| (gap.end_ms() - at).abs() < 1.0);
    let is_in = |loss: &&Loss| time.contains(&loss.before_ms) || ends_one(loss.before_ms);
    flow.losses.iter().filter(is_in).map(|loss| loss.packets).sum()
}

fn gaps(report: &Report) -> impl Iterator<Item = &Gap> {
    [&report.there, &report.back].into_iter().flat_map(|flow| &flow.gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gaps there and back: seconds after the start, and for how long.
    fn report(there: &[(f64, f64)], back: &[(f64, f64)]) -> Report {
        let flow = |gaps: &[(f64, f64)]| {
            let gap = |(start, length): &(f64, f64)| Gap {
                start_ms: (100.0 + start) * 1e3,
                length_ms: length * 1e3,
            };
            Flow { gaps: gaps.iter().map(gap).collect(), ..Flow::default() }
        };
        Report { there: flow(there), back: flow(back) }
    }

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(100.0 + seconds)
    }

    #[test]
    fn a_cut_that_cuts_nothing_or_one_direction_only_is_none() {
        assert_eq!(silence(&report(&[], &[]), at(1.0)), 0.0);
        assert_eq!(silence(&report(&[(1.0, 5.0)], &[]), at(1.0)), 0.0);
        assert_eq!(silence(&report(&[(1.0, 5.0)], &[(3.0, 5.0)]), at(1.0)), 0.0);
        assert_eq!(silence(&report(&[(1.0, 5.0)], &[(1.25, 4.75)]), at(1.0)), 4.75);
    }

    #[test]
    fn a_long_pause_soon_after_the_return_is_a_part_of_it() {
        let cut = (1.0, 5.0);
        let since = |after: &[(f64, f64)]| returned(&report(&[cut], after), at(6.0));
        assert_eq!(since(&[]), 0.0);
        assert_eq!(since(&[(6.5, 3.0)]), 3.5);
        assert_eq!(since(&[(6.5, 0.05)]), 0.0);
        let late = report(&[cut], &[(7.5, 3.0)]);
        assert_eq!(returned(&late, at(6.0)), 0.0);
        assert_eq!(Apart::of(&late, at(1.0), at(6.0)), Apart { lost: 0.0, longest_ms: 3000.0 });
    }

    #[test]
    fn what_is_lost_before_an_outage_or_long_after_it_is_not_the_outages() {
        let lost = |losses: &[(f64, u64)]| {
            let mut report = report(&[(1.0, 5.0), (6.5, 1.0)], &[]);
            report.there.lost = losses.iter().map(|loss| loss.1).sum();
            let loss = |&(before, packets): &(f64, u64)| Loss {
                first: 0,
                packets,
                before_ms: (100.0 + before) * 1e3,
            };
            report.there.losses = losses.iter().map(loss).collect();
            Apart::of(&report, at(1.0), at(6.0)).lost
        };
        assert_eq!(lost(&[(6.25, 5000)]), 0.0);
        assert_eq!(lost(&[(7.5, 900)]), 0.0, "its gap began soon after the return");
        assert_eq!(lost(&[(0.5, 1), (6.25, 5000), (8.5, 2)]), 3.0);
    }
}
