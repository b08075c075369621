//! Which group of drills has the machine: one at a time, so that none disturbs another's figures.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::lab::{LabError, Result, interrupt};

static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN: Condvar = Condvar::new();

/// Waits until nobody has the machine, and has it.
pub(crate) fn take() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = GIVEN.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
    *taken = true;
}

/// Gives the machine back when it goes.
pub(crate) struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        give();
    }
}

/// Somebody else may have it.
pub(crate) fn give() {
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
    GIVEN.notify_one();
}

/// Lets others have the machine for so long, and until they give it back.
pub(super) fn others_for(length: Duration) -> Result<()> {
    if length.is_zero() {
        return Ok(());
    }
    eprintln!("  others meanwhile, for {:.0} s", length.as_secs_f64());
    give();
    let until = Instant::now() + length;
    while Instant::now() < until && !interrupt::pending() {
        std::thread::sleep(Duration::from_millis(500));
    }
    take();
    if interrupt::pending() {
        return Err(LabError::Machine("interrupted".to_owned()));
    }
    Ok(())
}
