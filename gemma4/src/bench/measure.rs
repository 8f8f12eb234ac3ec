//! Times of loading, prompts and generated tokens.

use std::time::Instant;

use gemma4_core::backend::Row;
use gemma4_core::cache::SeqId;
use gemma4_core::engine::{self, Engine, EngineError, Enqueued, Options, Part, Pick};
use gemma4_core::model::gemma4::{Gemma4, Taps};
use gemma4_core::ops::{Cost, Load};
use gemma4_core::plan::Target;
use gemma4_core::program::{Class, Program};
use gemma4_core::sample::{Draw, Sampling};
use serde::Serialize;

use crate::device::Device;
use crate::failure::Failure;
use crate::load;

/// How long it takes to have the weights where steps read them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Loading {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Whether the weights were copied; else they stay in the file.
    pub(super) copied: bool,
}

/// A prompt from an empty cache.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Prefill {
    pub(super) tokens: usize,
    pub(super) seconds: f64,
    pub(super) tokens_per_second: f64,
}

/// Generated tokens behind a context.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Decode {
    pub(super) context: usize,
    pub(super) tokens: usize,
    pub(super) seconds: f64,
    pub(super) tokens_per_second: f64,
    /// The same when the host waits for every token before it enqueues the next step; none where it always does.
    pub(super) waiting_tokens_per_second: Option<f64>,
    /// Weights and cache that a step must read, on average.
    pub(super) step_bytes: u64,
    /// Those, in 10^9 bytes a second.
    pub(super) gigabytes_per_second: f64,
    /// Those, over `--bandwidth`.
    pub(super) share: Option<f64>,
}

/// A model on a device, with one sequence.
pub(super) struct Bench<D: Device> {
    pub(super) engine: Engine<D>,
    pub(super) repeat: usize,
}

/// Whether the host reads a token before it enqueues the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Ahead,
    Waits,
}

const GREEDY: Draw<'static> = Draw {
    sampling: &Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
    },
    position: 0,
    edits: &[],
    allowed: None,
};

impl<D: Device> Bench<D> {
    pub(super) fn load(
        device: D,
        model: Gemma4,
        options: Options,
        repeat: usize,
    ) -> Result<(Self, Loading), Failure> {
        let bytes = model.tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
        let start = Instant::now();
        let engine = load::engine(device, model, options)?;
        // A page is read after everything that was sent before.
        let span = engine.model().config.layers[0].span;
        engine.read_page(span, 0)?;
        let copied = D::TARGET == Target::Gpu;
        let loading = Loading { bytes, seconds: start.elapsed().as_secs_f64(), copied };
        Ok((Self { engine, repeat }, loading))
    }

    /// `n` valid tokens without a pattern.
    pub(super) fn tokens(&self, n: usize) -> Vec<u32> {
        let vocab = u32::try_from(self.engine.model().config.vocab).unwrap_or(u32::MAX);
        (0u32..).take(n).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect()
    }

    pub(super) fn prefill(&mut self, tokens: usize) -> Result<Prefill, EngineError> {
        let text = self.tokens(tokens);
        // Plans depend on the rows of a step: of a long prompt, the first and the last have them all.
        let chunk = self.engine.options().chunk;
        self.read(&text[..if tokens > chunk { chunk + tokens % chunk } else { tokens }])?;
        let runs = (0..self.repeat).map(|_| self.read(&text)).collect::<Result<Vec<f64>, _>>()?;
        let seconds = median(runs);
        Ok(Prefill { tokens, seconds, tokens_per_second: tokens as f64 / seconds })
    }

    /// Reads a prompt from an empty cache until its last token is sampled.
    fn read(&mut self, text: &[u32]) -> Result<f64, EngineError> {
        let seq = self.engine.open()?;
        let start = Instant::now();
        let step = self.fill(seq, text)?;
        self.engine.tokens(&step)?;
        let seconds = start.elapsed().as_secs_f64();
        self.engine.close(seq)?;
        Ok(seconds)
    }

