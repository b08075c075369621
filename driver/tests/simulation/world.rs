//! The simulated cluster: hosts with their kernels, disks and engines, one store, one swarm.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use wgnet_control_plane::store::MemoryStore;
use wgnet_core::{ClusterView, Namespace};
use wgnet_driver::api::Api;
use wgnet_driver::cluster::{HostFacts, Orderer};
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::journal::{Journal, MemoryDisk, Random};
use wgnet_driver::problems::Problems;
use wgnet_driver::underlay::Underlay;
use wgnet_driver::wiring::Given;
use wgnet_proto::{ClusterSecrets, DockerNetworkId, HostId, NetworkKey};

use super::checks::Witness;
use super::dice;
use super::docker::{Engine, name_of};
use super::life::Life;
use super::seams::{Known, SimPlane, SimStore, gate, make_strange};
use super::trace::{note, since_begin, wrong};

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    /// Whether what goes after the grace is gone at the end of a run.
    pub(crate) fn is_grace_short(&self) -> bool {
        self.grace < LONG
    }

    /// Whether some host must still find in the store which numbers it used.
    pub(crate) fn needs_store(&self) -> bool {
        self.hosts.iter().any(|host| host.disk.state().reserved_seq < host.forgotten)
    }

    /// Hosts whose journal was lost.
    pub(crate) fn forgetful(&self) -> BTreeSet<HostId> {
        let hosts = self.hosts.iter().filter(|host| host.journals > 0);
        hosts.filter_map(|host| host.disk.host_id()).collect()
    }

    /// Every identity that nobody has any more: of hosts that are gone for good, and of lost disks.
    pub(crate) fn lost(&self) -> BTreeSet<HostId> {
        let gone = self.hosts.iter().filter(|host| host.is_gone);
        let gone = gone.filter_map(|host| host.disk.host_id());
        gone.chain(self.hosts.iter().flat_map(|host| host.former.iter().copied())).collect()
    }
}

/// Looks at or changes the world; never across an await.
pub(crate) fn world<T>(with: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| with(world.as_mut().expect("it was made first")))
}

/// From so much on it never ends within a run.
const LONG: Duration = Duration::from_secs(86_400);

pub(crate) struct World {
    /// How long another host must be seen absent before its records are removed.
    pub(crate) grace: Duration,
    pub(crate) hosts: Vec<Host>,
    pub(crate) networks: Vec<Network>,
    pub(crate) store: MemoryStore,
    pub(crate) secrets: ClusterSecrets,
    pub(crate) witness: Arc<Witness>,
    /// Endpoints are numbered through the whole run: Docker never uses an id again.
    pub(crate) endpoints: u32,
    /// Operations of engines that are under way.
    pub(crate) busy: u32,
    /// All is to heal: whoever dies comes back at once.
    pub(crate) healing: bool,
}

/// A network of the swarm.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) number: usize,
    pub(crate) id: DockerNetworkId,
    pub(crate) removed: bool,
    /// What swarm's address management says: the endpoint that has each address.
    pub(crate) addresses: BTreeMap<Ipv4Addr, u32>,
}

impl Network {
    pub(crate) fn new(number: usize) -> Self {
        let id = format!("n{number:03}{:021}", 0).parse().expect("25 characters of base 36");
        Self { number, id, removed: false, addresses: BTreeMap::new() }
    }

    pub(crate) fn key(&self) -> NetworkKey {
        NetworkKey::swarm(&self.id)
    }

    pub(crate) fn namespace(&self) -> Namespace {
        Namespace::of(&self.id)
    }

    pub(crate) fn prefix(&self) -> String {
        format!("10.{}.0", self.number)
    }
}

pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) address: watch::Sender<Underlay>,
    pub(crate) disk: MemoryDisk,
    pub(crate) clock: WallClock,
    /// The latest that the clock said when the journal was lost.
    pub(crate) journal_lost: Option<Duration>,
    /// Counts journals that were lost while the host's key was not.
    pub(crate) journals: u32,
    /// Numbers below this one were used, and only the store tells.
    pub(crate) forgotten: u64,
    pub(crate) plane: Model,
    pub(crate) line: MemoryStore,
    pub(crate) boots: u32,
    pub(crate) lives: u32,
    pub(crate) running: Option<Running>,
    /// Somebody tries to start its driver.
    pub(crate) is_starting: bool,
    /// Somebody has removed things from its kernel by hand: what is missing may be on its way back.
    pub(crate) is_tampered: bool,
    /// Counts lives, to wait for the next one.
    pub(crate) lived: watch::Sender<u32>,
    pub(crate) engine: Engine,
    /// Without power nothing runs; it may get it back.
    pub(crate) has_power: bool,
    /// Nobody will ever give it power again.
    pub(crate) is_gone: bool,
    /// Identities it had before it lost its disk.
    pub(crate) former: BTreeSet<HostId>,
}

