//! The shell: one follower keeps the board, and whoever is let in is shown pages of it.

mod answer;
mod keeper;
mod live;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use wgnet_proto::ClusterSecrets;

use super::board::Board;
use super::guard::Guard;
use crate::store::Store;
use answer::Desk;

/// Who asks must ask in this time.
const DEADLINE: Duration = Duration::from_secs(10);

/// Who takes no data for so long has gone.
const DEAF_AFTER: Duration = Duration::from_secs(20);

/// How many connections there may be; a browser opens up to six.
const MOST_CONNECTIONS: usize = 256;

/// How many pages may be live at a time.
pub const MOST_LIVE: usize = 100;

pub struct Options {
    pub guard: Guard,
    /// For connections that begin from now on; without, they are plain.
    pub tls: Option<watch::Receiver<TlsAcceptor>>,
}

/// Serves until cancelled.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    store: impl Store,
    secrets: ClusterSecrets,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let (keeping, board) = watch::channel(Board::new(secrets, keeper::now()));
    tasks.spawn(keeper::keep(store, keeping, cancel.clone()));
    let desk = Arc::new(Desk::new(board, options.guard, cancel.clone()));
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // Cancel-safe: a place that is not taken is given back.
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) } => accepted,
        };
        let (place, Ok((stream, address))) = accepted else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (desk, tls) = (Arc::clone(&desk), options.tls.as_ref().map(|tls| tls.borrow().clone()));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
            let _place = place;
            greet(stream, address, tls, desk).await;
        }));
    }
    tasks.close();
    tasks.wait().await;
}

async fn greet(stream: TcpStream, address: SocketAddr, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let socket = SockRef::from(&stream);
    let set = socket.set_tcp_user_timeout(Some(DEAF_AFTER)).and_then(|()| stream.set_nodelay(true));
    if let Err(error) = set {
        debug!(%error, "A connection's options were not set");
    }
    let Some(tls) = tls else { return converse(stream, address, desk).await };
    match timeout(DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, address, desk).await,
        Ok(Err(error)) => debug!(%error, %address, "No TLS connection"),
        Err(_) => debug!(%address, "No TLS connection in time"),
    }
}

async fn converse<C>(stream: C, address: SocketAddr, desk: Arc<Desk>)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(&request) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(DEADLINE)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, %address, "A connection ended");
    }
}
