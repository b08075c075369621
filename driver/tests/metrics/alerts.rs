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

/// What a driver said before a fault, with it, and after its end.
struct Story {
    alert: &'static str,
    scrapes: [Scrape; 3],
}

/// How long each scrape is what Prometheus gets, in minutes. The last is longer than any alert looks back.
const MINUTES: [usize; 3] = [20, 10, 90];

impl Story {
    /// As a test of promtool's.
    fn render(&self, text: &mut String) {
        writeln!(text, "  - name: {}\n    interval: 1m\n    input_series:", self.alert).unwrap();
        let names: BTreeSet<&String> =
            self.scrapes.iter().flatten().flat_map(BTreeMap::keys).collect();
        let up = self.scrapes.each_ref().map(|scrape| Some(f64::from(u8::from(scrape.is_some()))));
        series(text, "up", up);
        for name in names {
            let values = self.scrapes.each_ref().map(|it| it.as_ref()?.get(name).copied());
            series(text, name, values);
        }
        text.push_str("    promql_expr_test:\n");
        let fires = "group by (alertname) (ALERTS{alertstate=\"firing\"";
        let expr = format!("{fires},alertname=\"{}\"}})", self.alert);
        let firing = format!("{{labels: '{{alertname=\"{}\"}}', value: 1}}", self.alert);
        let [before, during, _] = MINUTES;
        let after: usize = MINUTES.iter().sum();
        for (minute, expected) in
            [(before - 1, ""), (before + during - 1, firing.as_str()), (after - 1, "")]
        {
            let expected = format!("exp_samples: [{expected}]");
            writeln!(text, "      - {{expr: '{expr}', eval_time: {minute}m, {expected}}}").unwrap();
        }
    }
}

/// One line of what is scraped, with the labels that Prometheus adds.
fn series(text: &mut String, sample: &str, values: [Option<f64>; 3]) {
    let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let labels = format!("job=\"wgnet\",instance=\"h1\",{labels}");
    let labels = labels.trim_end_matches(',').replace('\'', "''");
    let values = values.iter().zip(MINUTES).map(|(value, minutes)| match value {
        // So many more after the first one.
        Some(value) => format!("{value}x{}", minutes - 1),
        None => format!("_x{minutes}"),
    });
    let values = values.collect::<Vec<_>>().join(" ");
    writeln!(text, "      - {{series: '{name}{{{labels}}}', values: '{values}'}}").unwrap();
}

impl Host {
    async fn scrape(&self) -> Scrape {
        Some(self.samples().await)
    }

    async fn value(&self, begins: &str) -> f64 {
        let samples = self.samples().await;
        samples.iter().find(|(name, _)| name.starts_with(begins)).map_or(0.0, |(_, value)| *value)
    }

