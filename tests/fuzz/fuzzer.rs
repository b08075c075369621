//! One target under libFuzzer: the one this program is named after.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use wgnet_fuzz::mutation::{Change, mutate};

fuzz_target!(|data: &[u8]| (wgnet_fuzz::named(env!("CARGO_BIN_NAME")).run)(data));

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
