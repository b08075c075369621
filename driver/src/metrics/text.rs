//! The crate's OpenMetrics text as the plain format that every Prometheus and its tools read: there
//! a counter's family has its sample's name.

use std::fmt::Write as _;

/// Of what the crate wrote.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut plain = String::with_capacity(open_metrics.len() + 1024);
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let words = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
        match words {
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    let _ = writeln!(plain, "# HELP {name}{suffix} {text}");
                }
                let _ = writeln!(plain, "# TYPE {name}{suffix} {kind}");
            }
            // UNIT is not known there; EOF is a comment.
            Some(_) => {}
            None if line.starts_with('#') => {}
            None => {
                plain.push_str(line);
                plain.push('\n');
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_samples_name_and_all_else_stays() {
        let open = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{m=\"x y\"} 3\n\
                    # HELP b_bytes Size.\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 1.0\n# EOF\n";
        let expected = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{m=\"x y\"} 3\n\
                        # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 1.0\n";
        assert_eq!(plain(open), expected);
    }
}
