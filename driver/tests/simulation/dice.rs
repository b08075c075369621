//! All randomness of a run, from its seed: the schedule's dice, and what the programs think the
//! operating system gave them (which also decides what tokio leaves to chance).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

thread_local! {
    static DICE: Cell<u64> = const { Cell::new(0) };
}

static SYSTEM: AtomicU64 = AtomicU64::new(1);

/// Before anything of the run is made.
pub(crate) fn seed(seed: u64) {
    DICE.set(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED);
    SYSTEM.store(seed.wrapping_mul(0xD129_0B26_94A1_D1C5) ^ 0x5357, Ordering::Relaxed);
}

/// SplitMix64.
fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

pub(crate) fn number() -> u64 {
    let state = DICE.get().wrapping_add(STEP);
    DICE.set(state);
    mixed(state)
}

/// Below `end`, which is not 0.
pub(crate) fn below(end: u64) -> u64 {
    number() % end
}

pub(crate) fn index(length: usize) -> usize {
    usize::try_from(below(length as u64)).expect("it was a usize")
}

/// Happens so many times in a thousand.
pub(crate) fn happens(per_mille: u64) -> bool {
    per_mille > 0 && below(1000) < per_mille
}

pub(crate) fn millis(from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(to - from + 1))
}

pub(crate) fn pick<T: Clone>(of: &[T]) -> Option<T> {
    (!of.is_empty()).then(|| of[index(of.len())].clone())
}

pub(crate) fn bytes(into: &mut [u8]) {
    for byte in into {
        *byte = (number() >> 32) as u8;
    }
}

/// Stands in for the operating system's: the standard library asks a symbol of this name first, so
/// that it can be replaced, and hands its bytes to hash maps and by them to tokio.
///
/// # Safety
///
/// As of getrandom(2).
#[allow(unreachable_pub, reason = "a symbol of this name is what it is about")]
// SAFETY: the name is libc's, with its signature and meaning; the static C library's own is not linked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(into: *mut u8, length: usize, _: u32) -> isize {
    for at in 0..length {
        let state = SYSTEM.fetch_add(STEP, Ordering::Relaxed);
        // SAFETY: the caller gave `length` bytes there.
        unsafe { into.add(at).write((mixed(state) >> 24) as u8) };
    }
    isize::try_from(length).expect("nobody asks for so many bytes")
}
