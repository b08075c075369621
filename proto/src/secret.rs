//! The cluster secret: 32 bytes in a file on every host, never in etcd.
//!
//! ```text
//! wgnet-cluster-secret v1
//! epoch 1 q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=
//! ```
//!
//! Lines that begin with `#` are comments. While the secret is replaced the file has two epochs:
//! both are accepted, the higher one seals. Two keys come from a secret by HKDF-SHA256: the MAC key
//! that admits records at all, and a WireGuard pre-shared key for every two hosts of a network.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::frame::frame;
use crate::{Generation, HostId, NetworkKey, PresharedKey};

mod file;
pub use file::SecretError;

/// Counts replacements of the cluster secret, from 1.
pub type Epoch = u32;

const HEADER: &str = "wgnet-cluster-secret v1";

/// No file has it, so that hosts with and without a secret refuse each other.
const INSECURE_EPOCH: Epoch = 0;

/// The secrets a host accepts: one, two while it is replaced.
#[derive(Clone)]
pub struct ClusterSecrets {
    /// Ascending; never empty.
    epochs: Vec<Secret>,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret {
    epoch: Epoch,
    bytes: [u8; 32],
    mac_key: [u8; 32],
}

impl ClusterSecrets {
    /// The first secret of a cluster from 32 random bytes.
    pub fn generate(random: [u8; 32]) -> Self {
        Self { epochs: vec![Secret::new(1, random)] }
    }

    /// What stands in for a secret under the explicit `insecure` setting. Everybody knows it: the
    /// MAC then admits whoever can write to etcd, and pre-shared keys add nothing. Signatures still
    /// keep one host from writing another's records.
    pub fn insecure() -> Self {
        Self { epochs: vec![Secret::new(INSECURE_EPOCH, *b"wgnet without a cluster secret!!")] }
    }

    pub fn is_insecure(&self) -> bool {
        self.current_epoch() == INSECURE_EPOCH
    }

    /// Reads a secret file, and refuses one that others can read.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let text = file::read(path)?;
        Self::parse(&text).map_err(|(line, what)| SecretError::Malformed {
            path: path.to_owned(),
            line,
            what,
        })
    }

    /// Writes a new secret file, 0600 and durable; an existing one is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), SecretError> {
        file::write_new(path, &self.render())
    }

    /// The epoch new records are sealed with.
    pub fn current_epoch(&self) -> Epoch {
        self.epochs.last().expect("never empty").epoch
    }

    /// One of the epochs alone, for what is to open where only that one is known; `None` if it is not
    /// accepted here.
    pub fn only(&self, epoch: Epoch) -> Option<Self> {
        Some(Self { epochs: vec![self.of(epoch)?.clone()] })
    }

    /// All accepted epochs, ascending.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.epochs.iter().map(|secret| secret.epoch)
    }

    /// The pre-shared key of two hosts' tunnel in a generation of a network, the same on both.
    /// `None` for an epoch this host has no secret of.
    pub fn preshared_key(
        &self,
        epoch: Epoch,
        network: &NetworkKey,
        generation: Generation,
        one: HostId,
        other: HostId,
    ) -> Option<PresharedKey> {
        let info = frame(
            "wgnet v1 pre-shared key",
            &[
                &epoch.to_be_bytes(),
                network.as_str().as_bytes(),
                &generation.to_be_bytes(),
                &one.min(other).0,
                &one.max(other).0,
            ],
        );
        Some(PresharedKey::from_bytes(derive(&self.of(epoch)?.bytes, &info)))
    }

    /// The MAC of a message under the current epoch.
    pub(crate) fn mac(&self, message: &[u8]) -> [u8; 32] {
        self.epochs.last().expect("never empty").mac(message)
    }

    /// Whether this is the message's MAC, in constant time.
    pub(crate) fn admits(&self, epoch: Epoch, message: &[u8], mac: &[u8; 32]) -> bool {
        self.of(epoch).is_some_and(|secret| secret.mac(message).ct_eq(mac).into())
    }

    fn of(&self, epoch: Epoch) -> Option<&Secret> {
        self.epochs.iter().find(|secret| secret.epoch == epoch)
    }

    fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(512));
        text.push_str("# The cluster secret of wgnet: on every host, mode 0600, nowhere else.\n");
        text.push_str(HEADER);
        for secret in &self.epochs {
            let bytes = Zeroizing::new(STANDARD.encode(secret.bytes));
            text.push_str(&format!("\nepoch {} ", secret.epoch));
            text.push_str(&bytes);
        }
        text.push('\n');
        text
    }

    /// The file's content, or the line that is wrong and what should be there. Never quotes it.
    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut lines = (1..)
            .zip(text.lines().map(str::trim))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        match lines.next() {
            Some((_, HEADER)) => {}
            Some((number, _)) => return Err((number, "\"wgnet-cluster-secret v1\"")),
            None if text.is_empty() => {
                return Err((1, "\"wgnet-cluster-secret v1\", but the file is empty"));
            }
            None => {
                let what = "\"wgnet-cluster-secret v1\", but the file has only comments and spaces";
                return Err((1, what));
            }
        }
        let mut epochs: Vec<Secret> = Vec::new();
        for (number, line) in lines {
            let secret = Secret::parse(line)
                .ok_or((number, "\"epoch\", its number from 1 on and 32 bytes in base64"))?;
            if epochs.iter().any(|known| known.epoch == secret.epoch) {
                return Err((number, "another epoch than in the lines before"));
            }
            if epochs.len() == 2 {
                return Err((number, "no third epoch"));
            }
            epochs.push(secret);
        }
        if epochs.is_empty() {
            return Err((text.lines().count(), "a line with an epoch after it"));
        }
        epochs.sort_by_key(|secret| secret.epoch);
        Ok(Self { epochs })
    }
}

impl Secret {
    fn new(epoch: Epoch, bytes: [u8; 32]) -> Self {
        let mac_key = derive(&bytes, &frame("wgnet v1 record mac key", &[&epoch.to_be_bytes()]));
        Self { epoch, bytes, mac_key }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (word, epoch, bytes) = (words.next()?, words.next()?, words.next()?);
        let epoch: Epoch = epoch.parse().ok()?;
        let bytes = Zeroizing::new(STANDARD.decode(bytes).ok()?);
        let bytes = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        let valid = word == "epoch" && epoch != INSECURE_EPOCH && words.next().is_none();
        valid.then(|| Self::new(epoch, *bytes))
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.mac_key).expect("any length is a key");
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

fn derive(secret: &[u8; 32], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, secret)
        .expand(info, &mut key)
        .expect("32 bytes are within HKDF's limit");
    key
}

impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecrets(..)")
    }
}

#[cfg(test)]
mod tests;
