//! Plans made before they are needed.

use std::time::{Duration, Instant};

use super::{Ask, DraftKind, Engine, EngineError, Part, Pick, PlanKey};
use crate::backend::Backend;
use crate::model::gemma4::Taps;
use crate::program::Class;
use crate::sample::{Draw, Sampling};

/// What warming up took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warm {
    /// Plans that were made.
    pub plans: usize,
    /// Time.
    pub time: Duration,
}

impl<B: Backend> Engine<B> {
    /// Makes the plans of rounds with at most `most` drafts of the drafters beside the model, and runs them as often as it
    /// takes until a step is as fast as it will be: the first round of a text would wait for that. Stops after `limit`;
    /// what is not ready then is made when it is used. Does nothing where steps are not queued, for there is little to be
    /// made, nor where no sequence is free.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn warm_drafts(&mut self, most: usize, limit: Duration) -> Result<Warm, EngineError> {
        let (start, before) = (Instant::now(), self.plans_made());
        if B::QUEUES && self.slots.iter().any(Option::is_none) {
            let seq = self.open()?;
            let warmed = self.warm_in(seq, most, &|| start.elapsed() < limit);
            self.close(seq)?;
            warmed?;
        }
        let warm = Warm { plans: self.plans_made() - before, time: start.elapsed() };
        self.drafters.warm = warm;
        Ok(warm)
    }

    /// What [`Engine::warm_drafts`] did.
    #[must_use]
    pub fn warmed(&self) -> Warm {
        self.drafters.warm
    }

    fn warm_in(
        &mut self,
        seq: super::SeqId,
        most: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        // Plans share scratch memory, and are captured anew when it grows: the largest comes first.
        let rows = self.options.chunk.min(self.options.context).next_power_of_two();
        self.prepare(PlanKey { class: Class::Prefill, rows, picked: 1, hidden: false })?;
        let lengths = || std::iter::successors(Some(1), |rows: &usize| Some(2 * rows));
        // Plans are for numbers of rows that are powers of two.
        let most_rows = most + 1;
        let sampling = Sampling::default();
        for _ in 0..B::WARM {
            self.warm_context(seq)?;
            for rows in lengths().take_while(|rows| *rows < 2 * most_rows) {
                if !goes_on() {
                    return Ok(());
                }
                let rows = rows.min(most_rows);
                let draw = Draw { sampling: &sampling, position: 1, edits: &[], allowed: None };
                let (tokens, draws) = (vec![0; rows], vec![draw; rows]);
                let part = Part { seq, tokens: &tokens, pick: Pick::All };
                let step = self.step(Class::Decode, &[part], &draws, Taps::None)?;
                self.tokens(&step)?;
                // A drafter needs something to go on from.
                self.commit(seq, 1)?;
                for kind in [DraftKind::DFlash, DraftKind::Mtp] {
                    let count = rows.saturating_sub(1).min(self.most_drafts(kind).unwrap_or(0));
                    if count > 0 {
                        let ask = Ask { seq, anchor: 0, count, sampling: &sampling, edits: &[] };
                        self.propose(kind, &[ask])?;
                    }
                }
            }
        }
        Ok(())
    }
}
