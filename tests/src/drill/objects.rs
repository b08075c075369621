//! What of the kernel carries a running container's traffic on its host, and whether any of it was
//! ever taken away, be it for a moment: the kernel tells of each removal.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lab::checks::Container;
use crate::lab::{Host, Result, Running, wait_until};
use crate::swarm::only_network;

const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// How `ip monitor` begins what it says of a removal.
const REMOVAL: &str = "Deleted ";

/// A route that nobody needs or looks at.
const PROBE: &str = "203.0.113.1";

/// The objects of one container, watched from now on.
pub(crate) struct Objects<'lab> {
    host: &'lab Host,
    places: [Place; 2],
    /// Tells what was made anew: namespaces, indexes of links, handles of nft's tables.
    identity: String,
    identify: String,
}

/// A network namespace: the network's on the host, or the container's.
struct Place {
    enter: String,
    known: BTreeSet<String>,
    log: String,
    _monitor: Running,
}

impl<'lab> Objects<'lab> {
    pub(crate) fn watch(container: &Container<'lab>) -> Result<Self> {
        let host = container.host;
        let space = only_network(host)?.namespace;
        let process = host.docker(&["inspect", "-f", "{{.State.Pid}}", &container.name])?;
        let network = format!("nsenter --net=/run/netns/{space}");
        let inside = format!("nsenter -t {process} -n");
        let identify = format!(
            "stat -L -c %i /run/netns/{space}
             nft -a list tables | grep wgnet
             {network} nft -a list tables
             {inside} ip -o link | cut -d: -f1,2"
        );
        let places = [
            Place::watch(host, network, &format!("{space}.removals"))?,
            Place::watch(host, inside, &format!("{}.removals", container.name))?,
        ];
        Ok(Self { host, places, identity: host.sh(&identify)?, identify })
    }

    /// What of it was removed since, or is another one now.
    pub(crate) fn lost(self) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        for place in &self.places {
            let said = self.host.read(&place.log)?;
            lost.extend(said.lines().filter(|line| place.holds(line)).map(str::to_owned));
            let now = objects(self.host, &place.enter)?;
            lost.extend(place.known.difference(&now).map(|object| format!("{object} is gone")));
        }
        let now = self.host.sh(&self.identify)?;
        if now != self.identity {
            lost.push(format!("{} became {now}", self.identity));
        }
        lost.iter().for_each(|line| eprintln!("  lost on {}: {line}", self.host.name()));
        Ok(lost)
    }
}

impl Place {
    fn watch(host: &Host, enter: String, log: &str) -> Result<Self> {
        let log = format!("/run/{log}");
        let listen = format!("exec {enter} ip -4 -o monitor link address route > {log}");
        host.sh(&format!("rm -f {log}"))?;
        let monitor = host.spawn(&["sh", "-ec", &listen])?;
        // It is heard to listen: what is made and removed now is told.
        wait_until("the kernel to tell of removals", LISTENS_WITHIN, || {
            let probe = format!("unreachable {PROBE} table 4242");
            let probe = format!("ip route add {probe}; ip route del {probe}");
            let _ = host.sh(&format!("{enter} sh -ec '{probe}'"));
            host.read(&log).is_ok_and(|said| said.contains(PROBE))
        })?;
        Ok(Self { known: objects(host, &enter)?, enter, log, _monitor: monitor })
    }

    /// Whether this is the removal of something that was there at first, and not of what containers
    /// that come and go have.
    fn holds(&self, said: &str) -> bool {
        said.strip_prefix(REMOVAL).is_some_and(|line| self.known.contains(object(line)))
    }
}

/// Everything in a namespace: links and their addresses by the link's index, routes by destination.
fn objects(host: &Host, enter: &str) -> Result<BTreeSet<String>> {
    let list = "ip -o link; ip -4 -o route show table all";
    let said = host.sh(&format!("{enter} sh -ec '{list}'"))?;
    Ok(said.lines().map(|line| object(line).to_owned()).collect())
}

/// What a line of `ip` is about: an index, "5:", or a destination.
fn object(line: &str) -> &str {
    let kinds = ["unreachable", "local", "broadcast", "multicast"];
    line.split_whitespace().find(|word| !kinds.contains(word)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ip_is_about_a_link_or_a_destination() {
        for (line, about) in [
            ("5: wgv1@if6: <BROADCAST,UP> mtu 1420", "5:"),
            ("1: lo    inet 10.0.1.1/32 scope global lo", "1:"),
            ("10.0.1.4 dev wg0 proto 119 scope link", "10.0.1.4"),
            ("unreachable 10.0.1.0/24 proto 119", "10.0.1.0/24"),
            ("local 10.0.1.1 dev lo table local", "10.0.1.1"),
        ] {
            assert_eq!(object(line), about);
        }
    }
}
