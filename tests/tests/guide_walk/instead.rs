//! What is done otherwise than it is typed, since hosts of the lab are not all that a real one is.

use wgnet_tests::guide::{Typed, services};
use wgnet_tests::lab::{DRIVER_LOG, LabError, Result};

use super::looks;
use crate::{At, Walk};

pub(crate) struct Instead {
    /// The first words of the commands that it is for.
    pub(crate) begins: &'static str,
    pub(crate) why: &'static str,
    pub(crate) deed: fn(&mut Walk, At, &str) -> Result<()>,
}

impl Instead {
    pub(crate) fn is_for(&self, typed: &Typed) -> bool {
        let rest = typed.text.strip_prefix(self.begins);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

pub(crate) static INSTEAD: [Instead; 13] = [
    Instead {
        begins: "apt install etcd-server etcd-client",
        why: "a host of the lab fetches nothing: the machine's own",
        deed: |walk, at, _| services::install_etcd(walk.host(at)),
    },
    Instead {
        begins: "apt install ./wgnet_*.deb",
        why: "the host's dpkg was never told what is there; it takes the same file",
        deed: |walk, at, _| services::install(walk.host(at)),
    },
    Instead {
        begins: "apt remove wgnet",
        why: "by dpkg, and without systemd the lab stops the service",
        deed: |walk, at, _| services::remove(walk.host(at)),
    },
    Instead {
        begins: "apt purge wgnet",
        why: "by dpkg",
        deed: |walk, at, _| services::purge(walk.host(at)),
    },
    Instead { begins: "scp", why: "no host has an sshd: copied from tree to tree", deed: copy },
    Instead {
        begins: "systemctl",
        why: "no systemd: the lab does what the unit says",
        deed: |walk, at, text| match text.split(' ').collect::<Vec<_>>()[..] {
            [_, verb, unit] => services::systemctl(walk.host(at), verb, unit),
            _ => Err(LabError::Machine("not the usual three words".to_owned())),
        },
    },
    Instead {
        begins: "journalctl -u wgnet-driver",
        why: "no journal: the lab keeps the log in a file",
        deed: |walk, at, _| walk.host(at).sh(&format!("[ -s {DRIVER_LOG} ]")).map(drop),
    },
    Instead {
        begins: "wgnetctl doctor",
        why: "its exit code is not 0 if it finds something: it has to find what is wrong there, at once or soon",
        deed: |walk, at, text| {
            let code = looks::doctor_finds(walk, at)?;
            let output = walk.output(at, text)?;
            if output.status.code() == Some(code) {
                return Ok(());
            }
            Err(LabError::Machine(format!("{output}; it should have been {code}")))
        },
    },
    Instead {
        begins: "wgnetctl revoke",
        why: "it asks, and there is no terminal to answer it on",
        deed: |walk, at, text| walk.run(at, &format!("{text} --yes")),
    },
    Instead { begins: "wgnetctl dashboard", why: ENDLESS, deed: for_a_while },
    Instead { begins: "wgnetctl peers --watch", why: ENDLESS, deed: for_a_while },
    Instead { begins: "tcpdump", why: ENDLESS, deed: for_a_while },
    Instead {
        begins: "pkill -x wgnet-engine",
        why: "there is none where the kernel has WireGuard",
        deed: |walk, at, text| {
            if walk.host(at).try_exec(&["pgrep", "-x", "wgnet-engine"])?.success() {
                return walk.run(at, text);
            }
            Ok(())
        },
    },
];

const ENDLESS: &str =
    "it does not end by itself: ended after 5 s, by when it has printed something";

fn for_a_while(walk: &mut Walk, at: At, text: &str) -> Result<()> {
    let output = walk.output(at, &format!("timeout 5 {text}"))?;
    if output.status.code() == Some(124) && !output.stdout.is_empty() {
        return Ok(());
    }
    Err(LabError::Machine(output.to_string()))
}

/// `scp [-p] [-r] FROM... root@HOST:TO`
pub(crate) fn copy(walk: &mut Walk, at: At, text: &str) -> Result<()> {
    let unclear = || LabError::Machine("not `scp FROM root@HOST:TO`".to_owned());
    let (flags, names): (Vec<&str>, Vec<&str>) =
        text.split(' ').skip(1).partition(|word| word.starts_with('-'));
    let (to, from) = names.split_last().ok_or_else(unclear)?;
    let to = to.strip_prefix("root@").and_then(|to| to.split_once(':'));
    let (name, to) = to.ok_or_else(unclear)?;
    let mut hosts = walk.lab.hosts().iter();
    let host = hosts.find(|host| host.name() == name || host.address() == name);
    let host = host.ok_or_else(unclear)?;

    let mut script = "cp".to_owned();
    for flag in flags {
        // Owners are not kept.
        script.push_str(if flag == "-p" { " --preserve=mode,timestamps" } else { " -r" });
    }
    let tree = at.host.map_or(walk.desk.clone(), |number| walk.lab.host(number).path("/"));
    for name in from {
        script.push_str(&format!(" {}", tree.join(name.trim_start_matches('/')).display()));
    }
    script.push_str(&format!(" {}", host.path(to).display()));
    services::on_machine(&script, &[]).map(drop)
}
