//! The alerts and the dashboard of deploy/: whether they are about what a driver says, and whether
//! alerts fire on their fault and clear. Faults are planted and metrics read from drivers; only the
//! minutes in between are those of Prometheus' own unit tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wgnet_control_plane::store::{Op, Store as _, Txn};

use super::*;

const BLUE: &str = "network=\"s-bbbbbbbbbbbbbbbbbbbbbbbbb\"";

/// Those that Prometheus gives every series.
const GIVEN_LABELS: [&str; 3] = ["job", "instance", "le"];

/// What stands for variables where a query is only to be understood.
const VARIABLES: [(&str, &str); 5] = [
    ("$job", "wgnet"),
    ("$instance", ".*"),
    ("$network", ".*"),
    ("$__rate_interval", "5m"),
    ("$__range", "3h"),
];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn read(name: &str) -> String {
    let path = deploy(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn promtool(args: &[&str], directory: &Path) -> String {
    let output = Command::new("promtool")
        .args(args)
        .current_dir(directory)
        .output()
        .expect("promtool is there (tests/setup installs it)");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// Every alert's name and where its `runbook_url` leads.
fn alerts() -> Vec<(String, String)> {
    let rules = read("prometheus/alerts.yml");
    let mut alerts: Vec<(String, String)> = Vec::new();
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push((name.to_owned(), String::new()));
        }
        if let Some(place) = line.strip_prefix("runbook_url: ") {
            let (name, known) = alerts.last_mut().unwrap();
            assert!(known.is_empty(), "{name} has two runbooks");
            *known = place.trim_matches('"').to_owned();
        }
    }
    assert!(alerts.len() >= 20, "they are not read as they are written: {alerts:?}");
    alerts
}

/// Every text of the dashboard: queries, legends, variables.
fn texts(value: &serde_json::Value, texts: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => texts.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|it| self::texts(it, texts)),
        serde_json::Value::Object(fields) => fields.values().for_each(|it| self::texts(it, texts)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&read("grafana/wgnet.json")).unwrap()
}

/// The dashboard's queries.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The alerts' expressions: on the line of their key, or deeper below it.
fn expressions() -> Vec<String> {
    let rules = read("prometheus/alerts.yml");
    let mut lines = rules.lines().peekable();
    let mut expressions = Vec::new();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("        expr: ") else { continue };
        let mut expression = if rest == ">-" { String::new() } else { rest.to_owned() };
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            expression.push_str(more);
        }
        expressions.push(expression);
    }
    assert_eq!(expressions.len(), alerts().len());
    expressions
}

/// Names in a query that are no function, label, duration, word of the language or variable: metrics.
fn bare_names(query: &str) -> BTreeSet<String> {
    const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
    const LISTS: [&str; 5] = ["by", "on", "ignoring", "without", "group_left"];
    let mut names = BTreeSet::new();
    let mut rest = query;
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end.max(c.len_utf8()));
        let skip_past =
            |closing: char| &after[after.find(closing).map_or(after.len(), |at| at + 1)..];
        rest = match c {
            '{' => skip_past('}'),
            '[' => skip_past(']'),
            _ if LISTS.contains(&word) => skip_past(')'),
            _ => after,
        };
        let is_call = ["(", "by ", "without "].iter().any(|it| after.trim_start().starts_with(it));
        let is_name = c.is_ascii_alphabetic() || c == '_';
        if is_name && !is_call && !LISTS.contains(&word) && !WORDS.contains(&word) {
            names.insert(word.to_owned());
        }
    }
    names
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Splits `a="x",b=~"y"}…` at its commas, up to the brace; each with its label first.
fn selector(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' | '}' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    assert!(!quoted, "{text}");
    parts.retain(|part| !part.trim().is_empty());
    parts.into_iter().map(|part| part.trim().split(|c| !is_of_name(c)).next().unwrap()).collect()
}

/// Metrics of ours in a text, each with the labels it is selected by.
fn uses(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut uses = Vec::new();
    for (at, _) in text.match_indices("wgnet_") {
        if text[..at].ends_with(is_of_name) {
            continue;
        }
        let end = text[at..].find(|c| !is_of_name(c)).map_or(text.len(), |length| at + length);
        let labels = text[end..].strip_prefix('{').map(selector).unwrap_or_default();
        uses.push((&text[at..end], labels));
    }
    uses
}

/// Labels that series are put together by, or that are shown.
fn named_labels(text: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    for list in ["by (", "on (", "ignoring (", "without ("] {
        for (at, _) in text.match_indices(list) {
            let list = text[at + list.len()..].split(')').next().unwrap();
            labels.extend(list.split(',').map(str::trim));
        }
    }
    for (at, begin) in text.match_indices("{{").chain(text.match_indices("$labels.")) {
        let rest = text[at + begin.len()..].trim_start();
        let name = rest.split(|c| !is_of_name(c)).next().unwrap();
        labels.extend(Some(name).filter(|name| !name.is_empty()));
    }
    labels
}

