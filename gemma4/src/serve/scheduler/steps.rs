//! The two kinds of steps of a turn, and what comes out of them.

use std::sync::Arc;

use gemma4_core::backend::{Backend, Row};
use gemma4_core::cache::{PAGE, SeqId};
use gemma4_core::engine::{EngineError, Enqueued, Part, Pick};
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Edit, Sampling};

use super::reuse::is_short;
use super::running::{Running, Stage};
use super::shelf::Kind;
use super::work::Work;
use crate::serve::job::{CachePolicy, Event, Finish};

/// Generated tokens that are computed again in one step, when a request was put aside.
const REPLAY: usize = 64;

/// A step whose tokens were not read yet.
#[derive(Debug)]
pub(super) struct Pending {
    step: Enqueued,
    /// Whose rows were picked, in order; `None` where nobody wants the token any more.
    rows: Vec<Option<u64>>,
}

impl Pending {
    pub(super) fn void(&mut self, order: u64) {
        self.rows.iter_mut().filter(|row| **row == Some(order)).for_each(|row| *row = None);
    }
}

/// What a request adds to a step.
struct Share {
    index: usize,
    seq: SeqId,
    tokens: Vec<u32>,
    pick: Pick,
}

/// What the host knows of a draw.
struct Prepared {
    position: u32,
    edits: Vec<Edit>,
    allowed: Option<Vec<u32>>,
}

