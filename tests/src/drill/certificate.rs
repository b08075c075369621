//! etcd's certificate turns wrong, as when it was made anew by another authority, and is put right.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::{Row, Rows, Scale};
use crate::lab::{Host, LabError, LabOptions, Result};
use crate::stream::Stream;
use crate::swarm::{NAMED, SOON, Swarm, eventually, only_network, status};

const NETWORK: &str = "blue";

/// The lab's etcd, and its port for drivers; the lab itself asks without certificates.
const ADDRESS: &str = "192.0.2.2";
const PORT: u16 = 2479;

/// Whom drivers trust.
const AUTHORITY: &str = "/etc/wgnet/etcd-ca.pem";

/// As after any time without etcd.
const EVERYWHERE: f64 = 2.0;

/// # Errors
///
/// Whatever the lab, a driver or an engine says.
pub fn certificate(scale: Scale, rows: &mut Rows) -> Result<()> {
    let certificates = Certificates::make()?;
    let swarm = Swarm::with(LabOptions {
        name: "drill-certificate".into(),
        hosts: 2,
        etcd_flags: certificates.flags(),
        ..LabOptions::default()
    })?;
    let config = swarm
        .lab
        .driver_config()
        .replace(&swarm.lab.etcd().url(), &format!("https://{ADDRESS}:{PORT}"))
        .replace("etcd_insecure = true", &format!("etcd_ca = \"{AUTHORITY}\""));
    swarm.lab.on_all_hosts(|host| {
        host.write(AUTHORITY, certificates.authority()?)?;
        host.driver_stop()?;
        host.driver_start(&config)
    })?;
    swarm.network(NETWORK, &[])?;
    rows.add(turns_wrong(&swarm, &certificates, scale)?);
    Ok(())
}

fn turns_wrong(swarm: &Swarm, certificates: &Certificates, scale: Scale) -> Result<Row> {
    let (near, far) = (swarm.run(1, "near", NETWORK, &[])?, swarm.run(2, "far", NETWORK, &[])?);
    eventually("the first ping", NAMED, || near.ping("far").is_ok())?;
    let drivers = || swarm.lab.hosts().iter().map(Host::driver_pid).collect::<Vec<_>>();
    let before = drivers();
    let stream = Stream::start(&near, &far)?;

    certificates.put("wrong")?;
    // A connection that is open would go on.
    swarm.lab.etcd().kill()?;
    swarm.lab.etcd().start()?;
    let gone = Instant::now();
    let mut silent = 0;
    let _ = eventually("every host to say what is wrong", SOON, || {
        silent = swarm.lab.hosts().iter().filter(|host| !says_so(host)).count();
        silent == 0
    });
    let began = Instant::now();
    swarm.run(1, "meanwhile", NETWORK, &[])?;
    let start = began.elapsed().as_secs_f64() * 1e3;
    let length = Duration::from_secs(scale.pick(5, 60));
    thread::sleep(length.saturating_sub(gone.elapsed()));
    let out = gone.elapsed();

    // etcd reads its file for each connection.
    certificates.put("right")?;
    let back = Instant::now();
    eventually("what came meanwhile to be known on the other host", SOON, || {
        only_network(far.host).is_ok_and(|network| network.endpoints.len() == 3 && network.in_sync)
    })?;
    let everywhere = back.elapsed().as_secs_f64();
    eventually("both hosts to be connected", SOON, || {
        let stores = swarm.lab.hosts().iter().map(|host| status(host).map(|said| said.store));
        stores
            .into_iter()
            .all(|store| store.is_ok_and(|store| store.connected && store.error.is_none()))
    })?;
    eventually("a ping to what came meanwhile", NAMED, || far.ping("meanwhile").is_ok())?;
    let restarted = drivers().iter().zip(&before).filter(|(now, before)| now != before).count();
    Ok(Row::new("etcd's certificate wrong, then right")
        .lost_nothing(&stream.finish()?)
        .info("for", out.as_secs_f64(), "s")
        .at_most("hosts that do not say so", silent as f64, "", 0.0)
        .info("a start meanwhile", start, "ms")
        .at_most("everywhere after that", everywhere, "s", EVERYWHERE)
        .at_most("drivers restarted", restarted as f64, "", 0.0))
}

/// What is wrong, and what to do about it.
fn says_so(host: &Host) -> bool {
    let words = ["invalid peer certificate", "correct the settings, or etcd's certificate"];
    status(host).is_ok_and(|said| {
        let error = said.store.error.unwrap_or_default();
        !said.store.connected && words.iter().all(|word| error.contains(word))
    })
}

/// Two authorities that know nothing of each other, and a certificate of each for the same etcd.
struct Certificates(PathBuf);

impl Certificates {
    /// The right one is in its place.
    fn make() -> Result<Self> {
        let made = Self(env::temp_dir().join(format!("wgnett-certificates-{}", id())));
        let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/etcd/make");
        for one in ["right", "wrong"] {
            let dir = made.0.join(one);
            fs::create_dir_all(&dir).map_err(LabError::io("make the directory", &dir))?;
            let output = Command::new(&make).arg(&dir).arg(format!("etcd={ADDRESS}")).output();
            let output = output.map_err(LabError::io("run", &make))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(LabError::Machine(format!("{}: {said}", make.display())));
            }
        }
        made.put("right")?;
        Ok(made)
    }

    /// Certificate and key change at one moment.
    fn put(&self, one: &str) -> Result<()> {
        let next = self.0.join("next");
        let place = self.0.join("place");
        symlink(self.0.join(one).join("nodes/etcd"), &next)
            .and_then(|()| fs::rename(&next, &place))
            .map_err(LabError::io("put a certificate to", &place))
    }

    fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.0.join("place").join(name).display().to_string();
        vec![
            format!("--listen-client-urls=http://[::]:2379,https://[::]:{PORT}"),
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server-key.pem")),
        ]
    }

    fn authority(&self) -> Result<Vec<u8>> {
        let file = self.0.join("right/wgnet/etcd-ca.pem");
        fs::read(&file).map_err(LabError::io("read", &file))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
