//! Op `linear`.

use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows, weight_bytes};
use crate::numeric::{self, Vectorised};
use crate::program::{Act, Program, ShapeError, Weight, expect};
use crate::quant;
use crate::tensor::{DType, Tensor};

/// Matrix product with one or several weights stacked along the outputs.
///
/// `out[r, o] = Σ_c x[r, c] · weight[o, c]`, where the rows of `weights[1]` follow those of `weights[0]`.
///
/// - `x`: `[rows, cols]`; each weight `[outputs, cols]` of any type; `out`: `[rows, Σ outputs]`.
///
/// A backend takes the sum over `c` in one order that depends on the shape alone, never on the number of
/// rows, so that a row has the same bits in any company.
///
/// Source: `torch.nn.Linear` without bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Input.
    pub x: Act,
    /// Stacked matrices.
    pub weights: Vec<Weight>,
    /// Output.
    pub out: Act,
}

impl Program {
    /// Records [`Linear`] and returns its output.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Mismatch`] if a weight is not as wide as `x`, or holds experts.
    pub fn linear(&mut self, x: Act, weights: &[Weight]) -> Result<Act, ShapeError> {
        let mut outputs = 0;
        for &weight in weights {
            expect("linear", "inputs of the weight", self.cols(x), self.weight(weight).cols)?;
            expect("linear", "matrices of the weight", 1, self.weight(weight).experts)?;
            outputs += self.weight(weight).rows;
        }
        let out = self.act_like(x, outputs);
        self.ops.push(Op::Linear(Linear { x, weights: weights.to_vec(), out }));
        Ok(out)
    }
}

impl Describe for Linear {
    fn reads(&self) -> Vec<Act> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn weights(&self) -> Vec<Weight> {
        self.weights.clone()
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        let products = rows(program, self.x, load) * program.cols(self.x) * program.cols(self.out);
        Cost {
            weight_bytes: weight_bytes(program, &self.weights),
            flops: 2 * products as u64,
            ..Cost::default()
        }
    }
}

/// The specification, executed. Every output is one sum in the order of `numeric::dot`.
pub fn reference(x: &[f32], weights: &[&Tensor], out: &mut [f32]) {
    let cols = weights[0].cols;
    let rows = x.len() / cols;
    if rows == 0 {
        return;
    }
    let outputs = out.len() / rows;
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();

    // Outputs by rows first, so that each weight row is decoded once for all rows.
    let mut transposed = vec![0.0f32; out.len()];
    let mut rest = transposed.as_mut_slice();
    let mut parts = Vec::new();
    for weight in weights {
        let (part, after) = rest.split_at_mut(weight.rows * rows);
        parts.push((*weight, part));
        rest = after;
    }
    parts.into_par_iter().for_each(|(weight, part)| {
        part.par_chunks_mut(rows * OUTPUTS_A_TASK).enumerate().for_each(|(task, part)| {
            let mut decoded = Decoded::new(cols);
            for (output, part) in part.chunks_exact_mut(rows).enumerate() {
                let row = weight.row(0, task * OUTPUTS_A_TASK + output);
                decoded.products(weight, row, &x, part);
            }
        });
    });
    for (o, column) in transposed.chunks_exact(rows).enumerate() {
        for (r, &value) in column.iter().enumerate() {
            out[r * outputs + o] = value;
        }
    }
}

/// Weight rows that one task of the thread pool takes.
const OUTPUTS_A_TASK: usize = 16;

/// Buffers for one decoded weight row.
pub(super) struct Decoded {
    narrow: Vec<f32>,
    wide: Vec<f64>,
}

impl Decoded {
    pub(super) fn new(cols: usize) -> Self {
        Self { narrow: vec![0.0; cols], wide: vec![0.0; cols] }
    }

    /// Products of `row`, one row of `weight`, with every row of `x`.
    pub(super) fn products(&mut self, weight: &Tensor, row: &[u8], x: &[f64], out: &mut [f32]) {
        numeric::vectorised(Products { decoded: self, dtype: weight.dtype, row, x, out });
    }
}

struct Products<'a> {
    decoded: &'a mut Decoded,
    dtype: DType,
    row: &'a [u8],
    x: &'a [f64],
    out: &'a mut [f32],
}

impl Vectorised for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Decoded { narrow, wide } = self.decoded;
        quant::decode(self.dtype, self.row, narrow);
        for (wide, &narrow) in wide.iter_mut().zip(&*narrow) {
            *wide = f64::from(narrow);
        }
        numeric::dot_rows(wide, self.x, self.out);
    }
}
