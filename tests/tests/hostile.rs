//! Somebody writes to etcd who should not: without the secret, or with it and under another's name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord, Slot};
use wgnet_proto::{
    ClusterId, ClusterSecrets, HostId, HostKey, MacAddr, NetworkKey, Opener, Path, PrivateKey,
    Record, Sealer,
};
use wgnet_tests::lab::checks::Container;
use wgnet_tests::lab::{Host, LabError, PeerAddresses, Result, SECRET, WireGuard};
use wgnet_tests::swarm::{NAMED, SOON, Swarm, eventually, only_network, status};

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
    eventually("all pings", NAMED, || {
        boxes.iter().all(|from| (1..=3).all(|to| from.ping(&format!("box{to}")).is_ok()))
    })?;

    let attack = Attack::prepare(&swarm)?;
    let before = all_configured(&swarm)?;
    assert!(before.iter().all(|one| one.wireguard.peers.len() == 2));
    everybody_is_where_it_is(&swarm, &before);
    let unmoved = |what: &str| -> Result<()> {
        is_unmoved(&swarm, &before, what)?;
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
    attack.put_while_its_owner_sleeps(2, &moved, &sealed, "wrong-secret", || {
        unmoved("another host's endpoint, without the secret")
    })?;
    let (path, record) = attack.host_elsewhere(2)?;
    let sealed = outsider.seal_record(&path, 3, &record);
    attack.put_while_its_owner_sleeps(2, &path, &sealed, "wrong-secret", || {
        unmoved("another underlay address, without the secret")
    })?;

    // With the secret, under another host's name: h2's member, h2's endpoint, and h2 itself.
    let insider = attack.sealer(attack.secrets.clone(), [2; 32]);
    let member = attack.member(attack.hosts[1]);
    let sealed = insider.seal_record(&member, 3, &attack.member_record());
    attack.put_while_its_owner_sleeps(2, &member, &sealed, "wrong-writer", || {
        unmoved("another host's member")
    })?;
    let record = attack.endpoint_record(attack.hosts[1], "10.72.0.12", 1 << 40);
    let sealed = insider.seal_record(&moved, 4, &record);
    attack.put_while_its_owner_sleeps(2, &moved, &sealed, "wrong-writer", || {
        unmoved("another host's endpoint")
    })?;
    let (path, record) = attack.host_elsewhere(2)?;
    let sealed = insider.seal_record(&path, 5, &record);
    attack.put_while_its_owner_sleeps(2, &path, &sealed, "wrong-writer", || {
        unmoved("another host's underlay address")
    })?;

    // With the secret and its own name, but no member: an address it has no business with.
    let path = attack.endpoint("10.72.0.99");
    let record = attack.endpoint_record(insider.writer(), "10.72.0.99", 9);
    attack.put_raw(&path, &insider.seal_record(&path, 6, &record))?;
    attack.is_listed("10.72.0.99", insider.writer())?;
    unmoved("an endpoint of a host that is no member")?;
    assert!(boxes[0].ping("10.72.0.99").is_err(), "somebody answers for it");

    rubbish_in_the_place_of_the_cluster_is_replaced(&attack)?;
    unmoved("rubbish in the place of the cluster")?;

    a_record_moved_to_another_path_counts_for_nothing(&attack)?;
    unmoved("a record moved to another path")?;
    an_old_record_counts_for_nothing(&swarm, &attack, &boxes)?;
    an_old_member_counts_for_nothing(&swarm, &attack, &boxes)?;
    what_is_deleted_is_put_back(&swarm, &attack, &boxes)
}

/// Everything that decides where a host sends what, as its kernel and WireGuard have it.
#[derive(Debug, PartialEq, Eq)]
struct Configured {
    routes: BTreeSet<String>,
    wireguard: WireGuard,
    /// No host of this lab moves, so that WireGuard has no reason of its own to change it.
    underlay: PeerAddresses,
}

