//! What the controller is told.

use std::time::Duration;

use crate::speculate::Source;

/// What a round, or some plain steps, took and gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens of the text before.
    pub context: usize,
    /// Source, drafts, and drafts that were accepted; `None` for plain steps. A source that was asked and had nothing gave
    /// 0 drafts.
    pub drafted: Option<(Source, usize, usize)>,
    /// Steps of the target.
    pub steps: u64,
    /// Time of drafting.
    pub draft_seconds: f64,
    /// Time of the steps; of plain ones, all since the last sample.
    pub verify_seconds: f64,
    /// Time since the last sample that a round took beside both: the device waits while the host handles its tokens.
    pub idle_seconds: f64,
    /// Time of one of several plain steps, without what the device waited before the first.
    pub each: Option<f64>,
    /// Whether the drafter had to read more of the text than a round leaves.
    pub caught_up: bool,
    /// Whether something was done that will not have to be done again, such as compiling.
    pub warming: bool,
}

impl Sample {
    /// Of one plain step behind `context` tokens, to be filled in.
    #[must_use]
    pub const fn new(context: usize) -> Self {
        Self {
            context,
            drafted: None,
            steps: 1,
            draft_seconds: 0.0,
            verify_seconds: 0.0,
            idle_seconds: 0.0,
            each: None,
            caught_up: false,
            warming: false,
        }
    }

    /// Notes all time since the last sample, once the parts of a round are known.
    pub fn took(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if self.drafted.is_some() {
            self.idle_seconds = seconds - self.draft_seconds - self.verify_seconds;
        } else {
            self.verify_seconds = seconds;
        }
    }
}
