//! Op `glu`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows};
use crate::numeric;
use crate::program::{Act, Program, ShapeError, expect};

/// Columns of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The activation.
    pub act: Act,
    /// First column.
    pub start: usize,
}

/// What the gate passes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The tanh approximation of gelu.
    #[default]
    GeluTanh,
    /// `x / (1 + exp(-x))`: the layers of DFlash drafters.
    Silu,
}

/// Gated linear unit.
///
/// `out[r, c] = f(gate[r, c]) · up[r, c]`, where `f` is the tanh approximation of gelu unless `activation` says so.
///
/// - `gate`, `up`: `cols` columns of activations, often halves of the same one; `out`: `[rows, cols]`.
///
/// Source: `Gemma4TextMLP` and the per-layer input gate in transformers, `modeling_gemma4.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct Glu {
    /// What passes through the activation.
    pub gate: Columns,
    /// What it is multiplied with.
    pub up: Columns,
    /// What the gate passes through.
    pub activation: Activation,
    /// Output.
    pub out: Act,
}

impl Program {
    /// Records [`Glu`] with gelu over `cols` columns and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if an operand has too few columns.
    pub fn glu(&mut self, gate: Columns, up: Columns, cols: usize) -> Result<Act, ShapeError> {
        self.glu_by(Activation::GeluTanh, gate, up, cols)
    }

    /// Records [`Glu`] over `cols` columns and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if an operand has too few columns.
    pub fn glu_by(
        &mut self,
        activation: Activation,
        gate: Columns,
        up: Columns,
        cols: usize,
    ) -> Result<Act, ShapeError> {
        for (what, columns) in [("end of the gate", gate), ("end of the second operand", up)] {
            let end = columns.start + cols;
            expect("glu", what, end, end.min(self.cols(columns.act)))?;
        }
        let out = self.act_like(gate.act, cols);
        self.ops.push(Op::Glu(Glu { gate, up, activation, out }));
        Ok(out)
    }
}

impl Describe for Glu {
    fn reads(&self) -> Vec<Act> {
        let mut reads = vec![self.gate.act, self.up.act];
        reads.dedup();
        reads
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let elements = rows(program, self.out, load) * program.cols(self.out);
        Cost { flops: 8 * elements as u64, ..Cost::default() }
    }
}

/// The specification, executed. `gate` and `up` are whole activations with the width and first column of each.
pub fn reference(
    activation: Activation,
    gate: (&[f32], usize, usize),
    up: (&[f32], usize, usize),
    cols: usize,
    out: &mut [f32],
) {
    let f = match activation {
        Activation::GeluTanh => numeric::gelu_tanh,
        Activation::Silu => numeric::silu,
    };
    let part = |(act, width, start): (&[f32], usize, usize), r: usize| {
        let from = r * width + start;
        from..(from + cols).min(act.len())
    };
    out.par_chunks_exact_mut(cols).enumerate().for_each(|(r, out)| {
        let (gate, up) = (&gate.0[part(gate, r)], &up.0[part(up, r)]);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = numeric::round(f(f64::from(gate)) * f64::from(up));
        }
    });
}
