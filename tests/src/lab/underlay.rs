//! The underlay: one bridge in a namespace of its own, a cable to each host.

use std::path::{Path, PathBuf};

use super::{
    command::{Output, run},
    error::Result,
};

const DROPS: &str = "wgnet_lab";

/// The wires of one lab. Nothing on them leaves the machine.
#[derive(Debug, Clone)]
pub(crate) struct Underlay {
    pub netns: String,
}

/// One machine on the underlay: number 2 is etcd, host i is number 10 + i.
#[derive(Debug, Clone)]
pub(crate) struct Station {
    pub netns: String,
    /// The bridge's end of the cable.
    pub port: String,
    pub number: u8,
}

impl Station {
    pub(crate) fn ipv4(&self) -> String {
        format!("192.0.2.{}", self.number)
    }

    pub(crate) fn ipv6(&self) -> String {
        format!("2001:db8::{}", self.number)
    }
}

impl Underlay {
    pub(crate) fn create(&self) -> Result<()> {
        let ns = &self.netns;
        run("ip", &["netns", "add", ns])?.text()?;
        self.ip(&["link", "set", "lo", "up"])?;
        self.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        self.ip(&["link", "set", "br0", "up"])
    }

    /// Gives a station its namespace, cable and addresses.
    pub(crate) fn attach(&self, station: &Station) -> Result<()> {
        let Station { netns, port, number } = station;
        run("ip", &["netns", "add", netns])?.text()?;
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", netns];
        self.ip(&[&["link", "add", port][..], &peer].concat())?;
        self.ip(&["link", "set", port, "master", "br0", "up"])?;
        // The same after every boot, as a real card's: else the others would keep stale neighbours for a while.
        let mac = format!("02:00:c0:00:02:{number:02x}");
        let inside =
            |args: &[&str]| run("ip", &[&["-n", netns][..], args].concat())?.text().map(drop);
        inside(&["link", "set", "eth0", "address", &mac])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["addr", "add", &format!("{}/24", station.ipv4()), "dev", "eth0"])?;
        inside(&["addr", "add", &format!("{}/64", station.ipv6()), "dev", "eth0", "nodad"])?;
        // Leads nowhere, but programs that look for "the" address of a host look at its default route.
        inside(&["route", "add", "default", "via", "192.0.2.1", "dev", "eth0"])?;
        inside(&["-6", "route", "add", "default", "via", "2001:db8::1", "dev", "eth0"])
    }

    /// Takes away the cable and the namespace, as a power cut does; what is already gone is as wished.
    pub(crate) fn detach(&self, station: &Station) -> Result<()> {
        if exists(&self.netns) {
            let _: Output = run("ip", &["-n", &self.netns, "link", "del", &station.port])?;
        }
        remove(&station.netns)
    }

    pub(crate) fn plug(&self, station: &Station, plugged: bool) -> Result<()> {
        self.ip(&["link", "set", &station.port, if plugged { "up" } else { "down" }])
    }

    /// Loses every frame from and to a station while its carrier stays up.
    pub(crate) fn drop_silently(&self, station: &Station) -> Result<()> {
        let port = &station.port;
        self.nft(&format!(
            "add table bridge {DROPS}; add chain bridge {DROPS} {port} {{ type filter hook forward priority 0; }}; \
             flush chain bridge {DROPS} {port}; \
             add rule bridge {DROPS} {port} iifname {port} drop; add rule bridge {DROPS} {port} oifname {port} drop"
        ))
    }

    pub(crate) fn undrop(&self, station: &Station) -> Result<()> {
        let port = &station.port;
        self.nft(&format!("flush chain bridge {DROPS} {port}; delete chain bridge {DROPS} {port}"))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run("nsenter", &[&format!("--net={}", pin(&self.netns).display()), "nft", rules])?
            .text()
            .map(drop)
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        run("ip", &[&["-n", &self.netns][..], args].concat())?.text().map(drop)
    }
}

pub(crate) fn pin(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

fn exists(netns: &str) -> bool {
    pin(netns).exists()
}

pub(crate) fn remove(netns: &str) -> Result<()> {
    if exists(netns) {
        run("ip", &["netns", "del", netns])?.text()?;
    }
    Ok(())
}
