//! All watches of one connection on one gRPC stream: a host holds one stream on etcd, whatever it
//! watches. A task reads the stream and hands events to the watches; each may be ended alone.

mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use etcd_client::WatchClient;
use tokio::sync::{mpsc, oneshot};

use super::line::Fault;
use crate::store::{Revision, StoreError, Watch, WatchEvent};

/// How many events may wait for a watch's reader. One that falls behind farther lists again.
const EVENTS: usize = 1024;

/// The way to the task that reads the stream; the task ends with the last of its users.
pub(super) struct Streams {
    requests: mpsc::UnboundedSender<Request>,
    broken: Arc<AtomicBool>,
}

/// What is to be watched: a key range, and what of it is told.
pub(super) struct Wish {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
    pub(super) from: Revision,
    /// The key relative to the prefix, if it is to be told.
    pub(super) name: Name,
}

type Name = Box<dyn Fn(&[u8]) -> Option<String> + Send>;

enum Request {
    Open { wish: Wish, events: mpsc::Sender<WatchEvent>, end: End, id: oneshot::Sender<i64> },
    Close(i64),
    HangUp,
}

/// Why a watch ended; told before its channel closes.
type End = Arc<OnceLock<Fault>>;

/// One watch.
pub struct EtcdWatch {
    id: i64,
    events: mpsc::Receiver<WatchEvent>,
    end: End,
    endpoints: String,
    requests: mpsc::UnboundedSender<Request>,
}

impl Streams {
    pub(super) fn start(client: WatchClient) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let broken = Arc::new(AtomicBool::new(false));
        tokio::spawn(stream::run(client, received, Arc::clone(&broken)));
        Self { requests, broken }
    }

    /// Whether a stream on this connection ended by itself.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Ends the stream and every watch on it as lost.
    pub(super) fn hang_up(&self) {
        // A task that is gone has no watches.
        let _ = self.requests.send(Request::HangUp);
    }

    /// Begins a watch and waits until etcd has confirmed it.
    pub(super) async fn open(&self, wish: Wish, endpoints: String) -> Result<EtcdWatch, Fault> {
        let (sender, events) = mpsc::channel(EVENTS);
        let end = End::default();
        let (opened, id) = oneshot::channel();
        let request = Request::Open { wish, events: sender, end: Arc::clone(&end), id: opened };
        // A task that is gone drops the request, and with it `opened`.
        let _ = self.requests.send(request);
        match id.await {
            Ok(id) => {
                let requests = self.requests.clone();
                Ok(EtcdWatch { id, events, end, endpoints, requests })
            }
            Err(_) => Err(fault(&end)),
        }
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => Err(match fault(&self.end) {
                Fault::NoLeader => StoreError::NoLeader { endpoints: self.endpoints.clone() },
                Fault::Unsent(why) | Fault::Lost(why) => {
                    StoreError::WatchEnded { source: why.into() }
                }
                Fault::Answered { message, .. } => {
                    StoreError::WatchEnded { source: message.into() }
                }
            }),
        }
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // The task is gone only when every watch has ended.
        let _ = self.requests.send(Request::Close(self.id));
    }
}

fn fault(end: &End) -> Fault {
    end.get().cloned().unwrap_or_else(|| Fault::Lost("it was ended".to_owned()))
}
