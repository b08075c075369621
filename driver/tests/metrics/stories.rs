//! Every alert fires on its fault and clears. Faults are planted and metrics read from drivers; only
//! the minutes in between are those of Prometheus' own unit tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use wgnet_control_plane::store::{Op, Store as _, Txn};

use super::alerts::{alerts, commit, deploy, problem, promtool, put_rubbish};
use super::*;

const BLUE: &str = "network=\"s-bbbbbbbbbbbbbbbbbbbbbbbbb\"";

/// What Prometheus sees of a driver; nothing, if it does not answer.
type Scrape = Option<BTreeMap<String, f64>>;

/// What drivers said before a fault, with it, and after its end.
struct Story {
    alert: &'static str,
    hosts: Vec<(&'static str, [Scrape; 3])>,
    /// In minutes, how long each scrape is what Prometheus gets.
    lasts: [usize; 3],
}

impl Story {
    /// The last part is longer than any alert looks back.
    fn of_hosts(alert: &'static str, hosts: Vec<(&'static str, [Scrape; 3])>) -> Self {
        Self { alert, hosts, lasts: [20, 30, 90] }
    }

    fn new(alert: &'static str, scrapes: [Scrape; 3]) -> Self {
        Self::of_hosts(alert, vec![("h1", scrapes)])
    }

    /// Of something that is counted, and not counted any more.
    fn counted(alert: &'static str, before: Scrape, after: Scrape) -> Self {
        Self::new(alert, [before, after.clone(), after])
    }

    /// As a test of promtool's.
    fn render(&self, text: &mut String) {
        writeln!(text, "  - name: {}\n    interval: 1m\n    input_series:", self.alert).unwrap();
        for (host, scrapes) in &self.hosts {
            let names: BTreeSet<&String> =
                scrapes.iter().flatten().flat_map(BTreeMap::keys).collect();
            let up = scrapes.each_ref().map(|scrape| Some(f64::from(u8::from(scrape.is_some()))));
            self.series(text, host, "up", up);
            for name in names {
                let values = scrapes.each_ref().map(|it| it.as_ref()?.get(name).copied());
                self.series(text, host, name, values);
            }
        }
        text.push_str("    promql_expr_test:\n");
        let [before, during, after] = self.lasts;
        let fires = format!("ALERTS{{alertstate=\"firing\",alertname=\"{}\"}}", self.alert);
        let name = format!("{{labels: '{{alertname=\"{}\"}}', value: 1}}", self.alert);
        for (minute, within, expected) in [
            (before - 1, before, ""),
            (before + during - 1, during, name.as_str()),
            (before + during + after - 1, 1, ""),
        ] {
            let expr = format!("group by (alertname) (max_over_time({fires}[{within}m]))");
            let expected = format!("exp_samples: [{expected}]");
            writeln!(text, "      - {{expr: '{expr}', eval_time: {minute}m, {expected}}}").unwrap();
        }
    }

    /// One line of what is scraped, with the labels that Prometheus adds.
    fn series(&self, text: &mut String, host: &str, sample: &str, values: [Option<f64>; 3]) {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let labels = format!("job=\"wgnet\",instance=\"{host}\",{labels}");
        let labels = labels.trim_end_matches(',').replace('\'', "''");
        let [_, during, _] = self.lasts;
        let is_of_times = ["_bucket", "_count", "_sum"].iter().any(|it| name.ends_with(it));
        let parts: Vec<String> = (0..3)
            .map(|part| match (values[part], values[0]) {
                // What took long happened all the time, not at once.
                (Some(value), Some(was)) if part == 1 && is_of_times && value >= was => {
                    format!("{was}+{}x{}", (value - was) / during as f64, during - 1)
                }
                (Some(value), _) => format!("{value}x{}", self.lasts[part] - 1),
                (None, _) => format!("_x{}", self.lasts[part]),
            })
            .collect();
        let values = parts.join(" ");
        writeln!(text, "      - {{series: '{name}{{{labels}}}', values: '{values}'}}").unwrap();
    }
}

