//! The whole cluster as etcd tells it, for people and read only. Every record is judged with the
//! cluster secret as drivers do it: what is forged is shown as refused, and never believed.

pub mod problems;
pub mod report;
pub mod rows;
pub mod way;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wgnet_core::{ClusterView, Judge, Refusal, Verdict};
use wgnet_proto::record::{ClusterRecord, TombstoneRecord};
use wgnet_proto::secret::Epoch;
use wgnet_proto::text::{clipped, printable};
use wgnet_proto::{ClusterSecrets, HostId, Path, Record};

use crate::follower::Followed;
use crate::meant::meant;
use crate::store::{Change, Entry, Revision, Store, StoreError};
pub use report::HostReport;

/// The scope to follow: everything.
pub const SCOPE: &str = "";

/// A host that no record can be of: people only look.
const NOBODY: HostId = HostId([0; 16]);

/// Everything that stands in etcd, judged.
#[derive(Debug)]
pub struct Fleet {
    secrets: ClusterSecrets,
    judge: Judge,
    /// What stands in the store and does not count, by key.
    refused: BTreeMap<String, Refusal>,
    /// Valid records that another host's record at the same key has precedence over.
    outclaimed: BTreeMap<String, HostId>,
    /// What drivers themselves answered.
    direct: BTreeMap<HostId, HostReport>,
    /// What hosts tell of themselves, by their records and directly.
    reports: BTreeMap<HostId, HostReport>,
    revision: Revision,
    connection: Connection,
}

/// How the picture stands with etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Connection {
    #[default]
    Connecting,
    Connected,
    /// What is shown may be old.
    Lost(String),
}

impl Fleet {
    pub fn new(secrets: ClusterSecrets) -> Self {
        let judge = Judge::new(secrets.clone(), None, NOBODY);
        Self {
            secrets,
            judge,
            refused: BTreeMap::new(),
            outclaimed: BTreeMap::new(),
            direct: BTreeMap::new(),
            reports: BTreeMap::new(),
            revision: 0,
            connection: Connection::default(),
        }
    }

