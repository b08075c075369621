//! The deterministic simulation: many hosts in one thread on simulated time, with everything that
//! can go wrong between them. The drivers are the real ones; store, kernel, disk and Docker are models.
//!
//! - `cargo test --test simulation`: 2000 seeds on all cores.
//! - `SIM_SEEDS=100000` more of them, `SIM_FROM=5000` others; `SIM_ENOUGH=1` ends at the first failure.
//! - `SIM_SEED=n` one, with its trace; `SIM_DEEDS=Wipe,KillDriver` with few faults, `SIM_LOG=debug`
//!   with what the drivers log.
//!
//! Each seed runs in a process of its own: what it is to be the same each time includes what the
//! standard library and tokio draw from the operating system, once a process.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

mod checks;
mod dice;
mod docker;
mod kernel;
mod life;
mod loss;
mod mishaps;
mod people;
mod pool;
mod rest;
mod schedule;
mod seams;
mod trace;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use pool::{Outcome, Report};

const SEEDS: u64 = 2000;

/// So many failing seeds tell enough.
const ENOUGH: usize = 5;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("simulation: test");
        return ExitCode::SUCCESS;
    }
    if let Some(seed) = number("SIM_SEED") {
        return one(seed);
    }
    let from = number("SIM_FROM").unwrap_or(0);
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let enough = number("SIM_ENOUGH").map_or(ENOUGH, |enough| enough as usize);
    println!("\nrunning 2 tests");
    // Who looks for one failing seed knows that seeds repeat.
    let same = (enough > 1).then(|| the_same_seed_is_the_same_run(from));
    let held = [same, Some(all_seeds_hold(from, seeds, enough))];
    let count = |what| held.iter().filter(|held| **held == what).count();
    let (passed, failed, ignored) = (count(Some(true)), count(Some(false)), count(None));
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn the_same_seed_is_the_same_run(from: u64) -> bool {
    let mut first = Vec::new();
    let mut held = true;
    for round in 0..2 {
        let mut hashes = Vec::new();
        pool::run((from..from + 10).collect(), run, |report| {
            hashes.push((report.seed, report.hash));
            true
        });
        hashes.sort_unstable();
        if round == 0 {
            first = hashes;
        } else {
            held = first == hashes && first.iter().all(|(_, hash)| *hash != 0);
            if !held {
                println!("two runs of one seed differ: {first:x?} and {hashes:x?}");
            }
        }
    }
    println!("test the_same_seed_is_the_same_run ... {}", if held { "ok" } else { "FAILED" });
    held
}

fn all_seeds_hold(from: u64, seeds: u64, enough: usize) -> bool {
    let begun = Instant::now();
    let (mut ran, mut failed) = (0u32, Vec::new());
    pool::run((from..from + seeds).collect(), run, |report| {
        ran += 1;
        if report.outcome != Outcome::Held {
            tell(&report);
            failed.push(report.seed);
        }
        if ran % 500 == 0 {
            let seconds = begun.elapsed().as_secs_f64();
            println!("{ran} seeds, {:.1} a second", f64::from(ran) / seconds);
        }
        failed.len() < enough
    });
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(ran) / seconds;
    println!("{ran} seeds in {seconds:.1} s, {rate:.1} seeds/s; failed: {failed:?}");
    println!("test all_seeds_hold ... {}", if failed.is_empty() { "ok" } else { "FAILED" });
    failed.is_empty()
}

fn tell(report: &Report) {
    println!("--- seed {} failed: {:?}", report.seed, report.outcome);
    report.wrong.iter().for_each(|line| println!("    {line}"));
    println!("    again: SIM_SEED={} cargo test -p wgnet-driver --test simulation", report.seed);
}

fn one(seed: u64) -> ExitCode {
    let mut held = false;
    pool::run(vec![seed], run, |report| {
        println!("trace {:016x}", report.hash);
        held = report.outcome == Outcome::Held;
        if !held {
            tell(&report);
        }
        true
    });
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed in this process, to its end.
fn run(seed: u64) -> trace::Told {
    dice::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        trace::begin(number("SIM_SEED").is_some());
        let mut history = schedule::eventful().await;
        schedule::heal(&mut history).await;
        rest::settle(history).await;
    });
    let told = trace::take();
    drop(runtime);
    told
}

fn log() {
    if let Ok(filter) = std::env::var("SIM_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stdout)
            .init();
    }
}
