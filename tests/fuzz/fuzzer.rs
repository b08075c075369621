//! One target under libFuzzer: the one this program is named after. libFuzzer wants directories of files, so it only moves
//! inputs between those and what is in this project
//!
//! - with WGNET_FUZZ_UNPACK=DIRECTORY: the seeds to its `seeds`, the corpus to its `corpus`;
//! - with WGNET_FUZZ_PACK=DIRECTORY: all files there to the corpus, in place of what is in it;
//! - with WGNET_FUZZ_CURED=FILE: the file to the inputs that once failed.

#![no_main]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use wgnet_fuzz::corpus::{self, Kind};
use wgnet_fuzz::mutation::{Change, mutate};
use wgnet_fuzz::named;

const TARGET: &str = env!("CARGO_BIN_NAME");

fuzz_target!(
    init: {
        if moves_inputs() {
            std::process::exit(0);
        }
        if TARGET == "journal" {
            // Takes back libFuzzer's, which ends the program even where the driver catches a panic of its store's.
            drop(std::panic::take_hook());
        }
    },
    |data: &[u8]| (named(TARGET).run)(data)
);

fn moves_inputs() -> bool {
    let asked = |variable| std::env::var_os(variable).map(PathBuf::from);
    if let Some(directory) = asked("WGNET_FUZZ_UNPACK") {
        let [reaching, cured] =
            [Kind::Reaching, Kind::Cured].map(|kind| corpus::read(TARGET, kind));
        unpack(&directory, "seeds", (named(TARGET).seeds)());
        unpack(&directory, "corpus", [reaching, cured].concat());
    } else if let Some(directory) = asked("WGNET_FUZZ_PACK") {
        let files = std::fs::read_dir(directory).expect("the directory can be read");
        let files = files.map(|file| read(&file.expect("the directory can be read").path()));
        let cured: BTreeSet<_> = corpus::read(TARGET, Kind::Cured).into_iter().collect();
        corpus::write(TARGET, Kind::Reaching, files.filter(|input| !cured.contains(input)));
    } else if let Some(file) = asked("WGNET_FUZZ_CURED") {
        let before = corpus::read(TARGET, Kind::Cured);
        corpus::write(TARGET, Kind::Cured, before.into_iter().chain([read(&file)]));
    } else {
        return false;
    }
    true
}

fn unpack(directory: &Path, what: &str, inputs: Vec<Vec<u8>>) {
    let directory = directory.join(what);
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    for (number, input) in inputs.into_iter().enumerate() {
        let file = directory.join(format!("{what}-{number:04}"));
        std::fs::write(file, input).expect("an input can be written");
    }
}

fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).expect("an input can be read")
}

// Half of the changes are ours, which know what breaks parsers; the other half the fuzzer's own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut state = u64::from(seed);
    let mut number = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u16
    };
    let change = Change { kind: number() as u8, a: number(), b: number(), c: number() };
    let changed = mutate(&data[..size], &[] as &[&[u8]], change);
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
});
