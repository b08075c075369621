//! One call: from its path and body to the bytes of its answer.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wgnet_proto::text::clipped;

use super::error::CallError;
use super::turns::Delivery;
use super::{Api, Scope, endpoint, network, wire};

/// A decoded call.
pub(super) enum Call {
    Activate,
    GetCapabilities,
    GwAllocCheck,
    AllocateNetwork(wire::AllocateNetwork),
    FreeNetwork(wire::NetworkOnly),
    CreateNetwork(wire::CreateNetwork),
    DeleteNetwork(wire::NetworkOnly),
    CreateEndpoint(wire::CreateEndpoint),
    DeleteEndpoint(wire::EndpointOnly),
    EndpointOperInfo,
    Join(wire::Join),
    Leave(wire::EndpointOnly),
    /// What needs nothing done: discovery, and the external connectivity that docker_gwbridge gives.
    Nothing,
}

impl Call {
    pub(super) fn decode(path: &str, body: &[u8]) -> Result<Self, CallError> {
        Ok(match path {
            "/Plugin.Activate" => Self::Activate,
            "/NetworkDriver.GetCapabilities" => Self::GetCapabilities,
            "/NetworkDriver.GwAllocCheck" => {
                arguments::<wire::Anything>(path, body)?;
                Self::GwAllocCheck
            }
            "/NetworkDriver.AllocateNetwork" => Self::AllocateNetwork(arguments(path, body)?),
            "/NetworkDriver.FreeNetwork" => Self::FreeNetwork(arguments(path, body)?),
            "/NetworkDriver.CreateNetwork" => Self::CreateNetwork(arguments(path, body)?),
            "/NetworkDriver.DeleteNetwork" => Self::DeleteNetwork(arguments(path, body)?),
            "/NetworkDriver.CreateEndpoint" => Self::CreateEndpoint(arguments(path, body)?),
            "/NetworkDriver.DeleteEndpoint" => Self::DeleteEndpoint(arguments(path, body)?),
            "/NetworkDriver.EndpointOperInfo" => {
                arguments::<wire::Anything>(path, body)?;
                Self::EndpointOperInfo
            }
            "/NetworkDriver.Join" => Self::Join(arguments(path, body)?),
            "/NetworkDriver.Leave" => Self::Leave(arguments(path, body)?),
            "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete"
            | "/NetworkDriver.ProgramExternalConnectivity"
            | "/NetworkDriver.RevokeExternalConnectivity" => {
                arguments::<wire::Anything>(path, body)?;
                Self::Nothing
            }
            _ => {
                return Err(CallError::UnknownCall { path: path.chars().take(80).collect() });
            }
        })
    }

    /// The object whose calls run one after the other; none for what changes nothing.
    pub(super) fn object(&self) -> Option<&str> {
        match self {
            Self::Activate
            | Self::GetCapabilities
            | Self::GwAllocCheck
            | Self::EndpointOperInfo
            | Self::Nothing => None,
            Self::AllocateNetwork(call) => Some(&call.network),
            Self::CreateNetwork(call) => Some(&call.network),
            Self::FreeNetwork(call) | Self::DeleteNetwork(call) => Some(&call.network),
            Self::CreateEndpoint(call) => Some(&call.endpoint),
            Self::Join(call) => Some(&call.endpoint),
            Self::Leave(call) | Self::DeleteEndpoint(call) => Some(&call.endpoint),
        }
    }

    pub(super) async fn run(
        self,
        api: &Api,
        scope: Scope,
        delivery: &Delivery,
    ) -> Result<Bytes, CallError> {
        let context = &api.context;
        Ok(match self {
            Self::Activate => json(&wire::Activated { implements: ["NetworkDriver"] }),
            Self::GetCapabilities => json(&wire::Capabilities {
                scope: scope.as_str(),
                connectivity_scope: Scope::Global.as_str(),
            }),
            Self::GwAllocCheck => {
                json(&wire::GatewayAllocation { skip_ipv4: false, skip_ipv6: false })
            }
            Self::AllocateNetwork(call) => json(&network::allocate(context, call)?),
            Self::FreeNetwork(call) => json(&network::free(context, call).await?),
            Self::CreateNetwork(call) => json(&network::create(api, call, delivery).await?),
            Self::DeleteNetwork(call) => json(&network::delete(context, call, delivery).await?),
            Self::CreateEndpoint(call) => json(&endpoint::create(context, call, delivery).await?),
            Self::DeleteEndpoint(call) => json(&endpoint::delete(context, call, delivery).await?),
            Self::EndpointOperInfo => json(&wire::OperInfo { value: wire::Empty {} }),
            Self::Join(call) => json(&endpoint::join(context, call, delivery).await?),
            Self::Leave(call) => json(&endpoint::leave(context, call).await?),
            Self::Nothing => json(&wire::Empty {}),
        })
    }
}

/// The method alone: `CreateEndpoint`.
pub(super) fn name(path: &str) -> &str {
    let name = path.rsplit(['.', '/']).next().unwrap_or(path);
    // Ours have fewer than 40.
    name.get(..40).unwrap_or(name)
}

fn arguments<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, CallError> {
    let call = || name(path).to_owned();
    let body = body.trim_ascii();
    let Some(first) = body.first() else {
        return Err(CallError::EmptyBody { call: call() });
    };
    // serde would take an array for a struct.
    if *first != b'{' {
        return Err(CallError::Undecodable {
            call: call(),
            reason: "not a JSON object".to_owned(),
        });
    }
    // serde quotes what it met, however long.
    serde_json::from_slice(body).map_err(|error| CallError::Undecodable {
        call: call(),
        reason: clipped(&error.to_string(), 200),
    })
}

pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("the answers have text keys and no fallible serializer").into()
}
