//! What happens to the way between two hosts: cable out, silent loss, a frozen host, another address
//! on the underlay.

pub(crate) mod probe;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, SystemTime};

use super::{Row, Scale};
use crate::lab::checks::Container;
use crate::lab::{Host, LabError, Result};
use crate::stream::{Gap, Report, Stream, epoch_ms};
use crate::swarm::{SOON, Swarm, eventually};
use probe::Probe;

/// How long after an outage our containers may take to find each other, at the very worst.
const OURS_WITHIN: Duration = Duration::from_secs(60);

/// Traffic before and after each event.
const QUIET: Duration = Duration::from_secs(1);

/// The same two hosts, with a pair of containers on our network and one on Docker's overlay.
struct Pairs<'s> {
    ours: [Container<'s>; 2],
    docker: [Container<'s>; 2],
    scale: Scale,
}

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn path(scale: Scale) -> Result<Vec<Row>> {
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
        eventually("the first ping", SOON, || near.ping(&far.name).is_ok())?;
    }
    let mut rows = vec![
        pairs.outage("cable out", Host::unplug, Host::plug)?,
        pairs.outage("silent loss", Host::drop_silently, Host::undrop)?,
        pairs.outage("host frozen", Host::freeze, Host::thaw)?,
    ];
    // Docker's overlay and the swarm do not survive this one, so it comes last.
    rows.push(pairs.address_changes()?);
    Ok(rows)
}

impl Pairs<'_> {
    fn far_host(&self) -> &Host {
        self.ours[1].host
    }

    fn outage(
        &self,
        drill: &'static str,
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
        let stream = Stream::start(near, far)?;
        thread::sleep(QUIET);

        let began = SystemTime::now();
        cut(self.far_host())?;
        // The drill is an outage of this length; there is no state to wait for.
        thread::sleep(length);
        mend(self.far_host())?;
        let back = SystemTime::now();

        probe.wait_since(back, OURS_WITHIN)?;
        let docker = beside.wait_since(back, docker_within);
        thread::sleep(QUIET);
        let report = stream.finish()?;
        Ok(Row::new(drill)
            .info("length", length.as_secs_f64(), "s")
            .at_most("reachable after the return", returned(&report, back), "s", 1.0)
            .beside(docker.map_or(f64::INFINITY, |after| after.as_secs_f64()))
            .at_most("gaps apart from the outage", other_gaps(&report, began, back), "", 0.0)
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
        change_address(self.far_host(), &first, &second)?;
        let changed = SystemTime::now();
        thread::sleep(QUIET + Duration::from_secs(5));
        let report = stream.finish()?;
        Ok(Row::new("underlay address changes")
            .at_most("reachable after it, asked by the other host", asked.as_secs_f64(), "s", 5.0)
            .beside(docker.map_or(f64::INFINITY, |after| after.as_secs_f64()))
            .at_most("reachable after it, both sending", returned(&report, changed), "s", 5.0)
            .info("lost of the stream", report.lost() as f64, "packets"))
    }
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

/// Seconds from a point in time to the end of the gap that it was in, in the slower direction.
fn returned(report: &Report, at: SystemTime) -> f64 {
    let at = epoch_ms(at);
    // A gap that the return itself begins is a part of it.
    let begun = gaps(report).filter(|gap| gap.start_ms <= at + 100.0);
    begun.map(|gap| (gap.end_ms() - at) / 1e3).fold(0.0, f64::max)
}

/// Pauses of 100 ms and more that neither began in the outage nor a second after it.
fn other_gaps(report: &Report, began: SystemTime, back: SystemTime) -> f64 {
    let outage = epoch_ms(began) - 100.0..epoch_ms(back) + 1000.0;
    let long = gaps(report).filter(|gap| gap.length_ms >= 100.0);
    long.filter(|gap| !outage.contains(&gap.start_ms)).count() as f64
}

fn gaps(report: &Report) -> impl Iterator<Item = &Gap> {
    [&report.there, &report.back].into_iter().flat_map(|flow| &flow.gaps)
}
