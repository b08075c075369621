//! Revocation is for good: a tombstone that the store lost (wiped, restored, deleted by somebody) is
//! put back as it was sealed, by whoever keeps it. Hosts that join later are then told, too.

use tracing::{debug, info};
use wgnet_control_plane::store::{Committed, Condition, Op, Store, Txn};
use wgnet_proto::{HostId, Path};

use super::Task;

const SCOPE: &str = "tombstones/";

impl<S: Store> Task<S> {
    pub(super) async fn put_tombstones_back(&mut self) {
        if !self.is_home() || !self.may_call() || !self.seen.contains_key(SCOPE) {
            return;
        }
        let lost: Vec<(HostId, Txn)> = self.lost_tombstones().collect();
        for (host, txn) in lost {
            match self.inputs.store.commit(txn).await {
                Ok(Committed::Done { .. }) => {
                    info!(%host, "Put a tombstone back that etcd had lost")
                }
                Ok(Committed::Refused { .. }) => debug!(%host, "Another host put a tombstone back"),
                Err(error) => {
                    debug!(error = crate::chain(&error), "Cannot put a tombstone back");
                    return self.call_failed();
                }
            }
        }
    }

    /// What puts them back.
    fn lost_tombstones(&self) -> impl Iterator<Item = (HostId, Txn)> {
        self.judge.view().revoked.iter().filter_map(|host| {
            let path = Path::Tombstone(*host);
            let (None, Some(sealed)) = (self.judge.in_store(&path), self.judge.sealed(&path))
            else {
                return None;
            };
            let key = path.to_string();
            let conditions = vec![Condition::Absent(key.clone())];
            Some((*host, Txn { conditions, ops: vec![Op::Put { key, value: sealed.to_vec() }] }))
        })
    }
}
