//! What operators ask: the status as JSON on a unix socket that only root may use.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use wgnet_proto::status::DriverStatus;

/// Where the status comes from.
pub trait Source: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = DriverStatus> + Send;
}

/// Answers until cancelled.
pub async fn serve<S: Source>(listener: UnixListener, source: Arc<S>, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (source, cancel) = (Arc::clone(&source), cancel.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = connection(stream, source) => {}
                    }
                });
            }
            Err(error) => warn!(%error, "Cannot accept on the admin socket"),
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection<S: Source>(stream: UnixStream, source: Arc<S>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&source)));
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "An admin connection ended");
    }
}

async fn answer<S: Source>(
    request: Request<Incoming>,
    source: Arc<S>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => json(&source.status().await),
        (_, path) => {
            plain(StatusCode::NOT_FOUND, format!("{path} is not known here; GET /status is\n"))
        }
    };
    Ok(response)
}

fn json(status: &DriverStatus) -> Response<Full<Bytes>> {
    match serde_json::to_vec(status) {
        Ok(body) => {
            let mut response = Response::new(Full::from(body));
            response.headers_mut().insert(
                "content-type",
                hyper::header::HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(error) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot write the status as JSON: {error}\n"),
        ),
    }
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response
}