impl<B: Backend> Work<'_, B> {
    /// Decodes a token or more for every request that is past its prompt; says whether there was any.
    ///
    /// Where the device queues steps and the host need not know tokens, the next step is enqueued before this one's
    /// tokens are read.
    pub(super) fn decode(&mut self) -> Result<bool, EngineError> {
        Ok(self.speculate()? || self.decode_plain()?)
    }

    /// A step for all of them, one token each.
    pub(super) fn decode_plain(&mut self) -> Result<bool, EngineError> {
        let ahead = B::QUEUES && !self.running.iter().any(|r| r.decodes() && r.needs_host());
        let mut worked = !self.pending.is_empty();
        if ahead && worked {
            let next = self.enqueue_decode(true)?;
            self.pending.extend(next);
        }
        let more = self.pending.len() > 1;
        if let Some(step) = self.pending.pop_front() {
            self.read(&step)?;
        }
        if !more && let Some(step) = self.enqueue_decode(false)? {
            worked = true;
            if ahead {
                self.pending.push_back(step);
            } else {
                self.read(&step)?;
            }
        }
        Ok(worked || more)
    }

    fn enqueue_decode(&mut self, ahead: bool) -> Result<Option<Pending>, EngineError> {
        loop {
            let shares = self.decode_shares(ahead)?;
            if shares.is_empty() {
                return Ok(None);
            }
            let replays = shares.iter().all(|share| share.pick == Pick::None);
            match self.step(Class::Decode, &shares)? {
                Step::Done(step) => {
                    let mut state = self.life.desk.lock();
                    state.counters.decode_steps += 1;
                    state.counters.decode_rows +=
                        shares.iter().map(|share| share.tokens.len() as u64).sum::<u64>();
                    drop(state);
                    // Without a token there is nothing to read.
                    return if replays { self.enqueue_decode(ahead) } else { Ok(Some(step)) };
                }
                Step::Short if ahead => return Ok(None),
                Step::Short => self.make_room()?,
                Step::Changed => {}
            }
        }
    }

    fn decode_shares(&mut self, ahead: bool) -> Result<Vec<Share>, EngineError> {
        let mut shares = Vec::new();
        for (index, request) in self.running.iter().enumerate() {
            let Some(seq) = request.seq.filter(|_| request.decodes()) else { continue };
            let (start, pick) = (request.fed - request.prompt.len(), Pick::Last);
            let share = match request.stage() {
                Stage::Prefill => continue,
                Stage::InFlight if !ahead || request.last_is_under_way(self.life.desk.limits.context) => {
                    continue;
                }
                Stage::InFlight => Share { index, seq, tokens: vec![Row::SAMPLED], pick },
                Stage::Decode => Share { index, seq, tokens: request.generated[start..].to_vec(), pick },
                Stage::Replay => {
                    let left = request.generated.len() - 1 - start;
                    let n = left.min(REPLAY).min(self.engine.chunk(seq, left)?);
                    Share {
                        index,
                        seq,
                        tokens: request.generated[start..start + n].to_vec(),
                        pick: Pick::None,
                    }
                }
            };
            shares.push(share);
        }
        Ok(shares)
    }

    /// Computes a piece of the prompts that are not in the cache yet; says whether there was any.
    pub(super) fn prefill(&mut self) -> Result<bool, EngineError> {
        loop {
            let shares = self.prefill_shares()?;
            if shares.is_empty() {
                return Ok(false);
            }
            match self.step(Class::Prefill, &shares)? {
                Step::Done(step) => {
                    self.prefilled(&shares)?;
                    self.read(&step)?;
                    return Ok(true);
                }
                Step::Short => self.make_room()?,
                Step::Changed => {}
            }
        }
    }

    fn prefill_shares(&mut self) -> Result<Vec<Share>, EngineError> {
        let decoding = self.running.iter().any(Running::decodes);
        let chunk = self.engine.options().chunk;
        let mut left = if decoding { self.life.desk.limits.budget.min(chunk) } else { chunk };
        let mut order: Vec<usize> = (0..self.running.len())
            .filter(|&at| self.running[at].seq.is_some() && self.running[at].stage() == Stage::Prefill)
            .collect();
        order.sort_by_key(|&at| (self.running[at].served, self.running[at].order));
        // Everybody gets a page in turn before anybody gets two.
        let each = if order.len() > 1 { (left / order.len()).max(PAGE) } else { left };
        let mut shares = Vec::new();
        for index in order {
            let request = &self.running[index];
            let Some(seq) = request.seq else { continue };
            let (fed, all) = (request.fed, request.prompt.len());
            let most = cut(fed, self.engine.chunk(seq, all - fed)?, each.min(left), shares.is_empty());
            if most == 0 {
                continue;
            }
            let request = &self.running[index];
            let draws = fed + most == all && request.generated.is_empty();
            let pick = if draws { Pick::Last } else { Pick::None };
            shares.push(Share { index, seq, tokens: request.prompt[fed..fed + most].to_vec(), pick });
            left -= most;
            if left == 0 {
                break;
            }
        }
        Ok(shares)
    }

    /// Takes note of a piece of prompts: progress, and places inside it.
    fn prefilled(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        let mut computed = 0;
        for share in shares {
            computed += share.tokens.len() as u64;
            let request = &mut self.running[share.index];
            if request.exact + share.tokens.len() == request.fed {
                request.exact = request.fed;
            }
            request.served += share.tokens.len() as u64;
            request.progress();
            let (prompt, exact, fed) = (Arc::clone(&request.prompt), request.exact, request.fed);
            while let Some(border) = self.running[share.index].borders.pop_if(|border| *border <= fed) {
                self.keep(share.seq, &prompt, border, exact, Kind::Inner)?;
            }
            if fed == prompt.len() && self.running[share.index].job.cache != CachePolicy::None {
                let place = self.keep(share.seq, &prompt, prompt.len(), exact, Kind::End)?;
                self.running[share.index].prompt_place = place;
            }
        }
        let mut state = self.life.desk.lock();
        state.counters.prefill_steps += 1;
        state.counters.computed_tokens += computed;
        Ok(())
    }

    /// Enqueues a step of `shares`, whose tokens count then.
    fn step(&mut self, class: Class, shares: &[Share]) -> Result<Step, EngineError> {
        let mut prepared = Vec::new();
        for share in shares.iter().filter(|share| share.pick == Pick::Last) {
            let request = &mut self.running[share.index];
            let position = request.fed + share.tokens.len();
            match prepare(request, position, self.life.desk.limits.vocab) {
                Ok(draw) => prepared.push((share.index, draw)),
                Err(reason) => {
                    self.finish(share.index, reason)?;
                    return Ok(Step::Changed);
                }
            }
        }
        let samplings: Vec<&Sampling> =
            prepared.iter().map(|(index, _)| &self.running[*index].job.params.sampling).collect();
        let draws: Vec<Draw<'_>> = prepared
            .iter()
            .zip(samplings)
            .map(|((_, draw), sampling)| Draw {
                sampling,
                position: draw.position,
                edits: &draw.edits,
                allowed: draw.allowed.as_deref(),
            })
            .collect();
        let parts: Vec<Part<'_>> = shares
            .iter()
            .map(|share| Part { seq: share.seq, tokens: &share.tokens, pick: share.pick })
            .collect();
        let step = match self.engine.step(class, &parts, &draws, Taps::None) {
            Ok(step) => step,
            Err(error) if is_short(&error) => return Ok(Step::Short),
            Err(error) => return Err(error),
        };
        self.life.steps += 1;
        let mut rows = Vec::new();
        for share in shares {
            self.engine.commit(share.seq, share.tokens.len())?;
            let request = &mut self.running[share.index];
            request.fed += share.tokens.len();
            if share.pick == Pick::Last {
                rows.push(Some(request.order));
            }
        }
        Ok(Step::Done(Pending { step, rows }))
    }

    /// Reads a step's tokens and hands them out.
    pub(super) fn read(&mut self, pending: &Pending) -> Result<(), EngineError> {
        if pending.rows.iter().all(Option::is_none) {
            return Ok(());
        }
        let tokens = self.engine.tokens(&pending.step)?;
        let wanted = |order: &Option<u64>| {
            let request = self.running.iter().find(|r| Some(r.order) == *order);
            request.and_then(|request| request.job.logprobs)
        };
        let tops: Vec<Option<u8>> = pending.rows.iter().map(wanted).collect();
        let vocab = self.life.desk.limits.vocab;
        let told = tops.iter().any(Option::is_some);
        let logits = if told { self.engine.logits(&pending.step)? } else { Vec::new() };
        for (row, ((order, token), top)) in pending.rows.iter().zip(tokens).zip(tops).enumerate() {
            let Some(index) = self.running.iter().position(|r| Some(r.order) == *order) else { continue };
            let logs = top.map(|n| logprobs(&logits[row * vocab..(row + 1) * vocab], token, usize::from(n)));
            if let Some(reason) = self.token(index, token, logs) {
                self.finish(index, reason)?;
            }
        }
        Ok(())
    }

    /// Hands a token out, with its logarithm and the highest ones if they were asked for; says why the answer ends with
    /// it, if it does.
    pub(super) fn token(&mut self, index: usize, token: u32, logs: Option<LogProbs>) -> Option<Finish> {
        let (logprob, top) = logs.map_or((None, Vec::new()), |(own, top)| (Some(own), top));
        let context = self.life.desk.limits.context;
        let event = Event::Token { id: token, logprob, top };
        let (finish, pace) = self.running[index].token(event, token, context);
        let mut state = self.life.desk.lock();
        state.counters.generated_tokens += 1;
        if let Some(time) = pace.first {
            state.counters.first_token.add(time);
        }
        if let Some(time) = pace.between {
            state.counters.between_tokens.add(time);
        }
        finish
    }
}

