//! The task behind the watches of one connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use etcd_client::{
    Error, Event, EventType, WatchClient, WatchFilterType, WatchOptions, WatchRequestSender,
    WatchResponse, WatchResponseStream,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::{End, Request, Wish};
use crate::store::etcd::line::Fault;
use crate::store::{Change, Entry, Revision, WatchEvent};

/// A stream that was silent for so long is tried ...
const SILENCE: Duration = Duration::from_secs(10);
/// ... and has to say something within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The id of the watch that tries the stream. A progress request would be simpler, but etcd leaves
/// it unanswered while a watch waits for its first event (etcd#15220 and its corrections).
const TRIAL: i64 = 1;

/// One answer holds what happened in up to 1000 revisions while nobody looked.
const LARGEST_ANSWER: usize = 256 << 20;

const CANCELED_WATCH: i32 = 1;

/// Never an id of a watch that was closed: its last events may still be on their way.
static NEXT_ID: AtomicI64 = AtomicI64::new(TRIAL + 1);

type Requests = mpsc::UnboundedReceiver<Request>;

/// Runs until nobody can ask for a watch any more and the last one is closed.
pub(super) async fn run(client: WatchClient, mut requests: Requests, broken: Arc<AtomicBool>) {
    let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
    while let Some(request) = requests.recv().await {
        // What is closed now ended with an earlier stream.
        let Request::Open { wish, events, end, id } = request else {
            continue;
        };
        let mut watches = Watches::default();
        let first = watches.add(wish, events, end, id);
        let (range, options) = watches.wanted(first);
        let fault = match timeout(ANSWER_WITHIN, client.watch(range, Some(options))).await {
            Ok(Ok(stream)) => {
                let (sender, answers) = stream.split();
                serve(sender, answers, &mut watches, &mut requests).await
            }
            Ok(Err(error)) => Some(error.into()),
            Err(_elapsed) => Some(Fault::Lost("etcd does not answer".to_owned())),
        };
        if let Some(fault) = fault {
            broken.store(true, Ordering::Relaxed);
            watches.end_all(&fault);
        }
    }
}

/// Serves one stream; the fault that ended it, `None` if its last watch was closed.
async fn serve(
    mut sender: WatchRequestSender,
    mut answers: WatchResponseStream,
    watches: &mut Watches,
    requests: &mut Requests,
) -> Option<Fault> {
    let mut due = Instant::now() + SILENCE;
    let mut is_tried = false;
    loop {
        // All arms are cancel-safe; what they lead to is awaited after the select.
        let next = tokio::select! {
            answer = answers.message() => Next::Answer(answer),
            Some(request) = requests.recv() => Next::Request(request),
            () = sleep_until(due) => Next::Silence,
        };
        let sent = match next {
            Next::Answer(Ok(Some(answer))) => {
                due = Instant::now() + SILENCE;
                is_tried = false;
                match answer.watch_id() {
                    TRIAL if answer.created() => send(sender.cancel(TRIAL)).await,
                    TRIAL => Ok(()),
                    id => match watches.take(id, &answer) {
                        Taken::Well => Ok(()),
                        Taken::Closed => send(sender.cancel(id)).await,
                        Taken::Fault(fault) => Err(fault),
                    },
                }
            }
            Next::Answer(Ok(None)) => Err(Fault::Lost("etcd closed the stream".to_owned())),
            Next::Answer(Err(error)) => Err(error.into()),
            Next::Request(Request::Open { wish, events, end, id }) => {
                let new = watches.add(wish, events, end, id);
                let (range, options) = watches.wanted(new);
                send(sender.watch(range, Some(options))).await
            }
            Next::Request(Request::Close(id)) if watches.0.remove(&id).is_some() => {
                if watches.0.is_empty() {
                    return None;
                }
                send(sender.cancel(id)).await
            }
            Next::Request(Request::Close(_)) => Ok(()),
            Next::Request(Request::HangUp) => Err(Fault::Lost("it was hung up".to_owned())),
            Next::Silence if is_tried => Err(Fault::Lost("etcd is silent".to_owned())),
            Next::Silence => {
                due = Instant::now() + ANSWER_WITHIN;
                is_tried = true;
                let (range, options) = watches.trial();
                send(sender.watch(range, Some(options))).await
            }
        };
        if let Err(fault) = sent {
            return Some(fault);
        }
        if watches.0.is_empty() {
            return None;
        }
    }
}

enum Next {
    Answer(Result<Option<WatchResponse>, Error>),
    Request(Request),
    Silence,
}

async fn send(sending: impl Future<Output = Result<(), Error>>) -> Result<(), Fault> {
    match timeout(ANSWER_WITHIN, sending).await {
        Ok(sent) => sent.map_err(Fault::from),
        Err(_elapsed) => Err(Fault::Lost("etcd takes no requests".to_owned())),
    }
}

/// The watches of one stream, by their ids.
#[derive(Default)]
struct Watches(BTreeMap<i64, Watched>);

