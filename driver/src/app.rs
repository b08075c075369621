//! The composition root: makes what a driver is wired from, runs its tasks, owns their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wgnet_control_plane::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use wgnet_engine::Spawn;
use wgnet_proto::ClusterSecrets;
use wgnet_proto::status::Problem;

use crate::alone::Alone;
use crate::api::{self, Api, Scope};
use crate::cluster::HostFacts;
use crate::config::{BackendSetting, Config};
use crate::dataplane::linux::probe::{self, Wanted};
use crate::dataplane::linux::{Choice, Linux, netns};
use crate::dataplane::{Dataplane, DataplaneError};
use crate::journal::{self, Journal, Random, Spare};
use crate::metrics::serve::{Endpoint, Told, serve};
use crate::metrics::{Metered, MeteredStore, Metrics};
use crate::plugins::{self, Bound};
use crate::problems::Problems;
use crate::progress::Heard;
use crate::socket::{self, Socket};
use crate::status::Status;
use crate::status::report::{self, Report};
use crate::unready::Asker;
use crate::wiring::Given;
use crate::{admin, check, clock, files, notify, underlay, unready};

/// Between tries of what the driver cannot work without.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How long tasks have to end once they are told to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The kernel's name for the time since the host started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Runs the driver until `cancel`. While something it needs is missing (secret, journal, WireGuard)
/// it answers Docker with the reason and tries again.
///
/// # Errors
///
/// When a part that must never end does.
pub async fn run(config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), name = config.name, "wgnet-driver starts");
    socket::make_private(&config.run_dir)
        .with_context(|| format!("cannot make {}", config.run_dir.display()))?;
    // Before any socket: another driver's would be taken from it.
    let _alone = tokio::select! {
        alone = Alone::on_this_host(&config.run_dir) => alone?,
        () = cancel.cancelled() => return Ok(()),
    };
    let (metrics, problems) = (Metrics::default(), Problems::default());
    let listeners = Listeners::open(&config, &problems, &cancel)?;
    let (reason, reasons) = watch::channel(None);
    let endpoint = Endpoint::new(metrics, reasons.clone());
    let mut tasks = JoinSet::new();
    if let Some(address) = config.metrics {
        let serving = serve(address, endpoint.clone(), problems.clone(), cancel.clone());
        spawn(&mut tasks, "the endpoint for metrics", serving);
    }
    let gate = Gate::close(listeners, reasons);
    notify::ready(&format!("STATUS=starting as {}", config.name));

    let needs = tokio::select! {
        needs = Needs::gather(&config, &reason) => needs,
        () = cancel.cancelled() => {
            notify::stopping();
            return Ok(());
        }
    };
    // Calls wait for what the other tasks do, so these go on until the calls have ended.
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let mut parts = Parts::start(&config, needs, problems, &endpoint, tasks, &stop);
    let served = gate.open().await?;
    parts.serve(served, &cancel);
    notify::ready("STATUS=working");
    info!("Serving Docker");

    let outcome = supervise(&mut parts.serving, &mut parts.tasks, &cancel).await;
    notify::stopping();
    cancel.cancel();
    end("calls", &mut parts.serving).await;
    stop.cancel();
    end("tasks", &mut parts.tasks).await;
    outcome
}

/// Builds the store that the settings name.
///
/// # Errors
///
/// A sentence.
pub fn store(config: &Config) -> Result<EtcdStore, String> {
    let read = |key: &str, path: &Path| {
        files::read(path).map_err(|error| {
            format!("cannot read {}: {error}; put the PEM file there, or name another with `{key}` in the driver's settings", path.display())
        })
    };
    let tls = match &config.etcd_tls {
        None => None,
        Some(tls) => {
            let client = match &tls.client {
                Some((certificate, key)) => {
                    Some((read("etcd_cert", certificate)?, read("etcd_key", key)?))
                }
                None => None,
            };
            Some(EtcdTls { ca: Some(read("etcd_ca", &tls.ca)?), client, domain: None })
        }
    };
    let options =
        EtcdOptions { endpoints: config.etcd.clone(), prefix: config.etcd_prefix.clone(), tls };
    EtcdStore::new(options).map_err(|error| crate::chain(&error))
}

