//! Somebody writes to etcd who should not: without the secret, or with it and under another's name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wgnet_proto::record::{EndpointRecord, MemberRecord, Slot};
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostKey, MacAddr, NetworkKey, Opener, Path, PrivateKey, Record,
    Sealer,
};
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, Result, SECRET};
use wgnet_tests::swarm::{SOON, Swarm, eventually, only_network, status};

const PREFIX: &str = "/wgnet/v1";

#[test]
fn a_hostile_writer_configures_nothing_is_named_and_what_it_deletes_comes_back() -> Result<()> {
    let swarm = Swarm::start("e2e-hostile", 3)?;
    swarm.network("blue", &["--subnet", "10.72.0.0/24"])?;
    let boxes: Vec<_> = (1..=3)
        .map(|number| {
            swarm.run(
                number,
                &format!("box{number}"),
                "blue",
                &["--ip", &format!("10.72.0.{}", 10 + number)],
            )
        })
        .collect::<Result<_>>()?;
    eventually("all pings", SOON, || {
        boxes.iter().all(|from| (1..=3).all(|to| from.ping(&format!("box{to}")).is_ok()))
    })?;

    let attack = Attack::prepare(&swarm)?;
    let before: Vec<_> = swarm.lab.hosts().iter().map(configured).collect::<Result<_>>()?;
    let unmoved = |what: &str| -> Result<()> {
        for (host, before) in swarm.lab.hosts().iter().zip(&before) {
            assert_eq!(
                &configured(host)?,
                before,
                "{what}: {} has configured something",
                host.name()
            );
        }
        assert!(boxes[0].ping("10.72.0.12").is_ok(), "{what}");
        Ok(())
    };

    // Without the secret: a new member, and an endpoint moved to it.
    let outsider = attack.sealer(ClusterSecrets::generate([7; 32]), [1; 32]);
    attack.put(&attack.member(outsider.writer()), &outsider, 1, &attack.member_record())?;
    attack.put(
        &attack.endpoint("10.72.0.12"),
        &outsider,
        2,
        &attack.endpoint_record(outsider.writer(), "10.72.0.12", 1 << 40),
    )?;
    attack.is_named("wrong-secret")?;
    unmoved("without the secret")?;

    // With the secret, under another host's name: h2's member and h2's endpoint.
    let insider = attack.sealer(attack.secrets.clone(), [2; 32]);
    attack.put(&attack.member(attack.hosts[1]), &insider, 3, &attack.member_record())?;
    attack.put(
        &attack.endpoint("10.72.0.12"),
        &insider,
        4,
        &attack.endpoint_record(attack.hosts[1], "10.72.0.12", 1 << 40),
    )?;
    attack.is_named("wrong-writer")?;
    unmoved("under another host's name")?;

    // With the secret and its own name, but no member: an address it has no business with.
    attack.put(
        &attack.endpoint("10.72.0.99"),
        &insider,
        5,
        &attack.endpoint_record(insider.writer(), "10.72.0.99", 9),
    )?;
    unmoved("an endpoint of a host that is no member")?;

    a_record_moved_to_another_path_counts_for_nothing(&attack)?;
    unmoved("a record moved to another path")?;
    an_old_record_counts_for_nothing(&swarm, &attack, &boxes)?;
    what_is_deleted_is_put_back(&swarm, &attack, &boxes)
}

/// Everything that decides where a host sends what.
fn configured(host: &Host) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let network = only_network(host)?;
    let routes = host.sh(&format!("ip -n {} route", network.namespace))?;
    let peers = network.members.iter().filter(|member| member.underlay.is_some());
    let peers = peers.map(|member| format!("{} {}", member.host_id, member.public_key)).collect();
    Ok((routes.lines().map(|line| line.trim().to_owned()).collect(), peers))
}

struct Attack<'s> {
    swarm: &'s Swarm,
    secrets: ClusterSecrets,
    cluster: ClusterId,
    network: NetworkKey,
    hosts: Vec<wgnet_proto::HostId>,
}

impl<'s> Attack<'s> {
    fn prepare(swarm: &'s Swarm) -> Result<Self> {
        let secrets = ClusterSecrets::load(&swarm.host(1).path(SECRET)).expect("the lab made it");
        let sealed = swarm.lab.etcd().get(&format!("{PREFIX}/cluster"))?.expect("a cluster");
        let cluster = Opener::new(secrets.clone(), None)
            .open(&Path::Cluster, &sealed)
            .expect("genuine")
            .cluster;
        let hosts = swarm
            .lab
            .hosts()
            .iter()
            .map(|host| Ok(status(host)?.host_id))
            .collect::<Result<_>>()?;
        Ok(Self { swarm, secrets, cluster, network: only_network(swarm.host(1))?.key, hosts })
    }

