//! From dockerd's JSON to the types everything else trusts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::Value;
use wgnet_core::options::{self, OptionError};
use wgnet_core::{NetworkDefinition, NetworkOptions, Subnet};
use wgnet_proto::{DockerNetworkId, EndpointId, MacAddr, NetworkKey};

use super::error::CallError;
use super::wire;

/// A network and an endpoint of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointOf {
    pub(super) network: DockerNetworkId,
    pub(super) endpoint: EndpointId,
}

impl EndpointOf {
    pub(super) fn parse(network: &str, endpoint: &str) -> Result<Self, CallError> {
        Ok(Self { network: network.parse()?, endpoint: endpoint.parse()? })
    }
}

/// CreateNetwork's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewNetwork {
    pub(super) id: DockerNetworkId,
    pub(super) key: NetworkKey,
    pub(super) subnets: Vec<Subnet>,
    pub(super) internal: bool,
    pub(super) options: NetworkOptions,
    pub(super) raw_options: BTreeMap<String, String>,
}

impl NewNetwork {
    pub(super) fn parse(request: wire::CreateNetwork) -> Result<Self, CallError> {
        let id: DockerNetworkId = request.network.parse()?;
        let raw_options = texts(request.options.generic);
        let options = network_options(&raw_options, !request.ipv6.is_empty())
            .map_err(|source| CallError::Option { network: id.clone(), source })?;
        let key = match &options.id {
            Some(_) if id.is_swarm() => return Err(CallError::IdInSwarm(id)),
            Some(name) => NetworkKey::named(name)?,
            None if id.is_swarm() => NetworkKey::swarm(&id),
            None => NetworkKey::local(&id),
        };
        let data: Vec<_> = request.ipv4.into_iter().chain(request.ipv6).collect();
        let subnets = subnets(&id, &data)?;
        if subnets.is_empty() {
            return Err(CallError::NoSubnet(id));
        }
        Ok(Self { id, key, subnets, internal: request.options.internal, options, raw_options })
    }

    pub(super) fn ipv6(&self) -> bool {
        self.subnets.iter().any(|subnet| matches!(subnet.pool, IpNet::V6(_)))
    }

    pub(super) fn into_definition(self, underlay_mtu: u16) -> NetworkDefinition {
        let mtu = options::mtu(&self.options, underlay_mtu, self.ipv6());
        NetworkDefinition {
            docker_id: self.id,
            key: self.key,
            subnets: self.subnets,
            internal: self.internal,
            options: self.options,
            raw_options: self.raw_options,
            mtu,
        }
    }
}

/// Whether the options are ones a network can have.
pub(super) fn network_options(
    raw: &BTreeMap<String, String>,
    ipv6: bool,
) -> Result<NetworkOptions, OptionError> {
    options::parse(raw, ipv6)
}

/// Option values are text; should one be anything else, its JSON is.
pub(super) fn texts(options: wire::Options) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    options.into_iter().map(|(key, value)| (key, text(value))).collect()
}

/// The pools that say something; in a swarm only those that its allocator can give addresses of.
pub(super) fn subnets(
    network: &DockerNetworkId,
    data: &[wire::IpamData],
) -> Result<Vec<Subnet>, CallError> {
    let subnets = data.iter().filter_map(|data| subnet(network, data).transpose());
    let subnets = subnets.collect::<Result<Vec<_>, _>>()?;
    if network.is_swarm() && subnets.iter().any(|subnet| matches!(subnet.pool, IpNet::V6(_))) {
        return Err(CallError::Ipv6InSwarm(network.clone()));
    }
    Ok(subnets)
}

/// A pool with its gateway; a pool may come without one, and an entry without a pool says nothing.
fn subnet(network: &DockerNetworkId, data: &wire::IpamData) -> Result<Option<Subnet>, CallError> {
    if data.pool.is_empty() {
        return Ok(None);
    }
    let bad = |text: &str| CallError::Subnet {
        network: network.clone(),
        text: text.chars().take(80).collect(),
    };
    let pool: IpNet = data.pool.parse().map_err(|_| bad(&data.pool))?;
    let gateway = match data.gateway.as_str() {
        "" => None,
        text => {
            let address = text.split('/').next().unwrap_or(text);
            Some(address.parse().map_err(|_| bad(text))?)
        }
    };
    Ok(Some(Subnet { pool: pool.trunc(), gateway }))
}

/// CreateEndpoint's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewEndpoint {
    pub(super) of: EndpointOf,
    /// The IPv4 address first.
    pub(super) addresses: Vec<IpNet>,
    pub(super) mac: Option<MacAddr>,
}

impl NewEndpoint {
    pub(super) fn parse(request: &wire::CreateEndpoint) -> Result<Self, CallError> {
        let of = EndpointOf::parse(&request.network, &request.endpoint)?;
        let texts = [&request.interface.address, &request.interface.address_ipv6];
        let addresses = texts.into_iter().filter(|text| !text.is_empty()).map(|text| {
            text.parse::<IpNet>().map_err(|_| CallError::Address {
                network: of.network.clone(),
                endpoint: of.endpoint.clone(),
                text: text.chars().take(80).collect(),
            })
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(CallError::NoAddress(of.endpoint));
        }
        let mac = match request.interface.mac.as_str() {
            "" => None,
            text => {
                let mac = text.parse();
                Some(
                    mac.map_err(|source| CallError::Mac { endpoint: of.endpoint.clone(), source })?,
                )
            }
        };
        Ok(Self { of, addresses, mac })
    }
}

/// Join's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewJoin {
    pub(super) of: EndpointOf,
    pub(super) sandbox: PathBuf,
}

impl NewJoin {
    pub(super) fn parse(request: wire::Join) -> Result<Self, CallError> {
        let of = EndpointOf::parse(&request.network, &request.endpoint)?;
        if request.sandbox.is_empty() {
            return Err(CallError::NoSandbox(of.endpoint));
        }
        Ok(Self { of, sandbox: request.sandbox.into() })
    }
}
