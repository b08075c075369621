//! The engine protocol's messages, their framing, and their translation to plain types.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

use crate::api::{
    DeviceId, DeviceState, NewDevice, Operation, OperationFailure, PeerState, PeerUpdate,
    PresharedKey, SecretKey,
};

/// The generated messages.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/wgnet.engine.v1.rs"));
}

impl std::fmt::Debug for proto::Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str_name())
    }
}

/// The version of the protocol spoken here.
pub const PROTOCOL: u32 = 1;

/// Enough for a peer with a million allowed addresses; a longer frame is not ours.
const MAX_FRAME: usize = 64 << 20;
const BEGINNING: usize = 64 << 10;

/// A message that says something no sender of ours says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} is missing or malformed")]
pub struct Malformed {
    pub field: &'static str,
}

const fn malformed(field: &'static str) -> Malformed {
    Malformed { field }
}

/// Writes one message; the buffer, which may hold keys, is wiped.
pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> io::Result<()> {
    let length = message.encoded_len();
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {length} bytes is longer than the engine protocol allows"),
        ));
    }
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + length));
    frame.extend_from_slice(&u32::try_from(length).expect("below MAX_FRAME").to_be_bytes());
    message.encode(&mut *frame).expect("the buffer grows as needed");
    stream.write_all(&frame).await
}

/// Reads one message; `None` when the other side hung up between two.
pub async fn read_frame<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut header = [0; 4];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes is not of the engine protocol"),
        ));
    }
    // Memory for a long one when some of it has come, not for four bytes that say so.
    let mut frame = Zeroizing::new(vec![0; length.min(BEGINNING)]);
    stream.read_exact(&mut frame).await?;
    if length > BEGINNING {
        let mut whole = Zeroizing::new(vec![0; length]);
        whole[..BEGINNING].copy_from_slice(&frame);
        stream.read_exact(&mut whole[BEGINNING..]).await?;
        frame = whole;
    }
    let message = M::decode(frame.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(message))
}

impl From<&DeviceId> for proto::DeviceRef {
    fn from(id: &DeviceId) -> Self {
        Self { namespace: id.namespace.as_os_str().as_bytes().to_vec(), ifname: id.ifname.clone() }
    }
}

impl TryFrom<proto::DeviceRef> for DeviceId {
    type Error = Malformed;

    fn try_from(device: proto::DeviceRef) -> Result<Self, Malformed> {
        let namespace = Path::new(OsStr::from_bytes(&device.namespace));
        let name = &device.ifname;
        let clean = name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        if !namespace.is_absolute() {
            return Err(malformed("namespace"));
        }
        if !(1..=15).contains(&name.len()) || !clean || name == "." || name == ".." {
            return Err(malformed("ifname"));
        }
        Ok(Self::new(namespace, device.ifname))
    }
}

/// The device a call is about.
pub fn device_id(device: Option<proto::DeviceRef>) -> Result<DeviceId, Malformed> {
    device.ok_or(malformed("device"))?.try_into()
}

impl From<&NewDevice> for proto::CreateDevice {
    fn from(new: &NewDevice) -> Self {
        Self {
            device: Some((&new.id).into()),
            private_key: new.private_key.expose().to_vec(),
            port: new.port.into(),
            mtu: new.mtu.into(),
        }
    }
}

impl TryFrom<proto::CreateDevice> for NewDevice {
    type Error = Malformed;

    fn try_from(call: proto::CreateDevice) -> Result<Self, Malformed> {
        let private_key = secret_key(call.private_key).ok_or(malformed("private_key"))?;
        Ok(Self {
            id: device_id(call.device)?,
            private_key,
            port: u16::try_from(call.port)
                .ok()
                .filter(|port| *port != 0)
                .ok_or(malformed("port"))?,
            // IPv6 needs 1280; below 576 not even IPv4 is promised to work.
            mtu: u16::try_from(call.mtu).ok().filter(|mtu| *mtu >= 576).ok_or(malformed("mtu"))?,
        })
    }
}

