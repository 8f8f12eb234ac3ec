//! Many requests, one engine.

use std::time::Duration;

use super::job::{Job, Refused, Ticket};

/// A handle to the thread that owns the engine. Clones are the same scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler;

/// What the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The model is being loaded, for the first time or after it was parked.
    Loading,
    /// It answers.
    Ready,
    /// Its memory was given back; the next request loads it.
    Parked,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It is gone: drained, or failed for good.
    Stopped,
}

/// What the scheduler is doing, for `/health`, `/metrics` and status lines.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// What the engine is doing.
    pub(crate) phase: Phase,
    /// Requests that are being answered, and most at once.
    pub(crate) running: usize,
    /// See above.
    pub(crate) parallel: usize,
    /// Requests that wait, and most that may.
    pub(crate) queued: usize,
    /// See above.
    pub(crate) queue: usize,
}

impl Scheduler {
    /// Hands a request over. Whatever becomes of it is sent to its channel.
    pub(crate) fn submit(&self, _job: Job) -> Result<Ticket, Refused> {
        Err(Refused::Draining)
    }

    /// What is going on.
    pub(crate) fn status(&self) -> Status {
        Status { phase: Phase::Stopped, running: 0, parallel: 0, queued: 0, queue: 0 }
    }

    /// Gives the model's memory back as soon as running requests have ended.
    pub(crate) fn park(&self) {}

    /// Loads the model again if it is parked.
    pub(crate) fn unpark(&self) {}

    /// Takes nothing new, finishes what runs and waits; cancels what still runs after `limit`. Blocks until the thread
    /// is gone: call it where blocking is allowed.
    pub(crate) fn drain(&self, _limit: Duration) {}
}
