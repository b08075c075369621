//! Keeps the board as the store is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::dashboard::board::Board;
use crate::fleet::SCOPE;
use crate::follower::{Followed, Follower, FollowerOptions};
use crate::store::Store;

/// What happens together is shown together.
const TOGETHER: Duration = Duration::from_millis(40);

/// Pages follow no more often, and no more than a fifth of the time goes into that ...
const APART: Duration = Duration::from_millis(200);

/// ... unless a change would not be shown within a second.
const APART_AT_MOST: Duration = Duration::from_millis(600);

/// What is plotted is sampled, and what gets old without any event is noticed.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Milliseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Until cancelled.
pub(super) async fn keep(
    store: impl Store,
    board: watch::Sender<Board>,
    cancel: CancellationToken,
) {
    let mut follower = Follower::start(store, FollowerOptions::default(), &cancel);
    follower.scopes().follow(SCOPE);
    let (mut sample, mut settle) = (Instant::now() + SAMPLE_EVERY, Instant::now());
    loop {
        // All arms are cancel-safe; what they lead to is awaited after the select.
        let first = tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep_until(sample) => None,
            event = follower.next() => match event {
                Some(event) => Some(event),
                None => return,
            },
        };
        let is_sample = first.is_none();
        let mut events: Vec<Followed> = first.into_iter().collect();
        if !events.is_empty() {
            let end = settle.max(Instant::now() + TOGETHER);
            while let Ok(Some(event)) = timeout_at(end, follower.next()).await {
                events.push(event);
            }
        }
        let mut cost = Duration::ZERO;
        board.send_modify(|board| {
            events.into_iter().for_each(|event| board.take(event, now()));
            if is_sample {
                board.sample(now());
            }
            let began = Instant::now();
            board.settle(now());
            cost = began.elapsed();
        });
        let settled = Instant::now();
        settle = settled + (cost * 4).clamp(APART, APART_AT_MOST);
        if is_sample {
            sample = settled + SAMPLE_EVERY;
        }
    }
}
