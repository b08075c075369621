//! All drills at full length, as one table.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{error::Error, fs, thread};

use clap::Args;
use serde_json::{Value, json};

use crate::drill::{self, Group, Row, Rows, Scale, turn};
use crate::lab::{LabError, Result, interrupt};

#[derive(Args, Debug)]
pub struct FaultsOptions {
    /// Only these groups of drills.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Write what was measured into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds for minutes and tens for hundreds, as tests/run has it.
    #[arg(long)]
    short: bool,
}

/// What a group measured, and why it did not go on to its end.
struct Done {
    rows: Vec<Row>,
    failure: Option<String>,
}

impl Done {
    fn held(&self) -> bool {
        self.failure.is_none() && self.rows.iter().all(|row| row.missed().is_empty())
    }

    /// Its lines of the table.
    fn lines(&self, name: &str) -> Vec<String> {
        let rows = self.rows.iter().map(Row::to_string);
        rows.chain(self.failure.iter().map(|error| failed(name, error))).collect()
    }

    fn in_json(&self) -> Value {
        let mut json = json!({ "rows": self.rows });
        if let Some(error) = &self.failure {
            json["failed"] = json!(error);
        }
        json
    }
}

const HEADING: &str = "\
| drill | bar | measured | Docker's overlay beside it | |
|---|---|---|---|---|";

/// Runs one group after the other, prints the table; fails when a bar is missed.
///
/// # Errors
///
/// When the options are of no use or the file cannot be written. What fails in a drill is in the table.
pub fn faults(options: &FaultsOptions) -> Result<ExitCode> {
    interrupt::catch_signals()?;
    let groups = chosen(&options.only)?;
    let scale = if options.short { Scale::Short } else { Scale::Full };
    let done = run_all(groups, scale);
    let held = done.iter().all(|(_, done)| done.held());
    println!("{HEADING}");
    for (name, done) in &done {
        done.lines(name).iter().for_each(|line| println!("{line}"));
    }
    if let Some(file) = &options.json {
        let all = done.iter().map(|(name, done)| (*name, done.in_json()));
        let text = format!("{:#}\n", all.collect::<Value>());
        fs::write(file, text).map_err(LabError::io("write", file))?;
    }
    Ok(if held && !interrupt::came() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The line of what a group could not measure.
fn failed(name: &str, error: &str) -> String {
    let error = error.replace('\n', " ").replace('|', "\\|");
    format!("| {name} | | {error} | | **MISSED** |")
}

fn chosen(only: &[String]) -> Result<Vec<(&'static str, Group)>> {
    let all = drill::all();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        let names = names.join(", ");
        return Err(LabError::Machine(format!("no drills \"{unknown}\": there are {names}")));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    Ok(all.into_iter().filter(|(name, _)| wanted(name)).collect())
}

/// One has the machine at a time; one that has long to wait lets others have it meanwhile.
fn run_all(groups: Vec<(&'static str, Group)>, scale: Scale) -> Vec<(&'static str, Done)> {
    thread::scope(|scope| {
        let mut started = Vec::new();
        for (name, group) in groups {
            turn::take();
            if interrupt::came() {
                turn::give();
                break;
            }
            let group = scope.spawn(move || {
                let _give_back = turn::GiveBack;
                run(name, group, scale)
            });
            started.push((name, group));
        }
        let ended = |group: thread::ScopedJoinHandle<'_, Done>| {
            group.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        started.into_iter().map(|(name, group)| (name, ended(group))).collect()
    })
}

/// Progress goes to standard error, so that standard output is the table.
fn run(name: &str, group: Group, scale: Scale) -> Done {
    eprintln!("{name} ...");
    let _ = std::io::stderr().flush();
    let started = Instant::now();
    let mut rows = Rows::default();
    // What was measured before it broke off stands.
    let ended = catch_unwind(AssertUnwindSafe(|| group(scale, &mut rows)));
    let failure = match ended {
        Ok(ended) => ended.err().map(|error| said(&error)),
        Err(_) => Some("it panicked".to_owned()),
    };
    if let Some(error) = &failure {
        eprintln!("  failed: {error}");
    }
    eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
    Done { rows: rows.0, failure }
}

fn said(error: &LabError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text.push_str(&format!(": {one}"));
        cause = one.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_lines_fit_into_the_readmes_table() {
        let readme = include_str!("../../README.md");
        assert!(readme.contains(HEADING), "the table begins otherwise there");
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let row = Row::new("cable out").at_most("back after", 0.25, "s", 1.0).beside(1.5);
        let lines = [row.to_string(), failed("path", "`a | b`\nfailed")];
        for line in HEADING.lines().chain(lines.iter().map(String::as_str)) {
            assert_eq!(columns(line), 6, "{line}");
        }
    }

    #[test]
    fn what_a_group_measured_before_it_broke_off_is_told_with_why_it_did() {
        fn measures(rows: &mut Rows) {
            rows.add(Row::new("cable out").at_most("back after", 0.25, "s", 1.0));
        }
        let fails: Group = |_, rows| {
            measures(rows);
            Err(LabError::Machine("no answer".to_owned()))
        };
        let panics: Group = |_, rows| {
            measures(rows);
            panic!("as the test wants it");
        };
        for (group, why) in [(fails, "no answer"), (panics, "it panicked")] {
            let done = run("path", group, Scale::Short);
            assert!(!done.held());
            let lines = done.lines("path");
            assert_eq!(lines.len(), 2);
            assert!(lines[0].starts_with("| cable out |") && lines[0].ends_with("| held |"));
            assert!(lines[1].contains(why) && lines[1].ends_with("| **MISSED** |"), "{lines:?}");
            let json = done.in_json();
            assert_eq!(json["rows"][0]["drill"], "cable out");
            assert!(json["failed"].as_str().is_some_and(|failed| failed.contains(why)));
        }
        let holds: Group = |_, rows| {
            measures(rows);
            Ok(())
        };
        assert!(run("path", holds, Scale::Short).held());
    }
}
