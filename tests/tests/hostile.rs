//! Somebody writes to etcd who should not: without the secret, or with it and under another's name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wgnet_proto::record::{EndpointRecord, MemberRecord, Slot};
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostId, HostKey, MacAddr, NetworkKey, Opener, Path, PrivateKey,
    Record, Sealer,
};
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, Result, SECRET, WireGuard};
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
    let before = all_configured(&swarm)?;
    assert!(before.iter().all(|(_, wireguard)| {
        wireguard.as_ref().is_some_and(|wireguard| wireguard.peers.len() == 2)
    }));
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
    let member = attack.member(outsider.writer());
    let sealed = outsider.seal_record(&member, 1, &attack.member_record());
    attack.put_and_is_named(&member, &sealed, "wrong-secret")?;
    let moved = attack.endpoint("10.72.0.12");
    let record = attack.endpoint_record(outsider.writer(), "10.72.0.12", 1 << 40);
    let sealed = outsider.seal_record(&moved, 2, &record);
    attack.put_and_is_named(&moved, &sealed, "wrong-secret")?;
    unmoved("without the secret")?;

    // With the secret, under another host's name: h2's member and h2's endpoint.
    let insider = attack.sealer(attack.secrets.clone(), [2; 32]);
    let member = attack.member(attack.hosts[1]);
    let sealed = insider.seal_record(&member, 3, &attack.member_record());
    attack.put_and_is_named(&member, &sealed, "wrong-writer")?;
    let record = attack.endpoint_record(attack.hosts[1], "10.72.0.12", 1 << 40);
    let sealed = insider.seal_record(&moved, 4, &record);
    attack.put_and_is_named(&moved, &sealed, "wrong-writer")?;
    unmoved("under another host's name")?;

    // With the secret and its own name, but no member: an address it has no business with.
    let path = attack.endpoint("10.72.0.99");
    let record = attack.endpoint_record(insider.writer(), "10.72.0.99", 9);
    attack.put_raw(&path, &insider.seal_record(&path, 5, &record))?;
    attack.is_listed("10.72.0.99", insider.writer())?;
    unmoved("an endpoint of a host that is no member")?;
    assert!(boxes[0].ping("10.72.0.99").is_err(), "somebody answers for it");

    rubbish_in_the_place_of_the_cluster_is_replaced(&attack)?;
    unmoved("rubbish in the place of the cluster")?;

    a_record_moved_to_another_path_counts_for_nothing(&attack)?;
    unmoved("a record moved to another path")?;
    an_old_record_counts_for_nothing(&swarm, &attack, &boxes)?;
    what_is_deleted_is_put_back(&swarm, &attack, &boxes)
}

/// Everything that decides where a host sends what, as its kernel and WireGuard have it.
fn configured(host: &Host) -> Result<(BTreeSet<String>, Option<WireGuard>)> {
    let space = only_network(host)?.namespace;
    let routes = host.sh(&format!("ip -n {space} route show table all"))?;
    let routes = routes.lines().map(|line| line.trim().to_owned()).collect();
    Ok((routes, host.wireguard(&space, "wg0")?))
}

fn all_configured(swarm: &Swarm) -> Result<Vec<(BTreeSet<String>, Option<WireGuard>)>> {
    swarm.lab.hosts().iter().map(configured).collect()
}

