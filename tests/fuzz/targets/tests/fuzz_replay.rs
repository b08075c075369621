//! Every target with its seeds, with the corpus that the fuzzers found, and with hostile inputs made of both.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use wgnet_fuzz::corpus::{self, Kind};
use wgnet_fuzz::mutation::{Change, mutate};
use wgnet_fuzz::{TARGETS, named};

/// For one input, on a machine that is busy: far above what any takes.
const WITHIN: Duration = Duration::from_secs(10);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = any::<(u8, u16, u16, u16)>().prop_map(|(kind, a, b, c)| Change { kind, a, b, c });
    prop::collection::vec(change, 1..5)
}

fn run(name: &str) {
    let target = named(name);
    let timed = |input: &[u8]| {
        let start = Instant::now();
        (target.run)(input);
        assert!(start.elapsed() < WITHIN, "{:?} for {} bytes", start.elapsed(), input.len());
    };
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let inputs =
        [seeds, corpus::read(name, Kind::Reaching), corpus::read(name, Kind::Cured)].concat();
    for input in &inputs {
        timed(input);
    }
    let config = ProptestConfig {
        cases: target.cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(which in any::<prop::sample::Index>(), changes in changes())| {
        let mut input = inputs[which.index(inputs.len())].clone();
        for change in changes {
            input = mutate(&input, &inputs, change);
        }
        timed(&input);
    });
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
    engine_request engine_response status rows journal
}
