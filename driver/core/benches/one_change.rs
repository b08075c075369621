//! What one endpoint's change costs in a network of many: `cargo bench -p wgnet-core`.
//!
//! An endpoint comes to another host and goes again, over and over, each time somewhere else. What is
//! told is the median of each stage, and as how many times that of the smallest network; beside it,
//! what the same costs from scratch, as after every look at the kernel.

#![allow(clippy::unwrap_used, reason = "a benchmark may unwrap as a test does")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wgnet_core::testing::{empty_network, private_key};
use wgnet_core::{
    Derivation, Difference, Families, Hints, Inputs, Judge, LocalNetwork, LocalSlot, NetworkView,
    Seen, Verdict, derive, model, plan, plan_parts, superseded,
};
use wgnet_proto::record::{EndpointRecord, HostRecord, MemberRecord, Slot};
use wgnet_proto::{
    ClusterId, ClusterSecrets, Generation, HostId, HostKey, Incarnation, MacAddr, Path,
    PresharedKey, PublicKey, Record, Sealer,
};

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
const HOSTS: usize = 100;
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const CHANGES: usize = 400;

const STAGES: [&str; 7] = ["judge", "copy view", "lost?", "derive", "plan", "model", "all"];

fn main() {
    println!("one endpoint's change, {HOSTS} hosts, median of {CHANGES}, in us");
    print!("{:>16}", "endpoints");
    STAGES.iter().for_each(|stage| print!(" {stage:>10}"));
    println!(" {:>10} {:>12}", "messages", "from scratch");
    let mut first: BTreeMap<&str, Row> = BTreeMap::new();
    for size in SIZES {
        for (what, row) in World::new(size).measure() {
            print!("{size:>9} {what:<6}");
            row.times.iter().for_each(|time| print!(" {:>10.1}", time * 1e6));
            println!(" {:>10.2} {:>12.0}", row.messages, row.whole * 1e6);
            let first = first.entry(what).or_insert(row);
            print!("{:>16}", "ratio");
            row.times.iter().zip(first.times).for_each(|(time, of)| print!(" {:>10.2}", time / of));
            println!(" {:>10.2} {:>12.2}", row.messages / first.messages, row.whole / first.whole);
        }
    }
}

/// What one kind of change costs.
#[derive(Clone, Copy)]
struct Row {
    /// Seconds, by stage.
    times: [f64; STAGES.len()],
    /// To the kernel.
    messages: f64,
    /// Seconds, from scratch.
    whole: f64,
}

fn keys(_: Generation, host: HostId) -> Option<PresharedKey> {
    Some(PresharedKey::from_bytes([host.0[0]; 32]))
}

/// Host 0 of a cluster, as its driver sees it.
struct World {
    sealers: Vec<Sealer>,
    judge: Judge,
    local: Arc<LocalNetwork>,
    seq: u64,
}

impl World {
    fn new(size: usize) -> Self {
        let secrets = ClusterSecrets::generate([0x5e; 32]);
        let sealer = |host: usize| {
            let key = HostKey::from_random([host as u8 + 1; 32]);
            Sealer::new(key, secrets.clone(), CLUSTER)
        };
        let sealers: Vec<Sealer> = (0..=HOSTS).map(sealer).collect();
        let judge = Judge::new(secrets.clone(), Some(CLUSTER), sealers[0].writer());
        let slot =
            LocalSlot { generation: 0, private_key: private_key(1), made: None, port: 51820 };
        let mut local = empty_network(vec![slot]);
        local.definition.subnets[0].pool = "10.0.0.0/8".parse().unwrap();
        let mut world = Self { sealers, judge, local: Arc::new(local), seq: 1 };
        for host in 1..=HOSTS {
            world.member(host);
        }
        for number in 0..size {
            world.put(number, 1 + number % HOSTS);
        }
        world
    }

    fn tell(&mut self, writer: usize, path: &Path, record: &Record) -> Duration {
        self.seq += 1;
        let sealed = self.sealers[writer].seal_record(path, self.seq, record);
        let key = path.to_string();
        let began = Instant::now();
        let verdict = self.judge.put(&key, &sealed, self.seq as i64);
        let took = began.elapsed();
        assert_eq!(verdict, Verdict::Accepted);
        took
    }

    fn member(&mut self, host: usize) {
        let id = self.sealers[host].writer();
        let record = HostRecord {
            name: format!("host{host}"),
            underlay: vec![IpAddr::from([192, 0, 2, host as u8])],
            version: "0.1.0".to_owned(),
            backend: "kernel".to_owned(),
            incarnation: Incarnation([0; 16]),
        };
        self.tell(host, &Path::Host(id), &Record::Host(record));
        let public_key = PublicKey([host as u8; 32]);
        let slot = Slot { generation: 0, public_key, port: 51820, underlay: Vec::new() };
        let record = MemberRecord { slots: vec![slot], ..MemberRecord::default() };
        let path = Path::Member(self.local.definition.key.clone(), id);
        self.tell(host, &path, &Record::Member(record));
    }

