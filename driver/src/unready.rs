//! Answers Docker and operators while the driver cannot work yet: every call gets the reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wgnet_control_plane::admin::Unready;

use crate::api::{self, CallError};
use crate::app::TRY_AGAIN;
use crate::socket::Socket;

const STARTING: &str = "it is starting";

/// So long a start may take before operators are told that it is one.
const OPERATORS_WAIT: Duration = Duration::from_secs(3);

/// Who is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Docker,
    Operator,
}

/// Serves until `ready` is cancelled, then gives the socket back. Before there is a reason, calls
/// wait in the socket's queue: a start takes a moment, and Docker gives some calls up for good.
pub async fn serve(
    mut socket: Socket,
    asker: Asker,
    reason: watch::Receiver<Option<Arc<str>>>,
    ready: CancellationToken,
) -> Socket {
    let mut reasons = reason.clone();
    tokio::select! {
        () = ready.cancelled() => return socket,
        () = tokio::time::sleep(OPERATORS_WAIT), if asker == Asker::Operator => {}
        _ = reasons.wait_for(Option::is_some) => {}
    }
    loop {
        let accepted = tokio::select! {
            () = ready.cancelled() => return socket,
            accepted = socket.accept() => accepted,
        };
        let Ok(stream) = accepted else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (reason, ready) = (reason.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, asker, reason.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = ready.cancelled() => {}
                ended = connection => if let Err(error) = ended { debug!(%error, "A connection ended") },
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    asker: Asker,
    reason: watch::Receiver<Option<Arc<str>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let reason = reason.borrow().clone().unwrap_or_else(|| Arc::from(STARTING));
    if asker == Asker::Operator {
        return Ok(unready(&reason));
    }
    // A swarm keeps the subnet of a network that it could not free, and lets no other have it.
    if request.uri().path() == "/NetworkDriver.FreeNetwork" {
        return Ok(json(&serde_json::json!({})));
    }
    // A network whose allocation fails once is left without a driver; and the answer needs nothing.
    if request.uri().path() == "/NetworkDriver.AllocateNetwork" {
        let body = match api::whole(request.into_body()).await {
            Ok(body) => body,
            Err(reason) => {
                let call = "AllocateNetwork".to_owned();
                return Ok(failed(&CallError::Undecodable { call, reason }.to_string()));
            }
        };
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(options) = asked.get("Options") {
            return Ok(json(&serde_json::json!({ "Options": options })));
        }
    }
    Ok(failed(&format!("wgnet-driver cannot work yet: {reason}")))
}

fn unready(reason: &str) -> Response<Full<Bytes>> {
    let next_step = if reason == STARTING {
        "wait; if it stays so: journalctl -u wgnet-driver -n 50".to_owned()
    } else {
        format!(
            "mend that, and the driver goes on within {} s; wgnet-driver --check tells whether more is missing",
            TRY_AGAIN.as_secs()
        )
    };
    let body = serde_json::json!(Unready { reason: reason.to_owned(), next_step });
    let mut response = json(&body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

fn failed(sentence: &str) -> Response<Full<Bytes>> {
    json(&serde_json::json!({ "Err": sentence }))
}

fn json(body: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::new(Full::from(body.to_string()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// The answer's body to a call whose body is sent as it is.
    async fn ask(head: &str, body: &[u8]) -> serde_json::Value {
        let head = format!("POST /NetworkDriver.{head}");
        let (_, body) = exchange(Asker::Docker, Some("the secret is missing"), &head, body).await;
        body
    }

    /// The answer's first line and its body.
    async fn exchange(
        asker: Asker,
        reason: Option<&str>,
        head: &str,
        body: &[u8],
    ) -> (String, serde_json::Value) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("driver.sock");
        let (bound, ready) = (Socket::bind(socket.clone()).unwrap(), CancellationToken::new());
        let (_reason, reasons) = watch::channel(reason.map(Arc::from));
        let serving = tokio::spawn(serve(bound, asker, reasons, ready.clone()));
        let stream = UnixStream::connect(&socket).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let head = format!("{head}\r\nHost: wgnet\r\n\r\n");
        let send = async {
            writer.write_all(head.as_bytes()).await.unwrap();
            // Whoever was answered already closes.
            let _ = writer.write_all(body).await;
        };
        let mut answer = String::new();
        let receive = async {
            // Nor is a reset, which follows what was not read, a reason to have no answer.
            let _ = reader.read_to_string(&mut answer).await;
        };
        tokio::join!(send, receive);
        ready.cancel();
        serving.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let line = head.lines().next().unwrap().to_owned();
        (line, serde_json::from_str(body).unwrap())
    }

    fn length(call: &str, length: usize) -> String {
        format!("{call} HTTP/1.1\r\nContent-Length: {length}")
    }

    #[tokio::test]
    async fn a_swarms_allocator_is_answered_and_everything_else_gets_the_reason() {
        let body = br#"{"NetworkID":"m3v0gvk6pj5e0l1y9h3kz1v2c","Options":{"a":"b"}}"#;
        let allocated = ask(&length("AllocateNetwork", body.len()), body).await;
        assert_eq!(allocated, serde_json::json!({ "Options": { "a": "b" } }));
        let freed = ask(&length("FreeNetwork", 2), b"{}").await;
        assert_eq!(freed, serde_json::json!({}));
        let joined = ask(&length("Join", 2), b"{}").await;
        let reason = "wgnet-driver cannot work yet: the secret is missing";
        assert_eq!(joined, serde_json::json!({ "Err": reason }));
    }

    #[tokio::test]
    async fn operators_get_the_reason_as_json() {
        for request in ["GET /status", "POST /release"] {
            let head = format!("{request} HTTP/1.1");
            let told = exchange(Asker::Operator, Some("the secret is missing"), &head, b"").await;
            assert_eq!(told.0, "HTTP/1.1 503 Service Unavailable");
            let unready: Unready = serde_json::from_value(told.1).unwrap();
            assert_eq!(unready.reason, "the secret is missing");
            assert!(unready.next_step.contains("wgnet-driver --check"), "{unready:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn operators_are_told_of_a_start_that_takes_long() {
        let (line, body) = exchange(Asker::Operator, None, "GET /status HTTP/1.1", b"").await;
        assert_eq!(line, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body["reason"], STARTING);
    }

    #[tokio::test]
    async fn a_body_without_end_is_refused_with_a_sentence() {
        let sentence = "the arguments of AllocateNetwork are not what dockerd sends: its body is larger than 16 MiB";
        let refused = serde_json::json!({ "Err": sentence });
        assert_eq!(ask(&length("AllocateNetwork", 1 << 40), b"{").await, refused);
        let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
        let chunked = "AllocateNetwork HTTP/1.1\r\nTransfer-Encoding: chunked";
        assert_eq!(ask(chunked, &chunk.repeat(17)).await, refused);
    }
}