struct Watched {
    wish: Wish,
    events: mpsc::Sender<WatchEvent>,
    end: End,
    /// Told with the watch's id once etcd has confirmed it.
    confirm: Option<oneshot::Sender<i64>>,
}

impl Watches {
    fn add(
        &mut self,
        wish: Wish,
        events: mpsc::Sender<WatchEvent>,
        end: End,
        confirm: oneshot::Sender<i64>,
    ) -> i64 {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.0.insert(id, Watched { wish, events, end, confirm: Some(confirm) });
        id
    }

    fn wanted(&self, id: i64) -> (Vec<u8>, WatchOptions) {
        let wish = &self.0[&id].wish;
        let options = WatchOptions::new()
            .with_range(wish.end.clone())
            .with_start_revision(wish.from.max(1))
            .with_progress_notify()
            .with_watch_id(id);
        (wish.start.clone(), options)
    }

    /// A watch of which nothing but its confirmation is wanted.
    fn trial(&self) -> (Vec<u8>, WatchOptions) {
        let filters = [WatchFilterType::NoPut, WatchFilterType::NoDelete];
        let start = self.0.values().next().map(|watch| watch.wish.start.clone());
        let options = WatchOptions::new().with_filters(filters).with_watch_id(TRIAL);
        (start.unwrap_or_default(), options)
    }

    /// Hands an answer to its watch.
    fn take(&mut self, id: i64, answer: &WatchResponse) -> Taken {
        let Some(mut watch) = self.0.remove(&id) else {
            return Taken::Well;
        };
        if answer.canceled() {
            return watch.canceled(id, answer);
        }
        if !watch.confirm(id) || !watch.told(answer) {
            watch.finish(&Fault::Lost("its reader fell behind".to_owned()));
            return Taken::Closed;
        }
        self.0.insert(id, watch);
        Taken::Well
    }

    fn end_all(self, fault: &Fault) {
        self.0.into_values().for_each(|watch| watch.finish(fault));
    }
}

/// How an answer was taken.
enum Taken {
    Well,
    /// Its reader has gone or fell behind: the watch is to be ended.
    Closed,
    /// It was about the whole stream.
    Fault(Fault),
}

impl Watched {
    /// Tells whoever opened it, once; whether that one is still there.
    fn confirm(&mut self, id: i64) -> bool {
        self.confirm.take().is_none_or(|confirm| confirm.send(id).is_ok())
    }

    /// Whether its reader could take it.
    fn told(&mut self, answer: &WatchResponse) -> bool {
        if answer.created() {
            return true;
        }
        let Some(last) = answer.events().iter().filter_map(mod_revision).max() else {
            let revision = answer.header().map_or(0, |header| header.revision());
            // One that is behind the watch's own start says nothing.
            if revision < self.wish.from {
                return true;
            }
            return self.events.try_send(WatchEvent::Progress { revision }).is_ok();
        };
        // What was told is never told again. All events of a revision come in one answer.
        let new =
            answer.events().iter().filter(|event| mod_revision(event) >= Some(self.wish.from));
        let changes: Vec<_> = new.filter_map(|event| self.change(event)).collect();
        self.wish.from = self.wish.from.max(last + 1);
        let Some(revision) = changes.last().map(Change::mod_revision) else {
            return true;
        };
        self.events.try_send(WatchEvent::Changes { revision, changes }).is_ok()
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let pair = event.kv()?;
        let key = (self.wish.name)(pair.key())?;
        let mod_revision = pair.mod_revision();
        Some(match event.event_type() {
            EventType::Put => {
                Change::Put(Entry { key, value: pair.value().to_vec(), mod_revision })
            }
            EventType::Delete => Change::Delete { key, mod_revision },
        })
    }

    fn canceled(mut self, id: i64, answer: &WatchResponse) -> Taken {
        if answer.compact_revision() > 0 {
            self.confirm(id);
            let compact_revision = answer.compact_revision();
            // A reader that has no room for it fell behind.
            let _ = self.events.try_send(WatchEvent::Compacted { compact_revision });
            self.finish(&Fault::Lost("it was compacted".to_owned()));
            return Taken::Well;
        }
        let reason = answer.cancel_reason();
        if reason.contains("no leader") {
            self.finish(&Fault::NoLeader);
            return Taken::Fault(Fault::NoLeader);
        }
        let message = if reason.is_empty() { "etcd canceled it" } else { reason }.to_owned();
        self.finish(&Fault::Answered { code: CANCELED_WATCH, message });
        Taken::Well
    }

    /// Tells the reader, after what it has not read yet, why there is no more.
    fn finish(self, fault: &Fault) {
        // It is set once: a watch is taken out of the stream to be finished.
        let _ = self.end.set(fault.clone());
    }
}

fn mod_revision(event: &Event) -> Option<Revision> {
    event.kv().map(|pair| pair.mod_revision())
}
