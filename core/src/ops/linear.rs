//! Op `linear`.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::{Cost, Describe, Load, Op, rows, weight_bytes};
use crate::numeric::{self, Vectorised, Wide};
use crate::program::{Act, Program, ShapeError, Weight, expect};
use crate::quant;
use crate::tensor::Tensor;

/// Matrix product with one or several weights stacked along the outputs.
///
/// `out[r, o] = Σ_c x[r, c] · weight[o, c]`, where the rows of `weights[1]` follow those of `weights[0]`.
///
/// - `x`: `[rows, cols]`; each weight `[outputs, cols]` of any type; `out`: `[rows, Σ outputs]`.
///
/// A backend takes the sum over `c` in one order, which depends on the shape, the program and the device, never on the
/// number of rows, so that a row has the same bits in any company.
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

/// The specification, executed. Every output is one sum in the order of `numeric::products`.
pub fn reference(x: &[f32], weights: &[&Tensor], out: &mut [f32]) {
    let cols = weights[0].cols;
    let rows = x.len() / cols;
    if rows == 0 {
        return;
    }
    let outputs = out.len() / rows;
    let wide = Wide::of(x);
    let x = &wide.as_slice()[..x.len()];

    // Outputs by rows first, so that each weight row is decoded once for all rows.
    let mut transposed = vec![0.0f32; out.len()];
    let mut rest = transposed.as_mut_slice();
    let mut parts = Vec::new();
    for weight in weights {
        let (part, after) = rest.split_at_mut(weight.rows * rows);
        parts.push((*weight, part));
        rest = after;
    }
    let task = outputs_a_task(cols);
    parts.into_par_iter().for_each(|(weight, part)| {
        let tasks = part.par_chunks_mut(rows * task).enumerate();
        tasks.for_each_init(Decoded::default, |decoded, (at, part)| {
            let first = at * task;
            decoded.products(weight, 0, first..first + part.len() / rows, x, part);
        });
    });
    if rows == 1 {
        out.copy_from_slice(&transposed);
        return;
    }
    out.par_chunks_exact_mut(outputs).enumerate().for_each(|(r, out)| {
        for (out, column) in out.iter_mut().zip(transposed.chunks_exact(rows)) {
            *out = column[r];
        }
    });
}

/// Weight rows that one task of the thread pool takes: few enough to stay in its cache once they are decoded.
pub(super) fn outputs_a_task(cols: usize) -> usize {
    const VALUES: usize = 32 << 10;
    (VALUES / cols).clamp(4, 32) / 4 * 4
}

/// Buffers for decoded weight rows and their products.
#[derive(Default)]
pub(super) struct Decoded {
    narrow: Vec<f32>,
    wide: Wide,
    sums: Vec<f64>,
}

impl Decoded {
    /// Products of the rows `outputs` of a matrix of `weight` with every row of `x`.
    ///
    /// - `x`: `[rows, cols]`; `out`: `[outputs, rows]`.
    pub(super) fn products(
        &mut self,
        weight: &Tensor,
        matrix: usize,
        outputs: Range<usize>,
        x: &[f64],
        out: &mut [f32],
    ) {
        self.narrow.resize(weight.cols, 0.0);
        self.sums.resize(out.len(), 0.0);
        numeric::vectorised(Products { decoded: self, weight, matrix, outputs, x, out });
    }
}

struct Products<'a> {
    decoded: &'a mut Decoded,
    weight: &'a Tensor,
    matrix: usize,
    outputs: Range<usize>,
    x: &'a [f64],
    out: &'a mut [f32],
}

impl Vectorised for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { decoded: Decoded { narrow, wide, sums }, weight, matrix, outputs, x, out } = self;
        let cols = weight.cols;
        let rows = x.len() / cols;
        // For few rows all is in the decoding: what is decoded should not even leave the first cache.
        let block = if rows <= 4 { 4 } else { outputs.len() };
        let wide = wide.resize(block * cols);
        let mut first = outputs.start;
        for out in out.chunks_mut(block * rows) {
            let sums = &mut sums[..out.len()];
            let wide = &mut wide[..out.len() / rows * cols];
            for (output, wide) in wide.chunks_exact_mut(cols).enumerate() {
                quant::decode(weight.dtype, weight.row(matrix, first + output), narrow);
                numeric::widen(narrow, wide);
            }
            numeric::products(simd, wide, x, cols, sums);
            for (out, &sum) in out.iter_mut().zip(&*sums) {
                *out = numeric::round(sum);
            }
            first += block;
        }
    }
}
