//! The simulated cluster: hosts with their kernels, disks and engines, one store, one swarm.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use wgnet_control_plane::store::MemoryStore;
use wgnet_core::{ClusterView, Namespace};
use wgnet_driver::api::Api;
use wgnet_driver::cluster::HostFacts;
use wgnet_driver::dataplane::model::Model;
use wgnet_driver::journal::{Journal, MemoryDisk, Random};
use wgnet_driver::problems::Problems;
use wgnet_driver::underlay::Underlay;
use wgnet_driver::wiring::Given;
use wgnet_proto::{ClusterSecrets, DockerNetworkId, HostId, NetworkKey};

use super::checks::Witness;
use super::dice;
use super::docker::Engine;
use super::life::Life;
use super::seams::{SimPlane, SimStore, gate};
use super::trace::{note, wrong};

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Looks at or changes the world; never across an await.
pub(crate) fn world<T>(with: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| with(world.as_mut().expect("it was made first")))
}

pub(crate) struct World {
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

/// A driver that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) life: Life,
    pub(crate) api: Api,
    pub(crate) journal: Journal,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) me: HostId,
}

/// Makes the world of a run; nothing runs yet.
pub(crate) fn create(hosts: usize, networks: usize) {
    let mut secret = [0; 32];
    dice::bytes(&mut secret);
    let secrets = ClusterSecrets::generate(secret);
    let store = MemoryStore::new();
    let witness = Arc::new(Witness::new(secrets.clone()));
    let seeing = Arc::clone(&witness);
    store.set_witness(move |changes| seeing.changed(changes));
    let host = |number| Host {
        number,
        address: watch::Sender::new(underlay(number, 0)),
        disk: MemoryDisk::default(),
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
    let world = World {
        hosts: (0..hosts).map(host).collect(),
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
    let store = SimStore { inner: host.line.clone(), life: life.clone() };
    let dataplane =
        SimPlane { inner: host.plane.clone(), life: life.clone(), host: number, witness };
    let me = journal.host_id();
    let facts = HostFacts {
        me,
        name: format!("host-{number}"),
        version: "simulated".to_owned(),
        backend: "model".to_owned(),
        boot,
        underlay: Vec::new(),
    };
    const DEAD_HOST_GRACE: Duration = Duration::from_secs(7 * 86_400);
    let given = Given {
        store,
        dataplane,
        journal: journal.clone(),
        secrets: world.secrets.clone(),
        facts,
        underlay: host.address.subscribe(),
        ports: 51820..=51829,
        random: random(),
        clock: Arc::new(|| Duration::from_secs(1_780_000_000)),
        problems: Problems::default(),
        dead_host_grace: DEAD_HOST_GRACE,
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
        come_back(number).await;
    });
    Running { life, api: wired.api, journal, view: wired.status.view, me }
}

/// After a driver's death its service manager starts it again.
async fn come_back(number: usize) {
    let healing = world(|world| {
        world.hosts[number].running = None;
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
}
