//! One TCP stream from a container of one host to one of the other: how fast, and at what cost.

use std::time::Duration;

use serde_json::Value;

use super::machine::busy_seconds;
use super::report::Figure;
use super::statistics::{Aim, Samples, Statistic};
use super::{OVERLAY, WGNET, WIREGUARD_GO, address, resident};
use crate::lab::{Host, LabError, Result, checks::Container};

const KINDS: [&str; 3] = [WGNET, WIREGUARD_GO, OVERLAY];
const SECONDS: &str = "5";

/// One kind's streams.
#[derive(Default)]
pub(super) struct Streams {
    mbit_per_second: Vec<f64>,
    cpu_seconds_per_gbit: Vec<f64>,
}

/// In the order of [`KINDS`]; from the far host to the near one.
pub(super) fn in_turns(far: &Host, count: usize) -> Result<[Streams; 3]> {
    let mut streams = <[Streams; 3]>::default();
    for _ in 0..count {
        for (kind, streams) in KINDS.into_iter().zip(&mut streams) {
            let client = Container { host: far, name: resident(kind, 2) };
            stream(&client, &address(kind, 11), streams)?;
        }
    }
    Ok(streams)
}

/// The MTU that a container sees.
pub(super) fn mtu(host: &Host, kind: &str) -> Result<u32> {
    let client = Container { host, name: resident(kind, 2) };
    let said = client.exec(&["cat", "/sys/class/net/eth0/mtu"])?;
    said.parse()
        .map_err(|_| LabError::Machine(format!("{}: the MTU of eth0 is \"{said}\"", client.name)))
}

fn stream(client: &Container<'_>, server: &str, streams: &mut Streams) -> Result<()> {
    let before = busy_seconds()?;
    let said = client
        .exec_within(Duration::from_secs(60), &["iperf3", "-c", server, "-t", SECONDS, "-J"])?;
    let busy = busy_seconds()? - before;
    let report: Value = serde_json::from_str(&said).unwrap_or_default();
    let received = &report["end"]["sum_received"];
    let (Some(rate), Some(bytes)) =
        (received["bits_per_second"].as_f64(), received["bytes"].as_f64())
    else {
        return Err(LabError::Machine(format!(
            "iperf3 from {} to {server} reported no rate: {said}",
            client.name
        )));
    };
    streams.mbit_per_second.push(rate / 1e6);
    streams.cpu_seconds_per_gbit.push(busy / (bytes * 8.0 / 1e9));
    Ok(())
}

pub(super) fn figures(streams: [Streams; 3]) -> Vec<Figure> {
    let [wgnet, wireguard_go, overlay] = streams;
    let line =
        |what: &str, unit, of: fn(&Streams) -> &Vec<f64>, name, theirs: &Streams, aim| Figure {
            what: what.to_owned(),
            unit,
            statistic: Statistic::Median,
            wgnet: Samples::new(of(&wgnet).clone()),
            beside: Some((name, Samples::new(of(theirs).clone()))),
            aim,
        };
    let rate: fn(&Streams) -> &Vec<f64> = |streams| &streams.mbit_per_second;
    let cost: fn(&Streams) -> &Vec<f64> = |streams| &streams.cpu_seconds_per_gbit;
    vec![
        line(
            "one TCP stream",
            "Mbit/s",
            rate,
            WIREGUARD_GO,
            &wireguard_go,
            Some(Aim::AtLeast(3.0)),
        ),
        line("one TCP stream", "Mbit/s", rate, "overlay, clear text", &overlay, None),
        line("its work, both ends", "CPU s/Gbit", cost, WIREGUARD_GO, &wireguard_go, None),
        line("its work, both ends", "CPU s/Gbit", cost, "overlay, clear text", &overlay, None),
    ]
}
