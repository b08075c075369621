//! The pre-shared keys of peers, from the cluster secret.

use wgnet_proto::{ClusterSecrets, Generation, HostId, NetworkKey, PresharedKey};

/// Gives the pre-shared key of this host with another in one network and generation.
pub struct Keyring {
    secrets: ClusterSecrets,
    me: HostId,
}

impl Keyring {
    pub fn new(secrets: ClusterSecrets, me: HostId) -> Self {
        Self { secrets, me }
    }

    pub fn preshared_key(
        &self,
        network: &NetworkKey,
        generation: Generation,
        peer: HostId,
    ) -> Option<PresharedKey> {
        self.secrets.preshared_key(self.secrets.current_epoch(), network, generation, self.me, peer)
    }
}
