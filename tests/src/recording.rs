//! The recorded calls of `tests/calls`, as a driver of wgnet would have got them.

use serde_json::{Map, Value, json};

/// One line of a recording.
#[derive(Debug, Clone)]
pub enum Event {
    /// What was done to the engines from here on.
    Scene(String),
    /// The plugin's process started.
    Start { host: String },
    Call {
        host: String,
        method: String,
        /// Without one the engine sent nothing.
        body: Option<Value>,
    },
}

/// Reads a recording's text. Its lines are ours: a wrong one panics.
pub fn events(text: &str) -> Vec<Event> {
    text.lines()
        .map(|line| event(serde_json::from_str(line).expect("each line is a JSON object")))
        .collect()
}

fn event(mut line: Value) -> Event {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(scene) = text(&line["scene"]) {
        return Event::Scene(scene);
    }
    let host = text(&line["host"]).expect("what is no scene has a host");
    let Some(method) = text(&line["call"]) else {
        return Event::Start { host };
    };
    let mut body = line.get_mut("body").map(Value::take);
    body.iter_mut().for_each(whole_ids);
    Event::Call { host, method, body }
}

/// Ids were cut to twelve digits: repeats them up to the 64 of a whole one.
fn whole_ids(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(start) = text.strip_suffix('…') {
                *text = start.chars().cycle().take(64).collect();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_ids),
        Value::Object(fields) => fields.values_mut().for_each(whole_ids),
        _ => {}
    }
}

/// The options a user of wgnet would have given where the recording's gave others; what the recording
/// plugin added by itself is left out.
pub fn our_options(options: &Value) -> Value {
    let mut ours = Map::new();
    for (key, value) in options.as_object().into_iter().flatten() {
        match key.as_str() {
            "wgtest.alloc" | "wgtest.vni" => {}
            "foo" => drop(ours.insert("mtu".to_owned(), json!("1370"))),
            "wgtest.k" | "a" => drop(ours.insert("keepalive".to_owned(), json!("25"))),
            _ => drop(ours.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(ours)
}
