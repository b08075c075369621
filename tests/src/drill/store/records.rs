//! What etcd holds, opened with the cluster's secret: whether all of it is again what it was before etcd
//! lost its history, written anew by those whose it is.

use std::collections::BTreeMap;

use wgnet_proto::record::HostRecord;
use wgnet_proto::{ClusterSecrets, HostId, Incarnation, Opener, Path, Record};

use super::scene::odd;
use super::trouble::PREFIX;
use crate::lab::{Etcd, Result};

/// All but what hosts say of their own state, each at a pace of its own.
#[derive(Debug)]
pub(super) struct Records(BTreeMap<Path, Written>);

#[derive(Debug)]
struct Written {
    writer: HostId,
    seq: u64,
    record: Record,
}

impl Records {
    pub(super) fn read(etcd: &Etcd, secrets: &ClusterSecrets) -> Result<Self> {
        let mut sealed = BTreeMap::new();
        for (key, value) in etcd.values()? {
            let rest = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/'));
            let path = rest.and_then(Path::parse);
            let path =
                path.ok_or_else(|| odd(&format!("etcd holds {key}, which no driver writes")))?;
            if !matches!(path, Path::Status(_)) {
                sealed.insert(path, value);
            }
        }
        Self::open(&sealed, secrets).map_err(|what| odd(&what))
    }

    fn open(sealed: &BTreeMap<Path, Vec<u8>>, secrets: &ClusterSecrets) -> Result<Self, String> {
        let mut opener = Opener::new(secrets.clone(), None);
        let cluster = sealed.get(&Path::Cluster).ok_or("cluster is missing")?;
        let cluster = opener.open(&Path::Cluster, cluster);
        opener.pin(cluster.map_err(|refused| format!("cluster: {refused}"))?.cluster);
        let mut records = BTreeMap::new();
        for (path, value) in sealed {
            let opened =
                opener.open(path, value).map_err(|refused| format!("{path}: {refused}"))?;
            let record = Record::decode(path, &opened.payload);
            let record = record.map_err(|error| format!("{path}: {error}"))?;
            let (writer, seq) = (opened.writer, opened.seq);
            records.insert(path.clone(), Written { writer, seq, record });
        }
        Ok(Self(records))
    }

    /// Fails with the first that is missing, was not there before, or is another than it was.
    pub(super) fn are_again(&self, before: &Self) -> Result<(), String> {
        if let Some(path) = before.0.keys().find(|path| !self.0.contains_key(path)) {
            return Err(format!("{path} is missing"));
        }
        let incarnation = match self.0.get(&Path::Cluster).map(|cluster| &cluster.record) {
            Some(Record::Cluster(cluster)) => cluster.incarnation,
            other => return Err(format!("cluster is {other:?}")),
        };
        self.0.iter().try_for_each(|(path, now)| {
            let then = before.0.get(path).ok_or_else(|| format!("{path} was not there before"))?;
            now.is_again(then, incarnation).map_err(|what| format!("{path}: {what}"))
        })
    }
}