    fn put(&mut self, number: usize, host: usize) -> Duration {
        let address = address(number);
        let record = EndpointRecord {
            addresses: vec![address],
            endpoint: format!("{number:064x}").parse().unwrap(),
            host: self.sealers[host].writer(),
            mac: MacAddr::of_address(address),
            claim: number as u64 + 1,
        };
        let path = Path::Endpoint(self.local.definition.key.clone(), address);
        self.tell(host, &path, &Record::Endpoint(record))
    }

    fn remove(&mut self, number: usize) -> Duration {
        let path = Path::Endpoint(self.local.definition.key.clone(), address(number));
        let key = path.to_string();
        let began = Instant::now();
        self.judge.delete(&key);
        began.elapsed()
    }

    /// What it costs that an endpoint comes, and that it goes.
    fn measure(mut self) -> [(&'static str, Row); 2] {
        let key = self.local.definition.key.clone();
        let me = self.sealers[0].writer();
        let (mut derivation, mut hints) = (Derivation::default(), Hints::default());
        let mut kernel = Seen::Absent;
        // The view before is held meanwhile, as by the tasks.
        let mut held = None;
        let none = NetworkView::default();
        let local = Arc::clone(&self.local);
        let mut times: BTreeMap<(bool, &str), Vec<f64>> = BTreeMap::new();
        let (mut messages, mut whole) = ([0; 2], f64::INFINITY);
        for round in 0..=CHANGES {
            // Somewhere in the middle of the others, which are at even numbers.
            let number = (round.saturating_sub(1) / 2 * 7919) % 1000 * 2 + 1;
            let comes = round % 2 == 1;
            let judged = match round {
                0 => Duration::ZERO,
                _ if comes => self.put_between(number, 1 + round % HOSTS),
                _ => self.remove_between(number),
            };
            let mut stages = vec![judged];
            let mut clock = Instant::now();
            let mut lap = |stages: &mut Vec<Duration>| {
                stages.push(clock.elapsed());
                clock = Instant::now();
            };
            let held = &*held.insert(self.judge.view().clone());
            lap(&mut stages);
            let network = held.networks.get(&key).unwrap_or(&none);
            assert!(superseded(&local, network, held, me).is_empty());
            lap(&mut stages);
            let (families, cluster) = (Families::BOTH, held);
            let inputs = Inputs { local: &local, network, cluster, me, families, keys: &keys };
            let difference = derivation.update(Some(inputs));
            lap(&mut stages);
            let desired = derivation.desired().unwrap();
            let of_parts = match (&difference, &kernel) {
                (Difference::Parts(parts), Seen::Present(observed)) => {
                    plan_parts(desired, observed, parts, &hints)
                }
                _ => None,
            };
            let is_first = of_parts.is_none();
            let steps = of_parts.unwrap_or_else(|| plan(Some(desired), &kernel, &hints));
            lap(&mut stages);
            assert!(model::apply_all(&mut kernel, &steps));
            steps.iter().for_each(|step| hints.applied(step));
            lap(&mut stages);
            assert_eq!(is_first, round == 0);
            if is_first {
                for _ in 0..3 {
                    let began = Instant::now();
                    let desired = derive(&local, network, held, me, families, &keys);
                    assert!(plan(desired.as_ref(), &kernel, &hints).is_empty());
                    whole = whole.min(began.elapsed().as_secs_f64());
                }
                continue;
            }
            messages[usize::from(comes)] += steps.len();
            stages.push(stages.iter().sum());
            for (stage, time) in STAGES.iter().zip(stages) {
                times.entry((comes, *stage)).or_default().push(time.as_secs_f64());
            }
        }
        [("comes", true), ("goes", false)].map(|(what, comes)| {
            let median = |stage| {
                let times = times.get_mut(&(comes, stage)).unwrap();
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            let messages = messages[usize::from(comes)] as f64 / (CHANGES / 2) as f64;
            (what, Row { times: STAGES.map(median), messages, whole })
        })
    }

    fn put_between(&mut self, number: usize, host: usize) -> Duration {
        self.put(BETWEEN + number, host)
    }

    fn remove_between(&mut self, number: usize) -> Duration {
        self.remove(BETWEEN + number)
    }
}

/// Numbers from here on are those of endpoints that come and go.
const BETWEEN: usize = 1 << 22;

/// Those that come and go lie among those that stay.
fn address(number: usize) -> IpAddr {
    let at = if number < BETWEEN { number * 2 + 1000 } else { (number - BETWEEN) + 1000 };
    IpAddr::from(Ipv4Addr::from(0x0a00_0000 + at as u32))
}
