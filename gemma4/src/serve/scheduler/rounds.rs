//! Rounds of drafts, for a request that is answered alone.
//!
//! A step that verifies drafts has rows to spare only where nobody else decodes: with company, the rows of the others
//! fill it. So a request drafts while it is the only one past its prompt; what it hears is the same either way. Requests
//! whose tokens a grammar decides, and those that want probabilities, take plain steps.

use std::time::Instant;

use gemma4_core::backend::Backend;
use gemma4_core::engine::{EngineError, Part, Pick};
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::sample::Draw;
use gemma4_core::speculate::{Choice, Sample, Source};

use super::reuse::is_short;
use super::running::Stage;
use super::steps::narrow;
use super::work::Work;

/// Most plain steps that nobody else can come between.
const PLAIN: usize = 8;

impl<B: Backend> Work<'_, B> {
    /// The only request that decodes, if it may draft.
    fn drafter(&self) -> Option<usize> {
        self.speculator.as_ref()?;
        let mut decoding = (0..self.running.len()).filter(|&at| self.running[at].decodes());
        let at = decoding.next().filter(|_| decoding.next().is_none())?;
        let job = &self.running[at].job;
        (job.constraint.is_none() && job.logprobs.is_none()).then_some(at)
    }

    /// What the speculator chooses for a request that is alone: plain steps or a round; says whether there was one.
    pub(super) fn speculate(&mut self) -> Result<bool, EngineError> {
        if self.drafter().is_none() {
            return Ok(false);
        }
        // What is under way tells the newest token.
        while let Some(step) = self.pending.pop_front() {
            self.read(&step)?;
        }
        let Some(at) = self.drafter().filter(|&at| self.running[at].stage() == Stage::Decode) else {
            return Ok(false);
        };
        let request = &self.running[at];
        let (order, text) = (request.order, request.stream(request.len()));
        let left = request.job.params.max_tokens - request.generated.len();
        let room = (left - 1).min(self.life.desk.limits.context - request.fed - 1);
        let Some(speculator) = &mut self.speculator else { return Ok(false) };
        let (start, plans) = (Instant::now(), self.engine.plans_made());
        let mut sample = Sample {
            context: text.len(),
            drafted: None,
            steps: 1,
            draft_seconds: 0.0,
            verify_seconds: 0.0,
            warming: false,
        };
        match speculator.choose(&text, room) {
            Choice::Plain(steps) => {
                sample.steps = self.plain(order, steps.min(PLAIN))?;
                sample.verify_seconds = start.elapsed().as_secs_f64();
            }
            Choice::Draft(source, count) => {
                if !self.round(at, (source, count.min(room)), &mut sample)? {
                    self.make_room()?;
                    return Ok(true);
                }
            }
        }
        sample.warming = self.engine.plans_made() > plans;
        if let Some(speculator) = self.speculator.as_mut().filter(|_| sample.steps > 0) {
            speculator.observe(&sample);
        }
        Ok(true)
    }

    /// Plain steps of one request, at most `most`, with nothing under way at the end; how many there were.
    fn plain(&mut self, order: u64, most: usize) -> Result<u64, EngineError> {
        let generated = |work: &Self| {
            let request = work.running.iter().find(|request| request.order == order);
            request.map(|request| request.generated.len())
        };
        let first = generated(self).unwrap_or_default();
        let mut steps = 0;
        while let Some(now) = generated(self) {
            steps = now - first;
            if steps + 1 >= most {
                break;
            }
            if !self.decode_plain()? {
                return Ok(steps as u64);
            }
        }
        if self.pending.is_empty() && steps < most && generated(self).is_some() {
            self.decode_plain()?;
        }
        while let Some(step) = self.pending.pop_front() {
            self.read(&step)?;
        }
        // Of a request that has ended the last step is the one that ended it.
        Ok(generated(self).map_or(steps + 1, |now| now - first) as u64)
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
        let (fed, params) = (request.fed, &request.job.params);
        let anchor = request.generated[request.generated.len() - 1];
        let start = Instant::now();
        let edits = |text: &[u32]| params.sampling.edits(&request.prompt, text, &params.suppress);
        let mut all = vec![edits(&request.generated)];
        let drawn = (&params.sampling, &all[0][..]);
        let proposed =
            speculator.propose(&mut self.engine, (seq, anchor), (source, count), drawn, &params.stop_tokens);
        let drafts = match proposed {
            Ok(drafts) => drafts,
            Err(error) if is_short(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let drafted = start.elapsed();

        // A row's penalties count the drafts before it: if they are not what was chosen, the row does not count.
        if params.sampling.has_penalties() {
            let mut text = request.generated.clone();
            for &draft in &drafts {
                text.push(draft);
                all.push(edits(&text));
            }
        } else {
            all.resize(drafts.len() + 1, all[0].clone());
        }
        let rows: Vec<u32> = std::iter::once(anchor).chain(drafts.iter().copied()).collect();
        let draws: Vec<Draw<'_>> = (1..)
            .zip(&all)
            .map(|(row, edits)| Draw {
                sampling: &params.sampling,
                position: narrow(fed + row),
                edits,
                allowed: None,
            })
            .collect();
        let part = Part { seq, tokens: &rows, pick: Pick::All };
        let step = match self.engine.step(Class::Decode, &[part], &draws, Taps::None) {
            Ok(step) => step,
            Err(error) if is_short(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.life.steps += 1;
        let mut chosen = match self.engine.tokens(&step) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.engine.commit(seq, 0)?;
                return Err(error);
            }
        };
        let accepted = speculator.accept(&drafts, &mut chosen);
        let verified = start.elapsed();

        let (mut kept, mut finish) = (0, None);
        for &token in &chosen[..=accepted] {
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
        let judged = if finish.is_some() { drafts.len().min(kept) } else { drafts.len() };
        let accepted = accepted.min(judged);
        let request = &mut self.running[at];
        request.drafted += judged;
        request.accepted += accepted;
        if judged > 0 {
            sample.drafted = Some((source, judged, accepted));
        }
        sample.draft_seconds = drafted.as_secs_f64();
        sample.verify_seconds = verified.saturating_sub(drafted).as_secs_f64();
        let mut state = self.life.desk.lock();
        let counters = &mut state.counters;
        counters.decode_steps += 1;
        counters.decode_rows += rows.len() as u64;
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
