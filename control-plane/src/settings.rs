//! What is wrong with a settings file, in words for who wrote it.

use wgnet_proto::text::clipped;

/// The line, counted from 1, and what is wrong in it with what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: usize,
    pub what: String,
}

/// `error` is the parser's about `text`. Its own message would quote the whole line, which may hold a
/// secret in the wrong place; the key is what a person looks for.
pub fn mistake(text: &str, error: &toml::de::Error) -> Mistake {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count();
    let key = text.lines().nth(line).and_then(|text| text.split_once('=')).map(|it| it.0.trim());
    let what = match key {
        Some(key) => format!("{key}: {}", error.message()),
        None => error.message().to_owned(),
    };
    let next_step = right_form(key.unwrap_or("KEY"), error.message());
    Mistake {
        line: line + 1,
        what: format!("{}; {}", clipped(&what, 400), clipped(&next_step, 200)),
    }
}

fn right_form(key: &str, message: &str) -> String {
    let expected = message.rsplit_once("expected ").map_or("", |(_, expected)| expected);
    match expected {
        "a sequence" if key == "underlay" => {
            "write a list, be it of one: underlay = [\"10.0.0.5\"]".to_owned()
        }
        "a sequence" => {
            format!("write a list, be it of one: {key} = [\"https://10.0.0.5:2379\"]")
        }
        "a boolean" => format!("write {key} = true or {key} = false, without quotes"),
        "a string" | "path string" => format!("write one value in quotes: {key} = \"...\""),
        _ => "correct that line; wgnet-driver --help names every setting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    #[allow(dead_code, reason = "only what cannot be read matters")]
    struct Settings {
        etcd: Option<Vec<String>>,
        underlay: Option<Vec<std::net::IpAddr>>,
        etcd_prefix: Option<String>,
        secret: Option<PathBuf>,
        insecure: Option<bool>,
    }

    fn of(text: &str) -> Mistake {
        mistake(text, &toml::from_str::<Settings>(text).unwrap_err())
    }

    #[test]
    fn a_value_of_another_form_is_named_with_its_line_and_the_right_form() {
        for (text, line, right) in [
            (
                "# mine\netcd = \"http://10.0.0.5:2379\"",
                2,
                "; write a list, be it of one: etcd = [\"https://10.0.0.5:2379\"]",
            ),
            ("underlay = \"10.0.0.5\"", 1, "underlay = [\"10.0.0.5\"]"),
            ("insecure = \"true\"", 1, "; write insecure = true or insecure = false"),
            ("etcd_prefix = [\"/a\"]", 1, "; write one value in quotes: etcd_prefix = \"...\""),
            ("secret = 7", 1, "; write one value in quotes: secret = \"...\""),
            ("\n\nprots = \"1\"", 3, "; correct that line; wgnet-driver --help"),
            ("etcd = [", 1, "; correct that line; wgnet-driver --help"),
            ("hello", 1, "; correct that line; wgnet-driver --help"),
        ] {
            let mistake = of(text);
            assert_eq!(mistake.line, line, "{text}: {mistake:?}");
            assert!(mistake.what.contains(right), "{text}: {mistake:?}");
        }
    }
}
