//! `wgnetctl forget-network` and what doctor says of it, with a Docker and a driver that say what
//! the test wants.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers of a server on a unix socket: the code and the body for a request's line and body.
type Answers = Box<dyn Fn(&str, &str) -> (u16, Value) + Send>;

fn serve(socket: &Path, answers: Answers) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &answers);
        }
    });
}

fn answer(stream: UnixStream, answers: &Answers) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let (code, answer) = answers(&head[0], std::str::from_utf8(&body).unwrap());
    // A driver's refusal is a sentence, not JSON.
    let answer = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    let length = answer.len();
    let head = format!("HTTP/1.1 {code} X\r\nconnection: close\r\ncontent-length: {length}");
    let kind = "content-type: application/json";
    write!(reader.into_inner(), "{head}\r\n{kind}\r\n\r\n{answer}").unwrap();
}

/// A plain engine's host with one network.
struct Host {
    dir: TempDir,
    docker: PathBuf,
    driver: PathBuf,
    /// What Docker lists.
    listed: Arc<Mutex<Vec<String>>>,
    /// What the driver was ordered.
    ordered: Arc<Mutex<Vec<String>>>,
}

fn id() -> String {
    "4f".repeat(32)
}

fn status() -> Value {
    json!({
        "host_id": "00".repeat(16), "name": "h1", "version": "0.1.0", "backend": "kernel",
        "underlay": [], "networks": [{
            "key": "n-blue", "docker_id": id(), "namespace": "wgnet-4f", "subnets": [],
            "mtu": 1420, "slots": [], "members": [], "endpoints": [], "in_sync": true,
            "error": null, "repairs": 0
        }],
        "store": {"connected": true, "error": null, "revision": 1, "unpublished": 0},
        "hosts": [], "problems": [], "refused": {}
    })
}

impl Host {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (docker, driver) = (dir.path().join("docker"), dir.path().join("driver"));
        let (listed, ordered) = (Arc::new(Mutex::new(vec![id()])), Arc::<Mutex<Vec<_>>>::default());
        let list = Arc::clone(&listed);
        serve(
            &docker,
            Box::new(move |request, _| {
                let networks = list.lock().unwrap();
                let networks = networks.iter().map(|id| json!({"Name": "web", "Id": id}));
                match request.split(' ').nth(1).unwrap() {
                    path if path.ends_with("/version") => (200, json!({"ApiVersion": "1.41"})),
                    path if path.ends_with("/networks") => (200, networks.collect()),
                    path if path.ends_with("/plugins") => (200, json!([])),
                    path if path.ends_with("/info") => (200, json!({"ServerVersion": "28.0.0"})),
                    path => (404, json!({"message": path})),
                }
            }),
        );
        let orders = Arc::clone(&ordered);
        serve(
            &driver,
            Box::new(move |request, body| match request {
                "GET /status HTTP/1.1" => (200, status()),
                "POST /forget-network HTTP/1.1" => {
                    orders.lock().unwrap().push(body.to_owned());
                    let order: Value = serde_json::from_str(body).unwrap();
                    if order["network"] == "n-red" {
                        return (409, "this host's driver has no network n-red".into());
                    }
                    let done = json!({
                        "network": "n-blue", "docker_id": id(), "endpoints": 0, "removed": true
                    });
                    (200, done)
                }
                other => (404, other.into()),
            }),
        );
        Self { dir, docker, driver, listed, ordered }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgnetctl"));
        command.args(args).arg("--docker").arg(&self.docker).arg("--socket").arg(&self.driver);
        command.output().unwrap()
    }

    fn fails_with(&self, args: &[&str], part: &str) {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(part), "{told}");
    }

    /// What doctor finds about the host's networks.
    fn found(&self) -> Vec<Value> {
        let secret = self.dir.path().join("no-secret");
        let config = self.dir.path().join("driver.toml");
        std::fs::write(&config, "etcd = [\"http://127.0.0.1:9\"]\n").unwrap();
        let (secret, config) = (secret.to_str().unwrap(), config.to_str().unwrap());
        let output = self.run(&["doctor", "--json", "--config", config, "--secret", secret]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let areas: Vec<Value> = serde_json::from_slice(&output.stdout).expect(&told);
        let area = areas.into_iter().find(|area| area["area"] == "networks").unwrap();
        assert_eq!(area["not_seen"], Value::Null);
        area["findings"].as_array().unwrap().clone()
    }
}

#[test]
fn a_network_is_forgotten_only_if_docker_does_not_have_it() {
    let host = Host::start();
    for wanted in ["n-blue", "4f4f", &id()] {
        host.fails_with(&["forget-network", wanted], "docker network rm web");
    }
    assert!(host.ordered.lock().unwrap().is_empty());

    host.listed.lock().unwrap().clear();
    let output = host.run(&["forget-network", "n-blue", "--json"]);
    assert!(output.status.success());
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["network"], &done["removed"]), (&"n-blue".into(), &true.into()));
    assert_eq!(*host.ordered.lock().unwrap(), [r#"{"network":"n-blue"}"#]);
    let told = String::from_utf8(host.run(&["forget-network", "4f4f"]).stdout).unwrap();
    assert!(told.contains("Forgot n-blue"), "{told}");
    host.fails_with(&["forget-network", "n-red"], "no network n-red");
}

#[test]
fn without_docker_a_network_is_forgotten_only_if_that_is_said() {
    let host = Host::start();
    std::fs::remove_file(&host.docker).unwrap();
    host.fails_with(&["forget-network", "n-blue"], "--without-docker");
    assert!(host.ordered.lock().unwrap().is_empty());
    assert!(host.run(&["forget-network", "n-blue", "--without-docker"]).status.success());
    assert_eq!(host.ordered.lock().unwrap().len(), 1);
}

#[test]
fn doctor_finds_a_network_that_docker_does_not_list_and_no_other() {
    let host = Host::start();
    assert_eq!(host.found(), Vec::<Value>::new());
    host.listed.lock().unwrap().clear();
    let found = host.found();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["code"], "network-unknown-to-docker");
    assert_eq!(found[0]["next_step"], format!("wgnetctl forget-network {}", id()));
}
