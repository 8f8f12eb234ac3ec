//! Op `moe_ffn`.

use std::ops::Range;

use rayon::prelude::*;

use super::linear::{Decoded, outputs_a_task};
use super::{Cost, Describe, Load, Op, rows};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, Weight, expect};
use crate::tensor::Tensor;

/// How a file stores the first matrices of the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateUp {
    /// One tensor `[experts, 2 · ffn, cols]`; the rows of the gate come first.
    Fused(Weight),
    /// Two tensors `[experts, ffn, cols]`.
    Split {
        /// The gates.
        gate: Weight,
        /// The second operands.
        up: Weight,
    },
}

impl GateUp {
    /// The tensors, that of the gate first.
    #[must_use]
    pub fn weights(&self) -> Vec<Weight> {
        match *self {
            Self::Fused(both) => vec![both],
            Self::Split { gate, up } => vec![gate, up],
        }
    }
}

/// The chosen experts of each row, weighted and summed.
///
/// `out[r, ..] = Σ_k weights[r, k] · down[e] · (gelu(gate[e] · x[r]) ⊙ (up[e] · x[r]))`, `e = experts[r, k]`
///
/// - `x`, `out`: `[rows, cols]`; `experts`, `weights`: `[rows, top_k]`, from `route`.
/// - `gate_up`: see [`GateUp`]; `down`: `[experts, cols, ffn]`.
///
/// Experts are added in rank order, whatever other rows choose.
///
/// Source: `Gemma4TextExperts` in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeFfn {
    /// Input.
    pub x: Act,
    /// Chosen experts.
    pub experts: Act,
    /// Their weights.
    pub weights: Act,
    /// First matrices.
    pub gate_up: GateUp,
    /// Second matrices.
    pub down: Weight,
    /// Output.
    pub out: Act,
}

impl Program {
    /// Records [`MoeFfn`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if the matrices do not fit together.
    pub fn moe_ffn(
        &mut self,
        x: Act,
        (experts, weights): (Act, Act),
        gate_up: GateUp,
        down: Weight,
    ) -> Result<Act, ShapeError> {
        let (op, cols) = ("moe_ffn", self.cols(x));
        let (count, ffn) = (self.weight(down).experts, self.weight(down).cols);
        expect(op, "outputs of `down`", cols, self.weight(down).rows)?;
        expect(op, "weights a row", self.cols(experts), self.cols(weights))?;
        let outputs = match gate_up {
            GateUp::Fused(_) => 2 * ffn,
            GateUp::Split { .. } => ffn,
        };
        for part in gate_up.weights() {
            expect(op, "experts of the gate", count, self.weight(part).experts)?;
            expect(op, "inputs of the gate", cols, self.weight(part).cols)?;
            expect(op, "outputs of the gate", outputs, self.weight(part).rows)?;
        }
        let out = self.act_like(x, cols);
        self.ops.push(Op::MoeFfn(MoeFfn { x, experts, weights, gate_up, down, out }));
        Ok(out)
    }
}

impl Describe for MoeFfn {
    fn reads(&self) -> Vec<Act> {
        vec![self.x, self.experts, self.weights]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        [self.gate_up.weights(), vec![self.down]].concat()
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let rows = rows(program, self.x, load) as u64;
        let down = program.weight(self.down);
        let used = program.cols(self.experts) as u64;
        // With uniform routing; never more than all of them.
        let touched = (rows * used).min(down.experts as u64);
        let all: u64 = Describe::weights(self).iter().map(|&w| program.weight(w).bytes()).sum();
        Cost {
            weight_bytes: all / (down.experts as u64).max(1) * touched,
            flops: 6 * rows * used * (down.rows * down.cols) as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed. `gate_up` holds one fused tensor or gate and up.
pub fn reference(
    x: &[f32],
    experts: &[u32],
    weights: &[f32],
    gate_up: &[&Tensor],
    down: &Tensor,
    out: &mut [f32],
) {
    let (cols, ffn) = (down.rows, down.cols);
    let rows = x.len() / cols;
    let top_k = experts.len() / rows.max(1);
    // One (row, rank) pair at a time: what an expert adds to a row depends on nothing else.
    let parts: Vec<Vec<f32>> = (0..rows * top_k)
        .into_par_iter()
        .map(|pair| {
            let r = pair / top_k;
            let x: Vec<f64> = x[r * cols..(r + 1) * cols].iter().map(|&v| f64::from(v)).collect();
            let e = experts[pair] as usize;
            let (gate, up, up_start) = match gate_up {
                [both] => (*both, *both, ffn),
                _ => (gate_up[0], gate_up[1], 0),
            };
            let mut decoded = Decoded::default();
            let mut product = |weight: &Tensor, outputs: Range<usize>, x: &[f64]| {
                let mut out = vec![0.0f32; outputs.len()];
                let (first, task) = (outputs.start, outputs_a_task(weight.cols));
                for (at, out) in out.chunks_mut(task).enumerate() {
                    let first = first + at * task;
                    decoded.products(weight, e, first..first + out.len(), x, out);
                }
                out
            };
            let gate = product(gate, 0..ffn, &x);
            let up = product(up, up_start..up_start + ffn, &x);
            let act = |(&g, &v): (&f32, &f32)| numeric::gelu_tanh(f64::from(g)) * f64::from(v);
            let hidden: Vec<f64> =
                gate.iter().zip(&up).map(|pair| f64::from(numeric::round(act(pair)))).collect();
            product(down, 0..cols, &hidden)
        })
        .collect();
    for (r, out) in out.chunks_exact_mut(cols).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let ranks = r * top_k..(r + 1) * top_k;
            *out = numeric::round(ranks.map(|k| f64::from(weights[k]) * f64::from(parts[k][c])).sum());
        }
    }
}
