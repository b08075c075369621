//! `wgnetctl revoke` and `wgnetctl secret`: what stands in etcd then, and what is refused before.

use std::path::PathBuf;

use serde_json::json;
use wgnet_control_plane::store::Entry;
use wgnet_proto::record::TombstoneRecord;
use wgnet_proto::{HostId, Opened, Opener};

use super::*;

impl Fleet {
    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn secrets(&self) -> ClusterSecrets {
        ClusterSecrets::load(&self.secret()).unwrap()
    }

    /// What a host's own record says, sealed with the newest secret of the file.
    async fn put_anew(&mut self, host: u8, path: Path, record: Record) {
        self.seq += 1;
        let sealer = Sealer::new(key(host), self.secrets(), CLUSTER);
        let value = sealer.seal_record(&path, self.seq, &record);
        let ops = vec![Op::Put { key: path.to_string(), value }];
        self.store.commit(Txn { conditions: vec![], ops }).await.unwrap();
    }

    async fn renew(&mut self, host: u8) {
        let id = key(host).id();
        self.put_anew(host, Path::Host(id), Record::Host(named(&format!("h{host}")))).await;
        let alive = AliveRecord { boot: "b".to_owned() };
        self.put_anew(host, Path::Alive(id), Record::Alive(alive)).await;
    }

    async fn tombstones(&self) -> Vec<Entry> {
        self.store.list("tombstones/").await.unwrap().entries
    }

    /// The only one there is, opened with the secrets of the file.
    async fn tombstone(&self) -> (HostId, Opened, TombstoneRecord) {
        let [entry] = &self.tombstones().await[..] else { panic!("one tombstone") };
        let path = Path::parse(&entry.key).unwrap();
        let opened = Opener::new(self.secrets(), Some(CLUSTER)).open(&path, &entry.value).unwrap();
        let Ok(Record::Tombstone(record)) = Record::decode(&path, &opened.payload) else {
            panic!("it is one")
        };
        let Path::Tombstone(host) = path else { panic!("it stands there") };
        (host, opened, record)
    }

