//! `wgnetctl doctor` says nothing on hosts that are well, and names each of the faults planted here
//! until it is mended.

// tests/run: oldest

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use wgnet_tests::lab::{Host, LabError, LabOptions, Result, wait_for};
use wgnet_tests::swarm::{SOON, Swarm};

/// A host is gone once its lease has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Small enough to be filled in a moment.
const QUOTA: &str = "--quota-backend-bytes=16777216";

struct Fault {
    what: &'static str,
    /// What doctor calls it on this host.
    code: &'static str,
    on: usize,
    plant: Deed,
    mend: Deed,
}

enum Deed {
    /// A script on a host.
    Sh(usize, &'static str),
    Do(fn(&Swarm) -> Result<()>),
}

use Deed::{Do, Sh};

impl Deed {
    fn perform(&self, swarm: &Swarm) -> Result<()> {
        match self {
            Sh(host, script) => swarm.host(*host).sh(script).map(drop),
            Do(deed) => deed(swarm),
        }
    }
}

const fn on_host_2(
    what: &'static str,
    code: &'static str,
    plant: &'static str,
    mend: &'static str,
) -> Fault {
    Fault { what, code, on: 2, plant: Sh(2, plant), mend: Sh(2, mend) }
}

/// Host 2 has no containers, so that nothing keeps its engine, driver and files in use.
const FAULTS: [Fault; 24] = [
    on_host_2(
        "a secret that others can read",
        "secret-open",
        "chmod 0644 /etc/wgnet/secret",
        "chmod 0600 /etc/wgnet/secret",
    ),
    on_host_2(
        "a secret that belongs to another user",
        "secret-owner",
        "chown 1000 /etc/wgnet/secret",
        "chown 0 /etc/wgnet/secret",
    ),
    on_host_2(
        "no secret",
        "secret-missing",
        "mv /etc/wgnet/secret /etc/wgnet/away",
        "mv /etc/wgnet/away /etc/wgnet/secret",
    ),
    on_host_2(
        "a secret that was copied in part",
        "secret-malformed",
        "cp -p /etc/wgnet/secret /etc/wgnet/whole; truncate -s 20 /etc/wgnet/secret",
        "mv /etc/wgnet/whole /etc/wgnet/secret",
    ),
    on_host_2(
        "another cluster's secret",
        "wrong-secret",
        "mv /etc/wgnet/secret /etc/wgnet/right; /opt/wgnet/wgnetctl secret new /etc/wgnet/secret",
        "mv /etc/wgnet/right /etc/wgnet/secret",
    ),
    Fault {
        what: "a driver that was stopped",
        code: "driver-away",
        on: 2,
        plant: Do(|swarm| swarm.host(2).driver_stop()),
        mend: Do(|swarm| swarm.host(2).driver_resume()),
    },
    Fault {
        what: "a driver that has no secret",
        code: "driver-unready",
        on: 2,
        plant: Do(|swarm| {
            swarm.host(2).sh("mv /etc/wgnet/secret /etc/wgnet/away")?;
            swarm.host(2).driver_crash()
        }),
        mend: Sh(2, "mv /etc/wgnet/away /etc/wgnet/secret"),
    },
    on_host_2(
        "a second driver",
        "second-driver",
        "cp /bin/sleep /tmp/wgnet-driver; setsid /tmp/wgnet-driver 1000 > /dev/null 2>&1 & echo $! > /tmp/second",
        "kill $(cat /tmp/second)",
    ),
    on_host_2(
        "a state directory that is read-only",
        "state-unwritable",
        "mount --bind /var/lib/wgnet /var/lib/wgnet; mount -o remount,ro,bind /var/lib/wgnet",
        "umount /var/lib/wgnet",
    ),
    on_host_2(
        "a state directory that is full",
        "state-full",
        "mount -t tmpfs -o size=64k tmpfs /var/lib/wgnet; head -c 1M /dev/zero > /var/lib/wgnet/filler || true",
        "umount /var/lib/wgnet",
    ),
    on_host_2(
        "a journal that was damaged",
        "state-damaged",
        "touch /var/lib/wgnet/journal.redb.damaged-1",
        "rm /var/lib/wgnet/journal.redb.damaged-1",
    ),
    on_host_2(
        "a namespace of nobody",
        "leftover-namespace",
        "ip netns add wgnet-leftover",
        "ip netns del wgnet-leftover",
    ),
    on_host_2("no nft", "no-nft", "mount --bind /dev/null /usr/sbin/nft", "umount /usr/sbin/nft"),
    on_host_2(
        "WireGuard's ports closed",
        "firewall-closed",
        "nft 'table inet closed { chain input { type filter hook input priority 0; udp dport 51820-52819 drop; }; }'",
        "nft delete table inet closed",
    ),
    Fault {
        what: "a hole for packets of the last hundred bytes below the MTU",
        code: "mtu-hole",
        on: 1,
        plant: Sh(
            2,
            "nft 'table inet hole { chain input { type filter hook input priority 0; meta l4proto { icmp, udp } meta length > 1400 drop; }; }'",
        ),
        mend: Sh(2, "nft delete table inet hole"),
    },
    on_host_2(
        "a name of etcd's without an address",
        "etcd-name",
        "cp /etc/wgnet/driver.toml /etc/wgnet/good.toml; sed -i 's|^etcd = .*|etcd = [\"http://etcd.invalid:2379\"]|' /etc/wgnet/driver.toml",
        "mv /etc/wgnet/good.toml /etc/wgnet/driver.toml",
    ),
    Fault {
        what: "no way to etcd",
        code: "etcd-away",
        on: 2,
        plant: Do(|swarm| swarm.lab.etcd().refuse(&[swarm.host(2)])),
        mend: Do(|swarm| swarm.lab.etcd().admit()),
    },
    Fault {
        what: "a driver that lost etcd",
        code: "driver-without-etcd",
        on: 2,
        plant: Do(|swarm| swarm.lab.etcd().refuse(&[swarm.host(2)])),
        mend: Do(|swarm| swarm.lab.etcd().admit()),
    },
    Fault {
        what: "an etcd whose quota is used up",
        code: "etcd-alarm",
        on: 2,
        plant: Do(|swarm| swarm.lab.etcd().fill()),
        mend: Do(|swarm| swarm.lab.etcd().unfill()),
    },
    Fault {
        what: "a plugin that is disabled",
        code: "plugin-disabled",
        on: 2,
        plant: Do(|swarm| docker(swarm, &["plugin", "disable", "-f", "wgnet:latest"])),
        mend: Do(|swarm| docker(swarm, &["plugin", "enable", "wgnet:latest"])),
    },
    Fault {
        what: "no plugin",
        code: "plugin-missing",
        on: 2,
        plant: Do(|swarm| docker(swarm, &["plugin", "rm", "-f", "wgnet:latest"])),
        mend: Do(|swarm| swarm.host(2).plugin_install()),
    },
    Fault {
        what: "Docker stopped",
        code: "docker-away",
        on: 2,
        plant: Do(|swarm| swarm.host(2).engine_stop()),
        mend: Do(|swarm| swarm.host(2).engine_start()),
    },
    Fault {
        what: "a way that is blocked in one direction",
        code: "host-silent",
        on: 1,
        plant: Do(|swarm| {
            let from = swarm.host(1).address();
            swarm.host(3).sh(&format!(
                "nft 'table inet oneway {{ chain input {{ type filter hook input priority 0; ip saddr {from} udp dport 51820-52819 drop; }}; }}'"
            ))?;
            Ok(())
        }),
        mend: Sh(3, "nft delete table inet oneway"),
    },
    Fault {
        what: "a host without power",
        code: "host-gone",
        on: 1,
        plant: Do(|swarm| swarm.host(3).power_off()),
        mend: Do(|swarm| {
            swarm.host(3).boot()?;
            swarm.host(3).engine_start()?;
            swarm.host(3).driver_resume()
        }),
    },
];

fn docker(swarm: &Swarm, args: &[&str]) -> Result<()> {
    swarm.host(2).docker(args).map(drop)
}

#[test]
#[ignore = "takes minutes"]
fn doctor_names_each_planted_fault_and_nothing_else_is_ever_wrong() -> Result<()> {
    let swarm = Swarm::with(LabOptions {
        name: "e2e-doctor".into(),
        hosts: 3,
        etcd_flags: vec![QUOTA.to_owned()],
        ..LabOptions::default()
    })?;
    swarm.network("blue", &["--subnet", "10.72.0.0/24"])?;
    swarm.run(1, "near", "blue", &[])?;
    swarm.run(3, "far", "blue", &["--restart", "always"])?;
    // Who is silent shows only where something is said to them.
    let _talk = swarm.host(1).spawn(&["docker", "exec", "near", "ping", "-i", "0.2", "far"])?;
    for host in swarm.lab.hosts() {
        is_well("before anything was planted", host)?;
    }

    let codes: BTreeSet<_> = FAULTS.iter().map(|fault| fault.code).collect();
    assert_eq!(codes.len(), FAULTS.len(), "each is another one");
    for fault in &FAULTS {
        let host = swarm.host(fault.on);
        fault.plant.perform(&swarm)?;
        let (_, took) = wait_for(&format!("{} for {}", fault.code, fault.what), PATIENCE, || {
            let found = findings(host).map_err(|error| error.to_string())?;
            found.iter().any(|code| code == fault.code).then_some(()).ok_or(format!("{found:?}"))
        })?;
        println!("  {}: {} after {:.1} s", fault.what, fault.code, took.as_secs_f32());
        fault.mend.perform(&swarm)?;
        is_well(&format!("after {}", fault.what), host)?;
    }
    Ok(())
}

fn is_well(when: &str, host: &Host) -> Result<()> {
    let what = format!("doctor to find nothing on {} {when}", host.name());
    wait_for(&what, 2 * SOON, || match findings(host) {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(format!("{found:?}")),
        Err(error) => Err(error.to_string()),
    })
    .map(drop)
}

/// The codes of what doctor finds on a host, each with what to do.
fn findings(host: &Host) -> Result<Vec<String>> {
    let said = host.try_wgnetctl(&["doctor", "--json"])?;
    let areas: Vec<Value> = serde_json::from_str(&said.stdout)
        .map_err(|error| LabError::Machine(format!("doctor: {error}: {said}")))?;
    let found = areas.iter().filter_map(|area| area["findings"].as_array()).flatten();
    let mut codes = Vec::new();
    for finding in found {
        for field in ["code", "what", "why", "next_step"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
        }
        codes.push(finding["code"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(said.success(), codes.is_empty(), "{said}");
    // Debian 12's etcd is; and so it stays.
    codes.retain(|code| code != "etcd-old");
    Ok(codes)
}
