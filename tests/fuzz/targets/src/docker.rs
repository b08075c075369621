//! The plugin socket: Docker's calls, and any bytes at all.

#[allow(dead_code, unreachable_pub, reason = "the file belongs to another crate's library")]
#[path = "../../../src/recording.rs"]
mod recording;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use recording::{Event, our_options};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wgnet_core::ClusterView;
use wgnet_driver::api::{Api, Context, PickedPort, Scope, serve};
use wgnet_driver::applied::{Applied, Report};
use wgnet_driver::journal::{Journal, MemoryDisk, Random, State};
use wgnet_driver::problems::Problems;
use wgnet_shim::http::{Response, read_response};

const WITHIN: Duration = Duration::from_secs(5);
const MOST_CALLS: usize = 8;

/// A driver's plugin socket in this thread, with a kernel that does what it is told.
struct Driver {
    runtime: Runtime,
    address: SocketAddr,
    journal: Journal,
    /// Nothing known.
    empty: State,
    _view: watch::Sender<Arc<ClusterView>>,
}

thread_local! {
    static DRIVER: RefCell<Option<Driver>> = const { RefCell::new(None) };
    /// The panics of this thread: tokio keeps those of tasks to itself.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

impl Driver {
    fn start() -> Self {
        count_panics();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let (view, views) = watch::channel(Arc::default());
        let (journal, address) = runtime.block_on(async {
            let gate = Arc::new(|| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
                Box::pin(std::future::ready(()))
            });
            let journal = Journal::open_in_memory(&MemoryDisk::default(), "boot", &random(), gate);
            let journal = journal.expect("memory is not full");
            let applied = Applied::default();
            tokio::spawn(follow(journal.watch(), applied.clone()));
            let (listener, address) = listen();
            let context = Context {
                me: journal.host_id(),
                journal: journal.clone(),
                applied,
                view: views,
                remembered: watch::channel(true).1,
                underlay_mtu: Arc::new(|| 1500),
                random: random(),
                clock: Arc::new(Duration::default),
                ports: Arc::new(free_port),
                problems: Problems::default(),
                apply_within: WITHIN,
            };
            tokio::spawn(serve(
                listener,
                Scope::Local,
                Api::new(context),
                CancellationToken::new(),
            ));
            (journal, address)
        });
        let empty = (*journal.state()).clone();
        Self { runtime, address, journal, empty, _view: view }
    }

    fn connect(&self) -> UnixStream {
        let stream = std::os::unix::net::UnixStream::connect_addr(&self.address);
        let stream = stream.expect("the driver accepts");
        stream.set_nonblocking(true).expect("a socket can be set so");
        UnixStream::from_std(stream).expect("the runtime takes it")
    }

    /// What earlier calls made is forgotten, so that an input always means the same.
    async fn forget(&self) {
        if !is_same(&self.journal.state(), &self.empty) {
            let empty = self.empty.clone();
            self.journal.update(move |state| *state = empty).await.expect("memory is not full");
        }
    }
}

fn random() -> Random {
    let count = AtomicU64::new(1);
    Arc::new(move |bytes| {
        let mut seed = count.fetch_add(1, Ordering::Relaxed);
        for byte in bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 56) as u8;
        }
    })
}

fn free_port(wanted: Option<u16>, taken: BTreeSet<u16>) -> PickedPort {
    let port = wanted.into_iter().chain(51820..=52819).find(|port| !taken.contains(port));
    Box::pin(std::future::ready(port.ok_or_else(|| "every port is taken".to_owned())))
}

/// A socket without a file, so that nothing is left however this ends.
fn listen() -> (UnixListener, SocketAddr) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("wgnet-fuzz-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("it is short");
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("the name is free");
    listener.set_nonblocking(true).expect("a socket can be set so");
    (UnixListener::from_std(listener).expect("the runtime takes it"), address)
}

