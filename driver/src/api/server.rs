//! HTTP/1.1 on a unix socket, as dockerd and the shim use it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::time::{ClockId, clock_gettime};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info_span, warn};

use super::call::{self, Call};
use super::error::CallError;
use super::turns::{Answers, Delivery, Known, Turns};
use super::{Context, Scope, wire};
use crate::metrics::Metrics;
use crate::socket::Socket;

const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// What the shim adds to dockerd's request: when it gives up, in milliseconds of [`now`] ...
const EXPIRES_AT: &str = "x-wgnet-expires-at-ms";
/// ... what remained until then when it sent, which is all that an older shim says ...
const EXPIRES: &str = "x-wgnet-expires-ms";
/// ... and a name that is the same each time it sends the request.
const REQUEST_ID: &str = "x-wgnet-request-id";
/// Far above what dockerd sends; a limit all the same.
const LARGEST_BODY: usize = 16 << 20;
/// How long running calls may take once the driver is to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// The calls and what they share, whichever socket they come by. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(super) context: Context,
    /// Held from picking a port to noting it, so that two networks do not get the same one.
    pub(super) picking: Arc<Mutex<()>>,
    turns: Turns,
    answers: Answers,
    metrics: Option<Metrics>,
}

impl Api {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            picking: Arc::default(),
            turns: Turns::default(),
            answers: Answers::default(),
            metrics: None,
        }
    }

    /// Counts and measures every call from now on.
    #[must_use]
    pub fn measured_by(self, metrics: Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// One call without a socket, as [`serve`] would run it: status and body of its answer.
    pub async fn call(
        &self,
        scope: Scope,
        path: &str,
        body: &[u8],
        id: Option<String>,
        within: Option<Duration>,
    ) -> (u16, Bytes) {
        let (calls, abandon) = (TaskTracker::new(), CancellationToken::new());
        let server = Server { api: self.clone(), scope, calls, abandon };
        let delivery = Delivery { id, expires: within.map(|within| Instant::now() + within) };
        let answer = server.once(path, body, delivery).await.unwrap_or_else(Answer::stopping);
        (answer.status.as_u16(), answer.body)
    }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    fn of(outcome: Result<Bytes, CallError>) -> Self {
        match outcome {
            Ok(body) => Self { status: StatusCode::OK, body },
            Err(error) => {
                let status = StatusCode::from_u16(error.status()).expect("the statuses are HTTP's");
                Self { status, body: call::json(&wire::Failed { err: error.to_string() }) }
            }
        }
    }

    fn stopping() -> Self {
        Self::of(Err(CallError::Stopping))
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, MEDIA_TYPE.parse().expect("it is a header value"));
        response
    }
}

/// Serves until cancelled; then accepts no more and gives running calls two seconds.
pub async fn serve(socket: impl Into<Socket>, scope: Scope, api: Api, cancel: CancellationToken) {
    let mut socket = socket.into();
    let server =
        Server { api, scope, calls: TaskTracker::new(), abandon: CancellationToken::new() };
    let connections = TaskTracker::new();
    // Also when this future is dropped half way.
    let _abandon = server.abandon.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(server.clone().connection(stream, cancel.clone()));
            }
            Err(error) => {
                warn!(%error, "Cannot accept a connection of dockerd");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
    drop(socket);
    connections.close();
    server.calls.close();
    let finished = async {
        connections.wait().await;
        server.calls.wait().await;
    };
    if tokio::time::timeout(STOP_WITHIN, finished).await.is_err() {
        warn!(calls = server.calls.len(), "Calls were still running when the driver had to stop");
    }
    server.abandon.cancel();
    connections.wait().await;
    server.calls.wait().await;
}

/// Nothing is answered: the shim sends the request again, to the next driver. Its dockerd would fail
/// the container for an `Err`.
#[derive(Debug, thiserror::Error)]
#[error("a call was abandoned, the driver ends")]
struct Abandoned;

#[derive(Clone)]
struct Server {
    api: Api,
    scope: Scope,
    /// Calls outlive their connection: what has begun is finished.
    calls: TaskTracker,
    /// Ends what did not finish in time.
    abandon: CancellationToken,
}

impl Server {
    async fn connection(self, stream: UnixStream, cancel: CancellationToken) {
        let service = service_fn(|request| self.answer(request));
        // No timer, so no header timeout either: dockerd keeps idle connections, and one that closes
        // under its next request makes it repeat that request without its body.
        let mut connection =
            pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.abandon.cancelled() => return,
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.abandon.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended
            && !error.is_incomplete_message()
        {
            debug!(%error, "A connection of dockerd ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Abandoned> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            let path = format!("{} {}", head.method, head.uri.path());
            let error = CallError::UnknownCall { path: path.chars().take(80).collect() };
            let mut response = Answer::of(Err(error)).into_response();
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, "POST".parse().expect("it is a header value"));
            return Ok(response);
        }
        let path = head.uri.path();
        let delivery = delivery(&head.headers);
        let body = match whole(body).await {
            Ok(body) => body,
            Err(reason) => {
                let call = call::name(path).to_owned();
                let answer = Answer::of(Err(CallError::Undecodable { call, reason }));
                return Ok(answer.into_response());
            }
        };
        let repeats = delivery.id.is_some();
        match self.once(path, &body, delivery).await {
            Some(answer) => Ok(answer.into_response()),
            None if repeats => Err(Abandoned),
            None => Ok(Answer::stopping().into_response()),
        }
    }