/// What a host takes for the time; somebody may set it. Clones are the same clock.
#[derive(Clone)]
pub(crate) struct WallClock {
    /// Seconds that it would have shown when the run began.
    at_begin: Arc<AtomicU64>,
}

impl WallClock {
    /// A little before or behind the others'.
    fn new() -> Self {
        Self { at_begin: Arc::new(AtomicU64::new(1_780_000_000 + dice::below(60))) }
    }

    /// Since the epoch.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_secs(self.at_begin.load(Ordering::Relaxed)) + since_begin()
    }

    pub(crate) fn set(&self, now: Duration) {
        self.at_begin.store(now.saturating_sub(since_begin()).as_secs(), Ordering::Relaxed);
    }

    /// Somebody sets it back or forth, by hours or days.
    pub(crate) fn jump(&self, back: bool) {
        const MOST: u64 = 5 * 86_400_000;
        let by = dice::millis(3_600_000, MOST);
        let now = self.now();
        self.set(if back { now.saturating_sub(by) } else { now + by });
    }
}

/// A driver that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) life: Life,
    pub(crate) api: Api,
    pub(crate) journal: Journal,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) orderer: Orderer,
    pub(crate) me: HostId,
}

/// Makes the world of a run; nothing runs yet.
pub(crate) fn create(hosts: usize, networks: usize, grace: Duration) {
    let mut secret = [0; 32];
    dice::bytes(&mut secret);
    let secrets = ClusterSecrets::generate(secret);
    let store = MemoryStore::new();
    let witness = Arc::new(Witness::new(secrets.clone(), grace));
    let seeing = Arc::clone(&witness);
    store.set_witness(move |changes| seeing.changed(changes));
    let host = |number| Host {
        number,
        address: watch::Sender::new(underlay(number, 0)),
        disk: MemoryDisk::default(),
        clock: WallClock::new(),
        journal_lost: None,
        journals: 0,
        forgotten: 0,
        plane: Model::default(),
        line: store.client(),
        boots: 1,
        lives: 0,
        running: None,
        is_starting: false,
        is_tampered: false,
        lived: watch::Sender::new(0),
        engine: Engine::default(),
        has_power: true,
        is_gone: false,
        former: BTreeSet::new(),
    };
    let mut hosts: Vec<Host> = (0..hosts).map(host).collect();
    for host in &mut hosts {
        make_strange(&host.plane);
        host.plane.engine(&name_of(host.engine.epoch), true);
        if dice::happens(300) {
            lost_before(host);
        }
    }
    let world = World {
        grace,
        hosts,
        networks: (0..networks).map(Network::new).collect(),
        store,
        witness,
        secrets,
        endpoints: 0,
        busy: 0,
        healing: false,
    };
    WORLD.set(Some(world));
}

pub(crate) fn underlay(host: usize, turn: u8) -> Underlay {
    let last = u8::try_from(host + 1).expect("few hosts");
    let address = IpAddr::V4(Ipv4Addr::new(172, 20, turn, last));
    Underlay { addresses: vec![address], mtu: 1500 }
}

fn random() -> Random {
    Arc::new(dice::bytes)
}

/// Starts a host's driver, again and again until its journal opens, unless one runs.
pub(crate) async fn start_driver(number: usize) {
    let others = world(|world| std::mem::replace(&mut world.hosts[number].is_starting, true));
    if others {
        return;
    }
    loop {
        let started = world(|world| {
            let host = &mut world.hosts[number];
            if host.running.is_some() || !host.has_power {
                return true;
            }
            host.lives += 1;
            let life = Life::new(format!("driver {number}.{}", host.lives));
            let boot = format!("boot-{number}-{}", host.boots);
            let gate = gate(number, &host.disk, &life);
            let opened = Journal::open_in_memory(&host.disk, &boot, &random(), gate);
            let Ok(journal) = opened else {
                note(format!("host {number}: the journal does not open"));
                return false;
            };
            let running = run(world, number, life.clone(), journal, boot);
            let host = &mut world.hosts[number];
            note(format!("driver {number}.{} starts as {}", host.lives, running.me.short()));
            host.running = Some(running);
            host.lived.send_modify(|lives| *lives += 1);
            true
        });
        if started {
            return world(|world| world.hosts[number].is_starting = false);
        }
        sleep(Duration::from_secs(2)).await;
    }
}