async fn follow(mut states: watch::Receiver<Arc<State>>, applied: Applied) {
    loop {
        let state = states.borrow_and_update().clone();
        for network in state.networks.keys() {
            let (applied_to, tried) = (state.revision, state.revision);
            applied.report(
                network,
                Report { applied: Some(applied_to), tried, error: None, failures: 0 },
            );
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            hook(info);
        }));
    });
}

fn is_same(one: &State, other: &State) -> bool {
    let durable =
        |state: &State| State { revision: 0, changed: Default::default(), ..state.clone() };
    durable(one) == durable(other)
}

/// Runs what concerns the driver, and looks whether any of its tasks panicked.
fn with_driver(run: impl AsyncFnOnce(&Driver)) {
    DRIVER.with_borrow_mut(|slot| {
        let driver = slot.take().unwrap_or_else(Driver::start);
        let before = PANICS.get();
        driver.runtime.block_on(async {
            driver.forget().await;
            run(&driver).await;
        });
        assert_eq!(PANICS.get(), before, "a task of the driver panicked");
        // One in which something failed is not used again.
        *slot = Some(driver);
    });
}

/// HTTP itself refuses a path of 64 KiB, before there is anybody to answer in JSON.
const LONGEST_NAME: usize = 1024;

/// Lines of a call's name and its body, in this order. What is refused says why in a sentence and
/// changes nothing; the same call again has the same answer.
pub(crate) fn calls(bytes: &[u8]) {
    with_driver(async |driver| {
        let mut stream = driver.connect();
        for line in bytes.split(|b| *b == b'\n').take(MOST_CALLS) {
            let name = line.split(|b| *b == b' ').next().unwrap_or_default();
            let body = line.get(name.len() + 1..).unwrap_or_default();
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let is_name = (1..=LONGEST_NAME).contains(&name.len());
            if !is_name || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                continue;
            }
            let answer = call(driver, &mut stream, name, body).await;
            assert_eq!(call(driver, &mut stream, name, body).await, answer, "{name} again");
        }
    });
}

async fn call(driver: &Driver, stream: &mut UnixStream, name: &str, body: &[u8]) -> Response {
    let before = driver.journal.state();
    let head = format!(
        "POST /NetworkDriver.{name} HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let ask = async {
        stream.write_all(&[head.as_bytes(), body].concat()).await.expect("the driver reads");
        let mut read = Vec::new();
        loop {
            match read_response(&mut read.as_slice()) {
                Ok(response) => return response,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&read)),
            }
            let more = stream.read_buf(&mut read).await.expect("the driver answers");
            assert_ne!(more, 0, "the driver hung up");
        }
    };
    let answer = tokio::time::timeout(WITHIN, ask).await.expect("an answer in time");
    let json: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
    assert!(json.is_object(), "{json}");
    match json.get("Err") {
        Some(error) => {
            let sentence = error.as_str().expect("it is text");
            crate::assert_sentence(sentence);
            assert!(!sentence.is_empty() && !sentence.contains("is stopping"), "{sentence}");
            assert!(is_same(&before, &driver.journal.state()), "{sentence}");
        }
        None => assert_eq!(answer.status, 200),
    }
    answer
}

