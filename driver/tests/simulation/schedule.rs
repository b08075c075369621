//! What happens, drawn from the dice: Docker's work, faults and repairs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use wgnet_control_plane::store::memory::Backup;
use wgnet_control_plane::store::{Entry, Op, Revision, Store as _, Txn};
use wgnet_proto::{ClusterId, HostId, Opener, Path};

use super::checks::RUBBISH;
use super::dice;
use super::docker::{self, Answer, Endpoint, Stage};
use super::kernel::shake_hands;
use super::mishaps::{Loss, change_address, kill_driver, power_off, stop_driver, tamper};
use super::people;
use super::rest;
use super::seams::{Weather, set_weather};
use super::trace::{note, wrong};
use super::world::{self, Network, create, start_driver, world};

/// Everything that can happen, with how often; a run has about half of the faults.
const DEEDS: [(Deed, u64); 41] = [
    (Deed::Start, 120),
    (Deed::Stop, 80),
    (Deed::Move, 15),
    (Deed::RemoveNetwork, 10),
    (Deed::Senseless, 20),
    (Deed::Tamper, 12),
    (Deed::ChangeAddress, 6),
    (Deed::KillDriver, 40),
    (Deed::StopDriver, 10),
    (Deed::KillEngine, 8),
    (Deed::PowerOff, 12),
    (Deed::LoseJournal, 4),
    (Deed::LoseDisk, 3),
    (Deed::LoseHost, 3),
    (Deed::Revoke, 12),
    (Deed::ForgetHost, 10),
    (Deed::Cut, 15),
    (Deed::Hold, 12),
    (Deed::FailCalls, 15),
    (Deed::LoseAnswers, 15),
    (Deed::Mend, 50),
    (Deed::StopStore, 8),
    (Deed::StartStore, 30),
    (Deed::RestartStore, 8),
    (Deed::FillStore, 6),
    (Deed::MakeRoom, 20),
    (Deed::LoseLeader, 8),
    (Deed::RegainLeader, 25),
    (Deed::Compact, 15),
    (Deed::CutAndCompact, 8),
    (Deed::Wipe, 4),
    (Deed::Backup, 10),
    (Deed::Restore, 5),
    (Deed::LoseChange, 6),
    (Deed::Deface, 4),
    (Deed::FillDisk, 6),
    (Deed::EmptyDisk, 20),
    (Deed::SetClock, 8),
    (Deed::Jump, 6),
    (Deed::Idle, 4),
    (Deed::OccupyPort, 4),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Start,
    Stop,
    Move,
    RemoveNetwork,
    Senseless,
    Tamper,
    ChangeAddress,
    KillDriver,
    StopDriver,
    KillEngine,
    PowerOff,
    LoseJournal,
    LoseDisk,
    LoseHost,
    Revoke,
    ForgetHost,
    Cut,
    Hold,
    FailCalls,
    LoseAnswers,
    Mend,
    StopStore,
    StartStore,
    RestartStore,
    FillStore,
    MakeRoom,
    LoseLeader,
    RegainLeader,
    Compact,
    CutAndCompact,
    Wipe,
    Backup,
    Restore,
    LoseChange,
    Deface,
    FillDisk,
    EmptyDisk,
    SetClock,
    Jump,
    Idle,
    OccupyPort,
}

impl Deed {
    /// What makes things well again, and Docker's ordinary work, is in every run.
    fn is_always(self) -> bool {
        use Deed::{EmptyDisk, MakeRoom, Mend, RegainLeader, Start, StartStore, Stop};
        matches!(self, Start | Stop | Mend | StartStore | MakeRoom | RegainLeader | EmptyDisk)
    }
}

const WEEK: u64 = 7 * 86_400;

/// What a run has seen that later expectations depend on.
#[derive(Clone, Default)]
pub(crate) struct History {
    /// A change was made that no watch was told of: only an audit finds it.
    pub(crate) lost_changes: bool,
    /// The store went back, or began anew.
    pub(crate) another_history: bool,
    /// The newest of the store's contents.
    pub(crate) backup: Option<Backup>,
    /// What the store holds up to this revision, a backup brought back.
    pub(crate) restored: Revision,
    /// Operators had hosts' records removed before their time: what nobody has then goes later.
    pub(crate) is_cleared: bool,
    /// Hosts with a tombstone in the present history, and in which cluster.
    pub(crate) revoked: BTreeMap<HostId, ClusterId>,
}

impl History {
    /// The store holds something else than it did, up to this revision: who had not yet heard of a
    /// revocation never will.
    fn turns(&mut self, restored: Revision) {
        (self.another_history, self.restored) = (true, restored);
        self.revoked.clear();
        world(|world| world.witness.begins_anew());
    }
}