/// What came of trying to enqueue a step.
enum Step {
    Done(Pending),
    /// There are too few pages; nothing has changed.
    Short,
    /// A request had to end; the step has to be put together anew.
    Changed,
}

/// What the host has to work out before a token of a request can be drawn.
fn prepare(request: &mut Running, position: usize, vocab: usize) -> Result<Prepared, Finish> {
    let allowed = match &mut request.job.constraint {
        Some(constraint) => {
            let mut mask = vec![0; vocab.div_ceil(32)];
            constraint.allowed(&mut mask).map_err(|error| Finish::Failed(error.to_string()))?;
            Some(mask)
        }
        None => None,
    };
    let params = &request.job.params;
    let edits = params.sampling.edits(&request.prompt, &request.generated, &params.suppress);
    Ok(Prepared { position: narrow(position), edits, allowed })
}

/// Where a piece of at most `cap` of the next `n` tokens from `start` on ends: at a page border, if one is in reach and
/// not all of the tokens are. Only the `first` of a step may end elsewhere.
fn cut(start: usize, n: usize, cap: usize, first: bool) -> usize {
    if n <= cap {
        return n;
    }
    let border = (start + cap) / PAGE * PAGE;
    match border.checked_sub(start) {
        Some(piece) if piece > 0 => piece,
        _ if first => cap,
        _ => 0,
    }
}

/// A logarithm, and the highest ones with their tokens.
pub(super) type LogProbs = (f32, Vec<(u32, f32)>);

/// Natural logarithms of probabilities: that of `token`, and the `n` highest with their tokens.
fn logprobs(logits: &[f32], token: u32, n: usize) -> LogProbs {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    let normal = f64::from(most) + sum.ln();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm is reported as logits are")]
    let log = |logit: f32| (f64::from(logit) - normal) as f32;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let falling = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    if n > 0 && n < order.len() {
        order.select_nth_unstable_by(n - 1, falling);
    }
    order.truncate(n);
    order.sort_unstable_by(falling);
    let top = order.into_iter().map(|t| (narrow(t), log(logits[t]))).collect();
    (logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| log(logit)), top)
}

pub(super) fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions and tokens are counted in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_page_borders_where_they_can() {
        assert_eq!(cut(0, 1000, 512, true), 512);
        assert_eq!(cut(100, 1000, 512, true), 412);
        assert_eq!(cut(100, 300, 512, false), 300);
        assert_eq!(cut(100, 300, 50, true), 50);
        assert_eq!(cut(100, 300, 50, false), 0);
        assert_eq!(cut(250, 300, 50, false), 6);
    }

    #[test]
    fn logarithms_of_probabilities_add_up() {
        let logits = [1.0, 3.0, -2.0, 3.0, f32::NEG_INFINITY];
        let (own, top) = logprobs(&logits, 0, 3);
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(own, top[2].1);
        let all = logprobs(&logits, 0, 5).1;
        let sum: f32 = all.iter().map(|(_, log)| log.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && all.len() == 5, "{all:?}");
        assert_eq!(logprobs(&logits, 0, 0).1, []);
        assert_eq!(logprobs(&logits, 0, 9).1, all);
    }
}
