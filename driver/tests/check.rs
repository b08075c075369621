//! `wgnet-driver --check` as a program. Wants root, for a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What a check says, with everything it could touch below `directory`.
fn check(directory: &Path) -> String {
    check_with(directory, &["--etcd", "http://127.0.0.1:1"])
}

fn check_with(directory: &Path, etcd: &[&str]) -> String {
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_wgnet-driver"), "--check", "--insecure"]);
    command.args(["--backend", "userspace", "--metrics", "off"]).args(etcd);
    for (flag, name) in [("--engine", "engine"), ("--run-dir", "run"), ("--state-dir", "state")] {
        command.arg(flag).arg(directory.join(name));
    }
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_check_starts_no_engine_and_leaves_nothing() {
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let here = directory.path();
    let told = check(here);
    assert!(
        told.contains("FAIL  WireGuard: cannot start the userspace WireGuard engine"),
        "{told}"
    );

    let script = format!("#!/bin/sh\ntouch {}\n", here.join("started").display());
    fs::write(here.join("engine"), script).unwrap();
    fs::set_permissions(here.join("engine"), fs::Permissions::from_mode(0o755)).unwrap();
    let told = check(here);
    assert!(told.contains("ok    WireGuard"), "{told}");
    assert_eq!(names(here), ["engine"]);
}

#[test]
fn a_certificate_that_cannot_be_read_is_named_with_its_setting() {
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let ca = ca.to_str().unwrap();
    let told = check_with(directory.path(), &["--etcd", "https://127.0.0.1:1", "--etcd-ca", ca]);
    let sentence = told.lines().find(|line| line.starts_with("FAIL  etcd")).unwrap_or_default();
    for part in [ca, "`etcd_ca`", "put the PEM file there"] {
        assert!(sentence.contains(part), "{told}");
    }
}
