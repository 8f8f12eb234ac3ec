//! Where the time of a step goes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use gemma4_core::engine::{Part, Pick};
use gemma4_core::program::Class;
use serde::Serialize;

use super::Plan;
use super::draft::Verify;
use super::measure::{Bench, Decode};
use crate::device::{Device, Timed};
use crate::failure::Failure;

/// The dispatches of one step.
#[derive(Debug, Serialize)]
pub(super) struct Profile {
    step: &'static str,
    /// Rows of the step.
    rows: usize,
    /// Tokens in the cache before it.
    context: usize,
    dispatches: usize,
    /// From the first dispatch to the end of the last.
    seconds: f64,
    /// What a step takes by the clock, steps in a row; what lies between their dispatches is in it.
    clock_seconds: Option<f64>,
    /// Most time first.
    ops: Vec<OpTime>,
}

/// All dispatches of an op.
#[derive(Debug, Serialize)]
struct OpTime {
    op: &'static str,
    dispatches: usize,
    seconds: f64,
    /// Of the whole step.
    share: f64,
    /// Weights and cache that the op must read.
    bytes: u64,
    /// Operations that it must do.
    flops: u64,
    entries: Vec<EntryTime>,
}

/// All dispatches of an entry point.
#[derive(Debug, Serialize)]
struct EntryTime {
    entry: String,
    dispatches: usize,
    seconds: f64,
    share: f64,
}

/// Profiles of a decoded token behind each context, of steps of several rows, and of a chunk of a prompt.
///
/// Empty where the device cannot time dispatches.
pub(super) fn all<D: Device>(
    bench: &mut Bench<D>,
    plan: &Plan,
    decode: &[Decode],
    verify: &[Verify],
) -> Result<Vec<Profile>, Failure> {
    let mut profiles = Vec::new();
    for run in decode {
        let clock = run.seconds / run.tokens as f64;
        profiles.extend(one(bench, Class::Decode, 1, run.context, Some(clock))?);
    }
    for run in verify {
        profiles.extend(one(bench, Class::Decode, run.rows, run.context, Some(run.seconds))?);
    }
    if let Some(&longest) = plan.prompts.iter().max() {
        profiles.extend(one(bench, Class::Prefill, longest.min(plan.options.chunk), 0, None)?);
    }
    Ok(profiles)
}

fn one<D: Device>(
    bench: &mut Bench<D>,
    class: Class,
    rows: usize,
    context: usize,
    clock: Option<f64>,
) -> Result<Option<Profile>, Failure> {
    let seq = bench.behind(&bench.tokens(context))?;
    let tokens = bench.tokens(rows);
    // Every row of a step that verifies chooses a token.
    let (pick, draws) = match class {
        Class::Decode => (Pick::All, vec![Bench::<D>::greedy(); rows]),
        Class::Prefill => (Pick::Last, vec![Bench::<D>::greedy()]),
    };
    let part = Part { seq, tokens: &tokens, pick };
    let mut runs: Vec<Vec<Timed>> = Vec::new();
    for _ in 0..=bench.repeat {
        let spans = bench.engine.step_by(class, &[part], &draws, D::profile)?;
        runs.extend(spans);
    }
    bench.engine.close(seq)?;
    if runs.is_empty() {
        return Ok(None);
    }
    // The first warms up.
    runs.remove(0);
    let total = |spans: &Vec<Timed>| spans.iter().map(|span| span.seconds).sum::<f64>();
    runs.sort_by(|a, b| total(a).total_cmp(&total(b)));
    let spans = runs.swap_remove((runs.len() - 1) / 2);
    let seconds = total(&spans);

    let mut cost = BTreeMap::<&str, (u64, u64)>::new();
    for (op, all) in bench.cost(class, rows, context)? {
        let (bytes, flops) = cost.entry(op).or_default();
        *bytes += all.weight_bytes + all.kv_bytes;
        *flops += all.flops;
    }
    let mut ops = BTreeMap::<&str, BTreeMap<&str, (usize, f64)>>::new();
    for span in &spans {
        let (dispatches, seconds) = ops.entry(span.op).or_default().entry(&span.entry).or_default();
        *dispatches += 1;
        *seconds += span.seconds;
    }
    let mut ops: Vec<OpTime> = spans
        .iter()
        .map(|span| span.op)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .map(|op| {
            let mut entries: Vec<EntryTime> = ops[op]
                .iter()
                .map(|(entry, &(dispatches, time))| EntryTime {
                    entry: (*entry).to_owned(),
                    dispatches,
                    seconds: time,
                    share: time / seconds,
                })
                .collect();
            entries.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            let time: f64 = entries.iter().map(|entry| entry.seconds).sum();
            let (bytes, flops) = cost.get(op).copied().unwrap_or_default();
            let dispatches = entries.iter().map(|entry| entry.dispatches).sum();
            OpTime { op, dispatches, seconds: time, share: time / seconds, bytes, flops, entries }
        })
        .collect();
    ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let step = match class {
        Class::Prefill => "prefill",
        Class::Decode => "decode",
    };
    let dispatches = spans.len();
    Ok(Some(Profile { step, rows, context, dispatches, seconds, clock_seconds: clock, ops }))
}

impl Profile {
    /// A table, and a line of totals.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let Self { step, rows, context, dispatches, seconds, .. } = self;
        let s = if *rows == 1 { "" } else { "s" };
        writeln!(
            out,
            "\n{step} of {rows} row{s} behind {context} tokens, time of its dispatches on the device"
        )?;
        writeln!(out, "{:<26} {:>5} {:>10} {:>7} {:>8} {:>8}", "op", "n", "us", "share", "GB/s", "TFLOP/s")?;
        for op in &self.ops {
            let us = op.seconds * 1e6;
            let (gbps, tflops) = (op.bytes as f64 / op.seconds * 1e-9, op.flops as f64 / op.seconds * 1e-12);
            writeln!(
                out,
                "{:<26} {:>5} {us:>10.1} {:>6.1}% {gbps:>8.1} {tflops:>8.2}",
                op.op,
                op.dispatches,
                100.0 * op.share
            )?;
            // The only entry point of an op is named like it.
            for entry in op.entries.iter().filter(|entry| entry.entry != op.op) {
                let us = entry.seconds * 1e6;
                let name = format!("  {}", entry.entry);
                writeln!(out, "{name:<26} {:>5} {us:>10.1} {:>6.1}%", entry.dispatches, 100.0 * entry.share)?;
            }
        }
        write!(out, "all {dispatches} dispatches {:.1} us", seconds * 1e6)?;
        if let Some(clock) = self.clock_seconds {
            let between = ((clock - seconds) / clock).max(0.0);
            write!(
                out,
                "; a step takes {:.1} us by the clock, {:.1}% of it outside",
                clock * 1e6,
                100.0 * between
            )?;
        }
        writeln!(out)
    }
}
