//! Ctrl-C for programs that must clean up behind them: waits end early, the caller takes its lab down.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::error::{LabError, Result};

/// A signal came and the waits have not been told yet to go on for the clean-up.
static PENDING: AtomicBool = AtomicBool::new(false);
static CAME: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM do not end this process but its waits.
pub(crate) fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        unsafe { sigaction(signal, &action) }.map_err(LabError::errno("catch", signal.as_str()))?;
    }
    Ok(())
}

/// Whether a signal came at any time.
pub(crate) fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// Whether waits should end now.
pub(crate) fn pending() -> bool {
    PENDING.load(Ordering::SeqCst)
}

/// Lets a clean-up wait as long as it has to.
pub(crate) fn settle() {
    PENDING.store(false, Ordering::SeqCst);
}

extern "C" fn note(_: i32) {
    PENDING.store(true, Ordering::SeqCst);
    CAME.store(true, Ordering::SeqCst);
}
