//! What locks a host out, as `wgnetctl revoke` writes it.

use wgnet_proto::record::TombstoneRecord;
use wgnet_proto::{BadRecord, ClusterId, ClusterSecrets, HostId, HostKey, Path, Record, Sealer};

use crate::store::Op;

/// The tombstone of a host. It counts from whoever holds the cluster secret, whichever key signed it:
/// `key` is made for this one and thrown away.
///
/// # Errors
///
/// When no other host would believe it, for its reason cannot be printed or is too long.
pub fn sealed(
    cluster: ClusterId,
    secrets: ClusterSecrets,
    key: HostKey,
    host: HostId,
    reason: String,
) -> Result<Op, BadRecord> {
    let (path, record) = (Path::Tombstone(host), Record::Tombstone(TombstoneRecord { reason }));
    record.check(&path)?;
    let sealer = Sealer::new(key, secrets, cluster);
    Ok(Op::Put { key: path.to_string(), value: sealer.seal_record(&path, 1, &record) })
}
