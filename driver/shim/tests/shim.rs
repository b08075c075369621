//! The shim against a driver that is there, absent, late, dying in the middle.

// tests/run: long

use std::io::{BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use wgnet_shim::forward::{Driver, PATIENCE};
use wgnet_shim::http::{Request, Response, read_request, read_response, response_bytes};
use wgnet_shim::serve::serve;

struct Shim {
    directory: tempfile::TempDir,
}

impl Shim {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("wgnet.sock")).unwrap();
        let driver = Arc::new(Driver::new(directory.path().join("driver.sock")));
        thread::spawn(move || serve(&listener, &driver));
        Self { directory }
    }

    fn driver_socket(&self) -> PathBuf {
        self.directory.path().join("driver.sock")
    }

    fn docker(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("wgnet.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream
    }

    fn call(&self, method: &str, body: &str) -> Response {
        let mut stream = self.docker();
        send(&mut stream, method, body);
        read_response(&mut BufReader::new(stream)).unwrap()
    }
}

/// As dockerd writes it: no Content-Type, an odd Host.
fn send(stream: &mut UnixStream, method: &str, body: &str) {
    let request = format!(
        "POST /{method} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
}

/// A driver that treats each connection with `behave` and tells what it was sent.
fn driver(
    socket: PathBuf,
    behave: impl Fn(usize, UnixStream, &Request) + Send + 'static,
) -> mpsc::Receiver<(Request, String)> {
    let listener = UnixListener::bind(socket).unwrap();
    let (seen, requests) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let mut copy = Vec::new();
            let mut reader =
                BufReader::new(Tee { inner: stream.try_clone().unwrap(), copy: &mut copy });
            let Ok(Some(request)) = read_request(&mut reader) else { continue };
            drop(reader);
            let _ = seen.send((request.clone(), String::from_utf8_lossy(&copy).into_owned()));
            behave(number, stream, &request);
        }
    });
    requests
}

struct Tee<'c> {
    inner: UnixStream,
    copy: &'c mut Vec<u8>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.copy.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

fn answer(mut stream: UnixStream, body: &str) {
    let response = Response { status: 200, body: body.as_bytes().to_vec() };
    stream.write_all(&response_bytes(&response)).unwrap();
}

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

