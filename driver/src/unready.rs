//! Answers Docker while the driver cannot work yet: every call gets the reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Serves until `ready` is cancelled, then gives the listener back.
pub async fn serve(listener: UnixListener, reason: watch::Receiver<Arc<str>>, ready: CancellationToken) -> UnixListener {
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
            let service = service_fn(|_: Request<hyper::body::Incoming>| std::future::ready(Ok::<_, Infallible>(answer(&reason))));
            let connection = hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = ready.cancelled() => {}
                ended = connection => if let Err(error) = ended { debug!(%error, "A connection ended") },
            }
        });
    }
}

fn answer(reason: &watch::Receiver<Arc<str>>) -> Response<Full<Bytes>> {
    let reason = Arc::clone(&reason.borrow());
    let body = serde_json::json!({ "Err": format!("wgnet-driver cannot work yet: {reason}") });
    Response::new(Full::from(body.to_string()))
}
