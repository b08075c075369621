//! The line to etcd: one connection, to one member at a time. A member that fails is left for the
//! next one, so that 1000 hosts hold 1000 connections and a dead member costs one call.

use std::error::Error as StdError;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Answer;
use super::watch::Streams;
use crate::store::{CALL_DEADLINE, StoreError};

pub(super) struct Line {
    options: ConnectOptions,
    endpoints: Vec<String>,
    state: Mutex<State>,
}

struct State {
    /// Which endpoint is next.
    turn: usize,
    made: u64,
    current: Option<Connection>,
}

#[derive(Clone)]
pub(super) struct Connection {
    number: u64,
    pub(super) client: Client,
    pub(super) streams: Arc<Streams>,
}

/// Whether a call that may have been carried out already can be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    OnlyIfUnsent,
}

/// Why etcd did not do it.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It never left this host.
    Unsent(String),
    /// Perhaps it was carried out.
    Lost(String),
    NoLeader,
    /// etcd answered with an error of its own.
    Answered {
        code: i32,
        message: String,
    },
}

/// gRPC's status codes, <https://grpc.io/docs/guides/status-codes/>.
pub(super) mod code {
    pub(in crate::store::etcd) const NOT_FOUND: i32 = 5;
    pub(in crate::store::etcd) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
}

impl Line {
    /// Connects with the first call, so that it can be made while etcd is down.
    pub(super) fn new(options: ConnectOptions, endpoints: Vec<String>) -> Self {
        // Hosts with the same settings spread over the members.
        let turn = getrandom::u32().map_or(0, |random| random as usize % endpoints.len().max(1));
        Self { options, endpoints, state: Mutex::new(State { turn, made: 0, current: None }) }
    }

    pub(super) fn endpoints(&self) -> String {
        self.endpoints.join(", ")
    }

    /// Makes a call, on other members too where one fails, all within the deadline.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        repeat: Repeat,
        call: impl Fn(Connection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let end = Instant::now() + CALL_DEADLINE;
        let mut told = None;
        for attempt in 1..=self.endpoints.len() {
            let mut limit = end.saturating_duration_since(Instant::now());
            if attempt < self.endpoints.len() && repeat == Repeat::Harmless {
                limit /= 2;
            }
            let connection = self.connection().await?;
            let fault = match timeout(limit, call(connection.clone())).await {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(fault)) => Some(fault),
                Err(_elapsed) => None,
            };
            let is_final = match &fault {
                Some(Fault::Answered { code, .. }) if *code != code::UNAVAILABLE => true,
                Some(Fault::Unsent(_) | Fault::NoLeader) => false,
                Some(Fault::Lost(_) | Fault::Answered { .. }) | None => {
                    repeat == Repeat::OnlyIfUnsent
                }
            };
            let is_bad_member =
                !matches!(&fault, Some(Fault::Answered { code, .. }) if *code != code::UNAVAILABLE);
            if is_bad_member {
                self.leave(&connection).await;
            }
            // A member that misses its leader says more than one that cannot be reached.
            if !matches!(told, Some(Some(Fault::NoLeader))) {
                told = Some(fault);
            }
            if is_final {
                break;
            }
        }
        Err(match told.flatten() {
            Some(fault) => self.error(operation, fault),
            None => StoreError::Deadline { operation },
        })
    }

    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.current.as_ref().filter(|it| !it.streams.is_broken()) {
            return Ok(connection.clone());
        }
        if state.current.take().is_some() {
            state.turn += 1;
        }
        let endpoint = &self.endpoints[state.turn % self.endpoints.len()];
        // This only prepares: without a user it waits for nothing.
        let client = Client::connect([endpoint], Some(self.options.clone())).await;
        let client = client.map_err(|error| config(endpoint, &error))?;
        state.made += 1;
        let streams = Streams::start(client.watch_client());
        let connection = Connection { number: state.made, client, streams: Arc::new(streams) };
        state.current = Some(connection.clone());
        Ok(connection)
    }

    /// Ends the connection; the member may be as good as before.
    pub(super) async fn hang_up(&self) {
        if let Some(connection) = self.state.lock().await.current.take() {
            connection.streams.hang_up();
        }
    }

    /// Goes on with the next member, unless another call already did.
    pub(super) async fn leave(&self, connection: &Connection) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| current.number == connection.number) {
            state.current = None;
            state.turn += 1;
        }
    }

    pub(super) fn error(&self, operation: &'static str, fault: Fault) -> StoreError {
        let endpoints = self.endpoints();
        match fault {
            Fault::NoLeader => StoreError::NoLeader { endpoints },
            Fault::Unsent(why) | Fault::Lost(why) => {
                StoreError::Unreachable { operation, endpoints, source: why.into() }
            }
            Fault::Answered { message, .. } if message.contains("space exceeded") => {
                StoreError::Full { endpoints }
            }
            Fault::Answered { code, message } => {
                StoreError::Refused { operation, source: Answer { code, message }.into() }
            }
        }
    }
}

pub(super) fn config(endpoint: &str, error: &Error) -> StoreError {
    let what = format!("{endpoint} is no address of etcd");
    StoreError::Config { what, source: error.to_string().into() }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let Error::GRpcStatus(status) = &error else {
            return Self::Lost(error.to_string());
        };
        if status.message().contains("no leader") {
            return Self::NoLeader;
        }
        // What etcd itself says begins with its name; all else is about the way to it.
        if status.message().starts_with("etcdserver") || status.message().starts_with("auth") {
            let message = status.message().to_owned();
            return Self::Answered { code: status.code() as i32, message };
        }
        let mut why = status.message().to_owned();
        let mut is_unsent = false;
        let mut cause = status.source();
        while let Some(error) = cause {
            is_unsent |= error.downcast_ref::<std::io::Error>().is_some_and(is_unsent_after);
            let more = error.to_string();
            if !why.contains(&more) {
                why = format!("{why}: {more}");
            }
            cause = error.source();
        }
        if why.contains("invalid peer certificate") {
            why.push_str(" (correct the settings, or etcd's certificate)");
        }
        if is_unsent { Self::Unsent(why) } else { Self::Lost(why) }
    }
}

fn is_unsent_after(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// etcd ends connections that are pinged more often than every 5 s, or while no call is under way.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_WITHIN: Duration = Duration::from_secs(4);

/// What every connection has.
pub(super) fn connect_options() -> ConnectOptions {
    ConnectOptions::new()
        .with_require_leader(true)
        .with_connect_timeout(CONNECT_WITHIN)
        .with_keep_alive(PING_EVERY, PING_WITHIN)
        .with_keep_alive_while_idle(false)
}
