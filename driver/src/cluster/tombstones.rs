//! Revocation is for good: a tombstone that the store lost (wiped, restored, deleted by somebody) is
//! put back as it was sealed, by whoever keeps it. Hosts that join later are then told, too.

use tracing::{debug, info};
use wgnet_control_plane::store::{Condition, Op, Store, Txn};
use wgnet_proto::Path;

use super::Task;

const SCOPE: &str = "tombstones/";

impl<S: Store> Task<S> {
    pub(super) async fn put_tombstones_back(&self) {
        let is_ours =
            self.judge.in_store(&Path::Cluster).is_some_and(|held| held.accepted.is_some());
        if !is_ours || !self.seen.contains_key(SCOPE) {
            return;
        }
        for host in &self.judge.view().revoked {
            let path = Path::Tombstone(*host);
            let (None, Some(sealed)) = (self.judge.in_store(&path), self.judge.sealed(&path))
            else {
                continue;
            };
            let key = path.to_string();
            let txn = Txn {
                conditions: vec![Condition::Absent(key.clone())],
                ops: vec![Op::Put { key, value: sealed.to_vec() }],
            };
            match self.inputs.store.commit(txn).await {
                Ok(_) => info!(%host, "Put a tombstone back that etcd had lost"),
                Err(error) => debug!(error = crate::chain(&error), "Cannot put a tombstone back"),
            }
        }
    }
}
