//! Rounds of drafts, for a request that is answered alone.
//!
//! A step that verifies drafts has rows to spare only where nobody else decodes: with company, the rows of the others
//! fill it. So a request drafts while it is the only one past its prompt; what it hears is the same either way. Requests
//! whose tokens a grammar decides, and those that want probabilities, take plain steps.

use std::time::Instant;

use gemma4_core::backend::Backend;
use gemma4_core::engine::EngineError;
use gemma4_core::speculate::{Choice, Clock, Sample, Source, Start};

use super::reuse::is_short;
use super::running::Stage;
use super::work::Work;

/// Plain steps of a request that the speculator chose, taken as if there were no drafters: one is enqueued before the last
/// is read, and others may join.
pub(super) struct Rest {
    /// Whose they are.
    order: u64,
    /// Tokens of its answer before them.
    first: usize,
    /// Tokens of its answer that the speculator has heard of.
    heard: usize,
    most: usize,
    start: Instant,
    clock: Clock,
    plans: usize,
    context: usize,
    /// Whether somebody else took some of the time.
    shared: bool,
}

impl<B: Backend> Work<'_, B> {
    /// The only request that decodes, if it may draft.
    fn drafter(&self) -> Option<usize> {
        self.speculator.as_ref()?;
        let mut decoding = (0..self.running.len()).filter(|&at| self.running[at].decodes());
        let at = decoding.next().filter(|_| decoding.next().is_none())?;
        let job = &self.running[at].job;
        (job.constraint.is_none() && job.logprobs.is_none()).then_some(at)
    }

    /// A round for a request that is alone, if the speculator chooses one; says whether there was one. If not, the request
    /// takes its plain steps with everybody else.
    pub(super) fn speculate(&mut self) -> Result<bool, EngineError> {
        let Some(at) = self.drafter() else {
            self.rest = None;
            return Ok(false);
        };
        if self.rests(at) {
            return Ok(false);
        }
        // What is under way tells the newest token.
        while let Some(step) = self.pending.pop_front() {
            self.read(&step)?;
        }
        let rest = self.rest.take();
        let Some(at) = self.drafter().filter(|&at| self.running[at].stage() == Stage::Decode) else {
            return Ok(false);
        };
        let request = &self.running[at];
        let text = request.stream(request.len());
        let left = request.job.params.max_tokens - request.generated.len();
        let room = (left - 1).min(self.life.desk.limits.context - request.fed - 1);
        let plans = self.engine.plans_made();
        let Some(speculator) = &mut self.speculator else { return Ok(false) };
        if let Some(rest) = rest.filter(|rest| rest.order == request.order && !rest.shared) {
            let mut sample = Sample::new(rest.context);
            sample.steps = (request.generated.len() - rest.first) as u64;
            sample.took(rest.start.elapsed());
            sample.each = rest.clock.each();
            sample.warming = plans > rest.plans;
            if sample.steps > 0 {
                speculator.observe(&sample);
            }
        }
        let start = Instant::now();
        match speculator.choose(&text, room) {
            Choice::Plain(most) => {
                let first = request.generated.len();
                self.rest = Some(Rest {
                    order: request.order,
                    first,
                    heard: first,
                    most,
                    start,
                    clock: Clock::default(),
                    plans,
                    context: text.len(),
                    shared: false,
                });
                Ok(false)
            }
            Choice::Draft(source, count) => {
                let mut sample = Sample::new(text.len());
                if !self.round(at, (source, count.min(room)), &mut sample)? {
                    self.make_room()?;
                    return Ok(true);
                }
                sample.took(start.elapsed());
                sample.warming = self.engine.plans_made() > plans;
                if let Some(speculator) = &mut self.speculator {
                    speculator.observe(&sample);
                }
                Ok(true)
            }
        }
    }

    /// Whether a request goes on with plain steps.
    fn rests(&mut self, at: usize) -> bool {
        let request = &self.running[at];
        let (Some(rest), Some(speculator)) = (&mut self.rest, &mut self.speculator) else { return false };
        if rest.order != request.order {
            return false;
        }
        rest.shared |= self.running.len() > 1;
        let room = request.job.params.max_tokens.saturating_sub(request.generated.len() + 1);
        let room = room.min(self.life.desk.limits.context.saturating_sub(request.fed + 1));
        let mut enough = request.generated.len() - rest.first >= rest.most;
        for &token in &request.generated[rest.heard..] {
            rest.clock.tick();
            enough |= speculator.interrupts(token, room);
        }
        rest.heard = request.generated.len();
        !enough
    }

    /// One round: drafts, a step that verifies them, and the tokens that are kept. `false` if there are too few pages;
    /// nothing has changed then.
    fn round(
        &mut self,
        at: usize,
        (source, count): (Source, usize),
        sample: &mut Sample,
    ) -> Result<bool, EngineError> {
        let Some(speculator) = &mut self.speculator else { return Ok(true) };
        let request = &self.running[at];
        let Some(seq) = request.seq else { return Ok(true) };
        let params = &request.job.params;
        let start = Start {
            seq,
            prompt: &request.prompt,
            generated: &request.generated,
            sampling: &params.sampling,
            suppress: &params.suppress,
            end: &params.stop_tokens,
        };
        let round = match speculator.round(&mut self.engine, &start, (source, count)) {
            Ok(round) => round,
            Err(error) if is_short(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.life.steps += 1;

        let (mut kept, mut finish) = (0, None);
        for &token in round.tokens() {
            // As a plain step leaves it: the row before the token is in the cache.
            self.running[at].fed += 1;
            kept += 1;
            finish = self.token(at, token, None);
            if finish.is_some() {
                break;
            }
        }
        self.engine.commit(seq, kept)?;
        // Drafts behind the end were not judged.
        let judged = if finish.is_some() { round.drafts().min(kept) } else { round.drafts() };
        let accepted = round.accepted.min(judged);
        let request = &mut self.running[at];
        request.drafted += judged;
        request.accepted += accepted;
        sample.drafted = Some((source, judged, accepted));
        sample.caught_up = round.caught_up;
        (sample.draft_seconds, sample.verify_seconds) = (round.draft_seconds, round.verify_seconds);
        let mut state = self.life.desk.lock();
        let counters = &mut state.counters;
        counters.decode_steps += 1;
        counters.decode_rows += round.rows.len() as u64;
        for (places, count) in [(&mut counters.drafted, judged), (&mut counters.accepted, accepted)] {
            if places.len() < count {
                places.resize(count, 0);
            }
            places.iter_mut().take(count).for_each(|place| *place += 1);
        }
        drop(state);
        if let Some(reason) = finish {
            self.finish(at, reason)?;
        }
        Ok(true)
    }
}
