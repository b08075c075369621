//! dockerd's JSON as it is on the wire. Ids and addresses are text here and nowhere else.
//!
//! Lenient on purpose: fields may be missing, null or empty, and there may be more of them than any
//! version here knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Null is as good as missing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

pub(super) type Options = BTreeMap<String, Value>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AllocateNetwork {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
    /// Flat here, unlike CreateNetwork's.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
    /// IPv6 pools are among them: swarm's allocator does not tell the two apart.
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    pub(super) pools: Vec<IpamData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: NetworkOptions,
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    pub(super) ipv6: Vec<IpamData>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct NetworkOptions {
    #[serde(rename = "com.docker.network.internal", default, deserialize_with = "or_default")]
    pub(super) internal: bool,
    #[serde(rename = "com.docker.network.generic", default, deserialize_with = "or_default")]
    pub(super) generic: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpamData {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) pool: String,
    /// With a prefix length.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) gateway: String,
}

/// DeleteNetwork and FreeNetwork.
#[derive(Debug, Deserialize)]
pub(super) struct NetworkOnly {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", default, deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "Interface", default, deserialize_with = "or_default")]
    pub(super) interface: Interface,
}

/// Of CreateEndpoint's request: what is empty may be answered.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Interface {
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", default, deserialize_with = "or_default")]
    pub(super) address_ipv6: String,
    #[serde(rename = "MacAddress", default, deserialize_with = "or_default")]
    pub(super) mac: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Join {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", default, deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "SandboxKey", default, deserialize_with = "or_default")]
    pub(super) sandbox: String,
}

/// Leave, DeleteEndpoint and the calls about an endpoint that change nothing.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointOnly {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", default, deserialize_with = "or_default")]
    pub(super) endpoint: String,
}

/// An object whose content does not matter.
#[derive(Debug, Deserialize)]
pub(super) struct Anything {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Activated {
    pub(super) implements: [&'static str; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities {
    pub(super) scope: &'static str,
    pub(super) connectivity_scope: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Allocated {
    pub(super) options: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointCreated {
    pub(super) interface: AnsweredInterface,
}

#[derive(Debug, Serialize)]
pub(super) struct AnsweredInterface {
    #[serde(rename = "MacAddress", skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    pub(super) static_routes: Vec<StaticRoute>,
    pub(super) disable_gateway_service: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StaticRoute {
    pub(super) destination: String,
    /// 0: through the next hop.
    pub(super) route_type: u8,
    pub(super) next_hop: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OperInfo {
    #[serde(rename = "Value")]
    pub(super) value: Empty,
}

/// The engine reserves a gateway address as usual: the driver needs it.
#[derive(Debug, Serialize)]
pub(super) struct GatewayAllocation {
    #[serde(rename = "SkipIPv4")]
    pub(super) skip_ipv4: bool,
    #[serde(rename = "SkipIPv6")]
    pub(super) skip_ipv6: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Empty {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failed {
    pub(super) err: String,
}