struct Run {
    deeds: Vec<(Deed, u64)>,
    history: History,
}

/// Runs the eventful part of a seed.
pub(crate) async fn eventful() -> History {
    let hosts = [2, 2, 3, 3, 3, 4, 4, 5, 6][dice::index(9)];
    let networks = [1, 1, 2, 3][dice::index(4)];
    let steps = dice::below(60) + 15;
    let grace = if dice::happens(600) { 90 + dice::below(150) } else { WEEK };
    create(hosts, networks, Duration::from_secs(grace));
    let allowed = only_deeds();
    let deeds: Vec<_> = DEEDS
        .into_iter()
        .filter(|(deed, _)| deed.is_always() || dice::happens(500))
        .filter(|(deed, _)| {
            deed.is_always()
                || allowed.as_ref().is_none_or(|only| only.contains(&format!("{deed:?}")))
        })
        .collect();
    let bad = |most: u64| if dice::happens(300) { dice::below(most) } else { 0 };
    let weather = Weather {
        call_fails: bad(200),
        answer_lost: bad(150),
        late_write: bad(80),
        call_ms: [0, 5, 30, 2000][dice::index(4)],
        event_ms: [0, 5, 50, 3000][dice::index(4)],
        step_fails: bad(60),
        look_fails: bad(100),
        sandbox_fails: if dice::happens(150) { 1000 } else { 0 },
        disk_fails: bad(30),
        disk_ms: [0, 2, 20, 300][dice::index(4)],
    };
    let weather = if allowed.is_some() { Weather::default() } else { weather };
    note(format!(
        "{hosts} hosts, {networks} networks, {steps} steps, grace {grace} s, {weather:?}"
    ));
    set_weather(weather);
    for host in 0..hosts {
        tokio::spawn(async move {
            sleep(dice::millis(0, 3000)).await;
            start_driver(host).await;
        });
    }
    let mut run = Run { deeds, history: History::default() };
    for _ in 0..steps {
        run.step().await;
        shake_hands();
        people::locked_out();
        let pause = match dice::below(20) {
            0..8 => dice::millis(0, 20),
            8..15 => dice::millis(0, 500),
            15..19 => dice::millis(0, 5000),
            _ => dice::millis(0, 90_000),
        };
        sleep(pause).await;
    }
    run.history
}

/// For those who look for a fault's cause: SIM_DEEDS=KillDriver,Wipe allows no others, and calm weather.
fn only_deeds() -> Option<Vec<String>> {
    let only = std::env::var("SIM_DEEDS").ok()?;
    Some(only.split(',').map(str::to_owned).collect())
}

impl Run {
    fn draw(&self) -> Deed {
        let mut at = dice::below(self.deeds.iter().map(|(_, weight)| weight).sum());
        for (deed, weight) in &self.deeds {
            if at < *weight {
                return *deed;
            }
            at -= weight;
        }
        unreachable!("it is below the sum")
    }

    async fn step(&mut self) {
        let deed = self.draw();
        let host = world(|world| dice::index(world.hosts.len()));
        note(format!("--- {deed:?} {host}"));
        match deed {
            Deed::Start => start(host, false),
            Deed::Move => start(host, true),
            Deed::Stop => stop(host),
            Deed::RemoveNetwork => remove_network(host),
            Deed::Senseless => senseless(host),
            Deed::Tamper => tamper(host),
            Deed::ChangeAddress => change_address(host),
            Deed::KillDriver => kill_driver(host),
            Deed::StopDriver => stop_driver(host),
            Deed::KillEngine => {
                if world(|world| world.hosts[host].has_power) {
                    docker::kill_engine(host);
                }
            }
            Deed::PowerOff => power_off(host, Loss::Nothing),
            Deed::LoseJournal => power_off(host, Loss::Journal),
            Deed::LoseDisk => power_off(host, Loss::Disk),
            Deed::LoseHost => power_off(host, Loss::Host),
            Deed::Revoke => people::revoke(&mut self.history).await,
            Deed::ForgetHost => people::forget(&mut self.history),
            Deed::FillDisk | Deed::EmptyDisk => {
                world(|world| world.hosts[host].disk.fill(deed == Deed::FillDisk));
            }
            Deed::OccupyPort => world(|world| {
                let port = 51820 + u16::try_from(dice::below(3)).expect("below 3");
                world.hosts[host].plane.occupy_port(port, dice::happens(600));
            }),
            Deed::Deface => deface().await,
            Deed::SetClock => world(|world| world.hosts[host].clock.jump(dice::happens(500))),
            Deed::Jump => {
                world(|world| world.witness.time_jumps());
                tokio::time::advance(dice::millis(1000, 300_000)).await;
            }
            Deed::Idle => rest::pass(dice::below(600) + 60).await,
            Deed::Wipe | Deed::Restore if world(|world| world.needs_store()) => {}
            Deed::Wipe => {
                world(|world| world.store.wipe());
                self.history.turns(0);
            }
            Deed::Restore => {
                if let Some(backup) = self.history.backup.clone() {
                    world(|world| world.store.restore(&backup));
                    self.history.turns(backup.revision());
                }
            }
            _ => self.store(deed, host),
        }
    }

