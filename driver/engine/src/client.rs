//! The driver's handle on a running engine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroize;

use crate::api::{Code, DeviceId, DeviceState, EngineInfo, NewDevice, Operation, OperationFailure};
use crate::wire::proto::{self, request::Call, response};
use crate::wire::{self, Malformed, PROTOCOL};

/// Long enough for an engine that waits for the kernel to free a deleted device's port (5 s).
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// Connections kept open between calls; more are made and closed as needed.
const MAX_IDLE: usize = 8;

/// Calls the engine; cheap to clone, usable from any task, connects when needed.
///
/// Calls made at the same time run at the same time, each on a connection of its own. Every call
/// ends by its deadline. A call that failed or was dropped may still have been carried out: all
/// calls can be repeated.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    stream: UnixStream,
    last_id: u64,
}

/// Why a call got no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach wgnet-engine on {}", .socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("wgnet-engine on {} did not answer {call} within {deadline:?}", .socket.display())]
    Deadline { call: &'static str, socket: PathBuf, deadline: Duration },
    #[error("the connection to wgnet-engine broke during {call}")]
    Broken {
        call: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("wgnet-engine gave an answer to {call} that does not fit")]
    Answer { call: &'static str },
    #[error("wgnet-engine gave an answer to {call} that cannot be read")]
    Malformed {
        call: &'static str,
        #[source]
        source: Malformed,
    },
    /// `text` says what was refused and why.
    #[error("{text}")]
    Refused { call: &'static str, code: Code, text: String },
}

impl ClientError {
    /// The engine's reason, if it answered with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Connect { .. }
            | Self::Deadline { .. }
            | Self::Broken { .. }
            | Self::Answer { .. }
            | Self::Malformed { .. } => None,
        }
    }
}

