//! A host whose last known records cannot be read for a while.

use super::*;

const UNREADABLE: &str = "journal-unreadable";

/// A task that is to begin with the record of one other host.
struct Start {
    disk: MemoryDisk,
    other: HostId,
    inputs: Inputs<MemoryStore>,
    outputs: Outputs,
    view: watch::Receiver<Arc<ClusterView>>,
    remembered: oneshot::Receiver<()>,
    problems: Problems,
    _underlay: watch::Sender<Underlay>,
}

fn facts(me: HostId) -> HostFacts {
    HostFacts {
        me,
        name: "host".to_owned(),
        version: "0".to_owned(),
        backend: "model".to_owned(),
        boot: "boot".to_owned(),
        underlay: Vec::new(),
    }
}

impl Start {
    async fn prepare() -> Self {
        let random: Random = Arc::new(|bytes| bytes.fill(100));
        let gate: crate::journal::Gate = Arc::new(|| Box::pin(async {}));
        let disk = MemoryDisk::default();
        let journal = Journal::open_in_memory(&disk, "boot", &random, gate).unwrap();
        let cluster = ClusterId([7; 16]);
        journal.update(move |state| state.cluster = Some(cluster)).await.unwrap();
        let (secrets, key) = (ClusterSecrets::generate([7; 32]), HostKey::from_random([2; 32]));
        let other = key.id();
        let (path, record) = (Path::Host(other), wanted::host_record(&facts(other), ANOTHER));
        let sealed = Sealer::new(key, secrets.clone(), cluster).seal_record(&path, 1, &record);
        journal.keep_records(vec![(path.to_string(), Some(sealed))]).await.unwrap();

        let (underlay, addresses) = watch::channel(Underlay::default());
        let problems = Problems::default();
        let store = MemoryStore::new();
        store.cut();
        let inputs = Inputs {
            store,
            host_key: journal.host_key().clone(),
            facts: facts(journal.host_id()),
            journal,
            secrets,
            underlay: addresses,
            random,
            problems: problems.clone(),
            dead_host_grace: Duration::from_secs(7 * 86_400),
            orders: Orders::default(),
            progress: Progress::default(),
        };
        let (view, views) = watch::channel(Arc::new(ClusterView::default()));
        let (sender, remembered) = oneshot::channel();
        let outputs = Outputs { view, status: watch::Sender::default(), remembered: sender };
        Self {
            disk,
            other,
            inputs,
            outputs,
            view: views,
            remembered,
            problems,
            _underlay: underlay,
        }
    }
}

fn has_problem(problems: &Problems) -> bool {
    problems.list().iter().any(|problem| problem.code == UNREADABLE)
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_on_before_the_last_known_records_are_read() {
    let mut start = Start::prepare().await;
    start.disk.hide(true);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(start.inputs, start.outputs, stop.clone()));
    // However long it takes.
    let told = tokio::time::timeout(Duration::from_secs(3600), &mut start.remembered).await;
    assert!(told.is_err(), "{told:?}");
    assert!(!start.view.has_changed().unwrap());
    let problem = start.problems.list().remove(0);
    assert_eq!((problem.code.as_str(), problem.object.as_str()), (UNREADABLE, "memory"));
    assert!(problem.cause.contains("a sector cannot be read"), "{problem:?}");
    assert!(problem.next_step.contains("check the disk"), "{problem:?}");
    // No room to write is no reason to wait.
    start.disk.fill(true);
    start.disk.hide(false);
    tokio::time::timeout(SOON, start.remembered).await.unwrap().unwrap();
    assert!(start.view.borrow().hosts.contains_key(&start.other));
    assert!(!has_problem(&start.problems));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_stopped_before_says_nothing_of_the_last_known_records() {
    let start = Start::prepare().await;
    start.disk.hide(true);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(start.inputs, start.outputs, stop.clone()));
    let told = async {
        while !has_problem(&start.problems) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap();
    stop.cancel();
    tokio::time::timeout(SOON, running).await.unwrap().unwrap();
    assert!(start.remembered.await.is_err());
}
