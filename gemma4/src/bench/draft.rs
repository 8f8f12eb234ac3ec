//! What drafting would be worth: rounds of every length behind every context, and what verifying costs.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use gemma4_core::engine::{EngineError, Part, Pick};
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::sample::Sampling;
use gemma4_core::speculate::{MOST_DRAFTS, Policy, Settings, Source, Speculator, Start};
use serde::Serialize;

use super::measure::{Bench, median};
use super::plot::{Chart, Line};
use crate::device::Device;
use crate::failure::Failure;

/// Heading of help texts.
const DRAFT: &str = "Drafting";

/// What is measured of drafting.
#[derive(Args, Debug, Clone, Default)]
pub(super) struct BenchDraftArgs {
    /// Measure rounds with a drafter, a GGUF file or a checkpoint folder; `synthetic-mtp` and `synthetic-dflash` have the
    /// published shapes and draft nonsense
    #[arg(long, value_name = "PATH", help_heading = DRAFT)]
    pub(super) draft: Vec<PathBuf>,
    /// Drafts of a round
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,15", help_heading = DRAFT)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=15))]
    pub(super) draft_lengths: Vec<u8>,
    /// Accept this share of drafts whatever the model says, to learn what a drafter of that quality is worth
    #[arg(long, value_name = "P", value_parser = share, help_heading = DRAFT, allow_negative_numbers = true)]
    pub(super) simulate_acceptance: Option<f64>,
    /// Measure steps that verify so many rows, without a drafter
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = DRAFT)]
    #[arg(value_parser = clap::value_parser!(u8).range(2..=64))]
    pub(super) verify_rows: Vec<u8>,
}

fn share(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "expected a share from 0 to 1".to_owned())
}

impl BenchDraftArgs {
    /// Tokens that a measurement adds behind a context, beside those that are generated.
    pub(super) fn room(&self) -> usize {
        if self.draft.is_empty() && self.verify_rows.is_empty() { 0 } else { 64 }
    }
}

/// Steps of several rows behind a context.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Verify {
    pub(super) context: usize,
    pub(super) rows: usize,
    pub(super) seconds: f64,
    /// Over the time of a step of one row, which waits for its token too.
    pub(super) over_plain: f64,
}

/// Rounds of one length behind a context.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rounds {
    pub(super) source: &'static str,
    pub(super) context: usize,
    pub(super) drafts: usize,
    pub(super) count: usize,
    pub(super) draft_seconds: f64,
    pub(super) verify_seconds: f64,
    pub(super) plain_seconds: f64,
    /// Tokens a round, the target's own included.
    pub(super) tokens_a_round: f64,
    pub(super) tokens_per_second: f64,
    /// Over plain decoding.
    pub(super) speedup: f64,
    /// Share of drafts that has to be accepted, each place alike, for a round to pay.
    pub(super) break_even: f64,
}

/// The share of drafts at which `drafts` of them are worth `cost` plain steps; 1 if none is enough.
fn break_even(drafts: usize, cost: f64) -> f64 {
    let tokens =
        |share: f64| (0..=drafts).map(|k| share.powi(i32::try_from(k).unwrap_or(i32::MAX))).sum::<f64>();
    if tokens(1.0) < cost {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if tokens(middle) < cost { low = middle } else { high = middle }
    }
    high
}

impl<D: Device> Bench<D> {
    /// Steps of each of `rows` rows behind a context, none of which is kept.
    pub(super) fn verify(&mut self, context: usize, rows: &[u8]) -> Result<Vec<Verify>, EngineError> {
        let text = self.tokens(context);
        let seq = self.behind(&text)?;
        let time = |bench: &mut Self, rows: usize| {
            let tokens = bench.tokens(rows);
            let draws = vec![Self::greedy(); rows];
            let mut runs = Vec::new();
            for run in 0..bench.repeat.max(3) * 2 {
                let start = Instant::now();
                let part = Part { seq, tokens: &tokens, pick: Pick::All };
                let step = bench.engine.step(Class::Decode, &[part], &draws, Taps::None)?;
                bench.engine.tokens(&step)?;
                bench.engine.commit(seq, 0)?;
                if run > 0 {
                    runs.push(start.elapsed().as_secs_f64());
                }
            }
            Ok::<f64, EngineError>(median(runs))
        };
        let plain = time(self, 1)?;
        let mut all = Vec::new();
        for &rows in rows {
            let rows = usize::from(rows);
            let seconds = time(self, rows)?;
            all.push(Verify { context, rows, seconds, over_plain: seconds / plain });
        }
        self.engine.close(seq)?;
        Ok(all)
    }