/// Metrics and their labels, as a driver has them that met everything.
async fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let (store, one, _two) = two().await;
    one.call("Rubbish", json!({})).await;
    one.problems.set(problem("port-taken"));
    put_rubbish(&store).await;
    one.model.quietly(&Namespace::of(&network()), |observed| {
        for peer in observed.wireguards.values_mut().flat_map(|it| it.peers.values_mut()) {
            peer.last_handshake = Some(now());
        }
    });
    one.until("wgnet_peer_handshake_age_seconds{", |it| it < 60.0).await;
    one.until("wgnet_refused_records_total{", |it| it >= 1.0).await;
    one.until("wgnet_record_follow_duration_seconds_count", |it| it >= 1.0).await;
    one.until("wgnet_etcd_requests_total{operation=\"commit\"", |it| it >= 1.0).await;
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in one.samples().await.keys() {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let labels = selector(labels).into_iter().map(str::to_owned);
        exported.entry(name.to_owned()).or_default().extend(labels);
    }
    exported
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn problem(code: &str) -> Problem {
    let [object, cause, next_step] = ["x"; 3].map(str::to_owned);
    Problem { code: code.to_owned(), object, cause, next_step }
}

/// A record that nobody sealed.
async fn put_rubbish(store: &MemoryStore) {
    let key = format!("hosts/{}", "ab".repeat(16));
    commit(store, Op::Put { key, value: b"rubbish".to_vec() }).await;
}

async fn commit(store: &MemoryStore, op: Op) {
    store.commit(Txn { conditions: Vec::new(), ops: vec![op] }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_dashboard_name_only_what_drivers_export() {
    let exported = exported().await;
    let rules = read("prometheus/alerts.yml");
    let rules = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut all: Vec<String> = vec![rules.collect::<Vec<_>>().join("\n")];
    texts(&dashboard(), &mut all);
    let labels: BTreeSet<&str> = exported.values().flatten().map(String::as_str).collect();
    let is_given = |label: &str| GIVEN_LABELS.contains(&label);
    let mut seen = 0;
    for text in &all {
        for (metric, selected) in uses(text) {
            let known = exported.get(metric);
            let known = known.unwrap_or_else(|| panic!("no driver exports {metric}: {text}"));
            for label in selected {
                assert!(
                    known.contains(label) || is_given(label),
                    "{metric} has no {label}: {text}"
                );
            }
            seen += 1;
        }
        for label in named_labels(text) {
            assert!(labels.contains(label) || is_given(label), "nothing has {label}: {text}");
        }
    }
    assert!(seen > 60, "only {seen} uses were found: they are not read as they are written");
    let queries = [expressions(), queries()].concat();
    assert!(queries.len() > 60, "{queries:#?}");
    for query in queries {
        let others = bare_names(&query).into_iter().filter(|name| !name.starts_with("wgnet_"));
        // Whether it was scraped at all is Prometheus' to say.
        assert_eq!(
            others.collect::<BTreeSet<_>>().difference(&["up".to_owned()].into()).next(),
            None
        );
    }
}

#[test]
fn every_alert_fires_on_its_fault_and_clears_by_promtool() {
    let directory = deploy("prometheus");
    promtool(&["check", "rules", "alerts.yml"], &directory);
    promtool(&["test", "rules", "alerts_test.yml"], &directory);
    let tests = read("prometheus/alerts_test.yml");
    for (name, _) in alerts() {
        assert!(tests.contains(&format!("- name: {name} fires ")), "no test fires {name}");
        let expected = format!("{{labels: '{{alertname=\"{name}\"}}', value: 1}}");
        assert!(tests.contains(&expected), "no test expects {name}");
    }
}

#[test]
fn every_alert_has_its_runbook_in_the_guide() {
    let guide = read("GUIDE.md");
    let headings: BTreeSet<&str> =
        guide.lines().filter_map(|line| Some(line.strip_prefix("### ")?.trim())).collect();
    for (name, place) in alerts() {
        assert!(headings.contains(name.as_str()), "the guide has no section {name}");
        let place = place.strip_prefix("deploy/GUIDE.md#").expect("it leads into the guide");
        // Sections of codes are called by the code: the guide's own test has that each is there.
        let is_of_code = ["{{ $labels.code }}", "refused-{{ $labels.reason }}"].contains(&place);
        assert!(place == name.to_lowercase() || is_of_code, "{name} leads to {place}");
    }
}

#[test]
fn the_dashboard_is_understood_by_prometheus_and_bound_to_none() {
    let dashboard = dashboard();
    assert!(dashboard["uid"].is_null() && dashboard["id"].is_null());
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            continue;
        }
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string() || panel["type"] == "heatmap");
        assert!(panel["description"].as_str().is_some_and(|it| !it.is_empty()), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            queries.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(queries.len() > 30);
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query =
            VARIABLES.iter().fold(query.clone(), |query, (name, value)| query.replace(name, value));
        assert!(!query.contains('$'), "{query}");
        let query = query.replace('\'', "''");
        writeln!(rules, "      - {{record: 'panel:{number}', expr: '{query}'}}").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("panels.yml"), rules).unwrap();
    promtool(&["check", "rules", "panels.yml"], dir.path());
}

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