    fn store(&mut self, deed: Deed, host: usize) {
        world(|world| {
            let (store, line) = (&world.store, &world.hosts[host].line);
            match deed {
                Deed::Cut => line.cut(),
                Deed::Hold => line.hold(),
                Deed::FailCalls => line.fail_next(dice::index(5) + 1),
                Deed::LoseAnswers => line.lose_answers(dice::index(5) + 1),
                Deed::Mend => line.mend(),
                Deed::StopStore => store.stop(),
                Deed::StartStore => store.start(),
                Deed::RestartStore => store.restart(),
                Deed::FillStore => store.fill(),
                Deed::MakeRoom => store.make_room(),
                Deed::LoseLeader => store.lose_leader(),
                Deed::RegainLeader => store.regain_leader(),
                Deed::Compact => store.compact(),
                Deed::CutAndCompact => {
                    line.cut();
                    let (store, line) = (store.clone(), line.clone());
                    tokio::spawn(async move {
                        sleep(dice::millis(0, 20_000)).await;
                        store.compact();
                        line.mend();
                    });
                }
                Deed::Backup => self.history.backup = Some(store.backup()),
                Deed::LoseChange => {
                    store.lose_next_change();
                    self.history.lost_changes = true;
                }
                _ => unreachable!("{deed:?} is no deed of the store"),
            }
        });
    }
}

/// Somebody without the secret writes over the record of the cluster.
async fn deface() {
    let store = world(|world| world.store.clone());
    let rubbish = Op::Put { key: Path::Cluster.to_string(), value: RUBBISH.to_vec() };
    let txn = Txn { conditions: vec![], ops: vec![rubbish] };
    // A store that is stopped takes nothing from anybody.
    drop(store.commit(txn).await);
}

/// A container starts; `moving`: with an address that another host's container still has.
fn start(host: usize, moving: bool) {
    let planned = world(|world| {
        if !world.hosts[host].has_power || world.hosts[host].is_gone {
            return None;
        }
        let network = dice::index(world.networks.len());
        if world.networks[network].removed {
            return None;
        }
        let taken = &world.networks[network].addresses;
        let elsewhere = |address: &Ipv4Addr| {
            let here = &world.hosts[host].engine.endpoints;
            !here.values().any(|e| e.network == network && e.address == *address)
        };
        let all = (2..10).map(|last| Ipv4Addr::new(10, network_octet(network), 0, last));
        let fitting: Vec<_> = all
            .filter(|address| taken.contains_key(address) == moving && elsewhere(address))
            .collect();
        let address = dice::pick(&fitting)?;
        world.endpoints += 1;
        let number = world.endpoints;
        world.networks[network].addresses.insert(address, number);
        note(format!("host {host} starts endpoint {number} at {address}"));
        Some(Endpoint { number, network, address, stage: Stage::Starting })
    });
    if let Some(endpoint) = planned {
        tokio::spawn(docker::start(host, endpoint));
    }
}

fn network_octet(network: usize) -> u8 {
    u8::try_from(network).expect("few networks")
}

fn stop(host: usize) {
    let live = world(|world| {
        let endpoints = world.hosts[host].engine.endpoints.values();
        endpoints.filter(|e| e.stage == Stage::Live).map(|e| e.number).collect::<Vec<_>>()
    });
    if let Some(number) = dice::pick(&live) {
        tokio::spawn(docker::stop(host, number));
    }
}

/// `docker network rm` after its services: all containers stop, a manager frees it.
fn remove_network(host: usize) {
    let found = world(|world| {
        let networks: Vec<_> = world.networks.iter().filter(|n| !n.removed).cloned().collect();
        let network = dice::pick(&networks)?;
        world.networks[network.number].removed = true;
        let number = world.networks.len();
        world.networks.push(Network::new(number));
        let of = |host: &world::Host| {
            let live = host.engine.endpoints.values();
            let live = live.filter(|e| e.network == network.number && e.stage == Stage::Live);
            live.map(|e| (host.number, e.number)).collect::<Vec<_>>()
        };
        Some((network.clone(), world.hosts.iter().flat_map(of).collect::<Vec<_>>()))
    });
    let Some((network, endpoints)) = found else {
        return;
    };
    note(format!("network {} is removed", network.number));
    for (host, endpoint) in endpoints {
        tokio::spawn(docker::stop(host, endpoint));
    }
    if dice::happens(900) {
        tokio::spawn(async move {
            sleep(dice::millis(0, 4000)).await;
            docker::call(host, docker::epoch_of(host), "FreeNetwork", &docker::only(&network))
                .await;
        });
    }
}

