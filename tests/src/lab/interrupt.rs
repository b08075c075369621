//! Ctrl-C and the like for programs that must clean up behind them: waits end early, the caller takes its lab down.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::error::{LabError, Result};

/// A signal came and the waits have not been told yet to go on for the clean-up.
static PENDING: AtomicBool = AtomicBool::new(false);
static CAME: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP (a terminal that is closed) do not end this process but its waits.
pub(crate) fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        let set = |action| unsafe { sigaction(signal, action) };
        let before = set(&action).map_err(LabError::errno("catch", signal.as_str()))?;
        // Under nohup(1) it is to go on.
        if signal == Signal::SIGHUP && matches!(before.handler(), SigHandler::SigIgn) {
            set(&before).map_err(LabError::errno("ignore", signal.as_str()))?;
        }
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