/// Whether the wanted WireGuard works here; leaves everything as it is.
///
/// # Errors
///
/// A sentence.
pub async fn probe(config: &Config) -> Result<(), String> {
    let look = async { probe::check(&choose(config).await?).await };
    look.await.map_err(|error| crate::chain(&error))
}

/// Starts the data plane that the settings name.
pub(crate) async fn dataplane(config: &Config) -> Result<Linux, String> {
    let start = async {
        let choice = choose(config).await?;
        let is_kernel = matches!(choice, Choice::Kernel);
        let dataplane = Linux::start(choice).await?;
        if is_kernel {
            Linux::end_devices(&engine(config)).await?;
        }
        Ok::<_, DataplaneError>(dataplane)
    };
    start.await.map_err(|error| crate::chain(&error))
}

async fn choose(config: &Config) -> Result<Choice, DataplaneError> {
    let wanted = match config.backend {
        BackendSetting::Auto => Wanted::Auto,
        BackendSetting::Kernel => Wanted::Kernel,
        BackendSetting::Userspace => Wanted::Userspace,
    };
    probe::backend(wanted, engine(config)).await
}

fn engine(config: &Config) -> Spawn {
    Spawn {
        log_file: Some(config.run_dir.join("engine.log")),
        ..Spawn::new(&config.engine, config.engine_socket())
    }
}

type Plane = Metered<Linux>;

/// What the driver cannot work without.
struct Needs {
    secrets: ClusterSecrets,
    store: EtcdStore,
    journal: Journal,
    dataplane: Linux,
    boot: String,
}

