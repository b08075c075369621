//! Records to protobuf and back.

mod status;

use std::net::IpAddr;

use ipnet::IpNet;
use prost::Message;

use super::rules::{self, BadRecord};
use super::{
    AliveRecord, ClusterRecord, EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Record,
    Slot, TombstoneRecord,
};
use crate::{MacAddr, Path, PublicKey};

#[allow(unreachable_pub, reason = "generated")]
pub(crate) mod v1 {
    include!(concat!(env!("OUT_DIR"), "/wgnet.v1.rs"));
}

impl Record {
    /// The record's bytes; equal records give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Cluster(record) => cluster_to_wire(record).encode_to_vec(),
            Self::Host(record) => host_to_wire(record).encode_to_vec(),
            Self::Alive(record) => v1::AliveRecord { boot: record.boot.clone() }.encode_to_vec(),
            Self::Status(record) => status::to_wire(record).encode_to_vec(),
            Self::Tombstone(record) => {
                v1::TombstoneRecord { reason: record.reason.clone() }.encode_to_vec()
            }
            Self::Network(record) => network_to_wire(record).encode_to_vec(),
            Self::Generation(generation) => {
                v1::GenerationRecord { generation: *generation }.encode_to_vec()
            }
            Self::Member(record) => member_to_wire(record).encode_to_vec(),
            Self::Endpoint(record) => endpoint_to_wire(record).encode_to_vec(),
        }
    }

    /// The record at `path` from its bytes, with every field checked ([`Record::check`]).
    pub fn decode(path: &Path, payload: &[u8]) -> Result<Self, BadRecord> {
        let record = match path {
            Path::Cluster => Self::Cluster(cluster_from_wire(parse(payload)?)?),
            Path::Host(_) => Self::Host(host_from_wire(parse(payload)?)?),
            Path::Alive(_) => {
                let v1::AliveRecord { boot } = parse(payload)?;
                Self::Alive(AliveRecord { boot })
            }
            Path::Status(_) => {
                rules::status_size(payload.len())?;
                Self::Status(Box::new(status::from_wire(parse(payload)?)?))
            }
            Path::Tombstone(_) => {
                let v1::TombstoneRecord { reason } = parse(payload)?;
                Self::Tombstone(TombstoneRecord { reason })
            }
            Path::Network(_) => Self::Network(network_from_wire(parse(payload)?)?),
            Path::Generation(_) => {
                Self::Generation(parse::<v1::GenerationRecord>(payload)?.generation)
            }
            Path::Member(..) => Self::Member(member_from_wire(parse(payload)?)?),
            Path::Endpoint(..) => Self::Endpoint(endpoint_from_wire(parse(payload)?)?),
        };
        record.check(path)?;
        Ok(record)
    }
}

fn parse<M: Message + Default>(payload: &[u8]) -> Result<M, BadRecord> {
    M::decode(payload).map_err(|_| BadRecord::new("payload", "protobuf of the kind the path says"))
}

fn cluster_to_wire(record: &ClusterRecord) -> v1::ClusterRecord {
    v1::ClusterRecord {
        cluster: record.cluster.0.to_vec(),
        incarnation: record.incarnation.0.to_vec(),
        schema: record.schema,
        history: record.history,
        announced_at: record.announced_at,
    }
}

fn cluster_from_wire(wire: v1::ClusterRecord) -> Result<ClusterRecord, BadRecord> {
    Ok(ClusterRecord {
        cluster: id("cluster", &wire.cluster)?,
        incarnation: id("incarnation", &wire.incarnation)?,
        schema: wire.schema,
        history: wire.history,
        announced_at: wire.announced_at,
    })
}

fn host_to_wire(record: &HostRecord) -> v1::HostRecord {
    v1::HostRecord {
        name: record.name.clone(),
        underlay: addresses_to_wire(&record.underlay),
        version: record.version.clone(),
        backend: record.backend.clone(),
        incarnation: record.incarnation.0.to_vec(),
    }
}

fn host_from_wire(wire: v1::HostRecord) -> Result<HostRecord, BadRecord> {
    Ok(HostRecord {
        name: wire.name,
        underlay: addresses_from_wire("underlay", &wire.underlay)?,
        version: wire.version,
        backend: wire.backend,
        incarnation: id("incarnation", &wire.incarnation)?,
    })
}