impl Configured {
    /// What was cut off is missing; nothing goes another way.
    fn leads_nowhere_new(&self, before: &Self, what: &Path) {
        let routes: Vec<_> = self.routes.difference(&before.routes).collect();
        assert!(routes.is_empty(), "{what}: new routes {routes:?}");
        assert_eq!(self.wireguard.public_key, before.wireguard.public_key, "{what}");
        for (peer, addresses) in &self.wireguard.peers {
            let had = before.wireguard.peers.get(peer);
            assert!(
                had.is_some_and(|had| addresses.is_subset(had)),
                "{what}: {peer} got {addresses:?}"
            );
        }
        for (peer, at) in &self.underlay {
            assert_eq!(Some(at), before.underlay.get(peer), "{what}: {peer} is sent to elsewhere");
        }
    }
}

fn configured(host: &Host, space: &str) -> Result<Configured> {
    let routes = host.sh(&format!("ip -n {space} route show table all"))?;
    // The kernel gives each link these, some seconds after the link.
    let is_link_local = |line: &&str| line.contains("fe80::") || line.contains("ff00::/8");
    let routes = routes.lines().filter(|line| !is_link_local(line));
    let routes = routes.map(|line| line.trim().to_owned()).collect();
    let absent = || LabError::Machine(format!("{} has no WireGuard in {space}", host.name()));
    let wireguard = host.wireguard(space, "wg0")?.ok_or_else(absent)?;
    let underlay = host.wireguard_underlay(space, "wg0")?.ok_or_else(absent)?;
    Ok(Configured { routes, wireguard, underlay })
}

/// No driver is asked: one of them may sleep.
fn all_configured(swarm: &Swarm) -> Result<Vec<Configured>> {
    let pins = "ls /run/netns | grep '^wgnet-'";
    swarm.lab.hosts().iter().map(|host| configured(host, &host.sh(pins)?)).collect()
}

fn is_unmoved(swarm: &Swarm, before: &[Configured], what: &str) -> Result<()> {
    for ((host, before), now) in swarm.lab.hosts().iter().zip(before).zip(all_configured(swarm)?) {
        assert_eq!(&now, before, "{what}: {} has configured something", host.name());
    }
    Ok(())
}