    pub(super) fn fill(&mut self, seq: SeqId, text: &[u32]) -> Result<Enqueued, EngineError> {
        let step = self.engine.prefill(seq, text, &GREEDY, &mut |_, _| true)?;
        Ok(step.expect("a prefill that nobody stops comes to its end"))
    }

    pub(super) fn decode(
        &mut self,
        context: usize,
        generate: usize,
        bandwidth: Option<f64>,
    ) -> Result<Decode, EngineError> {
        let text = self.tokens(context);
        let mut seq = self.behind(&text)?;
        self.generate(seq, context, generate.min(4), Host::Waits)?;
        let mut best = |bench: &mut Self, host| {
            let mut runs = Vec::new();
            for _ in 0..bench.repeat {
                // Local keys that the last run replaced are computed again.
                if bench.engine.rollback(seq, context).ok() != Some(context) {
                    bench.engine.close(seq)?;
                    seq = bench.behind(&text)?;
                }
                runs.push(bench.generate(seq, context, generate, host)?);
            }
            Ok::<f64, EngineError>(median(runs))
        };
        let waiting = best(self, Host::Waits)?;
        let seconds = if D::QUEUES { best(self, Host::Ahead)? } else { waiting };
        self.engine.close(seq)?;
        let middle = context + generate.saturating_sub(1) / 2;
        let cost = self.cost(Class::Decode, 1, middle)?;
        let step_bytes = cost.iter().map(|(_, cost)| cost.weight_bytes + cost.kv_bytes).sum();
        let gigabytes_per_second = step_bytes as f64 * generate as f64 / seconds * 1e-9;
        Ok(Decode {
            context,
            tokens: generate,
            seconds,
            tokens_per_second: generate as f64 / seconds,
            waiting_tokens_per_second: D::QUEUES.then(|| generate as f64 / waiting),
            step_bytes,
            gigabytes_per_second,
            share: bandwidth.map(|bandwidth| gigabytes_per_second / bandwidth),
        })
    }

    /// A sequence of these tokens.
    pub(super) fn behind(&mut self, text: &[u32]) -> Result<SeqId, EngineError> {
        let seq = self.engine.open()?;
        if !text.is_empty() {
            let step = self.fill(seq, text)?;
            self.engine.tokens(&step)?;
        }
        Ok(seq)
    }

    /// Generates `n` tokens behind a context; where there is none, some token comes first.
    fn generate(&mut self, seq: SeqId, context: usize, n: usize, host: Host) -> Result<f64, EngineError> {
        let start = Instant::now();
        let mut before: Option<Enqueued> = None;
        for i in 0..n {
            let token = if context + i == 0 { 0 } else { Row::SAMPLED };
            let part = Part { seq, tokens: &[token], pick: Pick::Last };
            let step = self.engine.step(Class::Decode, &[part], &[GREEDY], Taps::None)?;
            self.engine.commit(seq, 1)?;
            if let Some(read) = match host {
                Host::Ahead => before.replace(step),
                Host::Waits => Some(step),
            } {
                self.engine.tokens(&read)?;
            }
        }
        if let Some(last) = before {
            self.engine.tokens(&last)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// What each op of a step moves and computes, at least, with its name.
    pub(super) fn cost(
        &self,
        class: Class,
        rows: usize,
        context: usize,
    ) -> Result<Vec<(&'static str, Cost)>, EngineError> {
        let model = self.engine.model();
        let (_, layout) = engine::layout(&model.config, self.engine.options())?;
        let states = model.states(&layout);
        let recorded = match class {
            Class::Prefill => model.prefill(&states, rows, 1, Taps::None)?,
            Class::Decode => model.decode(&states, rows)?,
        };
        let program: &Program = &recorded.program;
        let load = Load { rows, picked: 1, context };
        Ok(program.ops.iter().map(|op| (op.name(), op.cost(program, load))).collect())
    }

    /// Greedy, for steps that are put together elsewhere.
    pub(super) fn greedy() -> Draw<'static> {
        GREEDY
    }
}

/// The one in the middle; of an even number the lower of the two, so that it is one that was seen.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_one_that_was_seen() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(median(vec![5.0]), 5.0);
    }
}
