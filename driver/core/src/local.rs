//! What Docker asked of this host: the intent that the journal keeps and everything else follows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use wgnet_proto::{
    Claim, DockerNetworkId, EndpointId, Generation, MacAddr, NetworkKey, PrivateKey,
};

use crate::Namespace;

/// One network this host was asked to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    pub definition: NetworkDefinition,
    /// This member's WireGuard interfaces: one, two during a rotation.
    pub slots: Vec<LocalSlot>,
    pub endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    /// DeleteNetwork came: kernel objects and endpoints go at once, key, port and member stay a
    /// while in case Docker creates it again (it deletes and creates in quick cycles).
    pub lingering: bool,
}

/// What CreateNetwork said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDefinition {
    pub docker_id: DockerNetworkId,
    pub key: NetworkKey,
    pub subnets: Vec<Subnet>,
    pub internal: bool,
    pub options: NetworkOptions,
    /// Every option as it came, for the network's record.
    pub raw_options: BTreeMap<String, String>,
    /// Of the links; fixed when the network was made on this host.
    pub mtu: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub pool: IpNet,
    pub gateway: Option<IpAddr>,
}

/// The options this driver knows, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkOptions {
    pub mtu: Option<u16>,
    /// The wanted UDP port; a host where it is taken takes another and reports it.
    pub port: Option<u16>,
    /// Seconds.
    pub keepalive: Option<u16>,
    /// `gwbridge=false`: containers get no docker_gwbridge.
    pub gwbridge: Option<bool>,
    /// `id`: the shared name on plain engines.
    pub id: Option<String>,
}

/// One WireGuard interface of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSlot {
    pub generation: Generation,
    pub private_key: PrivateKey,
    /// When the key was made, in seconds since the epoch, where that is known.
    pub made: Option<u64>,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    pub id: EndpointId,
    /// As CreateEndpoint gave them, the primary one first.
    pub addresses: Vec<IpNet>,
    pub mac: MacAddr,
    /// Whether the request carried the MAC (then the answer must not).
    pub mac_given: bool,
    pub claim: Claim,
    /// SandboxKey of Join; `None` before Join and after Leave.
    pub sandbox: Option<PathBuf>,
    /// A remote claim won (other host has the address): never put again, its routes are the other's.
    pub superseded: bool,
}

impl LocalNetwork {
    pub fn namespace(&self) -> Namespace {
        Namespace::of(&self.definition.docker_id)
    }
}

impl LocalEndpoint {
    pub fn primary(&self) -> Option<IpAddr> {
        self.addresses.first().map(IpNet::addr)
    }
}