fn network_to_wire(record: &NetworkRecord) -> v1::NetworkRecord {
    let subnet = |subnet: &IpNet| v1::Subnet {
        address: address_to_wire(&subnet.network()),
        prefix_length: subnet.prefix_len().into(),
    };
    v1::NetworkRecord {
        subnets: record.subnets.iter().map(subnet).collect(),
        options: record.options.clone(),
        freed: record.freed,
    }
}

fn network_from_wire(wire: v1::NetworkRecord) -> Result<NetworkRecord, BadRecord> {
    let subnet = |subnet: &v1::Subnet| {
        let bad = || BadRecord::new("subnets", "a prefix length that fits the address");
        let length = u8::try_from(subnet.prefix_length).map_err(|_| bad())?;
        IpNet::new(address_from_wire("subnets", &subnet.address)?, length).map_err(|_| bad())
    };
    rules::at_most("subnets", wire.subnets.len(), rules::MAX_ADDRESSES)?;
    Ok(NetworkRecord {
        subnets: wire.subnets.iter().map(subnet).collect::<Result<_, _>>()?,
        options: wire.options,
        freed: wire.freed,
    })
}

fn member_to_wire(record: &MemberRecord) -> v1::MemberRecord {
    let slot = |slot: &Slot| v1::Slot {
        generation: slot.generation,
        public_key: slot.public_key.0.to_vec(),
        port: slot.port.into(),
        underlay: addresses_to_wire(&slot.underlay),
    };
    v1::MemberRecord {
        slots: record.slots.iter().map(slot).collect(),
        ready_generation: record.ready_generation,
        floor: record.floor,
    }
}

fn member_from_wire(wire: v1::MemberRecord) -> Result<MemberRecord, BadRecord> {
    let slot = |slot: &v1::Slot| {
        Ok(Slot {
            generation: slot.generation,
            public_key: PublicKey::try_from(slot.public_key.as_slice())
                .map_err(|_| BadRecord::new("public_key", "32 bytes"))?,
            port: u16::try_from(slot.port).map_err(|_| BadRecord::new("port", "1 to 65535"))?,
            underlay: addresses_from_wire("underlay", &slot.underlay)?,
        })
    };
    rules::at_most("slots", wire.slots.len(), rules::MAX_SLOTS)?;
    Ok(MemberRecord {
        slots: wire.slots.iter().map(slot).collect::<Result<_, _>>()?,
        ready_generation: wire.ready_generation,
        floor: wire.floor,
    })
}

fn endpoint_to_wire(record: &EndpointRecord) -> v1::EndpointRecord {
    v1::EndpointRecord {
        addresses: addresses_to_wire(&record.addresses),
        endpoint: hex::decode(record.endpoint.as_str()).expect("an endpoint id is hex digits"),
        host: record.host.0.to_vec(),
        mac: record.mac.0.to_vec(),
        claim: record.claim,
    }
}

fn endpoint_from_wire(wire: v1::EndpointRecord) -> Result<EndpointRecord, BadRecord> {
    let mac =
        <[u8; 6]>::try_from(wire.mac.as_slice()).map_err(|_| BadRecord::new("mac", "6 bytes"))?;
    Ok(EndpointRecord {
        addresses: addresses_from_wire("addresses", &wire.addresses)?,
        endpoint: hex::encode(&wire.endpoint)
            .parse()
            .map_err(|_| BadRecord::new("endpoint", "32 bytes"))?,
        host: id("host", &wire.host)?,
        mac: MacAddr(mac),
        claim: wire.claim,
    })
}

fn id<'b, Id: TryFrom<&'b [u8]>>(field: &'static str, bytes: &'b [u8]) -> Result<Id, BadRecord> {
    Id::try_from(bytes).map_err(|_| BadRecord::new(field, "16 bytes"))
}

fn address_to_wire(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_from_wire(field: &'static str, bytes: &[u8]) -> Result<IpAddr, BadRecord> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes);
    v6.map(IpAddr::from).map_err(|_| BadRecord::new(field, "addresses of 4 or 16 bytes"))
}

fn addresses_to_wire(addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(address_to_wire).collect()
}

fn addresses_from_wire(field: &'static str, wire: &[Vec<u8>]) -> Result<Vec<IpAddr>, BadRecord> {
    rules::at_most(field, wire.len(), rules::MAX_ADDRESSES)?;
    wire.iter().map(|bytes| address_from_wire(field, bytes)).collect()
}