    /// Does something until a counter has grown by so much.
    async fn grow(&self, counter: &str, by: f64, mut cause: impl FnMut()) {
        let (before, began) = (self.value(counter).await, Instant::now());
        while self.value(counter).await < before + by {
            assert!(began.elapsed() < 2 * SOON, "{counter} has not grown by {by}");
            cause();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn peers(&self, change: impl Fn(&mut wgnet_core::ObservedPeer)) {
        self.model.quietly(&Namespace::of(&network()), |observed| {
            observed.wireguards.values_mut().flat_map(|it| it.peers.values_mut()).for_each(&change);
        });
    }
}

/// Faults at the driver itself.
async fn stories_of_the_driver(one: &Host, stories: &mut Vec<Story>) {
    let good = one.scrape().await;
    let alert = "WgnetDriverDown";
    stories.push(Story { alert, scrapes: [good.clone(), None, good.clone()] });

    let unready = Host::start(9, &MemoryStore::new()).await;
    let scrapes = [good.clone(), unready.scrape().await, good];
    stories.push(Story { alert: "WgnetDriverNotReady", scrapes });

    for (alert, code) in [
        ("WgnetJournalUnwritable", "journal-unwritable"),
        ("WgnetForeignCluster", "foreign-cluster"),
        ("WgnetMembersHeld", "mass-delete-held"),
        ("WgnetProblem", "port-taken"),
    ] {
        let before = one.scrape().await;
        one.problems.set(problem(code));
        let during = one.scrape().await;
        one.problems.clear(code, "x");
        stories.push(Story { alert, scrapes: [before, during, one.scrape().await] });
    }

    let before = one.scrape().await;
    for _ in 0..5 {
        let nobodys =
            json!({"NetworkID": network(), "EndpointID": "f".repeat(64), "SandboxKey": "/x"});
        assert!(one.call("Join", nobodys).await.contains("Err"));
    }
    let during = one.scrape().await;
    let scrapes = [before, during.clone(), during];
    stories.push(Story { alert: "WgnetDockerCallsFail", scrapes });
}

/// Faults of a network's kernel, and of who changes it.
async fn stories_of_the_kernel(one: &Host, stories: &mut Vec<Story>) {
    let namespace = Namespace::of(&network());
    let in_sync = format!("wgnet_network_in_sync{{{BLUE}}}");

    let before = one.scrape().await;
    one.model.tamper(&namespace, |kernel| *kernel = wgnet_core::Seen::Unknown);
    one.until(&in_sync, |it| it == 0.0).await;
    let during = one.scrape().await;
    one.model.tamper(&namespace, |kernel| *kernel = wgnet_core::Seen::Absent);
    one.until(&in_sync, |it| it == 1.0).await;
    let scrapes = [before, during, one.scrape().await];
    stories.push(Story { alert: "WgnetNetworkOutOfSync", scrapes });

    let before = one.scrape().await;
    one.grow("wgnet_network_repairs_total", 8.0, || {
        one.model.tamper(&namespace, |kernel| *kernel = wgnet_core::Seen::Absent);
    })
    .await;
    one.until(&in_sync, |it| it == 1.0).await;
    let during = one.scrape().await;
    stories.push(Story { alert: "WgnetRepairs", scrapes: [before, during.clone(), during] });
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
    let during = one.scrape().await;
    stories.push(Story { alert: "WgnetUnderlayFlaps", scrapes: [before, during.clone(), during] });

    one.until("wgnet_peer_silent", |it| it == 0.0).await;
    let (before, began) = (one.scrape().await, Instant::now());
    while one.value("wgnet_peer_silent").await == 0.0 {
        assert!(began.elapsed() < 3 * SOON, "it is never silent");
        one.peers(|peer| peer.sent_bytes += 1000);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let during = one.scrape().await;
    one.peers(|peer| peer.received_bytes += 1000);
    one.until("wgnet_peer_silent", |it| it == 0.0).await;
    stories.push(Story { alert: "WgnetPeerSilent", scrapes: [before, during, one.scrape().await] });
}

/// Faults of etcd, and of those who are in it.
async fn stories_of_the_store(store: &MemoryStore, one: &Host, stories: &mut Vec<Story>) {
    let before = one.scrape().await;
    store.stop();
    one.until("wgnet_etcd_connected", |it| it == 0.0).await;
    let during = one.scrape().await;
    store.start();
    one.until("wgnet_etcd_connected", |it| it == 1.0).await;
    stories.push(Story { alert: "WgnetEtcdAway", scrapes: [before, during, one.scrape().await] });

    let before = one.scrape().await;
    one.grow("wgnet_etcd_watch_restarts_total", 30.0, || store.restart()).await;
    one.until("wgnet_etcd_connected", |it| it == 1.0).await;
    let during = one.scrape().await;
    stories.push(Story { alert: "WgnetWatchesRestart", scrapes: [before, during.clone(), during] });

    let before = one.scrape().await;
    put_rubbish(store).await;
    one.until("wgnet_refused_records_total{", |it| it >= 1.0).await;
    let during = one.scrape().await;
    stories.push(Story { alert: "WgnetRecordsRefused", scrapes: [before, during.clone(), during] });
}

/// The other host ends, and is forgotten.
async fn story_of_a_host(store: &MemoryStore, one: &Host, two: Host, stories: &mut Vec<Story>) {
    one.until("wgnet_hosts_alive", |it| it == 1.0).await;
    let before = one.scrape().await;
    let peer =
        before.as_ref().unwrap().keys().find_map(|name| name.split_once("peer_id=\"")).unwrap().1;
    let id = peer.split('"').next().unwrap().to_owned();
    drop(two);
    let began = Instant::now();
    while one.value("wgnet_hosts_alive").await == 1.0 {
        assert!(began.elapsed() < SOON, "it still lives");
        // As its lease would.
        commit(store, Op::Delete { key: format!("alive/{id}") }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let during = one.scrape().await;
    commit(store, Op::Delete { key: format!("hosts/{id}") }).await;
    one.until("wgnet_hosts", |it| it == 0.0).await;
    stories.push(Story { alert: "WgnetHostGone", scrapes: [before, during, one.scrape().await] });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_fire_on_what_a_driver_says_of_a_fault_and_clear_after_it() {
    let (store, one, two) = two().await;
    one.until("wgnet_hosts_alive", |it| it == 1.0).await;
    let mut stories = Vec::new();
    stories_of_the_driver(&one, &mut stories).await;
    stories_of_the_kernel(&one, &mut stories).await;
    stories_of_peers(&one, &mut stories).await;
    stories_of_the_store(&store, &one, &mut stories).await;
    story_of_a_host(&store, &one, two, &mut stories).await;

    let rules = deploy("prometheus/alerts.yml").canonicalize().unwrap();
    let mut text =
        format!("rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n", rules.display());
    stories.iter().for_each(|story| story.render(&mut text));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("stories.yml"), text).unwrap();
    promtool(&["test", "rules", "stories.yml"], dir.path());
}