    /// Rounds of `drafts` drafts of a source behind a context, until `generate` tokens are committed. `None` if the source
    /// does not draft as many.
    pub(super) fn rounds(
        &mut self,
        source: Source,
        (context, drafts): (usize, usize),
        generate: usize,
        simulate: Option<f64>,
        plain_seconds: f64,
    ) -> Result<Option<Rounds>, Failure> {
        let settings =
            Settings { policy: Policy::Fixed, sources: vec![source], most: Some(drafts), simulate };
        let Some(mut speculator) = Speculator::new(settings, &self.engine) else { return Ok(None) };
        let most = source.kind().map_or(MOST_DRAFTS, |kind| self.engine.most_drafts(kind).unwrap_or(0));
        if most < drafts {
            return Ok(None);
        }
        // Something has to be there for a drafter to look at.
        let mut text = self.tokens(context.max(1));
        let seq = self.engine.open()?;
        let step = self.fill(seq, &text)?;
        text.push(self.engine.tokens(&step)?[0]);
        let sampling = Sampling::default();
        let (mut draft_seconds, mut verify_seconds, mut tokens, mut rounds) = (0.0, 0.0, 0, 0);
        // The first round makes plans, and lets the drafter read the context.
        let mut warm = false;
        while tokens < generate {
            speculator.choose(&text, drafts);
            let (prompt, generated) = text.split_at(text.len() - 1);
            let start = Start { seq, prompt, generated, sampling: &sampling, suppress: &[], end: &[] };
            let round = speculator.round(&mut self.engine, &start, (source, drafts))?;
            if round.drafts() == 0 && source != Source::Ngram {
                self.engine.commit(seq, 0)?;
                break;
            }
            self.engine.commit(seq, round.accepted + 1)?;
            text.extend_from_slice(round.tokens());
            if warm {
                draft_seconds += round.draft_seconds;
                verify_seconds += round.verify_seconds;
                rounds += 1;
                tokens += round.accepted + 1;
            }
            warm = true;
        }
        self.engine.close(seq)?;
        if rounds == 0 {
            return Ok(None);
        }
        let count = rounds as f64;
        let seconds = draft_seconds + verify_seconds;
        let tokens_per_second = tokens as f64 / seconds;
        Ok(Some(Rounds {
            source: source.name(),
            context,
            drafts,
            count: rounds,
            draft_seconds: draft_seconds / count,
            verify_seconds: verify_seconds / count,
            plain_seconds,
            tokens_a_round: tokens as f64 / count,
            tokens_per_second,
            speedup: tokens_per_second * plain_seconds,
            break_even: break_even(drafts, seconds / count / plain_seconds),
        }))
    }
}

/// Both tables, for people.
pub(super) fn write(out: &mut String, verify: &[Verify], rounds: &[Rounds]) -> fmt::Result {
    if !verify.is_empty() {
        writeln!(out, "\n{:<8} {:>8} {:>6} {:>10} {:>10}", "verify", "context", "rows", "ms", "over plain")?;
        for Verify { context, rows, seconds, over_plain } in verify {
            writeln!(out, "{:<8} {context:>8} {rows:>6} {:>10.3} {over_plain:>10.2}", "", 1e3 * seconds)?;
        }
    }
    if !rounds.is_empty() {
        writeln!(
            out,
            "\n{:<8} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>10}",
            "rounds",
            "context",
            "drafts",
            "draft ms",
            "verify ms",
            "plain ms",
            "tokens",
            "tok/s",
            "speedup",
            "break-even"
        )?;
        for r in rounds {
            writeln!(
                out,
                "{:<8} {:>8} {:>6} {:>9.3} {:>9.3} {:>9.3} {:>9.2} {:>9.1} {:>8.2} {:>9.0}%",
                r.source,
                r.context,
                r.drafts,
                1e3 * r.draft_seconds,
                1e3 * r.verify_seconds,
                1e3 * r.plain_seconds,
                r.tokens_a_round,
                r.tokens_per_second,
                r.speedup,
                100.0 * r.break_even
            )?;
        }
    }
    Ok(())
}

/// Tokens a second over drafts a round, a line for each source and context. Plain decoding is at no drafts.
pub(super) fn chart(rounds: &[Rounds]) -> Chart {
    let mut kinds: Vec<(&str, usize)> = rounds.iter().map(|r| (r.source, r.context)).collect();
    kinds.dedup();
    let line = |(source, context): (&str, usize)| {
        let own = || rounds.iter().filter(move |r| (r.source, r.context) == (source, context));
        let plain = own().next().map(|r| (0.0, 1.0 / r.plain_seconds));
        let drafted = own().map(|r| (r.drafts as f64, r.tokens_per_second));
        Line {
            name: format!("{source}, context {context}"),
            points: plain.into_iter().chain(drafted).collect(),
        }
    };
    let title = "Tokens a second by drafts a round".to_owned();
    Chart { title, lines: kinds.into_iter().map(line).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_breaks_even_where_its_tokens_are_worth_its_time() {
        // One draft for 1.5 steps: half of them have to be accepted.
        assert!((break_even(1, 1.5) - 0.5).abs() < 1e-6);
        assert!(break_even(4, 1.0) < 1e-6);
        assert_eq!(break_even(2, 4.0), 1.0);
        assert!(break_even(8, 1.5) < break_even(1, 1.5));
    }
}
