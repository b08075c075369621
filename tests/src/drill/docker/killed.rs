//! An engine is killed while containers start and end on its host, and at the worst moments of a start: the
//! container's interface is made and waits in the host's namespace, and Docker has not taken it; or it has
//! just taken it, and noted nothing. Nobody will ask for the end of what had begun.

use std::collections::BTreeSet;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use wgnet_proto::EndpointId;

use super::engines::leads;
use super::{AFTER_START, BACK_WITHIN, Drills, GONE_AT_LAST, GONE_WITHIN, OURS, SERVICES};
use super::{seconds, tasks};
use crate::drill::Row;
use crate::drill::load::while_they_come_and_go;
use crate::lab::{Host, Result};
use crate::swarm::{eventually, status};

/// What came of one kill; times in seconds.
struct Killed<'scope> {
    /// Whether the host led the swarm.
    led: bool,
    /// What became of the interface that it was killed for, by when it was gone.
    moment: Moment,
    back: f64,
    dockers_back: f64,
    /// When the last of the endpoints of before was gone, which may be after other kills.
    gone: ScopedJoinHandle<'scope, f64>,
}

/// Where a container's interface is that is just made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Waiting,
    /// Or at its end again.
    Taken,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "with an interface waiting for Docker",
            Self::Taken => "with one just taken",
        }
    }
}

fn times(killed: &[Killed<'_>], moment: Moment) -> usize {
    killed.iter().filter(|it| it.moment == moment).count()
}

/// A moment may be over before it is acted upon.
const TRIES_MORE: usize = 2;

impl Drills<'_> {
    /// The first time while the host leads the swarm; load goes on through all of it.
    pub(super) fn killed_under_load(&self, kills: usize) -> Result<Row> {
        let host = self.swarm.host(1);
        self.let_lead(host)?;
        self.beside_others(|| thread::scope(|scope| self.kills(scope, host, kills)))
    }

    fn kills<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        host: &'env Host,
        kills: usize,
    ) -> Result<Row> {
        let wanted = [(Moment::Waiting, kills.div_ceil(2)), (Moment::Taken, 1)];
        // Two at a time, so that one may end while the other starts.
        let (killed, load) = while_they_come_and_go(&[host, host], OURS, || {
            let mut killed: Vec<Killed<'_>> = Vec::new();
            while killed.len() < kills + TRIES_MORE {
                let missed = wanted.iter().find(|(at, least)| times(&killed, *at) < *least);
                if missed.is_none() && killed.len() >= kills {
                    break;
                }
                let moment = missed.map_or(Moment::Taken, |(at, _)| *at);
                killed.push(self.kill(scope, host, killed.len(), moment)?);
            }
            Ok(killed)
        });
        let killed: Vec<Killed<'_>> = killed?;
        let led = killed.iter().filter(|it| it.led).count();
        let worst = |of: fn(&Killed<'_>) -> f64| killed.iter().map(of).fold(0.0, f64::max);
        let mut row = Row::new("dockerd SIGKILL under load and start")
            .info("kills", killed.len() as f64, "")
            .at_least("of them of the swarm's leader, h1", led as f64, "", 1.0);
        for (moment, least) in wanted {
            row = row.at_least(moment.name(), times(&killed, moment) as f64, "", least as f64);
        }
        let row = row
            .at_least("containers started", load.started(), "", 2.0 * killed.len() as f64)
            .at_most("its tasks reachable after the start", worst(|it| it.back), "s", 60.0)
            .beside(worst(|it| it.dockers_back));
        let gone = killed.into_iter().map(|kill| kill.gone.join().expect("it only looks"));
        let row = row.at_most(AFTER_START, gone.fold(0.0, f64::max), "s", GONE_WITHIN);
        let forgotten = host.sh(&format!("{FORGOTTEN} || true"))?.lines().count();
        Ok(row.info("processes of starts that Docker forgot", forgotten as f64, ""))
    }

    fn kill<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        host: &'env Host,
        kill: usize,
        moment: Moment,
    ) -> Result<Killed<'scope>> {
        let [(ours, blue), (dockers, plain)] = SERVICES;
        let [old, dockers_old] = tasks(host);
        let led = leads(host)?;
        let last = host.engine_kill_after(&match moment {
            Moment::Waiting => begun(3 + kill),
            Moment::Taken => taken(3 + kill),
        })?;
        let waits = host.sh(&format!("{WAITING} || true"))?.lines().any(|end| end == last);
        let moment = if waits { Moment::Waiting } else { Moment::Taken };
        let before = self.endpoints(host)?;
        let started = Instant::now();
        let gone = scope.spawn(move || self.gone(host, &before, started));
        host.engine_start()?;
        let up = Instant::now();
        let dockers = scope.spawn(move || {
            let old = dockers_old.as_deref();
            seconds(up, self.task_back(host, dockers, plain, old, BACK_WITHIN).ok())
        });
        let back = self.task_back(host, ours, blue, old.as_deref(), BACK_WITHIN)?;
        let back = seconds(up, Some(back));
        let dockers_back = dockers.join().expect("it only looks");
        Ok(Killed { led, moment, back, dockers_back, gone })
    }

    /// Seconds until nothing is left of a host's endpoints of before.
    fn gone(&self, host: &Host, old: &BTreeSet<EndpointId>, since: Instant) -> f64 {
        let mut left = old.clone();
        let gone = eventually("each old endpoint to be gone", GONE_AT_LAST, || {
            self.endpoints(host).is_ok_and(|now| {
                left = now.intersection(old).cloned().collect();
                left.is_empty()
            })
        });
        if gone.is_err() {
            eprintln!("  {}: left {left:?}", host.name());
        }
        seconds(since, gone.ok().map(|()| Instant::now()))
    }

    /// A host's endpoints: what any host knows of them, and what it has interfaces for.
    fn endpoints(&self, of: &Host) -> Result<BTreeSet<EndpointId>> {
        let links = of.sh(
            "for n in $(ls /run/netns | grep ^wgnet-); do ip -n $n -o link; done; ip -o link",
        )?;
        let aliases = links.split_whitespace().filter_map(|word| word.strip_prefix("wgnet:"));
        let mut all: BTreeSet<_> = aliases.filter_map(|alias| alias.parse().ok()).collect();
        for by in self.swarm.lab.hosts() {
            let known = status(by)?.networks.into_iter().flat_map(|network| network.endpoints);
            let theirs = known.filter(|endpoint| endpoint.host_name == of.name());
            all.extend(theirs.map(|endpoint| endpoint.id));
        }
        Ok(all)
    }
}

/// The containers' ends of pairs of ours that are in the host's namespace, by their aliases.
const WAITING: &str = "ip -o link show type veth | grep -o 'wgnet:[0-9a-f]*'";

/// Those that wait for a start. Docker knows of none when the load is over.
const FORGOTTEN: &str = "pgrep -fx 'runc init'";

/// Comes to its end when so many more of them appeared, each for the first time (Docker puts them back at
/// the end), and says the last.
fn begun(times: usize) -> String {
    format!(
        "seen=$({WAITING}) || true
         left={times}
         while [ $left -gt 0 ]; do
             for end in $({WAITING}); do
                 case $seen in *$end*) continue ;; esac
                 seen=\"$seen $end\" left=$((left - 1)) last=$end
             done
         done
         echo $last"
    )
}

/// The same when the last of them is there no more.
fn taken(times: usize) -> String {
    format!(
        "{}
         while {WAITING} | grep -q $last; do :; done",
        begun(times)
    )
}