#[test]
fn capabilities_are_answered_without_a_driver() {
    let shim = Shim::start();
    let started = Instant::now();
    assert_eq!(
        text(&shim.call("NetworkDriver.GetCapabilities", "")),
        r#"{"Scope":"global","ConnectivityScope":"global"}"#
    );
    assert_eq!(text(&shim.call("Plugin.Activate", "")), r#"{"Implements":["NetworkDriver"]}"#);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn hints_do_not_wait_for_an_absent_driver() {
    let shim = Shim::start();
    let started = Instant::now();
    assert_eq!(text(&shim.call("NetworkDriver.DiscoverNew", "{}")), "{}");
    assert_eq!(text(&shim.call("NetworkDriver.DiscoverDelete", "{}")), "{}");
    assert_eq!(text(&shim.call("NetworkDriver.EndpointOperInfo", "{}")), r#"{"Value":{}}"#);
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_network_gets_its_options_without_a_driver_and_from_it_where_there_is_one() {
    let shim = Shim::start();
    let started = Instant::now();
    let asked = r#"{"NetworkID":"m3v0gvk6pj5e0l1y9h3kz1v2c","Options":{"mtu":"1300","b":"\u0022"},"IPv4Data":[]}"#;
    let allocate = |body| text(&shim.call("NetworkDriver.AllocateNetwork", body)).to_owned();
    assert_eq!(allocate(asked), r#"{"Options":{"b":"\"","mtu":"1300"}}"#);
    for nothing in ["", "{", "{}", "[]"] {
        let refused = allocate(nothing);
        assert!(refused.starts_with(r#"{"Err":"wgnet-driver does not answer"#), "{refused}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    driver(shim.driver_socket(), |_, stream, _| answer(stream, r#"{"Options":{}}"#));
    assert_eq!(allocate(asked), r#"{"Options":{}}"#);
}

#[test]
fn a_network_that_an_absent_driver_cannot_free_is_freed_for_docker() {
    let shim = Shim::start();
    let started = Instant::now();
    assert_eq!(text(&shim.call("NetworkDriver.FreeNetwork", r#"{"NetworkID":"m3v0"}"#)), "{}");
    assert!(started.elapsed() < Duration::from_secs(29), "{:?}", started.elapsed());
}

#[test]
fn a_call_reaches_a_driver_that_comes_late() {
    let shim = Shim::start();
    let mut stream = shim.docker();
    send(&mut stream, "NetworkDriver.Join", r#"{"a":1}"#);
    // The shim has had the call for a while: it has tried in vain.
    thread::sleep(Duration::from_millis(300));
    let requests = driver(shim.driver_socket(), |_, stream, _| answer(stream, r#"{"late":true}"#));
    let response = read_response(&mut BufReader::new(stream)).unwrap();
    assert_eq!(text(&response), r#"{"late":true}"#);
    assert_eq!(requests.recv().unwrap().0.body, br#"{"a":1}"#);
}

#[test]
fn a_call_cut_off_by_a_dying_driver_is_sent_again_with_its_body_and_the_same_id() {
    let shim = Shim::start();
    let requests =
        driver(
            shim.driver_socket(),
            |number, stream, _| if number < 2 { drop(stream) } else { answer(stream, "{}") },
        );
    assert_eq!(text(&shim.call("NetworkDriver.CreateEndpoint", r#"{"EndpointID":"x"}"#)), "{}");
    let tries: Vec<_> = requests.try_iter().collect();
    assert_eq!(tries.len(), 3);
    let id = |head: &str| {
        head.lines()
            .find_map(|l| l.strip_prefix("X-Wgnet-Request-Id: ").map(str::to_owned))
            .unwrap()
    };
    let until = |head: &str| {
        let at = head.lines().find_map(|line| line.strip_prefix("X-Wgnet-Expires-At-Ms: "));
        Duration::from_millis(at.unwrap().parse().unwrap())
    };
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
    let patience = until(&tries[0].1) - now;
    assert!((Duration::from_secs(15)..=PATIENCE).contains(&patience), "{patience:?}");
    for (request, head) in &tries {
        assert_eq!(until(head), until(&tries[0].1), "a repetition does not wait longer");
        assert_eq!(request.body, br#"{"EndpointID":"x"}"#);
        assert_eq!(id(head), id(&tries[0].1));
        assert!(head.contains("X-Wgnet-Expires-Ms: "));
    }
}

#[test]
fn an_empty_body_stays_empty_so_that_the_driver_can_refuse_it() {
    let shim = Shim::start();
    let requests = driver(shim.driver_socket(), |_, mut stream, _| {
        let refusal = Response { status: 400, body: br#"{"Err":"empty"}"#.to_vec() };
        stream.write_all(&response_bytes(&refusal)).unwrap();
    });
    let response = shim.call("NetworkDriver.Join", "");
    assert_eq!((response.status, text(&response)), (400, r#"{"Err":"empty"}"#));
    assert!(requests.recv().unwrap().0.body.is_empty());
}

#[test]
fn what_is_too_large_is_refused_with_the_reason_before_it_is_read() {
    let shim = Shim::start();
    let long = "a".repeat(70 << 10);
    for (head, cause) in [
        ("Content-Length: 4194305", "the body is longer than 4 MiB"),
        ("Content-Length: 99999999999999999999", "number too large to fit in target type"),
        (&*format!("X: {long}"), "the head is longer than 64 KiB"),
    ] {
        let mut stream = shim.docker();
        // The shim may have answered and closed before all of a long head is written.
        let _ = write!(stream, "POST /NetworkDriver.Join HTTP/1.1\r\n{head}\r\n\r\n");
        let response = read_response(&mut BufReader::new(stream)).unwrap();
        let refusal = format!(r#"{{"Err":"wgnet-shim cannot read this request: {cause}"}}"#);
        assert_eq!((response.status, text(&response)), (400, &*refusal));
    }
}

#[test]
fn one_connection_carries_many_calls_and_bare_connections_are_left_alone() {
    let shim = Shim::start();
    driver(shim.driver_socket(), |number, stream, _| {
        answer(stream, &format!(r#"{{"n":{number}}}"#))
    });
    let bare = shim.docker();
    let mut stream = shim.docker();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for number in 0..5 {
        send(&mut stream, "NetworkDriver.Leave", "{}");
        assert_eq!(text(&read_response(&mut reader).unwrap()), format!(r#"{{"n":{number}}}"#));
    }
    drop(bare);
    assert_eq!(shim.call("Plugin.Activate", "").status, 200);
}

#[test]
fn an_absent_driver_is_named_before_docker_gives_up() {
    let shim = Shim::start();
    let started = Instant::now();
    let response = shim.call("NetworkDriver.CreateNetwork", "{}");
    assert_eq!(response.status, 200);
    assert!(
        text(&response).starts_with(r#"{"Err":"wgnet-driver does not answer"#),
        "{}",
        text(&response)
    );
    assert!(started.elapsed() < Duration::from_secs(29), "{:?}", started.elapsed());
}

#[test]
fn a_driver_that_hangs_is_given_up_in_time() {
    let shim = Shim::start();
    let (keep, kept) = mpsc::channel();
    driver(shim.driver_socket(), move |_, stream, _| keep.send(stream).unwrap());
    let started = Instant::now();
    assert!(text(&shim.call("NetworkDriver.Join", "{}")).contains("wgnet-driver does not answer"));
    assert!(started.elapsed() < Duration::from_secs(29), "{:?}", started.elapsed());
    drop(kept);
}

#[test]
fn what_is_not_http_gets_400() {
    let shim = Shim::start();
    let mut stream = shim.docker();
    stream.write_all(b"\x00\x01nonsense\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut BufReader::new(stream)).unwrap().status, 400);
}

#[test]
fn it_says_what_it_is_and_refuses_what_it_does_not_know() {
    let run = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_wgnet-shim"));
        let ended = program.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    };
    for asked in ["--help", "-h"] {
        let (code, said, errors) = run(&[asked]);
        assert_eq!((code, &*errors), (Some(0), ""));
        for part in ["plugin", "wgnet-driver", "/run/docker/plugins", "wgnet.sock", "driver.sock"] {
            assert!(said.contains(part), "{said}");
        }
    }
    let version = format!("wgnet-shim {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), (Some(0), version, String::new()));
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    for (arguments, unknown) in [(&["--halp"][..], "--halp"), (&[here, "there"], "there")] {
        let (code, said, errors) = run(arguments);
        assert_eq!((code, &*said), (Some(2), ""));
        assert!(errors.contains(unknown) && errors.contains("--help"), "{errors}");
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "it has begun to listen");
}
