//! Server-sent events: small ticks that say how the board stands. Pages fetch themselves anew when a
//! tick tells of something they do not show.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::keeper::now;
use crate::dashboard::board::Board;
use crate::fleet::Connection;

/// Ticks come so often, whatever happens: who misses two knows that the server is away.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// And never more often.
const APART: Duration = Duration::from_millis(100);

/// How long the browser waits before it asks again.
const RETRY: &str = "retry: 1000\n\n";

struct Live {
    board: watch::Receiver<Board>,
    cancel: CancellationToken,
    told: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// Ticks, as long as they are read. Nothing is kept for a slow reader: it gets the newest.
pub(super) fn ticks(
    board: watch::Receiver<Board>,
    place: OwnedSemaphorePermit,
    cancel: CancellationToken,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let live = Live { board, cancel, told: None, _place: place };
    futures::stream::unfold(live, |mut live| async move {
        let Some(told) = live.told else {
            live.told = Some(Instant::now());
            let text = format!("{RETRY}{}", tick(&live.board.borrow_and_update()));
            return Some((Ok(Frame::data(Bytes::from(text))), live));
        };
        // Both arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            () = live.cancel.cancelled() => return None,
            () = sleep_until(told + APART) => {}
        }
        let changed = timeout(HEARTBEAT, live.board.changed());
        tokio::select! {
            () = live.cancel.cancelled() => return None,
            changed = changed => if let Ok(Err(_)) = changed { return None },
        }
        live.told = Some(Instant::now());
        let text = tick(&live.board.borrow_and_update());
        Some((Ok(Frame::data(Bytes::from(text))), live))
    })
}

fn tick(board: &Board) -> String {
    let etcd = match board.fleet().connection() {
        Connection::Connecting => "connecting",
        Connection::Connected => "connected",
        Connection::Lost(_) => "lost",
    };
    let tick = json!({ "version": board.version(), "etcd": etcd, "now": now() });
    format!("data: {tick}\n\n")
}