/// The parts of a driver, put together as the program does it.
fn run(world: &World, number: usize, life: Life, journal: Journal, boot: String) -> Running {
    let host = &world.hosts[number];
    let witness = Arc::clone(&world.witness);
    let store = SimStore { inner: host.line.clone(), life: life.clone(), host: number };
    let dataplane = SimPlane {
        inner: host.plane.clone(),
        life: life.clone(),
        host: number,
        witness,
        known: Known::default(),
    };
    let me = journal.host_id();
    let facts = HostFacts {
        me,
        name: format!("host-{number}"),
        version: "simulated".to_owned(),
        backend: "model".to_owned(),
        boot,
        underlay: Vec::new(),
    };
    let clock = host.clock.clone();
    let given = Given {
        store,
        dataplane,
        journal: journal.clone(),
        secrets: world.secrets.clone(),
        facts,
        underlay: host.address.subscribe(),
        ports: 51820..=51829,
        random: random(),
        clock: Arc::new(move || clock.now()),
        problems: Problems::default(),
        dead_host_grace: world.grace,
    };
    let wired = given.wire(life.stop());
    let tasks: Vec<_> = wired.tasks.into_iter().map(|(_, task)| tokio::spawn(task)).collect();
    let dying = life.clone();
    tokio::spawn(async move {
        dying.death().await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            if task.await.is_err_and(|error| error.is_panic()) {
                wrong(format!("a task of the driver of host {number} panicked"));
            }
        }
        come_back(number, &dying).await;
    });
    let (view, orderer) = (wired.status.view, wired.status.orderer);
    Running { life, api: wired.api, journal, view, orderer, me }
}

/// After a driver's death its service manager starts it again.
async fn come_back(number: usize, life: &Life) {
    let healing = world(|world| {
        let host = &mut world.hosts[number];
        // The host may have booted meanwhile, and have another.
        if host.running.as_ref().is_some_and(|running| running.life.is(life)) {
            host.running = None;
        }
        world.healing
    });
    let most = if healing || dice::happens(800) { 3000 } else { 90_000 };
    sleep(dice::millis(50, most)).await;
    start_driver(number).await;
}

/// What a new disk makes of a host: another one.
pub(crate) fn lose_disk(host: &mut Host) {
    host.former.extend(host.disk.host_id());
    host.disk = MemoryDisk::default();
    (host.journal_lost, host.forgotten) = (None, 0);
}

/// The disk comes back with nothing but the host's key, and often the clock has lost its battery.
pub(crate) fn lose_journal(world: &mut World, number: usize) {
    let host = &mut world.hosts[number];
    if dice::happens(600) {
        host.clock.jump(true);
    }
    // Once more under a clock that went behind the first time's: what the store holds of the host must
    // tell which numbers were used. Where that may go before it is read, nobody could know.
    const AFTER: Duration = Duration::from_secs(60);
    if let Some(lost) = host.journal_lost.filter(|lost| host.clock.now() < *lost + AFTER) {
        let first = lost.as_secs() << 20;
        let is_shown = host.disk.host_id().is_some_and(|id| world.witness.shows(id, first));
        if is_shown && host.forgotten == 0 && world.grace >= LONG {
            note(format!("host {number} forgets the numbers it used"));
            host.forgotten = first;
        } else {
            host.clock.set(lost + AFTER);
        }
    }
    host.journals += 1;
    host.journal_lost = host.journal_lost.max(Some(host.clock.now()));
    host.disk.lose_journal(host.clock.now());
}

/// The journal was lost once before the run: the host's numbers are of its clock.
fn lost_before(host: &mut Host) {
    host.journal_lost = Some(host.clock.now());
    host.disk.lose_journal(host.clock.now());
}
