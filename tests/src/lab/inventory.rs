//! Everything of a host that a network could leave behind, as sorted lines to compare before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::{error::Result, host::Host};

/// Lines like `netns wgnet-…`, `host link docker_gwbridge bridge mtu 1500`, `host udp 0.0.0.0:7946`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(pub BTreeSet<String>);

impl Inventory {
    /// What this one has more (`+`) and less (`-`) than an earlier one.
    pub fn changes_since(&self, earlier: &Self) -> Vec<String> {
        let more = self.0.difference(&earlier.0).map(|line| format!("+ {line}"));
        let less = earlier.0.difference(&self.0).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }
}

/// Without changes that contain one of the words. An inventory that cannot be taken shows nothing, least of all
/// that nothing changed: it is a change itself.
fn changes(now: Result<Inventory>, earlier: &Inventory, not: &[&str]) -> Vec<String> {
    let mut changes = match now {
        Ok(now) => now.changes_since(earlier),
        Err(error) => return vec![format!("the inventory cannot be taken: {error}")],
    };
    changes.retain(|line| !not.iter().any(|word| line.contains(word)));
    changes
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Host {
    /// What is there more or less than in an earlier inventory, but for lines with one of these words; why that
    /// cannot be told is a line, too.
    pub fn changes_since(&self, earlier: &Inventory, not: &[&str]) -> Vec<String> {
        changes(self.inventory(), earlier, not)
    }

    /// Namespaces, links, routes, nft tables and UDP sockets in each, processes and files of ours.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut lines = BTreeSet::new();
        self.list_namespace("host", None, &mut lines)?;
        for dir in ["/run/netns", "/run/docker/netns"] {
            let script = format!("[ ! -d {dir} ] || ls {dir}");
            for name in self.sh(&script)?.lines() {
                let label =
                    if dir == "/run/netns" { name.to_owned() } else { format!("docker/{name}") };
                lines.insert(format!("netns {label}"));
                // Docker's sandboxes may end while we look, and an empty pin is a finding but cannot be entered.
                if self.list_namespace(&label, Some(&format!("{dir}/{name}")), &mut lines).is_err()
                {
                    lines.insert(format!("netns {label} cannot be entered"));
                }
            }
        }
        let files = "for d in /etc/wgnet /var/lib/wgnet /run/wgnet; do [ ! -d $d ] || find $d -mindepth 1 -printf 'file %y %p\\n'; done";
        lines.extend(self.sh(files)?.lines().map(str::to_owned));
        let processes = self.exec(&["ps", "-e", "-o", "comm="])?;
        let ours =
            processes.lines().filter(|name| name.starts_with("wgnet-") && *name != "wgnet-lab");
        let mut processes = BTreeMap::<_, u32>::new();
        ours.for_each(|name| *processes.entry(name).or_default() += 1);
        // With their number, or a second one of the same name would be no difference.
        lines.extend(processes.iter().map(|(name, times)| format!("process {name}: {times}")));
        Ok(Inventory(lines))
    }

    fn list_namespace(
        &self,
        label: &str,
        pin: Option<&str>,
        lines: &mut BTreeSet<String>,
    ) -> Result<()> {
        let enter = pin.map(|pin| format!("--net={pin}"));
        let enter: Vec<&str> =
            enter.as_deref().map_or_else(Vec::new, |pin| vec!["nsenter", pin, "--"]);
        let ask = |args: &[&str]| self.exec(&[&enter[..], args].concat());

        let links: Vec<Value> =
            serde_json::from_str(&ask(&["ip", "-d", "-j", "link"])?).unwrap_or_default();
        // Docker's overlay makes this one for a moment, to see whether the kernel can (moby, ov_network.go).
        for link in links.iter().filter(|link| link["ifname"] != "testvxlan") {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            lines.insert(format!(
                "{label} link {} {} mtu {} in {}",
                text(&link["ifname"]),
                text(&link["linkinfo"]["info_kind"]),
                link["mtu"],
                text(&link["master"])
            ));
        }
        for family in ["-4", "-6"] {
            let routes = ask(&["ip", family, "route", "show", "table", "all"])?;
            // Link-local and multicast entries come and go with a bridge's carrier.
            let lasting = routes
                .lines()
                .filter(|route| !route.contains("fe80:") && !route.contains("ff00::"));
            lines.extend(
                lasting.map(|route| {
                    format!("{label} route {}", route.replace(" linkdown", "").trim())
                }),
            );
        }
        // Docker 28 makes this one with the first container on a bridge, and leaves it.
        let tables = ask(&["nft", "list", "tables"])?;
        for table in tables.lines().filter(|table| *table != "table ip raw") {
            lines.insert(format!("{label} nft {table}"));
            if table.contains("wgnet") {
                let words: Vec<&str> = table.split_whitespace().collect();
                let listed = ask(&[&["nft", "-s", "list"][..], &words].concat())?;
                lines.extend(
                    listed.lines().map(|rule| format!("{label} nft {table}: {}", rule.trim())),
                );
            }
        }
        let sockets = ask(&["ss", "-H", "-u", "-a", "-n"])?;
        let listening = sockets.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (local, peer) = (fields.nth(3)?, fields.next()?);
            // A socket with a peer is a question under way.
            peer.ends_with(":*").then(|| local.to_owned())
        });
        lines.extend(listening.map(|socket| format!("{label} udp {socket}")));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::LabError;

    #[test]
    fn an_inventory_that_cannot_be_taken_does_not_count_as_unchanged() {
        let inventory =
            |lines: &[&str]| Inventory(lines.iter().map(|line| (*line).to_owned()).collect());
        let before = inventory(&["netns a", "netns docker/1"]);
        assert_eq!(changes(Ok(before.clone()), &before, &[]), Vec::<String>::new());
        let now = inventory(&["netns a", "netns docker/2", "netns wgnet-b"]);
        assert_eq!(changes(Ok(now), &before, &["docker/"]), ["+ netns wgnet-b"]);
        let failed = LabError::Machine("cannot enter docker/1".to_owned());
        assert_eq!(changes(Err(failed), &before, &["docker/"]).len(), 1);
    }
}
