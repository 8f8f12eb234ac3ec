//! The ops of a step.

use std::fmt::{self, Write as _};

use gemma4_core::engine::{self, CHUNK, Options};
use gemma4_core::model::gemma4::{Gemma4, Taps};
use gemma4_core::ops::{Cost, Load};
use gemma4_core::plan::Size;
use gemma4_core::program::{Act, Program, Rows, Slots, Weight};
use serde::Serialize;

use super::{InspectArgs, ProgramName};
use crate::failure::Failure;

/// Tokens in the cache unless the user says otherwise.
const CONTEXT: usize = 4096;

/// Drafted rows of a verify step unless the user says otherwise.
const DRAFTED: usize = 8;

/// A program, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    program: &'static str,
    /// Rows of the step.
    rows: usize,
    /// Rows that reach the head.
    picked: usize,
    /// Tokens in the cache before the step.
    context: usize,
    ops: Vec<Line>,
    total: Totals,
    /// Buffers that activations share.
    slots: usize,
    scratch_bytes: u64,
    activations: usize,
}

#[derive(Debug, Serialize)]
struct Line {
    op: &'static str,
    reads: Vec<Operand>,
    writes: Vec<Operand>,
    weights: Vec<WeightLine>,
    /// Pools of the cache.
    states: Vec<String>,
    cost: Totals,
}

#[derive(Debug, Serialize)]
struct Operand {
    act: String,
    slot: usize,
    shape: [usize; 2],
}

#[derive(Debug, Serialize)]
struct WeightLine {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// `[experts, rows, cols]`.
    shape: [usize; 3],
}

/// What is moved and computed, at least.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Totals {
    weight_bytes: u64,
    kv_bytes: u64,
    act_bytes: u64,
    flops: u64,
}

impl Totals {
    fn of(cost: Cost) -> Self {
        let Cost { weight_bytes, kv_bytes, act_bytes, flops } = cost;
        Self { weight_bytes, kv_bytes, act_bytes, flops }
    }

    fn bytes(self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.act_bytes
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            weight_bytes: a.weight_bytes + b.weight_bytes,
            kv_bytes: a.kv_bytes + b.kv_bytes,
            act_bytes: a.act_bytes + b.act_bytes,
            flops: a.flops + b.flops,
        })
    }
}

impl Listing {
    pub(super) fn new(
        model: &Gemma4,
        options: &Options,
        args: &InspectArgs,
        name: ProgramName,
    ) -> Result<Self, Failure> {
        let most = model.config.max_context;
        let (title, usual) = match name {
            ProgramName::Prefill => ("prefill", CHUNK),
            ProgramName::Decode => ("decode", 1),
            ProgramName::Verify => ("verify", DRAFTED),
        };
        let rows = args.rows.map_or(usual.min(most), usize::from);
        // Rows of a decode step belong to as many sequences.
        let own = if name == ProgramName::Decode { 1 } else { rows };
        let context = args.context.unwrap_or(CONTEXT.min(most.saturating_sub(own)));
        if context.saturating_add(own) > most {
            return Err(Failure::usage(format!(
                "--context is {context} and the step adds {own}, expected at most {most} together, the model's own context"
            )));
        }
        let (_, layout) = engine::layout(&model.config, options)?;
        let states = model.states(&layout);
        let recorded = match name {
            ProgramName::Prefill => model.prefill(&states, rows, 1, Taps::None)?,
            ProgramName::Decode => model.decode(&states, rows)?,
            ProgramName::Verify => model.verify(&states, rows, Taps::None)?,
        };
        let program = &recorded.program;
        let load = Load { rows, picked: program.picked, context };
        let slots = Slots::of(program);
        let lines: Vec<Line> = program
            .ops
            .iter()
            .map(|op| {
                let operands =
                    |acts: Vec<Act>| acts.iter().map(|&act| operand(program, &slots, act)).collect();
                Line {
                    op: op.name(),
                    reads: operands(op.reads()),
                    writes: operands(op.writes()),
                    weights: op.weights().iter().map(|&weight| WeightLine::of(program, weight)).collect(),
                    states: op.states().iter().map(|&state| program.state(state).name.clone()).collect(),
                    cost: Totals::of(op.cost(program, load)),
                }
            })
            .collect();
        Ok(Self {
            program: title,
            rows,
            picked: program.picked,
            context,
            total: lines.iter().map(|line| line.cost).sum(),
            ops: lines,
            slots: slots.elements.len(),
            scratch_bytes: slots.bytes(),
            activations: program.acts.len(),
        })
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{}: {} rows, {} of them to the head, behind {} tokens",
            self.program, self.rows, self.picked, self.context
        )?;
        writeln!(
            out,
            "{:>4}  {:<12} {:>10} {:>9}  reads -> writes; cache; weights",
            "", "op", "bytes", "flops"
        )?;
        for (number, line) in self.ops.iter().enumerate() {
            let Line { op, reads, writes, weights, states, cost } = line;
            let (bytes, flops) = (Size(cost.bytes()), Count(cost.flops));
            write!(
                out,
                "{number:>4}  {op:<12} {bytes:>10} {flops:>9}  {} -> {}",
                names(reads),
                names(writes)
            )?;
            if !states.is_empty() {
                write!(out, "; {}", states.join(", "))?;
            }
            if !weights.is_empty() {
                let weights: Vec<String> = weights.iter().map(|w| format!("{} {}", w.name, w.kind)).collect();
                write!(out, "; {}", weights.join(", "))?;
            }
            writeln!(out)?;
        }
        let Totals { weight_bytes, kv_bytes, act_bytes, flops } = self.total;
        let [all, weight, kv, act] = [self.total.bytes(), weight_bytes, kv_bytes, act_bytes].map(Size);
        writeln!(
            out,
            "\n{} ops move {all} (weights {weight}, cache {kv}, activations {act}) and take {} flops",
            self.ops.len(),
            Count(flops)
        )?;
        writeln!(
            out,
            "{} activations share {} slots of {}",
            self.activations,
            self.slots,
            Size(self.scratch_bytes)
        )?;
        Ok(out)
    }
}

impl WeightLine {
    fn of(program: &Program, weight: Weight) -> Self {
        let spec = program.weight(weight);
        Self { name: spec.name.clone(), kind: spec.dtype.name(), shape: [spec.experts, spec.rows, spec.cols] }
    }
}

fn operand(program: &Program, slots: &Slots, act: Act) -> Operand {
    let spec = program.spec(act);
    let rows = match spec.rows {
        Rows::Step => program.rows,
        Rows::Picked => program.picked,
    };
    Operand { act: act.to_string(), slot: slots.of[act.index()], shape: [rows, spec.cols] }
}

fn names(operands: &[Operand]) -> String {
    let name = |operand: &Operand| format!("{} [{}, {}]", operand.act, operand.shape[0], operand.shape[1]);
    let names: Vec<String> = operands.iter().map(name).collect();
    if names.is_empty() { "tokens".to_owned() } else { names.join(" ") }
}

/// A count with a decimal prefix.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for prefix in ["", " k", " M", " G", " T"] {
            if value < 999.95 || prefix == " T" {
                let digits = usize::from(!prefix.is_empty());
                return f.pad(&format!("{value:.digits$}{prefix}"));
            }
            value /= 1000.0;
        }
        Ok(())
    }
}
