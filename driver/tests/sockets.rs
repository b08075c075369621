//! The sockets of the driver as a program. Wants root, for a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);

/// A driver without a secret: it says so to whoever asks.
struct Driver(Child);

impl Driver {
    fn start(directory: &Path) -> Self {
        Self(Self::command(directory).stderr(Stdio::null()).spawn().unwrap())
    }

    fn command(directory: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_wgnet-driver"), "--legacy-socket"]);
        command.args(["--etcd", "http://127.0.0.1:1", "--metrics", "off"]);
        for (flag, name) in [
            ("--engine", "engine"),
            ("--run-dir", "run"),
            ("--state-dir", "state"),
            ("--secret", "secret"),
            ("--plugins-dir", "docker/plugins"),
        ] {
            command.arg(flag).arg(directory.join(name));
        }
        command
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(socket: &Path, request: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The answer, once there is one.
fn answer(socket: &Path, request: &str) -> String {
    let until = Instant::now() + WITHIN;
    loop {
        match ask(socket, request) {
            Ok(answer) if !answer.is_empty() => return answer,
            Ok(_) | Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            other => panic!("{}: {other:?}", socket.display()),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn operators_and_docker_reach_a_driver_whose_directories_were_removed() {
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let here = directory.path();
    let (admin, legacy) = (here.join("run/admin.sock"), here.join("docker/plugins/wgnet.sock"));
    let _driver = Driver::start(here);
    for removed in ["", "run", "docker"] {
        if !removed.is_empty() {
            fs::remove_dir_all(here.join(removed)).unwrap();
        }
        let told = answer(&admin, "GET /status");
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("secret"), "{told}");
        let told = answer(&legacy, "POST /NetworkDriver.Join");
        assert!(told.contains("wgnet-driver cannot work yet"), "{told}");
        for socket in [&admin, &legacy] {
            assert_eq!([mode(socket), mode(socket.parent().unwrap())], [0o600, 0o700]);
        }
    }
}

#[test]
fn a_second_driver_ends_and_takes_nothing_from_the_first() {
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let here = directory.path();
    let (admin, legacy) = (here.join("run/admin.sock"), here.join("docker/plugins/wgnet.sock"));
    let _first = Driver::start(here);
    answer(&legacy, "POST /NetworkDriver.Join");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = [inode(&admin), inode(&legacy)];
    let second = Driver::command(here).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another wgnet-driver runs") && said.contains("--check"), "{said}");
    assert_eq!([inode(&admin), inode(&legacy)], before);
    let told = answer(&legacy, "POST /NetworkDriver.Join");
    assert!(told.contains("wgnet-driver cannot work yet"), "{told}");
}

#[test]
fn the_supervisor_is_told_of_start_and_end_and_the_log_can_be_json() {
    let directory = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
    let here = directory.path();
    let supervisor = UnixDatagram::bind(here.join("notify")).unwrap();
    supervisor.set_read_timeout(Some(WITHIN)).unwrap();
    let told = || {
        let mut text = [0; 1000];
        let length = supervisor.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let mut command = Driver::command(here);
    command.env("NOTIFY_SOCKET", here.join("notify")).args(["--log-format", "json"]);
    let mut driver = Driver(command.stderr(Stdio::piped()).spawn().unwrap());
    let ready = told();
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
    let pid = driver.0.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    // What it still lacks may be told before.
    while told() != "STOPPING=1" {}
    let mut log = String::new();
    driver.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(driver.0.wait().unwrap().success(), "{log}");
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.len() > 1, "{log}");
    for line in lines {
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
}