/// Any bytes on the socket; afterwards the driver still answers.
pub(crate) fn http(bytes: &[u8]) {
    with_driver(async |driver| {
        let (mut reader, mut writer) = driver.connect().into_split();
        let talk = async {
            let write = async {
                // It may hang up on what is no HTTP.
                let _ = writer.write_all(bytes).await;
                drop(writer);
            };
            let mut answers = Vec::new();
            let (_, read) = tokio::join!(write, reader.read_to_end(&mut answers));
            read.map(|_| answers)
        };
        let answers = tokio::time::timeout(WITHIN, talk).await.expect("the driver ends the talk");
        if let Ok(answers) = answers {
            assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."));
        }
        let mut stream = driver.connect();
        let answer = call(driver, &mut stream, "GetCapabilities", b"").await;
        assert_eq!(answer.body, br#"{"Scope":"local","ConnectivityScope":"global"}"#);
    });
}

/// What real engines said: for each host one after the other, cut into inputs, each kind of which is
/// taken once.
pub(crate) fn call_seeds() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../calls");
    let files = std::fs::read_dir(directory).expect("the recordings are there");
    let mut files: Vec<_> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut kinds = BTreeSet::new();
    let mut seeds = vec![plain()];
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a recording is text");
        let events = recording::events(&text);
        for host in ["h1", "h2", "h3", "h4"] {
            let lines: Vec<_> = events.iter().filter_map(|event| line(event, host)).collect();
            for lines in lines.chunks(MOST_CALLS / 2) {
                let kind: Vec<_> = lines.iter().map(|(method, _)| (*method).to_owned()).collect();
                if kinds.insert(kind) {
                    let lines: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
                    seeds.push(lines.join("\n").into_bytes());
                }
            }
        }
    }
    seeds
}

fn line<'e>(event: &'e Event, of: &str) -> Option<(&'e str, String)> {
    let Event::Call { host, method, body: Some(body) } = event else { return None };
    let mut body = body.clone();
    let options = if method == "CreateNetwork" {
        body.pointer_mut("/Options/com.docker.network.generic")
    } else {
        body.pointer_mut("/Options").filter(|_| method == "AllocateNetwork")
    };
    if let Some(options) = options {
        *options = our_options(options);
    }
    (host == of).then(|| (method.as_str(), format!("{method} {body}")))
}

/// A whole life on a plain engine, with every option.
fn plain() -> Vec<u8> {
    let (network, endpoint) = ("ab".repeat(32), "cd".repeat(32));
    let of = format!(r#""NetworkID":"{network}","EndpointID":"{endpoint}""#);
    format!(
        concat!(
            r#"CreateNetwork {{"NetworkID":"{n}","Options":{{"com.docker.network.internal":true,"com.docker.network.generic":"#,
            r#"{{"mtu":"1380","port":"51900","keepalive":"25","gwbridge":"false","id":"blue-1","com.docker.x":1}}}},"#,
            r#""IPv4Data":[{{"Pool":"10.0.9.0/24","Gateway":"10.0.9.1/24"}}],"IPv6Data":[{{"Pool":"fd50::/64","Gateway":"fd50::1/64"}}]}}"#,
            "\n",
            r#"CreateEndpoint {{{of},"Interface":{{"Address":"10.0.9.2/24","AddressIPv6":"fd50::2/64","MacAddress":"02:42:0a:00:09:02"}}}}"#,
            "\n",
            r#"Join {{{of},"SandboxKey":"/var/run/docker/netns/1a2b3c4d5e6f"}}"#,
            "\nEndpointOperInfo {{{of}}}\nLeave {{{of}}}\nDeleteEndpoint {{{of}}}\nDeleteNetwork {{\"NetworkID\":\"{n}\"}}"
        ),
        n = network,
        of = of
    )
    .into_bytes()
}

pub(crate) fn http_seeds() -> Vec<Vec<u8>> {
    let body = format!(r#"{{"NetworkID":"{}"}}"#, "ab".repeat(32));
    let head = |path: &str, length: usize, more: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: docker\r\n{more}Content-Length: {length}\r\n\r\n")
    };
    let texts = [
        head("/Plugin.Activate", 0, ""),
        head(
            "/NetworkDriver.FreeNetwork",
            body.len(),
            "X-Wgnet-Expires-At-Ms: 1\r\nX-Wgnet-Expires-Ms: 25000\r\nX-Wgnet-Request-Id: 1-1\r\n",
        ) + &body,
        format!("{0}{body}{0}{body}", head("/NetworkDriver.DeleteNetwork", body.len(), "")),
        format!(
            "POST /NetworkDriver.FreeNetwork HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
        "GET /NetworkDriver.Join HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}