/// Each host sends to the others' own addresses and ports.
fn everybody_is_where_it_is(swarm: &Swarm, all: &[Configured]) {
    let places: BTreeMap<_, _> = swarm
        .lab
        .hosts()
        .iter()
        .zip(all)
        .map(|(host, Configured { wireguard, .. })| {
            let address: IpAddr = host.address().parse().expect("an address");
            (wireguard.public_key, Some(SocketAddr::new(address, wireguard.port)))
        })
        .collect();
    for (host, Configured { wireguard, underlay, .. }) in swarm.lab.hosts().iter().zip(all) {
        let mut others = places.clone();
        others.remove(&wireguard.public_key);
        assert_eq!(underlay, &others, "{} sends elsewhere", host.name());
    }
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

    /// What a host says of itself, but with another underlay address.
    fn host_elsewhere(&self, number: usize) -> Result<(Path, Record)> {
        let path = Path::Host(self.hosts[number - 1]);
        let sealed = self.get(&path)?.expect("it is published");
        let opened = Opener::new(self.secrets.clone(), Some(self.cluster)).open(&path, &sealed);
        let record = Record::decode(&path, &opened.expect("genuine").payload);
        let Ok(Record::Host(record)) = record else { panic!("{path} is no host") };
        let underlay = vec!["192.0.2.200".parse().expect("an address")];
        Ok((path, Record::Host(HostRecord { underlay, ..record })))
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
        let counts = self.counts_before(path, reason)?;
        self.put_raw(path, value)?;
        let mut hosts = self.swarm.lab.hosts().iter().zip(counts);
        hosts.try_for_each(|(host, count)| is_named(host, path, reason, count))
    }

    /// The same, in place of a record whose owner would put its own back at once: its driver sleeps,
    /// so that the planted one stands until the others have named it and were looked at.
    fn put_while_its_owner_sleeps(
        &self,
        owner: usize,
        path: &Path,
        value: &[u8],
        reason: &str,
        unmoved: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let counts = self.counts_before(path, reason)?;
        let hosts: Vec<_> = self.swarm.lab.hosts().iter().zip(counts).collect();
        let (owner, seen_by_owner) = hosts[owner - 1];
        owner.driver_kill("STOP")?;
        self.put_raw(path, value)?;
        for (host, count) in hosts.into_iter().filter(|(host, _)| host.name() != owner.name()) {
            is_named(host, path, reason, count)?;
        }
        unmoved()?;
        assert!(self.get(path)?.is_some_and(|now| now == value), "{path} stood all the time");
        owner.driver_kill("CONT")?;
        is_named(owner, path, reason, seen_by_owner)?;
        eventually(&format!("the owner of {path} to put its own back"), SOON, || {
            self.get(path).is_ok_and(|now| now.is_some_and(|now| now != value))
        })?;
        unmoved()
    }

    /// How many each host has refused for this reason; none has named this record for it.
    fn counts_before(&self, path: &Path, reason: &str) -> Result<Vec<u64>> {
        let count = |host: &Host| {
            let (named, count) = told(host, path, reason)?;
            assert!(!named, "{} named {path} before it was there", host.name());
            Ok(count)
        };
        self.swarm.lab.hosts().iter().map(count).collect()
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

fn is_named(host: &Host, path: &Path, reason: &str, count: u64) -> Result<()> {
    eventually(&format!("{} to name {path}: {reason}", host.name()), SOON, || {
        told(host, path, reason).is_ok_and(|(named, now)| named && now > count)
    })
}

/// Whether a host names this record for this reason, and how many it refused for it.
fn told(host: &Host, path: &Path, reason: &str) -> Result<(bool, u64)> {
    let (status, object, code) = (status(host)?, path.to_string(), format!("refused-{reason}"));
    let mut problems = status.problems.iter();
    let named = problems.any(|problem| problem.code == code && problem.object == object);
    Ok((named, status.refused.get(reason).copied().unwrap_or(0)))
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
    // The manager hears of the freed address when it does.
    eventually("the address to be free again", SOON, || {
        let run = swarm.run(3, "mover3", "blue", &["--ip", "10.72.0.20"]);
        run.inspect_err(|_| drop(swarm.host(3).docker(&["rm", "-f", "mover3"]))).is_ok()
    })?;
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

/// h3's member is published anew, as after a deletion; its record of before is put back.
fn an_old_member_counts_for_nothing(
    swarm: &Swarm,
    attack: &Attack<'_>,
    boxes: &[Container<'_>],
) -> Result<()> {
    let path = attack.member(attack.hosts[2]);
    let recorded = attack.get(&path)?.expect("a record");
    let before = all_configured(swarm)?;
    attack.delete(&path)?;
    eventually("h3's member to be published anew", SOON, || {
        attack.get(&path).is_ok_and(|now| now.is_some_and(|now| now != recorded))
    })?;
    eventually("everything as before its deletion", SOON, || {
        all_configured(swarm).is_ok_and(|now| now == before) && boxes[0].ping("10.72.0.13").is_ok()
    })?;
    attack.put_while_its_owner_sleeps(3, &path, &recorded, "rolled-back", || {
        is_unmoved(swarm, &before, "an old member")?;
        assert!(boxes[0].ping("10.72.0.13").is_ok(), "an old member");
        Ok(())
    })
}

fn what_is_deleted_is_put_back(
    swarm: &Swarm,
    attack: &Attack<'_>,
    boxes: &[Container<'_>],
) -> Result<()> {
    let before = all_configured(swarm)?;
    let space = only_network(swarm.host(1))?.namespace;
    for path in
        [attack.endpoint("10.72.0.12"), attack.member(attack.hosts[1]), Path::Host(attack.hosts[1])]
    {
        // Its owner sleeps while the others are looked at.
        let owner = swarm.host(2);
        owner.driver_kill("STOP")?;
        let revision = swarm.lab.etcd().revision()?;
        attack.delete(&path)?;
        // A host's own record is missed for as long as the grace.
        let cuts = !matches!(path, Path::Host(_));
        for (other, before) in [(1, &before[0]), (3, &before[2])] {
            let other = swarm.host(other);
            eventually(&format!("{} to follow the loss of {path}", other.name()), SOON, || {
                let is_cut = || configured(other, &space).is_ok_and(|now| now != *before);
                status(other).is_ok_and(|status| status.store.revision > revision)
                    && (!cuts || is_cut())
            })?;
        }
        for (before, now) in before.iter().zip(all_configured(swarm)?) {
            now.leads_nowhere_new(before, &path);
        }
        assert!(attack.get(&path)?.is_none(), "{path} was away all the time");
        owner.driver_kill("CONT")?;
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