impl Needs {
    /// Waits until everything is there, telling what is missing.
    async fn gather(config: &Config, reason: &watch::Sender<Option<Arc<str>>>) -> Self {
        loop {
            match Self::try_gather(config).await {
                Ok(needs) => return needs,
                Err(sentence) => {
                    if reason.borrow().as_deref() != Some(sentence.as_str()) {
                        warn!("Cannot work yet: {sentence}");
                        notify::ready(&format!("STATUS={sentence}"));
                    }
                    reason.send_replace(Some(Arc::from(sentence)));
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    async fn try_gather(config: &Config) -> Result<Self, String> {
        let secrets = check::secrets(config)?;
        let store = store(config)?;
        let boot = std::fs::read_to_string(BOOT_ID)
            .map_err(|error| format!("cannot read {BOOT_ID}: {error}"))?;
        let boot = boot.trim().to_owned();
        let (dir, id, random) = (config.state_dir.clone(), boot.clone(), random());
        let mirror = config.run_dir.join("journal.redb");
        let opened = tokio::task::spawn_blocking(move || {
            // What cannot be listed may be there.
            let is_running = netns::list().map_or(true, |found| !found.is_empty());
            let spare = Spare { path: mirror, boot: id.clone(), is_running };
            Journal::open_mirrored(&dir, &id, &random, Some(&spare))
        })
        .await;
        let journal =
            opened.map_err(|error| error.to_string())?.map_err(|error| error.sentence())?;
        let dataplane = dataplane(config).await?;
        Ok(Self { secrets, store, journal, dataplane, boot })
    }
}

/// The running tasks.
struct Parts {
    /// Those that answer Docker and operators.
    serving: JoinSet<&'static str>,
    tasks: JoinSet<&'static str>,
    api: Api,
    admin: Option<Arc<Status<Plane>>>,
}

impl Parts {
    fn start(
        config: &Config,
        needs: Needs,
        problems: Problems,
        endpoint: &Endpoint<Status<Plane>>,
        mut tasks: JoinSet<&'static str>,
        cancel: &CancellationToken,
    ) -> Self {
        let Needs { secrets, store, journal, dataplane, boot } = needs;
        let me = journal.host_id();
        let facts = HostFacts {
            me,
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: dataplane.backend().to_owned(),
            boot,
            underlay: Vec::new(),
        };
        info!(host = %me, backend = facts.backend, "This host");
        let metrics = endpoint.metrics.clone();
        let dataplane = Metered::new(dataplane, metrics.clone());
        note_insecure(&secrets, &problems);
        let (underlay, underlays) = watch::channel(underlay::find(&config.underlay, &[]));

        let (configured, etcd) = (config.underlay.clone(), config.etcd.clone());
        spawn(
            &mut tasks,
            "the search for underlay addresses",
            underlay::follow(configured, etcd, store.clone(), underlay, cancel.clone()),
        );
        spawn(
            &mut tasks,
            "the watch over the journal",
            journal::watch_over(journal.clone(), problems.clone(), cancel.clone()),
        );
        let store = MeteredStore::new(store, metrics.clone());
        let given = Given {
            store: store.clone(),
            dataplane,
            journal,
            secrets: secrets.clone(),
            facts,
            underlay: underlays,
            ports: config.ports.clone(),
            random: random(),
            clock: clock::of_host(),
            problems,
            dead_host_grace: config.dead_host_grace,
        };
        let wired = given.wire(cancel);
        for (name, task) in wired.tasks {
            spawn(&mut tasks, name, task);
        }
        let measuring = metrics.clone();
        wired.status.progress.listen(move |heard| match heard {
            Heard::Followed(took) => measuring.followed(took),
            Heard::Passed { took, in_sync } => measuring.passed(in_sync, took),
        });
        let status = Arc::new(wired.status);
        let told = Told {
            source: Arc::clone(&status),
            peers: status.peers.clone(),
            progress: status.progress.clone(),
            kernel: report::kernel(),
            clock: clock::of_host(),
        };
        // It is set once.
        let _ = endpoint.told.set(told);
        let report = Report::of(&status, store, secrets);
        spawn(&mut tasks, "the report to the cluster", report.run(cancel.clone()));
        let api = wired.api.measured_by(metrics);
        Self { serving: JoinSet::new(), tasks, api, admin: Some(status) }
    }

    /// Serves Docker and operators.
    fn serve(&mut self, served: Served, cancel: &CancellationToken) {
        if let Some(status) = self.admin.take() {
            spawn(
                &mut self.serving,
                "the admin socket",
                admin::serve(served.admin, status, cancel.clone()),
            );
        }
        if let Some(socket) = served.legacy {
            spawn(
                &mut self.serving,
                "the legacy socket",
                api::serve(socket, Scope::Local, self.api.clone(), cancel.clone()),
            );
        }
        let (api, stop, mut shims) = (self.api.clone(), cancel.clone(), served.shims);
        let first = served.bound;
        spawn(&mut self.serving, "the shims' sockets", async move {
            let mut serving = JoinSet::new();
            for Bound { socket, gone } in first {
                serving.spawn(api::serve(socket, Scope::Global, api.clone(), gone));
            }
            loop {
                tokio::select! {
                    bound = shims.recv() => match bound {
                        Some(Bound { socket, gone }) => { serving.spawn(api::serve(socket, Scope::Global, api.clone(), gone)); }
                        None => break,
                    },
                    Some(_) = serving.join_next() => {}
                    () = stop.cancelled() => break,
                }
            }
            while serving.join_next().await.is_some() {}
        });
    }
}

/// Waits for tasks that were told to end.
async fn end(what: &str, tasks: &mut JoinSet<&'static str>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END_WITHIN, all).await.is_err() {
        warn!("Some {what} did not end in time");
    }
}

/// Waits for the end that is wanted, or for one that is not.
async fn supervise(
    serving: &mut JoinSet<&'static str>,
    tasks: &mut JoinSet<&'static str>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        Some(ended) = serving.join_next() => ended,
        Some(ended) = tasks.join_next() => ended,
    };
    match ended {
        Ok(_) if cancel.is_cancelled() => Ok(()),
        Ok(what) => bail!("{what} ended by itself; the driver starts anew"),
        Err(error) => bail!("a task of the driver failed ({error}); the driver starts anew"),
    }
}

fn spawn(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        name
    });
}

/// Every socket, bound before anything else so that Docker never meets a missing one.
struct Listeners {
    admin: Socket,
    legacy: Option<Socket>,
    shims: mpsc::Receiver<Bound>,
}

impl Listeners {
    fn open(
        config: &Config,
        problems: &Problems,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let bind = |path: PathBuf| {
            let failed = format!("cannot listen on {}", path.display());
            Socket::bind(path).context(failed)
        };
        let admin = bind(config.admin_socket())?;
        let path = config.legacy_socket.then(|| config.plugins_dir.join(plugins::LEGACY_SOCKET));
        let legacy = path.map(bind).transpose()?;
        let beside = legacy.as_ref().map(|_| problems.clone());
        let (bound, shims) = mpsc::channel(16);
        tokio::spawn(plugins::meet(config.plugins_dir.clone(), bound, beside, cancel.clone()));
        Ok(Self { admin, legacy, shims })
    }
}

