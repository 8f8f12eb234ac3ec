//! Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the user wants the answer to stop.
#[derive(Debug, Default)]
pub(super) struct Interrupt(AtomicBool);

impl Interrupt {
    /// Nobody has asked yet.
    pub(super) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks; returns whether that was asked before.
    pub(super) fn raise(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody asked.
    pub(super) fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets it: a new answer begins.
    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What a second Ctrl-C does while the first is still on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twice {
    /// The same: a chat is not to be lost by impatience.
    IsOnce,
    /// Ends the program.
    Leaves,
}

/// Exit code of a program that Ctrl-C stopped: 128 and the signal's number.
pub(super) const STOPPED: u8 = 130;

static PRESSED: Interrupt = Interrupt::new();

/// From now on Ctrl-C raises what is returned. Before, it ends the program.
pub(super) fn catch(twice: Twice) -> Result<&'static Interrupt, ctrlc::Error> {
    ctrlc::set_handler(move || {
        if PRESSED.raise() && twice == Twice::Leaves {
            std::process::exit(STOPPED.into());
        }
    })?;
    Ok(&PRESSED)
}
