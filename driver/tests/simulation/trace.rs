//! What happened in a run, line by line, with the simulated time; and what was found wrong.

use std::cell::RefCell;
use std::hash::Hasher;

use tokio::time::Instant;

#[derive(Default)]
struct Trace {
    begun: Option<Instant>,
    hash: u64,
    wrong: Vec<String>,
    /// Whether somebody reads along.
    aloud: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// What a run leaves.
pub(crate) struct Told {
    pub(crate) hash: u64,
    pub(crate) wrong: Vec<String>,
}

pub(crate) fn begin(aloud: bool) {
    TRACE.with_borrow_mut(|trace| {
        trace.begun = Some(Instant::now());
        trace.aloud = aloud;
    });
}

pub(crate) fn since_begin() -> std::time::Duration {
    TRACE.with_borrow(|trace| trace.begun.map_or_else(Default::default, |begun| begun.elapsed()))
}

pub(crate) fn note(what: impl AsRef<str>) {
    TRACE.with_borrow_mut(|trace| {
        let at = trace.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let line = format!("{at:10.3} {}", what.as_ref());
        let mut hasher = Fnv(trace.hash);
        hasher.write(line.as_bytes());
        trace.hash = hasher.0;
        if trace.aloud {
            println!("{line}");
        }
    });
}

/// An invariant is broken. The run goes on to its next step, for the trace's sake.
pub(crate) fn wrong(what: impl AsRef<str>) {
    note(format!("WRONG: {}", what.as_ref()));
    TRACE.with_borrow_mut(|trace| trace.wrong.push(what.as_ref().to_owned()));
}

pub(crate) fn is_wrong() -> bool {
    TRACE.with_borrow(|trace| !trace.wrong.is_empty())
}

pub(crate) fn take() -> Told {
    let Trace { hash, wrong, .. } = TRACE.take();
    Told { hash, wrong }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