    /// Looks once.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub async fn read(store: &impl Store, secrets: ClusterSecrets) -> Result<Self, StoreError> {
        let listing = store.list(SCOPE).await?;
        let mut fleet = Self::new(secrets);
        fleet.listed(listing.revision, listing.entries);
        fleet.connection = Connection::Connected;
        Ok(fleet)
    }

    /// Takes in what a follower of [`SCOPE`] tells.
    pub fn take(&mut self, event: Followed) {
        match event {
            Followed::Connected => self.connection = Connection::Connected,
            Followed::Disconnected { error } => {
                self.connection = Connection::Lost(clipped(&error, 300));
            }
            // Another history: nothing that was seen before counts for who looks from outside.
            Followed::History { .. } => self.judge = self.fresh_judge(),
            Followed::Listed { revision, entries, .. } => self.listed(revision, entries),
            Followed::Changed { revision, changes, .. } => self.changed(revision, changes),
        }
    }

    fn fresh_judge(&self) -> Judge {
        Judge::new(self.secrets.clone(), None, NOBODY)
    }

    fn listed(&mut self, revision: Revision, mut entries: Vec<Entry>) {
        // Nothing else opens before the cluster is known; who is revoked is to be known early.
        entries.sort_by_key(|entry| rank(&entry.key));
        self.refused.clear();
        self.outclaimed.clear();
        let borrowed = entries.iter().map(|it| (it.key.as_str(), &*it.value, it.mod_revision));
        for (key, verdict) in self.judge.listed(SCOPE, borrowed) {
            self.note(key, verdict);
        }
        self.revision = revision;
        let hosts: BTreeSet<HostId> =
            self.view().hosts.keys().chain(self.reports.keys()).copied().collect();
        hosts.into_iter().for_each(|host| self.renew_report(host));
    }

    fn changed(&mut self, revision: Revision, changes: Vec<Change>) {
        for change in changes {
            let status = match Path::parse(change.key()) {
                Some(Path::Status(host)) => Some(host),
                _ => None,
            };
            match change {
                Change::Put(Entry { key, value, mod_revision }) => {
                    let verdict = self.judge.put(&key, &value, mod_revision);
                    self.forget(&key);
                    self.note(key, verdict);
                }
                Change::Delete { key, .. } => {
                    self.judge.delete(&key);
                    self.forget(&key);
                }
            }
            if let Some(host) = status {
                self.renew_report(host);
            }
        }
        self.revision = revision;
    }

    fn forget(&mut self, key: &str) {
        self.refused.remove(key);
        self.outclaimed.remove(key);
    }

    fn note(&mut self, key: String, verdict: Verdict) {
        match verdict {
            Verdict::Accepted | Verdict::Ignored => {}
            Verdict::Outclaimed { by } => _ = self.outclaimed.insert(key, by),
            Verdict::Refused(refusal) => _ = self.refused.insert(key, refusal),
        }
    }

    fn renew_report(&mut self, host: HostId) {
        let entry = self.judge.entry(&Path::Status(host));
        let told = entry.and_then(|entry| HostReport::of_record(&entry.record));
        let report = match (told, self.direct.get(&host)) {
            (told, Some(direct)) => Some(direct.with(told.as_ref())),
            (told, None) => told,
        };
        match report {
            Some(report) => _ = self.reports.insert(host, report),
            None => _ = self.reports.remove(&host),
        }
    }

    /// Takes in what a driver itself answers; its record is older, and knows more of silent peers.
    pub fn hear(&mut self, host: HostId, report: HostReport) {
        self.direct.insert(host, report);
        self.renew_report(host);
    }

    /// The accepted records.
    pub fn view(&self) -> &ClusterView {
        self.judge.view()
    }

    pub fn cluster(&self) -> Option<ClusterRecord> {
        self.judge.cluster()
    }

    /// The epoch of the secret that a host's own record is sealed with.
    pub fn epoch(&self, host: HostId) -> Option<Epoch> {
        Some(self.judge.entry(&Path::Host(host))?.epoch)
    }

    /// The tombstone of a host that was revoked, and the epoch of the secret it is sealed with.
    pub fn tombstone(&self, host: HostId) -> Option<(TombstoneRecord, Epoch)> {
        let entry = self.judge.entry(&Path::Tombstone(host))?;
        match entry.record {
            Record::Tombstone(record) => Some((record, entry.epoch)),
            _ => None,
        }
    }

    /// What stands in the store and does not count.
    pub fn refused(&self) -> &BTreeMap<String, Refusal> {
        &self.refused
    }

    /// Valid records that do not count beside another host's, by key, and that host.
    pub fn outclaimed(&self) -> &BTreeMap<String, HostId> {
        &self.outclaimed
    }

    pub fn reports(&self) -> &BTreeMap<HostId, HostReport> {
        &self.reports
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A host's name for people; the beginning of its id while it has none.
    pub fn host_name(&self, host: HostId) -> String {
        match self.view().hosts.get(&host) {
            Some(record) => printable(&record.name).into_owned(),
            None => host.short(),
        }
    }

    /// The hosts whose id or name is this, or whose id begins so.
    pub fn hosts_named(&self, text: &str) -> Vec<HostId> {
        let mut known: Vec<HostId> = self.view().hosts.keys().copied().collect();
        let members = self.view().networks.values().flat_map(|network| network.members.keys());
        known.extend(members);
        known.sort_unstable();
        known.dedup();
        let found = meant(&known, text, |host| *host, |host| self.host_name(*host) == text);
        found.into_iter().flat_map(|(_, hosts)| hosts).copied().collect()
    }
}

fn rank(key: &str) -> u8 {
    match key.split('/').next() {
        Some("cluster") => 0,
        Some("tombstones") => 1,
        _ => 2,
    }
}