struct Attack<'s> {
    swarm: &'s Swarm,
    secrets: ClusterSecrets,
    cluster: ClusterId,
    network: NetworkKey,
    hosts: Vec<HostId>,
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

    fn member(&self, host: HostId) -> Path {
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

    fn endpoint_record(&self, host: HostId, address: &str, claim: u64) -> Record {
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

    fn put_raw(&self, path: &Path, value: &[u8]) -> Result<()> {
        self.swarm.lab.etcd().put(&format!("{PREFIX}/{path}"), value)
    }

    fn get(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.swarm.lab.etcd().get(&format!("{PREFIX}/{path}"))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.swarm.lab.etcd().etcdctl(&["del", &format!("{PREFIX}/{path}")]).map(drop)
    }

    /// Plants a value. Every host counts this refusal, and names this very record for this reason,
    /// which none of them did before.
    fn put_and_is_named(&self, path: &Path, value: &[u8], reason: &str) -> Result<()> {
        let code = format!("refused-{reason}");
        let told = |host: &Host| -> Result<(bool, u64)> {
            let status = status(host)?;
            let object = path.to_string();
            let mut problems = status.problems.iter();
            let named = problems.any(|problem| problem.code == code && problem.object == object);
            Ok((named, status.refused.get(reason).copied().unwrap_or(0)))
        };
        let before: Vec<_> = self.swarm.lab.hosts().iter().map(told).collect::<Result<_>>()?;
        self.put_raw(path, value)?;
        for (host, (named, count)) in self.swarm.lab.hosts().iter().zip(before) {
            assert!(!named, "{} named {path} before it was there", host.name());
            eventually(&format!("{} to name {path}: {reason}", host.name()), SOON, || {
                told(host).is_ok_and(|(named, now)| named && now > count)
            })?;
        }
        Ok(())
    }

    /// Every host knows of an endpoint that this host says it has.
    fn is_listed(&self, address: &str, by: HostId) -> Result<()> {
        let address: IpAddr = address.parse().expect("an address");
        for host in self.swarm.lab.hosts() {
            eventually(&format!("{} to have read of {address}", host.name()), SOON, || {
                only_network(host).is_ok_and(|network| {
                    let mut endpoints = network.endpoints.iter();
                    endpoints.any(|one| one.host_id == by && one.addresses == [address])
                })
            })?;
        }
        Ok(())
    }
}

/// Without the record of the cluster nobody could publish anything.
fn rubbish_in_the_place_of_the_cluster_is_replaced(attack: &Attack<'_>) -> Result<()> {
    let published = |path: &Path| attack.get(path).map(|value| value.expect("it is published"));
    let members = || -> Result<Vec<_>> {
        attack.hosts.iter().map(|host| published(&attack.member(*host))).collect()
    };
    let (cluster, before) = (published(&Path::Cluster)?, members()?);
    for _ in 0..3 {
        attack.put_raw(&Path::Cluster, b"rubbish")?;
        eventually("the record of the cluster", SOON, || {
            attack.get(&Path::Cluster).is_ok_and(|value| value.as_ref() == Some(&cluster))
        })?;
        assert_eq!(members()?, before, "nothing is taken back meanwhile");
    }
    Ok(())
}

fn a_record_moved_to_another_path_counts_for_nothing(attack: &Attack<'_>) -> Result<()> {
    let stolen = attack.get(&attack.endpoint("10.72.0.11"))?.expect("h1's endpoint");
    attack.put_and_is_named(&attack.endpoint("10.72.0.50"), &stolen, "wrong-secret")
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
    let before = all_configured(swarm)?;
    attack.put_and_is_named(&path, &recorded, "rolled-back")?;
    assert_eq!(all_configured(swarm)?, before, "an old record is followed");
    eventually("the owner to put its record back", SOON, || {
        attack.get(&path).is_ok_and(|now| now.is_some() && now.as_ref() != Some(&recorded))
    })?;
    assert_eq!(all_configured(swarm)?, before, "an old record is followed");
    assert!(boxes[0].ping("10.72.0.20").is_ok());
    Ok(())
}

fn what_is_deleted_is_put_back(
    swarm: &Swarm,
    attack: &Attack<'_>,
    boxes: &[Container<'_>],
) -> Result<()> {
    let before = all_configured(swarm)?;
    for path in
        [attack.endpoint("10.72.0.12"), attack.member(attack.hosts[1]), Path::Host(attack.hosts[1])]
    {
        attack.delete(&path)?;
        eventually(&format!("{path} to be put back"), SOON, || {
            attack.get(&path).is_ok_and(|value| value.is_some())
        })?;
        eventually("traffic", SOON, || boxes[0].ping("10.72.0.12").is_ok())?;
        assert!(boxes[0].ping("10.72.0.13").is_ok(), "nothing else is affected");
        eventually(&format!("everything as before {path} was deleted"), SOON, || {
            all_configured(swarm).is_ok_and(|now| now == before)
        })?;
    }
    eventually("every host in sync", SOON, || {
        swarm.lab.hosts().iter().all(|host| only_network(host).is_ok_and(|network| network.in_sync))
    })
}
