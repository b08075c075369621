//! How each network's task fares, for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgnet_proto::DockerNetworkId;

/// How one network's last pass ended.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub in_sync: bool,
    pub error: Option<String>,
    /// How often something that somebody else changed was put right.
    pub repairs: u64,
}

/// How all networks fare; written by their tasks.
#[derive(Clone, Default)]
pub struct Runtimes(Arc<Mutex<BTreeMap<DockerNetworkId, Runtime>>>);

impl Runtimes {
    pub fn set(&self, network: &DockerNetworkId, runtime: Runtime) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(network.clone(), runtime);
    }

    pub fn remove(&self, network: &DockerNetworkId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(network);
    }

    pub fn get(&self, network: &DockerNetworkId) -> Option<Runtime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(network).cloned()
    }
}