/// Calls that make no sense, or come twice.
fn senseless(host: usize) {
    let (network, engine) = world(|world| {
        let network = dice::pick(&world.networks).expect("there is one");
        let live = world.hosts[host].engine.endpoints.values();
        let live = live.filter(|e| e.network == network.number && e.stage == Stage::Live);
        let live = live.map(|e| e.number).collect::<Vec<_>>();
        (network, live)
    });
    let unknown = 4_000_000 + u32::try_from(dice::below(1000)).expect("below 1000");
    let epoch = docker::epoch_of(host);
    tokio::spawn(async move {
        let must_fail = |answer: Answer, what: &str| {
            if matches!(answer, Answer::Done) {
                wrong(format!("host {host}: {what} was answered with success"));
            }
        };
        match dice::below(6) {
            0 => {
                docker::call(host, epoch, "DeleteEndpoint", &docker::of(&network, unknown)).await;
            }
            1 => {
                docker::call(host, epoch, "Leave", &docker::of(&network, unknown)).await;
            }
            2 => must_fail(
                docker::call(host, epoch, "Join", &docker::join(&network, unknown)).await,
                "Join of an unknown endpoint",
            ),
            3 => {
                let nowhere = json!({"NetworkID": "zzzzzzzzzzzzzzzzzzzzzzzzz"});
                docker::call(host, epoch, "DeleteNetwork", &nowhere).await;
            }
            4 => must_fail(
                docker::call(host, epoch, "CreateEndpoint", &json!({})).await,
                "CreateEndpoint without arguments",
            ),
            _ => {
                if let Some(number) = dice::pick(&engine) {
                    docker::call(host, epoch, "Join", &docker::join(&network, number)).await;
                }
            }
        }
    });
}

/// Ends every fault and waits until Docker's work is done.
pub(crate) async fn heal(history: &mut History) {
    note("=== healing");
    set_weather(Weather::default());
    world(|world| {
        world.healing = true;
        world.store.start();
        world.store.make_room();
        world.store.regain_leader();
        world.store.lose_no_change();
        for host in &world.hosts {
            host.line.mend();
            host.disk.fill(false);
            if let Some(running) = &host.running {
                running.life.disarm();
            }
            for port in 51820..51823 {
                host.plane.occupy_port(port, false);
            }
        }
    });
    history.another_history |= clean_store().await;
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        let is_well = world(|world| {
            let up = world.hosts.iter().filter(|host| !host.is_gone);
            world.busy == 0 && up.clone().all(|host| host.running.is_some())
        });
        if is_well {
            return people::clear(history).await;
        }
    }
    wrong("Docker's calls, or drivers' starts, do not come to an end though all is well");
}

/// Rubbish in the place of the cluster that no host knows for rubbish: people take it out. Returns
/// whether they did: whoever comes first founds the cluster anew.
pub(crate) async fn clean_store() -> bool {
    let (store, secrets, live) = world(|world| {
        let live = world.hosts.iter().filter(|host| !host.is_gone);
        // Without its journal a host does not know its cluster's rubbish from another's record.
        let live = live.filter_map(|host| host.disk.state().cluster.zip(host.disk.host_id()));
        let live: Vec<_> = live.collect();
        (world.store.clone(), world.secrets.clone(), live)
    });
    let listing = store.list("").await.expect("the store is well");
    // What was sealed for a former cluster proves nothing.
    let of_living = |entry: &Entry| {
        live.iter().filter(|(_, host)| entry.key.ends_with(&host.to_string())).any(
            |(cluster, _)| {
                let opener = Opener::new(secrets.clone(), Some(*cluster));
                Path::parse(&entry.key).is_some_and(|path| opener.open(&path, &entry.value).is_ok())
            },
        )
    };
    let is_rubbish =
        |entry: &Entry| entry.key == Path::Cluster.to_string() && entry.value == RUBBISH;
    let is_for_people =
        listing.entries.iter().any(is_rubbish) && !listing.entries.iter().any(of_living);
    if is_for_people {
        let ops = vec![Op::Delete { key: Path::Cluster.to_string() }];
        drop(store.commit(Txn { conditions: vec![], ops }).await);
    }
    is_for_people
}
