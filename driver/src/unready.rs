//! Answers Docker while the driver cannot work yet: every call gets the reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Serves until `ready` is cancelled, then gives the listener back. Before there is a reason, calls
/// wait in the listener's queue: a start takes a moment, and Docker gives some calls up for good.
pub async fn serve(
    listener: UnixListener,
    reason: watch::Receiver<Option<Arc<str>>>,
    ready: CancellationToken,
) -> UnixListener {
    let mut reasons = reason.clone();
    tokio::select! {
        () = ready.cancelled() => return listener,
        _ = reasons.wait_for(Option::is_some) => {}
    }
    loop {
        let accepted = tokio::select! {
            () = ready.cancelled() => return listener,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (reason, ready) = (reason.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, reason.clone()));
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
    reason: watch::Receiver<Option<Arc<str>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    // A network whose allocation fails once is left without a driver; and the answer needs nothing.
    if request.uri().path() == "/NetworkDriver.AllocateNetwork" {
        let body = request.into_body().collect().await?.to_bytes();
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(options) = asked.get("Options") {
            return Ok(json(&serde_json::json!({ "Options": options })));
        }
    }
    let reason = reason.borrow().clone().unwrap_or_else(|| Arc::from("it is starting"));
    Ok(json(&serde_json::json!({ "Err": format!("wgnet-driver cannot work yet: {reason}") })))
}

fn json(body: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::new(Full::from(body.to_string()))
}
