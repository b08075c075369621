//! The status as wgnetctl reads it from a driver.

use serde_json::Value;
use wgnet_proto::status::DriverStatus;
use wgnet_proto::text::read_printable;

/// Nothing in a status that is shown steers the terminal, and read again it is the same status.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(status) = read_printable::<DriverStatus>(bytes) else {
        return;
    };
    let json = serde_json::to_value(&status).expect("it is JSON");
    check(&json);
    let again: DriverStatus = read_printable(json.to_string().as_bytes()).expect("it is a status");
    assert_eq!(again, status);
}

fn check(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.chars().any(char::is_control), "{text:?}"),
        Value::Array(items) => items.iter().for_each(check),
        Value::Object(fields) => {
            assert!(fields.keys().all(|key| !key.chars().any(char::is_control)));
            fields.values().for_each(check);
        }
        _ => {}
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let full = include_str!("status.json");
    let text = serde_json::from_str::<Value>(full).expect("it is JSON").to_string();
    vec![text.into_bytes(), full.as_bytes().to_vec()]
}