/// Answers with the reason until it is opened.
struct Gate {
    ready: CancellationToken,
    admin: tokio::task::JoinHandle<Socket>,
    legacy: Option<tokio::task::JoinHandle<Socket>>,
    shims: tokio::task::JoinHandle<(Vec<Bound>, mpsc::Receiver<Bound>)>,
}

/// What the gate gives back.
struct Served {
    admin: Socket,
    legacy: Option<Socket>,
    bound: Vec<Bound>,
    shims: mpsc::Receiver<Bound>,
}

impl Gate {
    fn close(listeners: Listeners, reasons: watch::Receiver<Option<Arc<str>>>) -> Self {
        let ready = CancellationToken::new();
        let hold = |socket, asker| {
            tokio::spawn(unready::serve(socket, asker, reasons.clone(), ready.clone()))
        };
        let admin = hold(listeners.admin, Asker::Operator);
        let legacy = listeners.legacy.map(|socket| hold(socket, Asker::Docker));
        let shims = tokio::spawn(hold_shims(listeners.shims, reasons, ready.clone()));
        Self { ready, admin, legacy, shims }
    }
}

impl Gate {
    async fn open(self) -> anyhow::Result<Served> {
        self.ready.cancel();
        let admin = self.admin.await?;
        let legacy = match self.legacy {
            Some(held) => Some(held.await?),
            None => None,
        };
        let (bound, shims) = self.shims.await?;
        Ok(Served { admin, legacy, bound, shims })
    }
}

async fn hold_shims(
    mut shims: mpsc::Receiver<Bound>,
    reasons: watch::Receiver<Option<Arc<str>>>,
    ready: CancellationToken,
) -> (Vec<Bound>, mpsc::Receiver<Bound>) {
    let mut held = JoinSet::new();
    let mut bound = Vec::new();
    loop {
        tokio::select! {
            () = ready.cancelled() => break,
            Some(Bound { socket, gone }) = shims.recv() => {
                let (reasons, ready) = (reasons.clone(), ready.clone());
                held.spawn(async move {
                    let socket = unready::serve(socket, Asker::Docker, reasons, ready).await;
                    Bound { socket, gone }
                });
            }
        }
    }
    while let Some(listener) = held.join_next().await {
        bound.extend(listener.ok());
    }
    (bound, shims)
}

fn random() -> Random {
    Arc::new(|bytes| {
        getrandom::fill(bytes).expect("the kernel's random numbers are there once the host is up")
    })
}

fn note_insecure(secrets: &ClusterSecrets, problems: &Problems) {
    if secrets.is_insecure() {
        problems.set(Problem {
            code: "insecure".to_owned(),
            object: "cluster secret".to_owned(),
            cause: "`insecure` is set: whoever can write to etcd can join every network".to_owned(),
            next_step:
                "make a secret (wgnetctl secret new), copy it to every host and take `insecure` out"
                    .to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_it_is_told_to_ends_the_driver_with_an_error() {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        spawn(&mut tasks, "one that goes on", std::future::pending());
        spawn(&mut tasks, "the cluster task", async {});
        let error = supervise(&mut JoinSet::new(), &mut tasks, &cancel).await.unwrap_err();
        assert_eq!(error.to_string(), "the cluster task ended by itself; the driver starts anew");
        spawn(&mut tasks, "one that fails", async { panic!("as it should") });
        let error = supervise(&mut JoinSet::new(), &mut tasks, &cancel).await.unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_ends_because_it_was_told_to_is_no_error() {
        // Whichever of the two is seen first.
        for _ in 0..32 {
            let cancel = CancellationToken::new();
            let mut tasks = JoinSet::new();
            spawn(&mut tasks, "the cluster task", cancel.clone().cancelled_owned());
            cancel.cancel();
            tokio::task::yield_now().await;
            supervise(&mut JoinSet::new(), &mut tasks, &cancel).await.unwrap();
        }
    }
}
