//! Text that others chose, made fit for a terminal, a log or a sentence.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The text with what could steer a terminal, begin another line or hide other text written out, as
/// in `\u{1b}`; quotes and backslashes stay as they are.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_printable(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    Cow::Owned(shown)
}

/// The same for every text in a JSON value, keys included.
fn printable_value(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(shown) = printable(text) {
                *text = shown;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(printable_value),
        Value::Object(fields) => {
            let fields_as_they_were = std::mem::take(fields);
            fields.extend(fields_as_they_were.into_iter().map(|(key, mut value)| {
                printable_value(&mut value);
                (printable(&key).into_owned(), value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads JSON whose texts are to be shown: other people chose them.
///
/// # Errors
///
/// When it is not the JSON of a `T`.
pub fn read_printable<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let mut value = serde_json::from_slice(json)?;
    printable_value(&mut value);
    serde_json::from_value(value)
}

/// The beginning of a text, printable, in about so many characters, with a sign if there was more.
pub fn clipped(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= most {
            shown.push('…');
            break;
        }
        shown.push_str(&printable(c.encode_utf8(&mut [0; 4])));
    }
    shown
}

/// What Rust's own `Debug` of text leaves as it is, and quotes and backslashes.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_steers_a_terminal_or_forges_a_line_is_written_out() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\nNov 21 root: b\r"), "a\\nNov 21 root: b\\r");
        // A control sequence in one character, and text that runs backwards.
        assert_eq!(printable("\u{9b}2J\u{202e}"), "\\u{9b}2J\\u{202e}");
        assert!(matches!(printable("Zürich \"1\" C:\\"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_text_in_json_is_made_printable() {
        let json = r#"{"na\u001bme": ["\u009b2J", 18446744073709551615, null, {"a": "b"}]}"#;
        let value: Value = read_printable(json.as_bytes()).unwrap();
        let shown = json!({"na\\u{1b}me": ["\\u{9b}2J", u64::MAX, null, {"a": "b"}]});
        assert_eq!(value, shown);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(clipped("äöü", 3), "äö…");
        assert_eq!(clipped("äöü", 6), "äöü");
        assert_eq!(clipped("\u{202e}".repeat(1000).as_str(), 16), "\\u{202e}\\u{202e}…");
    }

    proptest! {
        #[test]
        fn nothing_printable_comes_out_changed_and_nothing_else_comes_out(text: String) {
            let shown = printable(&text);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert_eq!(printable(&shown), shown.as_ref());
        }
    }
}
