//! What operators ask and order: JSON over HTTP on a unix socket that only root may use.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use wgnet_control_plane::admin::{ForgetNetwork, ForgottenNetwork, HeldListing};
use wgnet_proto::status::DriverStatus;

use crate::cluster::Orderer;
use crate::socket::Socket;

/// Where the answers come from, and the orders go.
pub trait Source: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = DriverStatus> + Send;

    fn held(&self) -> Vec<HeldListing>;

    fn orderer(&self) -> &Orderer;

    /// The error is a sentence.
    fn forget_network(
        &self,
        order: ForgetNetwork,
    ) -> impl Future<Output = Result<ForgottenNetwork, String>> + Send;
}

/// Far above what an order needs.
const LARGEST_BODY: usize = 1 << 16;
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Answers until cancelled.
pub async fn serve<S: Source>(mut socket: Socket, source: Arc<S>, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (source, cancel) = (Arc::clone(&source), cancel.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = connection(stream, source) => {}
                    }
                });
            }
            Err(error) => {
                warn!(%error, "Cannot accept on the admin socket");
                // Out of file descriptors, most likely.
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
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
    let (head, body) = request.into_parts();
    let response = match (&head.method, head.uri.path()) {
        (&Method::GET, "/status") => json(&source.status().await),
        (&Method::GET, "/held") => json(&source.held()),
        (&Method::POST, "/release") => match order(body).await {
            Ok(order) => done(source.orderer().release(order).await),
            Err(refused) => refused,
        },
        (&Method::POST, "/forget-host") => match order(body).await {
            Ok(order) => done(source.orderer().forget_host(order).await),
            Err(refused) => refused,
        },
        (&Method::POST, "/forget-network") => match order(body).await {
            Ok(order) => done(source.forget_network(order).await),
            Err(refused) => refused,
        },
        (method, path) => plain(
            StatusCode::NOT_FOUND,
            format!(
                "{method} {path} is not known here; GET /status, GET /held, POST /release, POST /forget-host and POST /forget-network are\n"
            ),
        ),
    };
    Ok(response)
}

async fn order<T: DeserializeOwned>(body: Incoming) -> Result<T, Response<Full<Bytes>>> {
    let wrong = |reason: String| {
        plain(StatusCode::BAD_REQUEST, format!("cannot understand the order: {reason}\n"))
    };
    let body = Limited::new(body, LARGEST_BODY).collect().await;
    let body = body.map_err(|error| wrong(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
}

fn done<T: Serialize>(outcome: Result<T, String>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(answer) => json(&answer),
        Err(sentence) => plain(StatusCode::CONFLICT, format!("{sentence}\n")),
    }
}

fn json(answer: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(answer) {
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
            format!("cannot write the answer as JSON: {error}\n"),
        ),
    }
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cluster;

    /// Knows one network.
    struct One(Orderer);

    impl Source for One {
        async fn status(&self) -> DriverStatus {
            unreachable!("nobody asks for it")
        }

        fn held(&self) -> Vec<HeldListing> {
            Vec::new()
        }

        fn orderer(&self) -> &Orderer {
            &self.0
        }

        async fn forget_network(&self, order: ForgetNetwork) -> Result<ForgottenNetwork, String> {
            if order.network != "n-blue" {
                return Err(format!("no network {}", order.network));
            }
            let docker_id = "ab".parse().expect("an id");
            let network = order.network.parse().expect("a key");
            Ok(ForgottenNetwork { network, docker_id, endpoints: 0, removed: true })
        }
    }

    async fn post(socket: &std::path::Path, path: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_order_to_forget_a_network_is_answered_with_what_was_done_or_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let source = Arc::new(One(cluster::orders().0));
        let cancel = CancellationToken::new();
        let bound = Socket::bind(socket.clone()).unwrap();
        let server = tokio::spawn(serve(bound, source, cancel.clone()));
        let order = async |body: &str| post(&socket, "/forget-network", body).await;

        let done = order(r#"{"network":"n-blue"}"#).await;
        assert!(done.starts_with("HTTP/1.1 200"), "{done}");
        let json = r#"{"network":"n-blue","docker_id":"ab","endpoints":0,"removed":true}"#;
        assert!(done.ends_with(json), "{done}");
        let refused = order(r#"{"network":"n-red"}"#).await;
        assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("no network n-red"));
        for wrong in ["", "{}", r#"{"network":"n-blue","force":true}"#] {
            assert!(order(wrong).await.starts_with("HTTP/1.1 400"), "{wrong}");
        }
        assert!(post(&socket, "/forget", "{}").await.contains("POST /forget-network"));
        cancel.cancel();
        server.await.unwrap();
    }
}
