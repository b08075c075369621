//! Every target with its seeds, with the corpus that the fuzzers found, and with hostile inputs made of both.
//!
//! An input that fails is kept, and the command is told that replays it: with `WGNET_FUZZ_INPUT=FILE` a target is tried
//! with that alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

#[path = "fuzz_replay/attempt.rs"]
mod attempt;

use std::path::Path;

use attempt::{attempt, try_all};
use wgnet_fuzz::{TARGETS, named};

/// Where the project is, from which commands are typed.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(3)
        .expect("it is tests/fuzz/targets there")
}

fn run(name: &str) {
    let target = named(name);
    let tried = match std::env::var_os("WGNET_FUZZ_INPUT") {
        Some(file) => attempt(target, &std::fs::read(file).expect("the input can be read")),
        None => try_all(target, &root().join("target/fuzz/artifacts").join(name)),
    };
    tried.unwrap_or_else(|why| panic!("{name}: {why}"));
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_target_is_tested_and_fuzzed() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), tested);
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).unwrap();
            for name in tested {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no fuzzer");
            }
        }
    };
}

targets! {
    names record envelope judge docker http config arguments secret shim_request shim_response
    engine_request engine_response status rows journal networks
}
