//! The tokens of an answer: one a step, ahead of the host where a device queues steps, or several a round.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{Ended, Event, Generated, Request, Session, SessionError, narrow};
use crate::backend::{Backend, Row};
use crate::engine::{Engine, EngineError, Enqueued, Part, Pick};
use crate::model::gemma4::Taps;
use crate::program::Class;
use crate::sample::Draw;
use crate::speculate::{Choice, Clock, Sample, Source, Speculator, Start};

/// An answer while it is made.
pub(super) struct Turn<'a, 'b> {
    pub(super) request: &'a Request<'a>,
    pub(super) generated: Generated,
    pub(super) on: &'b mut dyn FnMut(Event) -> ControlFlow<()>,
    /// When the prompt began.
    pub(super) start: Instant,
    /// When the first token was there.
    pub(super) decoding: Option<Instant>,
}

impl Turn<'_, '_> {
    /// A token was chosen, the cache holding `len` tokens before it; why the answer ends with it, if it does.
    fn token(&mut self, token: u32, len: usize, context: usize) -> Option<Ended> {
        let decoding = *self.decoding.get_or_insert_with(|| {
            self.generated.prefill = self.start.elapsed();
            Instant::now()
        });
        self.generated.tokens.push(token);
        let stopped = (self.on)(Event::Token(token)).is_break();
        self.generated.decode = decoding.elapsed();
        if self.request.end.contains(&token) {
            Some(Ended::Token(token))
        } else if self.generated.tokens.len() >= self.request.max_tokens {
            Some(Ended::MaxTokens)
        } else if len + 1 > context {
            Some(Ended::ContextFull)
        } else {
            stopped.then_some(Ended::Stopped)
        }
    }
}

impl Session {
    /// Takes tokens of plain steps, of which `step` is the first, until the answer ends, there are `most`, or `enough` says
    /// so of a token; then the last one is not in the cache.
    pub(super) fn plain<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        turn: &mut Turn<'_, '_>,
        mut step: Enqueued,
        most: usize,
        enough: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Option<Ended>, SessionError> {
        let request = turn.request;
        // A device that queues steps goes on with its own token, unless the host has to count tokens for penalties.
        let ahead = B::QUEUES && !request.sampling.has_penalties();
        let context = engine.options().context;
        let mut stop = false;
        for taken in 1.. {
            stop |= taken >= most;
            let full = self.tokens.len() + 1 > context;
            let last = stop || full || turn.generated.tokens.len() + 1 >= request.max_tokens;
            // What prevents the next step is said when this one's token is out.
            let next =
                (ahead && !last).then(|| self.enqueue(engine, request, Row::SAMPLED, &[]).ok()).flatten();
            let token = match engine.tokens(&step) {
                Ok(tokens) => tokens[0],
                Err(error) => {
                    if next.is_some() {
                        let _ = self.take_back(engine);
                    }
                    return Err(error.into());
                }
            };
            let ended = turn.token(token, self.tokens.len(), context);
            stop |= ended.is_none() && enough(token);
            // A step that is under way when it is enough is taken too.
            if ended.is_some() || stop && next.is_none() {
                if next.is_some() {
                    self.take_back(engine)?;
                }
                return Ok(ended);
            }
            step = match next {
                Some(next) => next,
                None => self.enqueue(engine, request, token, &turn.generated.tokens)?,
            };
            self.tokens.push(token);
        }
        unreachable!("the loop returns")
    }

    /// Takes the rest of an answer in rounds of drafts and plain steps, as the speculator chooses; its first token has
    /// been taken.
    pub(super) fn rounds<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        turn: &mut Turn<'_, '_>,
        speculator: &mut Speculator,
    ) -> Result<Ended, SessionError> {
        let context = engine.options().context;
        let mut text = self.tokens.clone();
        let mut lap = Instant::now();
        loop {
            let generated = &turn.generated.tokens;
            let anchor = generated[generated.len() - 1];
            text.truncate(self.tokens.len());
            text.extend_from_slice(&self.tokens[text.len()..]);
            text.push(anchor);
            // The target's own token is one of those that are left.
            let left = turn.request.max_tokens - generated.len();
            let mut room = (left - 1).min(context - self.tokens.len() - 1);
            let plans = engine.plans_made();
            let mut sample = Sample::new(text.len());
            let ended = match speculator.choose(&text, room) {
                Choice::Plain(steps) => {
                    let first = generated.len();
                    let step = self.enqueue(engine, turn.request, anchor, generated)?;
                    self.tokens.push(anchor);
                    let mut clock = Clock::default();
                    let ended = self.plain(engine, turn, step, steps, &mut |token| {
                        clock.tick();
                        room = room.saturating_sub(1);
                        speculator.interrupts(token, room)
                    })?;
                    sample.steps = (turn.generated.tokens.len() - first) as u64;
                    sample.each = clock.each();
                    ended
                }
                Choice::Draft(source, count) => {
                    self.round(engine, turn, speculator, (source, count.min(room)), &mut sample)?
                }
            };
            // The time of a choice and of what becomes of its tokens is a part of what it costs.
            let now = Instant::now();
            sample.took(now.duration_since(std::mem::replace(&mut lap, now)));
            sample.warming = engine.plans_made() > plans;
            speculator.observe(&sample);
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// One round: drafts, a step that verifies them, and the tokens that are kept.
    fn round<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        turn: &mut Turn<'_, '_>,
        speculator: &mut Speculator,
        (source, count): (Source, usize),
        sample: &mut Sample,
    ) -> Result<Option<Ended>, SessionError> {
        let (request, context, len) = (turn.request, engine.options().context, self.tokens.len());
        let start = Start {
            seq: self.seq,
            prompt: request.prompt,
            generated: &turn.generated.tokens,
            sampling: request.sampling,
            suppress: request.suppress,
            end: request.end,
        };
        let round = speculator.round(engine, &start, (source, count))?;

        let (mut kept, mut ended) = (0, None);
        for (at, &token) in round.tokens().iter().enumerate() {
            kept += 1;
            ended = turn.token(token, len + at + 1, context);
            if ended.is_some() {
                break;
            }
        }
        engine.commit(self.seq, kept)?;
        self.tokens.extend_from_slice(&round.rows[..kept]);
        // Drafts behind the end were not judged.
        let judged = if ended.is_some() { round.drafts().min(kept) } else { round.drafts() };
        sample.drafted = Some((source, judged, round.accepted.min(judged)));
        sample.caught_up = round.caught_up;
        (sample.draft_seconds, sample.verify_seconds) = (round.draft_seconds, round.verify_seconds);
        Ok(ended)
    }

    /// Enqueues the step of one token, which the caller adds to the conversation once it is known.
    fn enqueue<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        request: &Request<'_>,
        token: u32,
        generated: &[u32],
    ) -> Result<Enqueued, EngineError> {
        let edits = request.sampling.edits(request.prompt, generated, request.suppress);
        let position = narrow(self.tokens.len() + 1);
        let draw = Draw { sampling: request.sampling, position, edits: &edits, allowed: None };
        let part = Part { seq: self.seq, tokens: &[token], pick: Pick::Last };
        let step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
        engine.commit(self.seq, 1)?;
        Ok(step)
    }

    /// Forgets a step whose token is not wanted.
    fn take_back<B: Backend>(&mut self, engine: &mut Engine<B>) -> Result<(), EngineError> {
        let len = match engine.rollback(self.seq, self.tokens.len()) {
            Ok(reached) => reached,
            Err(_) => self.reopen(engine)?,
        };
        self.tokens.truncate(len);
        Ok(())
    }
}
