//! The pre-shared keys of peers, from the cluster secret.

use wgnet_proto::secret::ClusterSecrets;
use wgnet_proto::{Generation, HostId, NetworkKey, PresharedKey};

/// Gives the pre-shared key of two hosts in one network and generation; none without a secret.
pub struct Keyring {
    secrets: Option<ClusterSecrets>,
    me: HostId,
}

impl Keyring {
    pub fn new(secrets: Option<ClusterSecrets>, me: HostId) -> Self {
        Self { secrets, me }
    }

    pub fn preshared_key(&self, network: &NetworkKey, generation: Generation, peer: HostId) -> Option<PresharedKey> {
        self.secrets.as_ref().map(|secrets| secrets.preshared_key(network, generation, self.me, peer))
    }
}