    fn sealer(&self, secrets: ClusterSecrets, key: [u8; 32]) -> Sealer {
        Sealer::new(HostKey::from_random(key), secrets, self.cluster)
    }

    fn member(&self, host: wgnet_proto::HostId) -> Path {
        Path::Member(self.network.clone(), host)
    }

    fn endpoint(&self, address: &str) -> Path {
        Path::Endpoint(self.network.clone(), address.parse().expect("an address"))
    }

    fn member_record(&self) -> Record {
        let key = PrivateKey::from_random([9; 32]).public();
        let slot = Slot {
            generation: 0,
            public_key: key,
            port: 4000,
            underlay: vec!["192.0.2.200".parse().expect("an address")],
        };
        Record::Member(MemberRecord { slots: vec![slot], ready_generation: 0, floor: 0 })
    }

    fn endpoint_record(&self, host: wgnet_proto::HostId, address: &str, claim: u64) -> Record {
        let address: IpAddr = address.parse().expect("an address");
        let endpoint = "e".repeat(64).parse().expect("an id");
        Record::Endpoint(EndpointRecord {
            addresses: vec![address],
            endpoint,
            host,
            mac: MacAddr::of_address(address),
            claim,
        })
    }

    fn put(&self, path: &Path, sealer: &Sealer, seq: u64, record: &Record) -> Result<()> {
        self.put_raw(path, &sealer.seal_record(path, seq, record))
    }

    fn put_raw(&self, path: &Path, value: &[u8]) -> Result<()> {
        self.swarm.lab.etcd().put(&format!("{PREFIX}/{path}"), value)
    }

    fn get(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.swarm.lab.etcd().get(&format!("{PREFIX}/{path}"))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.swarm.lab.etcd().etcdctl(&["del", &format!("{PREFIX}/{path}")]).map(drop)
    }

    /// Every host counts the refusal and says it in its status.
    fn is_named(&self, reason: &str) -> Result<()> {
        for host in self.swarm.lab.hosts() {
            eventually(&format!("{} to name {reason}", host.name()), SOON, || {
                let Ok(status) = status(host) else { return false };
                status.refused.get(reason).is_some_and(|count| *count > 0)
                    && status
                        .problems
                        .iter()
                        .any(|problem| problem.code == format!("refused-{reason}"))
            })?;
        }
        Ok(())
    }
}

fn a_record_moved_to_another_path_counts_for_nothing(attack: &Attack<'_>) -> Result<()> {
    let stolen = attack.get(&attack.endpoint("10.72.0.11"))?.expect("h1's endpoint");
    attack.put_raw(&attack.endpoint("10.72.0.50"), &stolen)?;
    attack.is_named("wrong-secret")
}

/// A container moves from h2 to h3; its old record is put back in place of the new one.
fn an_old_record_counts_for_nothing(
    swarm: &Swarm,
    attack: &Attack<'_>,
    boxes: &[Container<'_>],
) -> Result<()> {
    let path = attack.endpoint("10.72.0.20");
    let old = swarm.run(2, "mover2", "blue", &["--ip", "10.72.0.20"])?;
    eventually("the first place", SOON, || boxes[0].ping("10.72.0.20").is_ok())?;
    let recorded = attack.get(&path)?.expect("a record");
    swarm.remove(&old)?;
    swarm.run(3, "mover3", "blue", &["--ip", "10.72.0.20"])?;
    eventually("the second place", SOON, || boxes[0].ping("10.72.0.20").is_ok())?;
    let before = configured(swarm.host(1))?;
    attack.put_raw(&path, &recorded)?;
    eventually("the owner to put its record back", SOON, || {
        attack.get(&path).is_ok_and(|now| now.is_some() && now.as_ref() != Some(&recorded))
    })?;
    assert_eq!(configured(swarm.host(1))?, before, "an old record is followed");
    assert!(boxes[0].ping("10.72.0.20").is_ok());
    Ok(())
}

fn what_is_deleted_is_put_back(
    swarm: &Swarm,
    attack: &Attack<'_>,
    boxes: &[Container<'_>],
) -> Result<()> {
    for path in
        [attack.endpoint("10.72.0.12"), attack.member(attack.hosts[1]), Path::Host(attack.hosts[1])]
    {
        attack.delete(&path)?;
        eventually(&format!("{path} to be put back"), SOON, || {
            attack.get(&path).is_ok_and(|value| value.is_some())
        })?;
        eventually("traffic", SOON, || boxes[0].ping("10.72.0.12").is_ok())?;
        assert!(boxes[0].ping("10.72.0.13").is_ok(), "nothing else is affected");
    }
    eventually("every host in sync", SOON, || {
        swarm.lab.hosts().iter().all(|host| only_network(host).is_ok_and(|network| network.in_sync))
    })
}
