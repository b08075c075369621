//! Sealing: what makes a record in etcd worth believing.
//!
//! The **signature** (Ed25519) says which host wrote a record: the envelope carries the writer's
//! public key, whose hash is the [`HostId`]. The **MAC** says that the writer holds the cluster
//! secret, so that whoever owns etcd cannot invent a host. Both are over the key's path, the cluster
//! and the sequence number too: a record that was altered, moved or brought from another cluster
//! does not open.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;

use crate::frame::frame;
use crate::record::wire::v1::Envelope;
use crate::secret::{ClusterSecrets, Epoch};
use crate::{ClusterId, HostId, Path, Record};

mod refused;
pub use refused::Refused;

/// No sealed record is larger; one that passed [`Record::check`] never is.
pub const MAX_SEALED: usize = 64 * 1024;

/// A host's Ed25519 key: made at its first start, never leaves its disk.
#[derive(Clone)]
pub struct HostKey(SigningKey);

impl HostKey {
    /// A new key from 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// The key that was kept as these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// The secret itself, for the journal.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    pub fn id(&self) -> HostId {
        HostId::of(&self.public())
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey(..)")
    }
}

/// Seals this host's records.
#[derive(Debug, Clone)]
pub struct Sealer {
    key: HostKey,
    secrets: ClusterSecrets,
    cluster: ClusterId,
}

impl Sealer {
    pub fn new(key: HostKey, secrets: ClusterSecrets, cluster: ClusterId) -> Self {
        Self { key, secrets, cluster }
    }

    pub fn writer(&self) -> HostId {
        self.key.id()
    }

    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The value to put at `path`. `seq` is higher than of anything this host sealed before.
    pub fn seal(&self, path: &Path, seq: u64, payload: Vec<u8>) -> Vec<u8> {
        let mut envelope = Envelope {
            secret_epoch: self.secrets.current_epoch(),
            cluster: self.cluster.0.to_vec(),
            writer: self.key.public().to_vec(),
            seq,
            payload,
            signature: Vec::new(),
            mac: Vec::new(),
        };
        let signature = self.key.0.sign(&to_sign(path, &envelope));
        envelope.signature = signature.to_bytes().to_vec();
        envelope.mac = self.secrets.mac(&to_authenticate(path, &envelope)).to_vec();
        envelope.encode_to_vec()
    }

    /// Seals a record.
    pub fn seal_record(&self, path: &Path, seq: u64, record: &Record) -> Vec<u8> {
        self.seal(path, seq, record.encode())
    }
}

/// A record whose envelope is genuine. Whether it is the newest, and what its payload says, is for
/// others to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub writer: HostId,
    pub seq: u64,
    /// Of the secret it was sealed with.
    pub epoch: Epoch,
    pub cluster: ClusterId,
    pub payload: Vec<u8>,
}

/// Opens everybody's records.
#[derive(Debug, Clone)]
pub struct Opener {
    secrets: ClusterSecrets,
    cluster: Option<ClusterId>,
}

impl Opener {
    /// An opener that knows its cluster, or will learn it from the `cluster` record: until then
    /// nothing else opens.
    pub fn new(secrets: ClusterSecrets, cluster: Option<ClusterId>) -> Self {
        Self { secrets, cluster }
    }

    /// From now on only this cluster's records open.
    pub fn pin(&mut self, cluster: ClusterId) {
        self.cluster = Some(cluster);
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Checks the envelope found at `path`: size and form, MAC, signature, cluster, writer.
    pub fn open(&self, path: &Path, sealed: &[u8]) -> Result<Opened, Refused> {
        let (envelope, Fixed { cluster, writer, signature, mac }) = parse(sealed)?;
        let epoch = envelope.secret_epoch;
        if !self.secrets.admits(epoch, &to_authenticate(path, &envelope), &mac) {
            return Err(Refused::WrongSecret);
        }
        VerifyingKey::from_bytes(&writer)
            .and_then(|key| key.verify_strict(&to_sign(path, &envelope), &signature))
            .map_err(|_| Refused::BadSignature)?;
        match self.cluster {
            Some(pinned) if pinned == cluster => {}
            Some(_) => return Err(Refused::ForeignCluster),
            None if *path == Path::Cluster => {}
            None => return Err(Refused::UnknownCluster),
        }
        let writer = HostId::of(&writer);
        if path.owner().is_some_and(|owner| owner != writer) {
            return Err(Refused::WrongWriter);
        }
        Ok(Opened { writer, seq: envelope.seq, epoch, cluster, payload: envelope.payload })
    }
}

/// The writer an envelope names, genuine or not: for telling people about a refused record.
pub fn claimed_writer(sealed: &[u8]) -> Option<HostId> {
    parse(sealed).ok().map(|(_, fixed)| HostId::of(&fixed.writer))
}

/// The payload of a sealed record that was opened before.
pub fn payload_of(sealed: &[u8]) -> Option<Vec<u8>> {
    Envelope::decode(sealed).ok().map(|envelope| envelope.payload)
}

/// The parts of an envelope that have one possible length.
struct Fixed {
    cluster: ClusterId,
    writer: [u8; 32],
    signature: Signature,
    mac: [u8; 32],
}

fn parse(sealed: &[u8]) -> Result<(Envelope, Fixed), Refused> {
    if sealed.len() > MAX_SEALED {
        return Err(Refused::TooLarge);
    }
    let envelope = Envelope::decode(sealed).map_err(|_| Refused::Malformed)?;
    // One way to write an envelope: what is not authenticated must not be there at all.
    if envelope.encode_to_vec() != sealed {
        return Err(Refused::Malformed);
    }
    let malformed = |_| Refused::Malformed;
    let fixed = Fixed {
        cluster: ClusterId::try_from(&*envelope.cluster).map_err(|_| Refused::Malformed)?,
        writer: envelope.writer.as_slice().try_into().map_err(malformed)?,
        signature: Signature::from_slice(&envelope.signature).map_err(|_| Refused::Malformed)?,
        mac: envelope.mac.as_slice().try_into().map_err(malformed)?,
    };
    Ok((envelope, fixed))
}

fn to_sign(path: &Path, envelope: &Envelope) -> Vec<u8> {
    framed("wgnet v1 record signature", path, envelope, &[])
}

fn to_authenticate(path: &Path, envelope: &Envelope) -> Vec<u8> {
    framed("wgnet v1 record mac", path, envelope, &envelope.signature)
}

fn framed(purpose: &str, path: &Path, envelope: &Envelope, signature: &[u8]) -> Vec<u8> {
    frame(
        purpose,
        &[
            path.to_string().as_bytes(),
            &envelope.cluster,
            &envelope.writer,
            &envelope.secret_epoch.to_be_bytes(),
            &envelope.seq.to_be_bytes(),
            &envelope.payload,
            signature,
        ],
    )
}

#[cfg(test)]
mod tests;
