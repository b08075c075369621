//! All drills at full length, as one table.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{error::Error, fs, thread};

use clap::Args;
use serde_json::{Value, json};

use crate::drill::{self, Group, Row, Scale, turn};
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

/// What a group measured, or why it could not.
type Rows = Result<Vec<Row>, String>;

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
    let held = done.iter().all(|(_, rows)| {
        rows.as_ref().is_ok_and(|rows| rows.iter().all(|row| row.missed().is_empty()))
    });
    println!("{HEADING}");
    for (name, rows) in &done {
        match rows {
            Ok(rows) => rows.iter().for_each(|row| println!("{row}")),
            Err(error) => println!("{}", failed(name, error)),
        }
    }
    if let Some(file) = &options.json {
        let all = done.iter().map(|(name, rows)| (*name, in_json(rows)));
        let text = format!("{:#}\n", all.collect::<Value>());
        fs::write(file, text).map_err(LabError::io("write", file))?;
    }
    Ok(if held && !interrupt::came() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The line of a group that could not be measured.
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
fn run_all(groups: Vec<(&'static str, Group)>, scale: Scale) -> Vec<(&'static str, Rows)> {
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
        let ended = |group: thread::ScopedJoinHandle<'_, Rows>| {
            group.join().unwrap_or_else(|_| Err("it panicked".to_owned()))
        };
        started.into_iter().map(|(name, group)| (name, ended(group))).collect()
    })
}

/// Progress goes to standard error, so that standard output is the table.
fn run(name: &str, group: Group, scale: Scale) -> Rows {
    eprintln!("{name} ...");
    let _ = std::io::stderr().flush();
    let started = Instant::now();
    let rows = group(scale).map_err(|error| said(&error));
    if let Err(error) = &rows {
        eprintln!("  failed: {error}");
    }
    eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
    rows
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

fn in_json(rows: &Rows) -> Value {
    match rows {
        Ok(rows) => json!({ "rows": rows }),
        Err(error) => json!({ "failed": error }),
    }
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
}
