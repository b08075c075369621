//! `/metrics`, `/healthz` and `/readyz` over HTTP, for machines that look after this one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};
use wgnet_proto::status::{DriverStatus, Problem};

use super::{Metrics, gauges, text};
use crate::admin::Source;
use crate::clock::Clock;
use crate::problems::Problems;
use crate::progress::Progress;
use crate::status::SharedPeers;

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Between tries of an address that cannot be had.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Who asks must ask in this time, and gets no longer to take the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many may ask at a time.
const MOST_CONNECTIONS: usize = 16;

const PROBLEM: &str = "metrics-address";

/// What can be told beside what is counted.
pub struct Told<S> {
    pub source: Arc<S>,
    pub peers: SharedPeers,
    pub progress: Progress,
    pub kernel: String,
    pub clock: Clock,
}

/// Answers whoever asks; what cannot be told before the driver works comes later.
pub struct Endpoint<S> {
    pub metrics: Metrics,
    pub told: Arc<OnceLock<Told<S>>>,
    /// Why the driver cannot work yet.
    pub reason: watch::Receiver<Option<Arc<str>>>,
    /// One reading of the kernel at a time.
    pub reading: Arc<Semaphore>,
}

impl<S> Endpoint<S> {
    pub fn new(metrics: Metrics, reason: watch::Receiver<Option<Arc<str>>>) -> Self {
        let (told, reading) = (Arc::default(), Arc::new(Semaphore::new(1)));
        Self { metrics, told, reason, reading }
    }
}

impl<S> Clone for Endpoint<S> {
    fn clone(&self) -> Self {
        Self {
            metrics: self.metrics.clone(),
            told: Arc::clone(&self.told),
            reason: self.reason.clone(),
            reading: Arc::clone(&self.reading),
        }
    }
}

/// Serves until cancelled; an address that cannot be had is a problem, and tried again.
pub async fn serve<S: Source>(
    address: SocketAddr,
    endpoint: Endpoint<S>,
    problems: Problems,
    cancel: CancellationToken,
) {
    let object = format!("metrics on {address}");
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => problems.set(Problem {
                code: PROBLEM.to_owned(),
                object: object.clone(),
                cause: format!("cannot listen there: {error}"),
                next_step: "name another address as `metrics` in the driver's settings, or off"
                    .to_owned(),
            }),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(TRY_AGAIN) => {}
        }
    };
    problems.clear(PROBLEM, &object);
    info!(%address, "Serving metrics");
    let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        // Cancel-safe: a place that is not taken is given back.
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        let (place, Ok((stream, _))) = accepted else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (endpoint, cancel) = (endpoint.clone(), cancel.clone());
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(request, &endpoint));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(DEADLINE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(2 * DEADLINE) => {}
                ended = connection => if let Err(error) = ended { debug!(%error, "A connection for metrics ended") },
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer<S: Source>(
    request: Request<Incoming>,
    endpoint: &Endpoint<S>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match request.uri().path() {
        _ if !is_reading => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/metrics" => text(StatusCode::OK, metrics(endpoint).await),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match unready(endpoint) {
            None => text(StatusCode::OK, "ok\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz and /readyz are here\n"),
    };
    if request.method() == Method::HEAD {
        *response.body_mut() = Full::default();
    }
    Ok(response)
}

/// Why the driver does not serve Docker.
fn unready<S>(endpoint: &Endpoint<S>) -> Option<String> {
    if endpoint.told.get().is_some() {
        return None;
    }
    let reason = endpoint.reason.borrow().clone();
    Some(
        reason.map_or_else(|| "starting".to_owned(), |reason| format!("cannot work yet: {reason}")),
    )
}

async fn metrics<S: Source>(endpoint: &Endpoint<S>) -> String {
    let mut open = String::new();
    encode(&mut open, &endpoint.metrics.registry).expect("text takes everything");
    if let Some(told) = endpoint.told.get() {
        // Whoever asks in between waits for its turn; a reading that hangs ends with the connection.
        let _turn = endpoint.reading.acquire().await;
        let status: DriverStatus = told.source.status().await;
        let mut peers = told.peers.lock();
        peers.look(&status, tokio::time::Instant::now());
        let moment =
            gauges::registry(&status, &peers, &told.progress, &told.kernel, (told.clock)());
        drop(peers);
        encode(&mut open, &moment).expect("text takes everything");
    }
    text::plain(&open)
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    response
}
