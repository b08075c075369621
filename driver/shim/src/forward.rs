//! Hands a call to the driver and sends it again, with its body, for as long as Docker waits.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::http::{Request, Response, read_response};

/// Below dockerd's 30 s for a managed plugin, so that Docker reads our sentence and not its own.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// For calls that can do without the driver.
const IMPATIENCE: Duration = Duration::from_millis(500);

const RETRY_EVERY: Duration = Duration::from_millis(20);

/// When the caller gives up, as milliseconds of [`now`]; the driver does not start a call after that,
/// however late it reads of it.
pub const EXPIRES_AT: &str = "X-Wgnet-Expires-At-Ms";

/// The same as what remains of it, for drivers that know only this.
pub const EXPIRES: &str = "X-Wgnet-Expires-Ms";

/// The same for every try of one call, so that the driver can tell a repetition.
pub const REQUEST_ID: &str = "X-Wgnet-Request-Id";

/// The driver's socket and what makes our request ids our own.
pub struct Driver {
    socket: PathBuf,
    instance: u64,
    count: AtomicU64,
}

impl Driver {
    pub fn new(socket: PathBuf) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let instance = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Self { socket, instance, count: AtomicU64::new(0) }
    }

    /// The driver's answer, or an `Err` that says where to look.
    pub fn call(&self, request: &Request) -> Response {
        let patience = if waits(&request.path) { PATIENCE } else { IMPATIENCE };
        let deadline = Instant::now() + patience;
        let expires_at = now() + patience;
        let id = format!("{:x}-{}", self.instance, self.count.fetch_add(1, Ordering::Relaxed));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.send_once(request, &id, left, expires_at) {
                Ok(response) => return response,
                Err(error) => error,
            };
            if Instant::now() + RETRY_EVERY >= deadline {
                return give_up(request, &error);
            }
            thread::sleep(RETRY_EVERY);
        }
    }

    fn send_once(
        &self,
        request: &Request,
        id: &str,
        left: Duration,
        expires_at: Duration,
    ) -> io::Result<Response> {
        let left = left.max(Duration::from_millis(1));
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        stream.write_all(head(request, id, left, expires_at).as_bytes())?;
        stream.write_all(&request.body)?;
        read_response(&mut BufReader::new(stream))
    }
}

/// What precedes the body of a forwarded request.
pub fn head(request: &Request, id: &str, left: Duration, expires_at: Duration) -> String {
    format!(
        "{} {} HTTP/1.1\r\nHost: wgnet-driver\r\nConnection: close\r\n{REQUEST_ID}: {id}\r\n{EXPIRES_AT}: {}\r\n{EXPIRES}: {}\r\nContent-Length: {}\r\n\r\n",
        request.method,
        request.path,
        expires_at.as_millis(),
        left.as_millis(),
        request.body.len()
    )
}

/// The driver's clock, too. While the host sleeps it stands still, as dockerd's patience does.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock").into()
}

/// Whether Docker needs the driver's answer to this call. The others are hints, for which dockerd's own
/// start waits, and AllocateNetwork, for which every network, service and task of the swarm does.
fn waits(path: &str) -> bool {
    !matches!(
        path,
        "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete"
            | "/NetworkDriver.EndpointOperInfo"
            | ALLOCATE
    )
}

const ALLOCATE: &str = "/NetworkDriver.AllocateNetwork";

fn give_up(request: &Request, error: &io::Error) -> Response {
    let body = match request.path.as_str() {
        "/NetworkDriver.EndpointOperInfo" => r#"{"Value":{}}"#.to_owned(),
        ALLOCATE => allocated(&request.body).unwrap_or_else(|| no_answer(ALLOCATE, error)),
        // A swarm keeps the subnet of a network that it could not free, and lets no other have it.
        path @ "/NetworkDriver.FreeNetwork" => {
            no_answer(path, error);
            "{}".to_owned()
        }
        path if !waits(path) => "{}".to_owned(),
        path => no_answer(path, error),
    };
    Response { status: 200, body: body.into_bytes() }
}

/// What the driver would answer: the options as they came. After an error the network would be without
/// a driver, and only a log would say so; what is wrong with the options is said by CreateNetwork.
fn allocated(body: &[u8]) -> Option<String> {
    let asked: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(serde_json::json!({ "Options": asked.get("Options")? }).to_string())
}

/// Says so in dockerd's log, where nothing a caller wrote may pass for a line of its own.
fn no_answer(path: &str, error: &io::Error) -> String {
    let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
    println!("{shown}: wgnet-driver gave no answer: {error}");
    format!(
        r#"{{"Err":"wgnet-driver does not answer on this host ({}); look at it with: systemctl status wgnet-driver"}}"#,
        json_text(&error.to_string())
    )
}

/// Text that may stand inside a JSON string.
pub(crate) fn json_text(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { ' ' } else { c }).collect()
}
