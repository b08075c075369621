//! One target under libFuzzer: the one this program is named after. With WGNET_FUZZ_SEEDS=DIRECTORY it only writes the
//! target's valid inputs there, a file each.

#![no_main]

use std::path::Path;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use wgnet_fuzz::mutation::{Change, mutate};
use wgnet_fuzz::named;

const TARGET: &str = env!("CARGO_BIN_NAME");

fuzz_target!(
    init: {
        if let Some(directory) = std::env::var_os("WGNET_FUZZ_SEEDS") {
            write_seeds(Path::new(&directory));
            std::process::exit(0);
        }
        if TARGET == "journal" {
            // Takes back libFuzzer's, which ends the program even where the driver catches a panic of its store's.
            drop(std::panic::take_hook());
        }
    },
    |data: &[u8]| (named(TARGET).run)(data)
);

fn write_seeds(directory: &Path) {
    std::fs::create_dir_all(directory).expect("the directory can be made");
    for (number, seed) in (named(TARGET).seeds)().into_iter().enumerate() {
        let file = directory.join(format!("seed-{number:03}"));
        std::fs::write(file, seed).expect("a seed can be written");
    }
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