impl Host {
    async fn scrape(&self) -> Scrape {
        Some(self.samples().await)
    }

    async fn value(&self, begins: &str) -> f64 {
        let samples = self.samples().await;
        samples.iter().find(|(name, _)| name.starts_with(begins)).map_or(0.0, |(_, value)| *value)
    }

    /// Does something until a sample is as wanted.
    async fn cause(&self, begins: &str, is_wanted: impl Fn(f64) -> bool, mut cause: impl FnMut()) {
        let began = Instant::now();
        loop {
            let value = self.value(begins).await;
            if is_wanted(value) {
                return;
            }
            assert!(began.elapsed() < 3 * SOON, "{begins} is {value}");
            cause();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Does something until a counter has grown by so much.
    async fn grow(&self, counter: &str, by: f64, cause: impl FnMut()) {
        let before = self.value(counter).await;
        self.cause(counter, |it| it >= before + by, cause).await;
    }

    fn peers(&self, change: impl Fn(&mut wgnet_core::ObservedPeer)) {
        self.model.quietly(&Namespace::of(&network()), |observed| {
            observed.wireguards.values_mut().flat_map(|it| it.peers.values_mut()).for_each(&change);
        });
    }

    fn tamper(&self, kernel: wgnet_core::Seen<wgnet_core::Observed>) {
        self.model.tamper(&Namespace::of(&network()), |it| *it = kernel);
    }

    /// What was done to its kernel is put right.
    async fn heal(&self) {
        self.tamper(wgnet_core::Seen::Absent);
        self.until(&format!("wgnet_network_in_sync{{{BLUE}}}"), |it| it == 1.0).await;
    }
}

/// Faults at the driver itself, and in its calls.
async fn stories_of_the_driver(one: &Host, stories: &mut Vec<Story>) {
    let good = one.scrape().await;
    stories.push(Story::new("WgnetDriverDown", [good.clone(), None, good.clone()]));

    let unready = Host::start(9, &MemoryStore::new()).await;
    let scrapes = [good.clone(), unready.scrape().await, good.clone()];
    stories.push(Story::new("WgnetDriverNotReady", scrapes));

    let mut newer = Host::start_version(10, &MemoryStore::new(), "0.2.0").await;
    newer.works();
    let newer = newer.scrape().await;
    let hosts = vec![
        ("h1", [good.clone(), good.clone(), newer.clone()]),
        ("h2", [good, newer.clone(), newer]),
    ];
    let story = Story::of_hosts("WgnetVersionsDiffer", hosts);
    stories.push(Story { lasts: [20, 150, 90], ..story });

    for (alert, code) in [
        ("WgnetJournalUnwritable", "journal-unwritable"),
        ("WgnetForeignCluster", "foreign-cluster"),
        ("WgnetMembersHeld", "mass-delete-held"),
        ("WgnetProblem", "metrics-address"),
    ] {
        let before = one.scrape().await;
        one.problems.set(problem(code));
        let during = one.scrape().await;
        one.problems.clear(code, "x");
        stories.push(Story::new(alert, [before, during, one.scrape().await]));
    }

    let before = one.scrape().await;
    for _ in 0..5 {
        let nobodys =
            json!({"NetworkID": network(), "EndpointID": "f".repeat(64), "SandboxKey": "/x"});
        assert!(one.call("Join", nobodys).await.contains("Err"));
    }
    stories.push(Story::counted("WgnetDockerCallsFail", before, one.scrape().await));

    let (before, metrics) = (one.scrape().await, &one.endpoint.metrics);
    metrics.called("CreateEndpoint", true, Duration::from_secs(8));
    metrics.followed(Duration::from_secs(4));
    let during = one.scrape().await;
    stories.push(Story::counted("WgnetDockerCallsSlow", before.clone(), during.clone()));
    stories.push(Story::counted("WgnetFollowsSlowly", before, during));
}

/// Faults of a network's kernel, and of who changes it.
async fn stories_of_the_kernel(one: &Host, stories: &mut Vec<Story>) {
    let in_sync = format!("wgnet_network_in_sync{{{BLUE}}}");
    let before = one.scrape().await;
    one.tamper(wgnet_core::Seen::Unknown);
    one.until(&in_sync, |it| it == 0.0).await;
    let during = one.scrape().await;
    one.heal().await;
    stories.push(Story::new("WgnetNetworkOutOfSync", [before, during, one.scrape().await]));

    let before = one.scrape().await;
    let repairs = "wgnet_network_repairs_total";
    one.grow(repairs, 8.0, || one.tamper(wgnet_core::Seen::Absent)).await;
    one.until(&in_sync, |it| it == 1.0).await;
    stories.push(Story::counted("WgnetRepairs", before, one.scrape().await));

    let before = one.scrape().await;
    (51820..=51829).for_each(|port| one.model.occupy_port(port, true));
    let refused = "wgnet_reconcile_steps_total{step=\"create_wireguard\",result=\"error\"}";
    one.grow(refused, 8.0, || one.tamper(wgnet_core::Seen::Absent)).await;
    let during = one.scrape().await;
    (51820..=51829).for_each(|port| one.model.occupy_port(port, false));
    one.heal().await;
    stories.push(Story::counted("WgnetKernelRefuses", before, during));
}

/// Faults of the way to another host.
async fn stories_of_peers(one: &Host, stories: &mut Vec<Story>) {
    let before = one.scrape().await;
    let mut last = 0;
    one.grow("wgnet_peer_underlay_changes_total", 9.0, || {
        last = last % 200 + 1;
        one.peers(|peer| peer.underlay = Some(([192, 0, 2, last], 51820).into()));
    })
    .await;
    stories.push(Story::counted("WgnetUnderlayFlaps", before, one.scrape().await));

    one.until("wgnet_peer_silent", |it| it == 0.0).await;
    let before = one.scrape().await;
    let unanswered = || one.peers(|peer| peer.sent_bytes += 1000);
    one.cause("wgnet_peer_silent", |it| it == 1.0, unanswered).await;
    let during = one.scrape().await;
    let answered = || one.peers(|peer| peer.received_bytes += 1000);
    one.cause("wgnet_peer_silent", |it| it == 0.0, answered).await;
    stories.push(Story::new("WgnetPeerSilent", [before, during, one.scrape().await]));
}

/// Faults of etcd, and of the way to it.
async fn stories_of_the_store(store: &MemoryStore, one: &Host, stories: &mut Vec<Story>) {
    let (connected, unpublished) = ("wgnet_etcd_connected", "wgnet_etcd_unpublished_records");
    let before = one.scrape().await;
    store.stop();
    one.until(connected, |it| it == 0.0).await;
    let during = one.scrape().await;
    store.start();
    one.until(connected, |it| it == 1.0).await;
    stories.push(Story::new("WgnetEtcdAway", [before, during, one.scrape().await]));

    let before = one.scrape().await;
    one.grow("wgnet_etcd_watch_restarts_total", 30.0, || store.restart()).await;
    one.until(connected, |it| it == 1.0).await;
    stories.push(Story::counted("WgnetWatchesRestart", before, one.scrape().await));

    one.until(unpublished, |it| it == 0.0).await;
    let (before, slowly) = (one.scrape().await, Duration::from_millis(1200));
    one.store.hold();
    let held = Instant::now();
    one.populate(6).await;
    one.until(unpublished, |it| it > 0.0).await;
    let during = one.scrape().await;
    tokio::time::sleep(slowly.saturating_sub(held.elapsed())).await;
    one.store.mend();
    one.until(unpublished, |it| it == 0.0).await;
    let after = one.scrape().await;
    stories.push(Story::new("WgnetRecordsUnpublished", [before.clone(), during, after.clone()]));
    stories.push(Story::counted("WgnetEtcdSlow", before, after));

    let before = one.scrape().await;
    let metered = MeteredStore::new(store.client(), one.endpoint.metrics.clone());
    for _ in 0..5 {
        let ops = (0..1000).map(|number| Op::Delete { key: number.to_string() }).collect();
        metered.commit(Txn { conditions: Vec::new(), ops }).await.unwrap_err();
    }
    stories.push(Story::counted("WgnetEtcdRefuses", before, one.scrape().await));

    let before = one.scrape().await;
    put_rubbish(store).await;
    one.until("wgnet_refused_records_total{", |it| it >= 1.0).await;
    stories.push(Story::counted("WgnetRecordsRefused", before, one.scrape().await));
}

/// A third host joins, which the second is not told of; then that ends, and is forgotten.
async fn stories_of_hosts(store: &MemoryStore, one: &Host, two: Host, stories: &mut Vec<Story>) {
    let members = format!("wgnet_network_members{{{BLUE}}}");
    let before = [one.scrape().await, two.scrape().await];
    two.store.cut();
    let three = Host::start(4, store).await;
    three.populate(4).await;
    one.until(&members, |it| it == 3.0).await;
    let during = [one.scrape().await, two.scrape().await];
    two.store.mend();
    two.until(&members, |it| it == 3.0).await;
    let after = [one.scrape().await, two.scrape().await];
    let of = |at: usize| [before[at].clone(), during[at].clone(), after[at].clone()];
    let hosts = vec![("h1", of(0)), ("h2", of(1))];
    stories.push(Story::of_hosts("WgnetMembersDiffer", hosts));

    one.until("wgnet_hosts_alive", |it| it == 2.0).await;
    let before = one.scrape().await;
    let samples = before.as_ref().unwrap().keys();
    let mut ids = samples.filter_map(|name| name.split_once("peer=\"h3\",peer_id=\""));
    let id = ids.next().unwrap().1.split('"').next().unwrap().to_owned();
    drop(two);
    let began = Instant::now();
    while one.value("wgnet_hosts_alive").await == 2.0 {
        assert!(began.elapsed() < SOON, "it still lives");
        // As its lease would.
        commit(store, Op::Delete { key: format!("alive/{id}") }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let during = one.scrape().await;
    commit(store, Op::Delete { key: format!("hosts/{id}") }).await;
    one.until("wgnet_hosts", |it| it == 1.0).await;
    stories.push(Story::new("WgnetHostGone", [before, during, one.scrape().await]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_fire_on_what_a_driver_says_of_a_fault_and_clear_after_it() {
    let (store, one, mut two) = two().await;
    two.works();
    two.until("wgnet_etcd_unpublished_records", |it| it == 0.0).await;
    one.until("wgnet_hosts_alive", |it| it == 1.0).await;
    let mut stories = Vec::new();

    // One begins: its kernel does not follow the other host.
    let lag = format!("wgnet_network_lag_seconds{{{BLUE}}}");
    two.until(&lag, |it| it == 0.0).await;
    let before = two.scrape().await;
    two.tamper(wgnet_core::Seen::Unknown);
    one.populate(5).await;
    two.until(&lag, |it| it > 0.0).await;

    stories_of_the_driver(&one, &mut stories).await;
    stories_of_the_kernel(&one, &mut stories).await;
    stories_of_peers(&one, &mut stories).await;

    two.cause(&lag, |it| it > 31.0, || {}).await;
    let during = two.scrape().await;
    two.heal().await;
    two.until(&lag, |it| it == 0.0).await;
    stories.push(Story::new("WgnetNetworkLags", [before, during, two.scrape().await]));

    stories_of_the_store(&store, &one, &mut stories).await;
    two.until("wgnet_etcd_connected", |it| it == 1.0).await;
    stories_of_hosts(&store, &one, two, &mut stories).await;

    let told: BTreeSet<String> = stories.iter().map(|story| story.alert.to_owned()).collect();
    assert_eq!(told, alerts().into_iter().map(|(name, _)| name).collect());
    let rules = deploy("prometheus/alerts.yml").canonicalize().unwrap();
    let mut text =
        format!("rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n", rules.display());
    stories.iter().for_each(|story| story.render(&mut text));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("stories.yml"), text).unwrap();
    promtool(&["test", "rules", "stories.yml"], dir.path());
}