impl Written {
    fn is_again(&self, before: &Self, incarnation: Incarnation) -> Result<(), String> {
        let is_same = match (&self.record, &before.record) {
            (Record::Cluster(now), Record::Cluster(then)) => {
                now.cluster == then.cluster
                    && now.incarnation != then.incarnation
                    && now.history > then.history
            }
            // Which says, too, that its host's others are complete.
            (Record::Host(now), Record::Host(then)) => {
                *now == HostRecord { incarnation, ..then.clone() }
            }
            (Record::Member(now), Record::Member(then)) => {
                now.slots == then.slots
                    && now.ready_generation == then.ready_generation
                    && now.floor >= then.floor
            }
            (now, then) => now == then,
        };
        if !is_same {
            return Err(format!("{:?} became {:?}", before.record, self.record));
        }
        // What is the same from every host is written by whoever comes first.
        if matches!(self.record, Record::Cluster(_) | Record::Network(_) | Record::Generation(_)) {
            return Ok(());
        }
        if self.writer != before.writer {
            return Err(format!("written by {}, before by {}", self.writer, before.writer));
        }
        // Others refuse a backup's, which is older than what they know.
        if self.seq <= before.seq {
            return Err(format!("number {} after {} is not written anew", self.seq, before.seq));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wgnet_proto::record::{ClusterRecord, EndpointRecord};
    use wgnet_proto::{ClusterId, HostKey, MacAddr, Sealer};

    use super::*;

    const FIRST: Incarnation = Incarnation([1; 16]);
    const SECOND: Incarnation = Incarnation([2; 16]);

    type Change = dyn Fn(&mut Store);

    struct Store {
        secrets: ClusterSecrets,
        sealed: BTreeMap<Path, Vec<u8>>,
    }

    impl Store {
        /// A cluster of two hosts, the first of which has a container.
        fn of(incarnation: Incarnation, history: u64, seq: u64) -> Self {
            let secrets = ClusterSecrets::generate([9; 32]);
            let mut store = Self { secrets, sealed: BTreeMap::new() };
            let cluster = ClusterId([7; 16]);
            let record =
                ClusterRecord { cluster, incarnation, schema: 1, history, announced_at: 0 };
            store.put(1, seq, Path::Cluster, Record::Cluster(record));
            for number in [1, 2] {
                store.host(number, seq, incarnation);
            }
            store.endpoint(1, seq, 1);
            store
        }

        fn sealer(&self, number: u8) -> Sealer {
            let key = HostKey::from_random([number; 32]);
            Sealer::new(key, self.secrets.clone(), ClusterId([7; 16]))
        }

        fn put(&mut self, number: u8, seq: u64, path: Path, record: Record) {
            let value = self.sealer(number).seal_record(&path, seq, &record);
            self.sealed.insert(path, value);
        }

        fn host(&mut self, number: u8, seq: u64, incarnation: Incarnation) {
            let record = HostRecord {
                name: format!("h{number}"),
                underlay: vec![[192, 0, 2, number].into()],
                version: "1".to_owned(),
                backend: "kernel".to_owned(),
                incarnation,
            };
            let path = Path::Host(self.sealer(number).writer());
            self.put(number, seq, path, Record::Host(record));
        }

        fn endpoint(&mut self, number: u8, seq: u64, claim: u64) {
            let address = [10, 0, 0, 5].into();
            let record = EndpointRecord {
                addresses: vec![address],
                endpoint: "e".repeat(64).parse().unwrap(),
                host: self.sealer(number).writer(),
                mac: MacAddr([2, 0, 10, 0, 0, 5]),
                claim,
            };
            let path = Path::Endpoint("n-blue".parse().unwrap(), address);
            self.put(number, seq, path, Record::Endpoint(record));
        }

        fn opened(&self) -> Records {
            Records::open(&self.sealed, &self.secrets).unwrap()
        }
    }

    #[test]
    fn names_of_keys_alone_do_not_make_records_complete() {
        let before = Store::of(FIRST, 1, 10).opened();
        let after = |change: &Change| {
            let mut store = Store::of(SECOND, 2, 20);
            change(&mut store);
            store.opened().are_again(&before).err().unwrap_or_default()
        };
        assert_eq!(after(&|_| {}), "");
        let wrong: [(&str, &Change); 6] = [
            ("is missing", &|store| drop(store.sealed.pop_last())),
            ("was not there before", &|store| store.host(3, 20, SECOND)),
            ("became", &|store| store.endpoint(2, 20, 1)),
            ("became", &|store| store.endpoint(1, 20, 2)),
            ("became", &|store| store.host(2, 20, FIRST)),
            ("is not written anew", &|store| store.host(2, 9, SECOND)),
        ];
        for (said, change) in wrong {
            assert!(after(change).contains(said), "{said}: {}", after(change));
        }
        // The same history as before: nobody noticed that it was lost.
        let same = Store::of(FIRST, 1, 20).opened();
        assert!(same.are_again(&before).unwrap_err().starts_with("cluster: "));
    }

    #[test]
    fn rubbish_is_no_record() {
        let mut store = Store::of(FIRST, 1, 10);
        store.sealed.insert(Path::Cluster, vec![1, 2, 3]);
        assert!(Records::open(&store.sealed, &store.secrets).is_err());
    }
}
