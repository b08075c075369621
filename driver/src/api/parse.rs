//! From dockerd's JSON to the types everything else trusts.

use std::collections::BTreeMap;
use std::net::IpAddr;
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
    if network.is_swarm() && data.iter().any(|data| data.pool.contains(':')) {
        return Err(CallError::Ipv6InSwarm(network.clone()));
    }
    data.iter().filter_map(|data| subnet(network, data).transpose()).collect()
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
    let pool = data.pool.parse::<IpNet>().map_err(|_| bad(&data.pool))?.trunc();
    if let Some(why) = unusable(&pool) {
        return Err(CallError::UnusableSubnet { network: network.clone(), subnet: pool, why });
    }
    let gateway: Option<IpAddr> = match data.gateway.as_str() {
        "" => None,
        text => {
            let address = text.split('/').next().unwrap_or(text);
            Some(address.parse().map_err(|_| bad(text))?)
        }
    };
    if let Some(gateway) = gateway.filter(|gateway| !pool.contains(gateway)) {
        return Err(CallError::GatewayOutside { network: network.clone(), gateway, subnet: pool });
    }
    Ok(Some(Subnet { pool, gateway }))
}

/// Set aside by RFC 6890: most of it is no host's address, or is passed on by no router.
const RESERVED: [(&str, &str); 9] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, which no router passes on"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/127", "loopback"),
    ("::ffff:0:0/96", "IPv4 written as IPv6"),
    ("fe80::/10", "link-local, which no router passes on"),
    ("ff00::/8", "multicast"),
];

/// The largest subnet that may stand in a network's record.
const SHORTEST_PREFIX: u8 = 8;

/// Why no network can have this subnet, as a clause.
fn unusable(pool: &IpNet) -> Option<String> {
    let blocks =
        RESERVED.map(|(block, what)| (block.parse::<IpNet>().expect("it is a subnet"), what));
    if let Some((block, what)) = blocks.iter().find(|(block, _)| block.contains(pool)) {
        return Some(format!("is within {block} ({what})"));
    }
    if pool.prefix_len() < SHORTEST_PREFIX {
        return Some(format!("is larger than a /{SHORTEST_PREFIX}"));
    }
    let (block, what) = blocks.iter().find(|(block, _)| pool.contains(block))?;
    Some(format!("holds {block} ({what})"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pool: &str, gateway: &str) -> Option<String> {
        let network = "a".repeat(64).parse().unwrap();
        let data = serde_json::json!({"AddressSpace": "", "Pool": pool, "Gateway": gateway});
        let data = serde_json::from_value(data).unwrap();
        subnets(&network, &[data]).err().map(|error| error.to_string())
    }

    #[test]
    fn a_subnet_that_no_network_can_have_is_refused_with_the_reason_and_one_that_works() {
        for (pool, why) in [
            ("0.0.0.0/8", "within 0.0.0.0/8 (this network)"),
            ("0.1.0.0/16", "within 0.0.0.0/8"),
            ("127.0.0.0/8", "loopback"),
            ("127.9.0.0/24", "loopback"),
            ("169.254.7.0/24", "link-local"),
            ("169.0.0.0/8", "holds 169.254.0.0/16"),
            ("224.0.0.0/24", "multicast"),
            ("239.1.2.0/24", "multicast"),
            ("240.0.0.0/8", "reserved"),
            ("255.255.255.0/24", "reserved"),
            ("0.0.0.0/0", "larger than a /8"),
            ("64.0.0.0/7", "larger than a /8"),
            ("::1/128", "loopback"),
            ("::/64", "holds ::/127"),
            ("::ffff:10.0.0.0/104", "IPv4 written as IPv6"),
            ("fe80::/64", "link-local"),
            ("ff02::/64", "multicast"),
            ("::/0", "larger than a /8"),
        ] {
            let text = refusal(pool, "").unwrap_or_default();
            assert!(text.contains(why) && text.contains("another --subnet"), "{pool}: {text:?}");
            let works = if pool.contains(':') { "fd00:90::/64" } else { "10.90.0.0/24" };
            assert!(text.contains(works) && refusal(works, "").is_none(), "{pool}: {text}");
        }
    }

    #[test]
    fn every_other_subnet_is_taken() {
        for pool in [
            "10.0.0.0/8",
            "10.90.0.0/30",
            "100.64.0.0/10",
            "172.16.0.0/12",
            "192.168.1.0/24",
            "169.253.0.0/16",
            "198.18.0.0/15",
            "203.0.113.0/24",
            "223.255.255.0/24",
            "fd00::/8",
            "fec0::/10",
            "2001:db8::/32",
            "64:ff9b:1::/48",
        ] {
            assert_eq!(refusal(pool, ""), None, "{pool}");
        }
    }

    #[test]
    fn a_gateway_is_of_its_subnet() {
        assert_eq!(refusal("10.90.0.0/24", "10.90.0.1/24"), None);
        assert_eq!(refusal("fd00:90::/64", "fd00:90::1/64"), None);
        for (pool, gateway) in [
            ("10.90.0.0/24", "10.91.0.1/24"),
            ("10.90.0.0/24", "fd00:90::1"),
            ("fd00:90::/64", "fd00:91::1/64"),
        ] {
            let text = refusal(pool, gateway).unwrap_or_default();
            let address = gateway.split('/').next().unwrap();
            assert!(
                [pool, address, "--gateway", "--subnet"].iter().all(|part| text.contains(part)),
                "{text:?}"
            );
        }
    }
}
