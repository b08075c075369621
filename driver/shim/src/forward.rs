//! Hands a call to the driver and sends it again, with its body, for as long as Docker waits.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::http::{Request, Response, read_response};

/// Below dockerd's 30 s for a managed plugin, so that Docker reads our sentence and not its own.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// For calls whose answer nobody needs: dockerd makes them while it starts.
const IMPATIENCE: Duration = Duration::from_millis(500);

const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Remaining milliseconds the caller waits; the driver does not start a call after that.
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
        let id = format!("{:x}-{}", self.instance, self.count.fetch_add(1, Ordering::Relaxed));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.send_once(request, &id, left) {
                Ok(response) => return response,
                Err(error) => error,
            };
            if Instant::now() + RETRY_EVERY >= deadline {
                return give_up(&request.path, &error);
            }
            thread::sleep(RETRY_EVERY);
        }
    }

    fn send_once(&self, request: &Request, id: &str, left: Duration) -> io::Result<Response> {
        let left = left.max(Duration::from_millis(1));
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        stream.write_all(head(request, id, left).as_bytes())?;
        stream.write_all(&request.body)?;
        read_response(&mut BufReader::new(stream))
    }
}

/// What precedes the body of a forwarded request.
pub fn head(request: &Request, id: &str, left: Duration) -> String {
    format!(
        "{} {} HTTP/1.1\r\nHost: wgnet-driver\r\nConnection: close\r\n{REQUEST_ID}: {id}\r\n{EXPIRES}: {}\r\nContent-Length: {}\r\n\r\n",
        request.method,
        request.path,
        left.as_millis(),
        request.body.len()
    )
}

/// Whether Docker needs the driver's answer to this call. The others are hints, and dockerd's own
/// start waits for them.
fn waits(path: &str) -> bool {
    !matches!(
        path,
        "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete"
            | "/NetworkDriver.EndpointOperInfo"
    )
}

fn give_up(path: &str, error: &io::Error) -> Response {
    let body = match path {
        "/NetworkDriver.EndpointOperInfo" => r#"{"Value":{}}"#.to_owned(),
        path if !waits(path) => "{}".to_owned(),
        path => {
            // In dockerd's log, where nothing a caller wrote may pass for a line of its own.
            let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
            println!("{shown}: wgnet-driver gave no answer: {error}");
            format!(
                r#"{{"Err":"wgnet-driver does not answer on this host ({}); look at it with: systemctl status wgnet-driver"}}"#,
                json_text(&error.to_string())
            )
        }
    };
    Response { status: 200, body: body.into_bytes() }
}

/// Text that may stand inside a JSON string.
pub(crate) fn json_text(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { ' ' } else { c }).collect()
}
