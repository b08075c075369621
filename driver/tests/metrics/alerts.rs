//! The alerts and the dashboard of deploy/: whether they name what a driver says, are what Prometheus
//! understands, and have their places in the operator's guide.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wgnet_control_plane::store::{Op, Store as _, Txn};

use super::*;

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

pub(super) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn read(name: &str) -> String {
    let path = deploy(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn promtool(args: &[&str], directory: &Path) -> String {
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
pub(super) fn alerts() -> Vec<(String, String)> {
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

pub(super) fn problem(code: &str) -> Problem {
    let [object, cause, next_step] = ["x"; 3].map(str::to_owned);
    Problem { code: code.to_owned(), object, cause, next_step }
}

/// A record that nobody sealed.
pub(super) async fn put_rubbish(store: &MemoryStore) {
    let key = format!("hosts/{}", "ab".repeat(16));
    commit(store, Op::Put { key, value: b"rubbish".to_vec() }).await;
}

pub(super) async fn commit(store: &MemoryStore, op: Op) {
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