    fn revoke(&self, host: &str) -> Value {
        let output = self.run(&["revoke", host, "--yes", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refuses(&self, args: &[&str], told: &[&str]) {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        told.iter().for_each(|told| assert!(said.contains(told), "{told}: {said}"));
    }

    fn change_secret(&self, how: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgnetctl"));
        let output = command.args(["secret", how]).arg(self.secret()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = std::fs::read_to_string(self.secret()).unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("epoch ")) {
            let secret = line.split(' ').nth(1).unwrap();
            assert!(!said.contains(secret), "a secret is shown");
        }
    }
}

fn named(name: &str) -> HostRecord {
    HostRecord {
        name: name.to_owned(),
        underlay: vec![IpAddr::from([192, 0, 2, 77])],
        version: "0.1.0".to_owned(),
        backend: "kernel".to_owned(),
        incarnation: Incarnation([2; 16]),
    }
}

fn id(host: u8) -> String {
    key(host).id().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_locked_out_by_one_order_and_twice_is_once() {
    let mut fleet = Fleet::start().await;
    fleet.refuses(&["revoke", "h2"], &["--yes", &id(2)]);
    fleet.refuses(&["revoke", "h9", "--yes"], &["there is no host h9", &id(1), &id(2), "alive"]);
    assert_eq!(fleet.tombstones().await, []);

    let done = fleet.revoke("h2");
    assert_eq!((&done["host"], &done["name"]), (&id(2).into(), &"h2".into()));
    assert_eq!((&done["was_revoked"], &done["epoch"]), (&false.into(), &1.into()));
    assert!(done["next_step"].as_str().unwrap().contains("wgnetctl secret next"));
    let (host, opened, record) = fleet.tombstone().await;
    assert_eq!((host, opened.epoch), (key(2).id(), 1));
    assert_eq!(record.reason, "revoked by an operator: h2");
    let hosts = fleet.json(&["hosts"]);
    let states: Vec<_> = hosts.iter().map(|host| host["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "revoked").count(), 1, "{hosts:?}");
    assert_eq!(fleet.json(&["endpoints"]).len(), 1, "what it wrote counts no more");

    // By its name, its id or the beginning of that, and without a terminal: nothing is to be asked.
    let before = fleet.tombstones().await;
    for name in ["h2", &id(2), &id(2)[..8]] {
        let output = fleet.command(&["revoke", name]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("revoked already"), "{output:?}");
    }
    assert_eq!(fleet.revoke("h2")["was_revoked"], true);
    assert_eq!(fleet.tombstones().await, before);

    // Another host with the name of one.
    let third = key(3).id();
    fleet.put(3, Path::Host(third), Record::Host(named("h1"))).await;
    fleet.refuses(&["revoke", "h1", "--yes"], &["several", &id(1), &id(3)]);
    assert_eq!(fleet.revoke(&id(3))["was_revoked"], false);
    assert_eq!(fleet.tombstones().await.len(), 2);

    fleet.etcd.kill_all();
    let output = fleet.run(&["revoke", "h1", "--yes"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_where_it_is_ordered_is_revoked_by_its_id_only() {
    let fleet = Fleet::start().await;
    let status = json!({
        "host_id": id(1), "name": "h1", "version": "0.1.0", "backend": "kernel",
        "underlay": [], "networks": [],
        "store": {"connected": true, "error": null, "revision": 1, "unpublished": 0},
        "hosts": [], "problems": [], "refused": {}
    });
    let body = status.to_string();
    let listener = UnixListener::bind(fleet.dir.path().join("no-driver")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).unwrap();
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}");
            write!(stream, "{head}\r\n\r\n{body}").unwrap();
        }
    });
    let by_id = format!("wgnetctl revoke {}", id(1));
    fleet.refuses(&["revoke", "h1", "--yes"], &["this very host", &by_id]);
    assert_eq!(fleet.tombstones().await, []);
    fleet.revoke(&id(1));
    assert_eq!(fleet.tombstone().await.0, key(1).id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tombstone_is_sealed_with_the_secret_all_hosts_know_and_anew_when_they_know_the_next() {
    let mut fleet = Fleet::start().await;
    fleet.change_secret("next");
    assert_eq!(fleet.secrets().epochs().collect::<Vec<_>>(), [1, 2]);
    // This host's file has it, h1 does not use it yet.
    assert_eq!(fleet.revoke("h2")["epoch"], 1);
    let (_, opened, of_before) = fleet.tombstone().await;
    assert_eq!(opened.epoch, 1);

    fleet.renew(1).await;
    let done = fleet.revoke("h2");
    assert_eq!((&done["was_revoked"], &done["epoch"]), (&true.into(), &2.into()));
    assert!(done["next_step"].as_str().unwrap().contains("drop-old"), "{done}");
    let (host, opened, record) = fleet.tombstone().await;
    assert_eq!((host, opened.epoch, record), (key(2).id(), 2, of_before));
    let before = fleet.tombstones().await;
    fleet.revoke("h2");
    assert_eq!(fleet.tombstones().await, before, "once is enough");

    fleet.change_secret("drop-old");
    let incarnation = Incarnation([2; 16]);
    let cluster =
        ClusterRecord { cluster: CLUSTER, incarnation, schema: 1, history: 1, announced_at: 0 };
    fleet.put_anew(1, Path::Cluster, Record::Cluster(cluster)).await;
    assert_eq!(fleet.tombstone().await.1.epoch, 2, "it lasts");
    assert_eq!(fleet.revoke("h2")["was_revoked"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tombstone_that_was_forgotten_when_its_secret_was_dropped_is_sealed_by_the_whole_id() {
    let mut fleet = Fleet::start().await;
    fleet.revoke("h2");
    fleet.change_secret("next");
    fleet.change_secret("drop-old");
    let incarnation = Incarnation([2; 16]);
    let cluster =
        ClusterRecord { cluster: CLUSTER, incarnation, schema: 1, history: 1, announced_at: 0 };
    fleet.put_anew(1, Path::Cluster, Record::Cluster(cluster)).await;
    fleet.renew(1).await;
    let problems = fleet.json(&["problems"]);
    let object = format!("tombstones/{}", id(2));
    assert!(problems.iter().any(|it| it["object"] == object.as_str()), "{problems:?}");

    fleet.refuses(&["revoke", "h2", "--yes"], &["there is no host h2"]);
    let done = fleet.revoke(&id(2));
    assert_eq!((&done["was_revoked"], &done["epoch"]), (&true.into(), &2.into()));
    assert_eq!(fleet.tombstone().await.0, key(2).id());
    let problems = fleet.json(&["problems"]);
    assert!(problems.iter().all(|it| it["object"] != object.as_str()), "{problems:?}");
}