impl Client {
    /// A client of the engine that listens (or will) on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let shared = Shared { socket: socket.into(), idle: Mutex::default() };
        Self { shared: Arc::new(shared), deadline: DEFAULT_DEADLINE }
    }

    /// The same client with another deadline for its calls.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), deadline }
    }

    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    /// Who runs there.
    pub async fn hello(&self) -> Result<EngineInfo, ClientError> {
        let call = Call::Hello(proto::Hello { protocol: PROTOCOL, want_digest: true });
        match self.call("Hello", call).await? {
            response::Result::Hello(reply) => Ok(reply.into()),
            _ => Err(ClientError::Answer { call: "Hello" }),
        }
    }

    /// Makes a device; `false` if the same one ran already, in which case its peers are kept.
    ///
    /// # Errors
    /// `PortTaken`: choose another port. `AlreadyDifferent`: a device of that name runs with
    /// another key or port; delete it first. `Namespace`, `Link`: the kernel refused.
    pub async fn create_device(&self, new: &NewDevice) -> Result<bool, ClientError> {
        match self.call("CreateDevice", Call::CreateDevice(new.into())).await? {
            response::Result::DeviceCreated(reply) => Ok(reply.made),
            _ => Err(ClientError::Answer { call: "CreateDevice" }),
        }
    }

    /// Ends a device; when this returns, link and port are free. `false` if there was none.
    pub async fn delete_device(&self, id: &DeviceId) -> Result<bool, ClientError> {
        let call = Call::DeleteDevice(proto::DeleteDevice { device: Some(id.into()) });
        match self.call("DeleteDevice", call).await? {
            response::Result::DeviceDeleted(reply) => Ok(reply.existed),
            _ => Err(ClientError::Answer { call: "DeleteDevice" }),
        }
    }

    /// Every device of the engine, in order.
    pub async fn list_devices(&self) -> Result<Vec<DeviceId>, ClientError> {
        let call = Call::ListDevices(proto::ListDevices {});
        match self.call("ListDevices", call).await? {
            response::Result::DeviceList(reply) => reply
                .devices
                .into_iter()
                .map(DeviceId::try_from)
                .collect::<Result<_, _>>()
                .map_err(|source| ClientError::Malformed { call: "ListDevices", source }),
            _ => Err(ClientError::Answer { call: "ListDevices" }),
        }
    }

    /// A device's state; `None` if there is no such device.
    pub async fn get_device(&self, id: &DeviceId) -> Result<Option<DeviceState>, ClientError> {
        let call = Call::GetDevice(proto::GetDevice { device: Some(id.into()) });
        match self.call("GetDevice", call).await {
            Ok(response::Result::Device(reply)) => DeviceState::try_from(reply)
                .map(Some)
                .map_err(|source| ClientError::Malformed { call: "GetDevice", source }),
            Ok(_) => Err(ClientError::Answer { call: "GetDevice" }),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Applies operations in order; the traffic sees them all at once. Those that failed are
    /// returned, the others are in effect.
    pub async fn configure(
        &self,
        id: &DeviceId,
        operations: &[Operation],
    ) -> Result<Vec<OperationFailure>, ClientError> {
        let call = Call::Configure(proto::Configure {
            device: Some(id.into()),
            operations: operations.iter().map(Into::into).collect(),
        });
        match self.call("Configure", call).await? {
            response::Result::Configured(reply) => {
                Ok(reply.failures.into_iter().map(Into::into).collect())
            }
            _ => Err(ClientError::Answer { call: "Configure" }),
        }
    }

    async fn call(&self, name: &'static str, call: Call) -> Result<response::Result, ClientError> {
        let mut request = proto::Request { id: 0, call: Some(call) };
        let answer = timeout(self.deadline, self.exchange(name, &mut request)).await;
        wipe(&mut request);
        let answer = answer.map_err(|_| ClientError::Deadline {
            call: name,
            socket: self.shared.socket.clone(),
            deadline: self.deadline,
        })??;
        match answer {
            response::Result::Failure(failure) => {
                Err(ClientError::Refused { call: name, code: failure.code(), text: failure.text })
            }
            result => Ok(result),
        }
    }

    /// A connection is put back only after a complete exchange: a call that is dropped halfway
    /// closes its own, so no answer can reach the wrong call.
    async fn exchange(
        &self,
        name: &'static str,
        request: &mut proto::Request,
    ) -> Result<response::Result, ClientError> {
        let broken = |source| ClientError::Broken { call: name, source };
        while let Some(mut connection) = self.shared.take_idle() {
            // One that was idle may have lost its engine since; then the next one is tried.
            if let Ok(result) = connection.exchange(request).await {
                self.shared.put_idle(connection);
                return Ok(result);
            }
        }
        let mut connection = Connection::open(&self.shared.socket).await?;
        let result = connection.exchange(request).await.map_err(broken)?;
        self.shared.put_idle(connection);
        Ok(result)
    }
}

impl Shared {
    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn open(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
        let mut connection = Self { stream, last_id: 0 };
        let hello = Call::Hello(proto::Hello { protocol: PROTOCOL, want_digest: false });
        let mut request = proto::Request { id: 0, call: Some(hello) };
        match connection.exchange(&mut request).await {
            Ok(response::Result::Hello(_)) => Ok(connection),
            Ok(response::Result::Failure(failure)) => Err(ClientError::Refused {
                call: "Hello",
                code: failure.code(),
                text: failure.text,
            }),
            Ok(_) => Err(ClientError::Answer { call: "Hello" }),
            Err(source) => Err(ClientError::Broken { call: "Hello", source }),
        }
    }

    async fn exchange(&mut self, request: &mut proto::Request) -> io::Result<response::Result> {
        self.last_id += 1;
        request.id = self.last_id;
        wire::write_frame(&mut self.stream, request).await?;
        let response: proto::Response =
            wire::read_frame(&mut self.stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        response.result.filter(|_| response.id == request.id).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the answer belongs to another request")
        })
    }
}

/// Wipes the keys of a request that has been sent.
fn wipe(request: &mut proto::Request) {
    match &mut request.call {
        Some(Call::CreateDevice(call)) => call.private_key.zeroize(),
        Some(Call::Configure(call)) => {
            for operation in &mut call.operations {
                if let Some(proto::operation::Kind::AddOrUpdatePeer(peer)) = &mut operation.kind {
                    peer.preshared_key.zeroize();
                }
            }
        }
        Some(
            Call::Hello(_) | Call::DeleteDevice(_) | Call::ListDevices(_) | Call::GetDevice(_),
        )
        | None => {}
    }
}

impl From<proto::HelloReply> for EngineInfo {
    fn from(reply: proto::HelloReply) -> Self {
        Self {
            protocol: reply.protocol,
            build: reply.build,
            pid: reply.pid,
            binary_digest: reply.binary_digest,
        }
    }
}