impl From<&Operation> for proto::Operation {
    fn from(operation: &Operation) -> Self {
        use proto::operation::Kind;
        let ips = |key: &[u8; 32], ips: &[IpNet]| proto::AllowedIps {
            public_key: key.to_vec(),
            allowed_ips: ips.iter().map(Into::into).collect(),
        };
        let kind = match operation {
            Operation::AddOrUpdatePeer(peer) => Kind::AddOrUpdatePeer(peer.into()),
            Operation::RemovePeer(key) => {
                Kind::RemovePeer(proto::RemovePeer { public_key: key.to_vec() })
            }
            Operation::AddAllowedIps(key, nets) => Kind::AddAllowedIps(ips(key, nets)),
            Operation::RemoveAllowedIps(key, nets) => Kind::RemoveAllowedIps(ips(key, nets)),
            Operation::ReplaceAllowedIps(key, nets) => Kind::ReplaceAllowedIps(ips(key, nets)),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Operation> for Operation {
    type Error = Malformed;

    fn try_from(operation: proto::Operation) -> Result<Self, Malformed> {
        use proto::operation::Kind;
        let ips = |list: proto::AllowedIps| -> Result<([u8; 32], Vec<IpNet>), Malformed> {
            let nets = list.allowed_ips.iter().map(IpNet::try_from);
            Ok((public_key(&list.public_key)?, nets.collect::<Result<_, _>>()?))
        };
        Ok(match operation.kind.ok_or(malformed("operation"))? {
            Kind::AddOrUpdatePeer(peer) => Self::AddOrUpdatePeer(peer.try_into()?),
            Kind::RemovePeer(peer) => Self::RemovePeer(public_key(&peer.public_key)?),
            Kind::AddAllowedIps(list) => {
                let (key, nets) = ips(list)?;
                Self::AddAllowedIps(key, nets)
            }
            Kind::RemoveAllowedIps(list) => {
                let (key, nets) = ips(list)?;
                Self::RemoveAllowedIps(key, nets)
            }
            Kind::ReplaceAllowedIps(list) => {
                let (key, nets) = ips(list)?;
                Self::ReplaceAllowedIps(key, nets)
            }
        })
    }
}

impl From<&PeerUpdate> for proto::AddOrUpdatePeer {
    fn from(peer: &PeerUpdate) -> Self {
        Self {
            public_key: peer.public_key.to_vec(),
            preshared_key: peer.preshared_key.as_ref().map(|key| match key {
                PresharedKey::Use(key) => key.expose().to_vec(),
                PresharedKey::None => Vec::new(),
            }),
            underlay_address: peer.underlay_address.map(|address| address.to_string()),
            keepalive_seconds: peer.keepalive.map(Into::into),
        }
    }
}

impl TryFrom<proto::AddOrUpdatePeer> for PeerUpdate {
    type Error = Malformed;

    fn try_from(peer: proto::AddOrUpdatePeer) -> Result<Self, Malformed> {
        let preshared_key = match peer.preshared_key {
            None => None,
            Some(none) if none.is_empty() => Some(PresharedKey::None),
            Some(key) => {
                Some(PresharedKey::Use(secret_key(key).ok_or(malformed("preshared_key"))?))
            }
        };
        let underlay_address =
            peer.underlay_address.map(|text| socket_address(&text)).transpose()?;
        let keepalive = peer
            .keepalive_seconds
            .map(u16::try_from)
            .transpose()
            .map_err(|_| malformed("keepalive_seconds"))?;
        Ok(Self {
            public_key: public_key(&peer.public_key)?,
            preshared_key,
            underlay_address,
            keepalive,
        })
    }
}

impl From<DeviceState> for proto::Device {
    fn from(device: DeviceState) -> Self {
        Self {
            public_key: device.public_key.to_vec(),
            port: device.port.into(),
            mtu: device.mtu.into(),
            dead: device.dead.unwrap_or_default(),
            peers: device.peers.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Device> for DeviceState {
    type Error = Malformed;

    fn try_from(device: proto::Device) -> Result<Self, Malformed> {
        let peers = device.peers.into_iter().map(PeerState::try_from);
        Ok(Self {
            public_key: public_key(&device.public_key)?,
            port: u16::try_from(device.port).map_err(|_| malformed("port"))?,
            mtu: u16::try_from(device.mtu).map_err(|_| malformed("mtu"))?,
            dead: Some(device.dead).filter(|text| !text.is_empty()),
            peers: peers.collect::<Result<_, _>>()?,
        })
    }
}

impl From<PeerState> for proto::Peer {
    fn from(peer: PeerState) -> Self {
        Self {
            public_key: peer.public_key.to_vec(),
            has_preshared_key: peer.has_preshared_key,
            underlay_address: peer
                .underlay_address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            keepalive_seconds: peer.keepalive.unwrap_or(0).into(),
            allowed_ips: peer.allowed_ips.iter().map(Into::into).collect(),
            last_handshake_ms: peer
                .last_handshake
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        }
    }
}

impl TryFrom<proto::Peer> for PeerState {
    type Error = Malformed;

    fn try_from(peer: proto::Peer) -> Result<Self, Malformed> {
        let allowed_ips = peer.allowed_ips.iter().map(IpNet::try_from);
        let address = Some(peer.underlay_address).filter(|text| !text.is_empty());
        Ok(Self {
            public_key: public_key(&peer.public_key)?,
            has_preshared_key: peer.has_preshared_key,
            underlay_address: address.map(|text| socket_address(&text)).transpose()?,
            keepalive: u16::try_from(peer.keepalive_seconds)
                .map(|seconds| Some(seconds).filter(|s| *s > 0))
                .map_err(|_| malformed("keepalive_seconds"))?,
            allowed_ips: allowed_ips.collect::<Result<_, _>>()?,
            last_handshake: peer.last_handshake_ms.map(Duration::from_millis),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        })
    }
}

impl From<OperationFailure> for proto::OperationFailure {
    fn from(failure: OperationFailure) -> Self {
        Self {
            index: u32::try_from(failure.index).unwrap_or(u32::MAX),
            code: failure.code.into(),
            text: failure.text,
        }
    }
}

impl From<proto::OperationFailure> for OperationFailure {
    fn from(failure: proto::OperationFailure) -> Self {
        Self { index: failure.index as usize, code: failure.code(), text: failure.text }
    }
}

impl From<&IpNet> for proto::AllowedIp {
    fn from(net: &IpNet) -> Self {
        let address = match net.addr() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Self { address, prefix: net.prefix_len().into() }
    }
}

impl TryFrom<&proto::AllowedIp> for IpNet {
    type Error = Malformed;

    fn try_from(allowed: &proto::AllowedIp) -> Result<Self, Malformed> {
        let bytes = allowed.address.as_slice();
        let address = <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .map_err(|_| malformed("address"))?;
        let prefix = u8::try_from(allowed.prefix).map_err(|_| malformed("prefix"))?;
        let net = IpNet::new(address, prefix).map_err(|_| malformed("prefix"))?;
        Ok(net.trunc())
    }
}

fn public_key(bytes: &[u8]) -> Result<[u8; 32], Malformed> {
    bytes.try_into().map_err(|_| malformed("public_key"))
}

fn secret_key(mut bytes: Vec<u8>) -> Option<SecretKey> {
    let key = <[u8; 32]>::try_from(bytes.as_slice()).ok();
    bytes.zeroize();
    key.map(SecretKey::from)
}

fn socket_address(text: &str) -> Result<SocketAddr, Malformed> {
    text.parse().map_err(|_| malformed("underlay_address"))
}