    /// Answers a repeated request with the answer of the first. `None` if the call did not finish:
    /// the driver ends, or the call's task failed.
    async fn once(&self, path: &str, body: &[u8], delivery: Delivery) -> Option<Answer> {
        let Some(id) = delivery.id.clone() else {
            return self.spawn(path, body, delivery, |_| {}).await.ok().flatten();
        };
        match self.api.answers.look_up(&id) {
            Known::New(answering) => {
                let finish = move |answer: &Answer| answering.finish(answer.clone());
                self.spawn(path, body, delivery, finish).await.ok().flatten()
            }
            Known::Repeated(mut answer) => {
                answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
            }
        }
    }

    /// Takes the call's turn now and runs it in a task of its own. `None` if it was abandoned.
    fn spawn(
        &self,
        path: &str,
        body: &[u8],
        delivery: Delivery,
        finish: impl FnOnce(&Answer) + Send + 'static,
    ) -> JoinHandle<Option<Answer>> {
        let decoded = Call::decode(path, body);
        let object =
            decoded.as_ref().ok().and_then(Call::object).filter(|object| !object.is_empty());
        let turn = object.map(|object| self.api.turns.queue(object));
        let running = object.map(|object| self.api.context.applied.calls().begin(object));
        let name = call::name(path).chars().take(40).collect::<String>();
        let span = info_span!(
            "call",
            name,
            object = object.map(|object| object.get(..12).unwrap_or(object))
        );
        let method = match &decoded {
            // Others choose it.
            Err(CallError::UnknownCall { .. }) => "unknown".to_owned(),
            Ok(_) | Err(_) => name.clone(),
        };
        let (api, scope, abandon) = (self.api.clone(), self.scope, self.abandon.clone());
        let arrived = Instant::now();
        let run = async move {
            let _running = running;
            let _turn = match turn {
                Some(turn) => Some(turn.await),
                None => None,
            };
            let outcome = match (decoded, delivery.in_time(&name)) {
                (Ok(call), Ok(())) => call.run(&api, scope, &delivery).await,
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
            if matches!(outcome, Err(CallError::Stopping)) {
                return None;
            }
            let ms = arrived.elapsed().as_millis();
            if let Some(metrics) = &api.metrics {
                metrics.called(&method, outcome.is_ok(), arrived.elapsed());
            }
            match &outcome {
                Ok(_) => debug!(ms, "Answered"),
                Err(error) => warn!(ms, %error, "Answered with an error"),
            }
            let answer = Answer::of(outcome);
            finish(&answer);
            Some(answer)
        };
        self.calls.spawn(
            async move {
                tokio::select! {
                    answer = run => answer,
                    () = abandon.cancelled() => None,
                }
            }
            .instrument(span),
        )
    }
}

/// The body of a call; a sentence if it is larger than any of Docker's or does not come whole.
pub(crate) async fn whole(body: Incoming) -> Result<Bytes, String> {
    let too_large = || format!("its body is larger than {} MiB", LARGEST_BODY >> 20);
    // What says so itself need not come first.
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(too_large());
    }
    match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(format!("its body did not come whole: {error}")),
    }
}

fn delivery(headers: &HeaderMap) -> Delivery {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let ms = |name| {
        let ms = text(name).and_then(|ms| ms.trim().parse().ok());
        ms.map(Duration::from_millis)
    };
    let id = text(REQUEST_ID).filter(|id| (1..=128).contains(&id.len())).map(str::to_owned);
    Delivery { id, expires: expiry(ms(EXPIRES_AT), ms(EXPIRES), now(), Instant::now()) }
}

/// The earlier of both. A time too far to be told apart from never is never.
fn expiry(
    at: Option<Duration>,
    left: Option<Duration>,
    clock: Duration,
    now: Instant,
) -> Option<Instant> {
    let at = at.and_then(|at| match clock.checked_sub(at) {
        Some(late) => Some(now.checked_sub(late).unwrap_or(now)),
        None => now.checked_add(at - clock),
    });
    let left = left.and_then(|left| now.checked_add(left));
    [at, left].into_iter().flatten().min()
}

/// The shim's clock, too. While the host sleeps it stands still, as dockerd's patience does.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_request_expires_when_its_sender_gives_up_however_late_it_is_read() {
        let (clock, now) = (MS(60_000), Instant::now());
        let expires = |at, left| expiry(at, left, clock, now);
        assert_eq!(expires(Some(MS(61_500)), None), Some(now + MS(1500)));
        assert_eq!(expires(Some(MS(58_000)), None), Some(now - MS(2000)));
        assert_eq!(expires(Some(MS(58_000)), Some(MS(25_000))), Some(now - MS(2000)));
        // A shim that says only what remained when it sent.
        assert_eq!(expires(None, Some(MS(400))), Some(now + MS(400)));
        assert_eq!(expires(None, None), None);
        // On another clock than ours.
        assert_eq!(expires(Some(MS(10_000_000)), Some(MS(400))), Some(now + MS(400)));
        assert_eq!(expires(Some(Duration::MAX), Some(Duration::MAX)), None);
    }
}
