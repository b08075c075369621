//! `wgnet-driver --check`: whether this host has what the driver needs, each finding a sentence.

use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{AccessFlags, Uid, access};
use wgnet_control_plane::store::Store as _;
use wgnet_proto::ClusterSecrets;

use crate::app;
use crate::config::Config;

/// Checks everything and says it; 0 when all is well.
pub async fn run(config: &Config) -> ExitCode {
    let mut findings = Findings::default();
    findings.add("privileges", privileges());
    let privileged = findings.failed == 0;
    findings.add("cluster secret", secrets(config).map(drop));
    findings.add("state directory", writable(&config.state_dir));
    if privileged {
        findings.add("WireGuard", app::probe(config).await);
    }
    findings.add("etcd", etcd(config).await);
    if findings.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Findings {
    failed: usize,
}

impl Findings {
    fn add(&mut self, what: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => eprintln!("ok    {what}"),
            Err(sentence) => {
                self.failed += 1;
                eprintln!("FAIL  {what}: {sentence}");
            }
        }
    }
}

/// Root is needed for namespaces and links.
///
/// # Errors
///
/// A sentence.
pub fn privileges() -> Result<(), String> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    Err("it must run as root, to make network namespaces and links; start it with: systemctl start wgnet-driver".to_owned())
}

/// The cluster secret, or what stands in for it when that is wanted.
///
/// # Errors
///
/// A sentence.
pub fn secrets(config: &Config) -> Result<ClusterSecrets, String> {
    if config.insecure {
        return Ok(ClusterSecrets::insecure());
    }
    ClusterSecrets::load(&config.secret).map_err(|error| crate::chain(&error))
}

fn writable(directory: &Path) -> Result<(), String> {
    let mut exists = directory;
    while !exists.exists() {
        let Some(parent) = exists.parent() else { break };
        exists = parent;
    }
    if !exists.is_dir() {
        return Err(format!("{} is no directory; name another with `state_dir`", exists.display()));
    }
    access(exists, AccessFlags::W_OK).map_err(|error| {
        format!(
            "{} cannot be written: {error}; name another with `state_dir`, or make it writable",
            exists.display()
        )
    })
}

async fn etcd(config: &Config) -> Result<(), String> {
    let store = app::store(config)?;
    match store.revision().await {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{}; the driver starts without it and joins the cluster when it answers",
            crate::chain(&error)
        )),
    }
}
