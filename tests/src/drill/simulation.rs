//! Many hosts in one process on simulated time: seeds that must hold, and bugs that seeds must find.
//!
//! Both are programs of their own, which take minutes. [`Scale::Short`] leaves them out: `tests/run` has
//! the seeds among its tests.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Row, Rows, Scale};
use crate::lab::{LabError, Result};

/// The simulation as it says itself how much it runs (`SIM_SEEDS`).
const SEEDS: [&str; 5] = ["cargo", "test", "--workspace", "--test", "simulation"];

const MUTATIONS: [&str; 1] = ["tests/mutations"];

/// Fewer would prove less than the table says.
const SEEDS_AT_LEAST: f64 = 2000.0;
const BUGS_AT_LEAST: f64 = 10.0;

/// # Errors
///
/// When the program cannot be run to its end.
pub fn seeds(scale: Scale, rows: &mut Rows) -> Result<()> {
    if scale == Scale::Short {
        return Ok(());
    }
    let said = said_by(&SEEDS, |said| told_of_seeds(said).is_some_and(|(_, failed)| failed > 0))?;
    let (seeds, failed) = told_of_seeds(&said).ok_or_else(|| odd(&SEEDS, "told of no seed"))?;
    rows.add(of_seeds(seeds, failed));
    Ok(())
}

fn of_seeds(seeds: usize, failed: usize) -> Row {
    Row::new("simulation").at_least("seeds", seeds as f64, "", SEEDS_AT_LEAST).at_most(
        "failed",
        failed as f64,
        "",
        0.0,
    )
}

/// # Errors
///
/// As [`seeds`].
pub fn mutations(scale: Scale, rows: &mut Rows) -> Result<()> {
    if scale == Scale::Short {
        return Ok(());
    }
    let said = said_by(&MUTATIONS, |said| told_of_mutations(said).1 > 0)?;
    let (found, missed) = told_of_mutations(&said);
    if found + missed == 0 {
        return Err(odd(&MUTATIONS, "told of no bug"));
    }
    let row = Row::new("mutations: bugs put into the code for the simulation to find");
    let row = row.at_least("bugs", (found + missed) as f64, "", BUGS_AT_LEAST);
    rows.add(row.at_most("not found", missed as f64, "", 0.0));
    Ok(())
}

/// What a program of the checkout prints. It must succeed, or say why it does not.
fn said_by(program: &[&str], explains: impl Fn(&str) -> bool) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    // Four hours for a hundred thousand seeds on many cores.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", "20", "14400"]).args(program);
    let output = command.current_dir(root).stderr(Stdio::inherit()).output();
    let output = output.map_err(LabError::io("run", program.join(" ")))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{said}");
    if output.status.success() || explains(&said) {
        return Ok(said);
    }
    Err(odd(program, &format!("ended with {}", output.status)))
}

/// How many seeds ran, and how many of them failed.
fn told_of_seeds(said: &str) -> Option<(usize, usize)> {
    let line = said.lines().find(|line| line.contains(" seeds/s; failed: ["))?;
    let seeds = line.split_whitespace().next()?.parse().ok()?;
    let failed = line.split_once('[')?.1.split_once(']')?.0;
    Some((seeds, failed.split(',').filter(|seed| !seed.trim().is_empty()).count()))
}

/// How many bugs were found, and how many not.
fn told_of_mutations(said: &str) -> (usize, usize) {
    let results = said.lines().map(|line| line.split_whitespace().skip(1).take(2));
    let results: Vec<String> = results.map(|words| words.collect::<Vec<_>>().join(" ")).collect();
    let missed = results.iter().filter(|result| *result == "NOT FOUND").count();
    (results.iter().filter(|result| result.starts_with("seed ")).count(), missed)
}

fn odd(program: &[&str], what: &str) -> LabError {
    LabError::Machine(format!("`{}` {what}", program.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_print_is_counted() {
        let said = "500 seeds, 4.7 a second\n2000 seeds in 374.0 s, 5.3 seeds/s; failed: []\n";
        assert_eq!(told_of_seeds(said), Some((2000, 0)));
        let said =
            "31 seeds in 6.0 s, 5.2 seeds/s; failed: [3, 17]\ntest all_seeds_hold ... FAILED";
        assert_eq!(told_of_seeds(said), Some((31, 2)));
        assert_eq!(told_of_seeds("error: could not compile"), None);

        let said = "\
bug                                    found by  seconds  by this sentence
guard-goes-first                        seed 30        5  host 1: the guard went before the last pair
planner-takes-foreign-routes          NOT FOUND      412
claims-do-not-grow                       seed 7        0  host 0: 10.0.0.8 is claimed
";
        assert_eq!(told_of_mutations(said), (2, 1));
    }

    #[test]
    fn a_run_of_fewer_seeds_than_the_table_says_is_missed() {
        of_seeds(2000, 0).assert_held();
        assert_eq!(of_seeds(1999, 0).missed(), ["simulation: seeds 1999, at least 2000"]);
        assert_eq!(of_seeds(2000, 1).missed(), ["simulation: failed 1, at most 0"]);
    }

    #[test]
    fn a_program_that_fails_and_does_not_say_why_is_an_error() {
        assert_eq!(said_by(&["echo", "well"], |_| false).unwrap(), "well\n");
        let fails = ["sh", "-c", "echo 1 failed; exit 1"];
        assert!(said_by(&fails, |said| said.contains("failed")).is_ok());
        let error = said_by(&fails, |_| false).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
